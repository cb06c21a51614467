"""A random two-layer model with a byte tokenizer, and a few samples: enough to run whole training stages."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM

from stages.common.records import AnswerKind, Category, Document, Sample, Span, TaskType
from stages.common.rollouts import Rollout, RolloutGroup, Segment
from stages.common.seeds import rng
from stages.common.storage import write_jsonl, write_model_pointer
from stages.rl.policy import OptimizerSettings
from stages.rl.torch_policy import TorchPolicy

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OPTIMIZER = OptimizerSettings(beta1=0.9, beta2=0.999, epsilon=1e-8, weight_decay=0.01, max_grad_norm=1.0)
TASKS = list(TaskType)


def write_model_folder(folder: Path, kind: str = "llama") -> Path:
    """`folder/model` and the pointer `folder/model.json`; returns the model folder."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>")
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    fast.chat_template = CHATML
    shape = {
        "vocab_size": 264,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "eos_token_id": fast.eos_token_id,
        "pad_token_id": fast.eos_token_id,
        "bos_token_id": None,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "llama":
            model = LlamaForCausalLM(LlamaConfig(**shape, intermediate_size=48, tie_word_embeddings=True))
        else:
            model = Qwen3MoeForCausalLM(
                Qwen3MoeConfig(
                    **shape,
                    intermediate_size=48,
                    moe_intermediate_size=16,
                    num_experts=4,
                    num_experts_per_tok=2,
                    head_dim=8,
                )
            )
        # Wider than the usual 0.02, so that neither attention nor the output distribution is nearly uniform
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data.normal_(0, 0.15)
    model.save_pretrained(folder / "model")
    fast.save_pretrained(folder / "model")
    write_model_pointer(folder, folder / "model")
    return folder / "model"


def make_policy(folder: Path, **changes: object) -> TorchPolicy:
    settings: dict = {"compute_dtype": "float32", "temperature": 0.7, "learning_rate": 1e-3, "optimizer": OPTIMIZER}
    return TorchPolicy(folder, **(settings | changes))


def make_samples(per_task: int = 3) -> tuple[list[Document], list[Sample]]:
    """`per_task` samples of each task type, each over one short document."""
    documents, samples = [], []
    for task in TASKS:
        for number in range(per_task):
            name = f"{task.value}-{number:03d}"
            text = f"Record {name}: the harbour of Port {chr(65 + number)} has {number + 10} cranes."
            document = Document(
                id=f"general/{name}",
                category=Category.GENERAL,
                title=name,
                text=text,
                source=name,
                format="text",
                tokens=len(text),
            )
            documents.append(document)
            samples.append(
                Sample(
                    id=name,
                    task_type=task,
                    question=f"What does {name} say?",
                    answer="a to z and 0 to 9, some letters",
                    answer_kind=AnswerKind.SEQUENCE,
                    evidence=[],
                    proof={"kind": "quote"},
                    generator="test",
                    seed=0,
                    context=[Span(document_id=document.id, start=0, end=len(text))],
                    context_tokens=len(text),
                )
            )
    return documents, samples


def write_inputs(folder: Path, per_task: int = 3) -> dict[str, Path]:
    """documents.jsonl and train.jsonl."""
    documents, samples = make_samples(per_task)
    write_jsonl(folder / "documents.jsonl", documents)
    write_jsonl(folder / "train.jsonl", samples)
    return {"documents": folder / "documents.jsonl", "train": folder / "train.jsonl"}


def random_groups(
    groups: int, members: int, prompt_tokens: int, response_tokens: tuple[int, int], seed: int = 0, turns: int = 1
) -> list[RolloutGroup]:
    """Groups of random ids; with turns > 1 the first turn's prompt is shared and the others are not."""
    stream = rng(seed, "groups")

    def ids(count: int) -> tuple[int, ...]:
        return tuple(stream.randrange(256) for _ in range(count))

    result = []
    for number in range(groups):
        prompt = ids(prompt_tokens)
        rollouts = []
        for _ in range(members):
            segments = []
            for turn in range(turns):
                response = ids(stream.randint(*response_tokens))
                segments.append(
                    Segment(
                        prompt if turn == 0 else ids(prompt_tokens),
                        response,
                        (-1.0,) * len(response),
                        "answer" if turn == turns - 1 else "memory",
                        "stop",
                    )
                )
            rollouts.append(Rollout(tuple(segments), "", stream.random()))
        result.append(RolloutGroup(f"s{number}", TASKS[number % 5].value, number, tuple(rollouts)))
    return result
