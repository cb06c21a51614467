"""`random:qwen3_moe`: a two-layer Qwen3-MoE with random weights, made in a second, for plumbing and tests.

The architecture class is the paper's (Qwen3-30B-A3B), every size is tiny. Its tokenizer is a byte-level BPE of 2,000
entries, trained on a fixed text, with a ChatML template. Equal seeds give equal bytes. Its scores mean nothing.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM

from stages.base_model.bpe_text import training_lines
from stages.base_model.saving import save_model
from stages.common.seeds import derive_seed

VOCABULARY = 2_000
MAX_POSITIONS = 32_768
_INITIAL_STD = 0.02

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_random_model(model_dir: Path, seed: int) -> None:
    """Write the model and its tokenizer."""
    tokenizer = make_tokenizer()
    save_model(make_model(seed, len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id), tokenizer, model_dir)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE with the ChatML tokens."""
    tokenizer = Tokenizer(models.BPE())
    # Digits one by one, as in Qwen: numbers of any length are then read alike.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_lines(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=MAX_POSITIONS,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def make_model(seed: int, vocabulary: int, eos_id: int, pad_id: int) -> PreTrainedModel:
    """Two layers, hidden size 64, 4 experts of which 2 are used, 4 heads over 2 key/value heads.

    Every parameter has its own random stream, so the weights depend on the seed and the names alone.
    """
    model = Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            vocab_size=vocabulary,
            hidden_size=64,
            intermediate_size=128,
            moe_intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            num_experts=4,
            num_experts_per_tok=2,
            norm_topk_prob=True,
            max_position_embeddings=MAX_POSITIONS,
            tie_word_embeddings=False,
            eos_token_id=eos_id,
            pad_token_id=pad_id,
        )
    ).float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:  # norms
                parameter.fill_(1.0)
            else:
                generator = torch.Generator().manual_seed(derive_seed(seed, "random_model", name))
                parameter.normal_(0.0, _INITIAL_STD, generator=generator)
    return model
