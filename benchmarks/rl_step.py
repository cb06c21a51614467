"""Seconds of whole RL steps: ours against TRL's GRPOTrainer, both with vLLM in the same process, on one CUDA device.

    python benchmarks/rl_step.py [--legs ours,trl,trl,ours] [--steps 3] [--out FILE]

A step is rollout + update + weight sync. The legs run one after another, each in a process of its own, in the order A-B-B-A
so that drift cancels; TRL's cases have a process each as well, since its colocated engine keeps its memory. The first step
of a case is not counted. Both sides: the same random Qwen3
shape of 0.6B (28 layers, d 1024, 16 heads over 8 key/value heads of 128, vocabulary 49,152, tied), the same prompts of
exactly P tokens, 8 answers of exactly L tokens (no end token can be generated), temperature 1, top-p 1, no KL term, rewards
by the parity of the answer's token ids, activation checkpointing, vLLM at 30 % of the card's memory, one update per batch.

TRL: loss "dapo", bfloat16 weights, importance-sampling correction off (on it adds a pass). Ours: `stages.rl.train.train` as the
stages call it, bfloat16 compute with float32 master weights and moments (more work than TRL's bfloat16 optimizer), with
AEPO off and on. In our figures `train` holds packing, AEPO's entropy pass if it is on, forward, backward and optimizer.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

VOCABULARY = 49_152
GROUP = 8
CASES = {"256/256": (256, 256, 16), "8192/512": (8192, 512, 2), "32768/1024": (32768, 1024, 1)}  # P, L, prompts
MAX_TOKENS = 32768 + 1024
MEMORY_SHARE = 0.3


def write_model(folder: Path) -> None:
    """The model, and a tokenizer of one word per id, whose end token has an id that the model cannot generate."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    words = {f"w{i}": i for i in range(VOCABULARY)} | {"<end>": VOCABULARY}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="w0", unk_token="w0")
    fast.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    fast.save_pretrained(folder)
    config = Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, max_position_embeddings=40_960, tie_word_embeddings=True,
        rope_parameters={"rope_theta": 1e6, "rope_type": "default"}, eos_token_id=VOCABULARY, pad_token_id=0,
        bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def make_prompts(length: int, count: int, ragged: bool) -> list[list[int]]:
    """Prompts of `length` tokens; ragged: every second one has three quarters of that, as real prompts differ."""
    import random

    generator = random.Random(length)
    lengths = [length * 3 // 4 if ragged and number % 2 else length for number in range(count)]
    return [[generator.randrange(VOCABULARY) for _ in range(tokens)] for tokens in lengths]


def parity(token_ids: Any) -> float:
    return float(sum(int(token) for token in token_ids) % 2)


def summary(case: str, seconds: list[float], **more: Any) -> dict[str, Any]:
    kept = seconds[1:]
    return {"case": case, "step_s": statistics.median(kept), "steps": kept, **more}


def run_ours(model: Path, steps: int, cases: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    import torch

    from stages.common.records import AnswerKind, Sample, TaskType
    from stages.common.rollouts import GenerationRequest, Rollout, RolloutGroup, Segment
    from stages.common.seeds import derive_seed
    from stages.engines.groups import make_groups
    from stages.engines.vllm_engine import VLLMEngine
    from stages.rewards.hybrid import HybridReward
    from stages.rl.checkpoint import Checkpoints
    from stages.rl.config import RLSharedConfig
    from stages.rl.policy import OptimizerSettings
    from stages.rl.torch_policy import TorchPolicy
    from stages.rl.train import TrainPlan, train

    class Source:
        """Prompts of fixed ids; rewards by parity."""

        def __init__(self, prompts: dict[str, list[int]], answer_tokens: int) -> None:
            self._prompts, self._answer_tokens = prompts, answer_tokens
            self.reward, self.reward_seconds = HybridReward(), 0.0

        def __call__(
            self,
            samples: Any,
            step: int,
            attempt: int = 0,
            *,
            places: Any = None,
            on_group: Any = None,
            turn_log: Any = None,
        ) -> list[RolloutGroup]:
            del turn_log  # one turn only
            pairs = zip(places or range(len(samples)), samples, strict=True)
            makers = [partial(self._group, sample.id, place, step, attempt) for place, sample in pairs]
            return make_groups(engine, makers, on_group)

        async def _group(self, sample_id: str, place: int, step: int, attempt: int, slot: Any) -> RolloutGroup:
            request = GenerationRequest(
                prompt_ids=tuple(self._prompts[sample_id]), n=GROUP, max_tokens=self._answer_tokens, temperature=1.0,
                top_p=1.0, seed=derive_seed(1, step, attempt, place),
            )  # fmt: skip
            async with slot:
                answers = await engine.generate(request)
            rollouts = []
            for answer in answers:
                assert len(answer.token_ids) == self._answer_tokens
                segment = Segment(request.prompt_ids, answer.token_ids, answer.logprobs, "answer", "stop")
                rollouts.append(Rollout((segment,), "", parity(answer.token_ids)))
            return RolloutGroup(sample_id, "numerical", place, tuple(rollouts))

    started = time.perf_counter()
    optimizer = OptimizerSettings(0.9, 0.999, 1e-8, 0.01, 1.0)
    policy = TorchPolicy(
        model, compute_dtype="bfloat16", temperature=1.0, learning_rate=2e-6, optimizer=optimizer,
        activation_checkpointing=True,
    )  # fmt: skip
    engine = VLLMEngine(
        model, max_model_tokens=MAX_TOKENS, gpu_memory_utilization=MEMORY_SHARE, sleep_level=options.sleep_level,
        tokenizer=policy.tokenizer,
    )  # fmt: skip
    results: list[dict[str, Any]] = [{"case": "start", "seconds": time.perf_counter() - started}]
    for case in cases:
        length, answer_tokens, count = CASES[case]
        for aepo in (False, True):
            prompts = make_prompts(length, count * (steps + 1), options.ragged)
            samples = [
                Sample(
                    id=str(i), task_type=TaskType.NUMERICAL, question="-", answer="1", answer_kind=AnswerKind.NUMBER,
                    evidence=[], proof={}, generator="bench", seed=0, context=[], context_tokens=length,
                )
                for i in range(len(prompts))
            ]  # fmt: skip
            shared = RLSharedConfig.model_validate(shared_settings(count, aepo))
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            with tempfile.TemporaryDirectory() as folder:
                train(
                    policy=policy, engine=engine, source=Source(dict(zip((s.id for s in samples), prompts, strict=True)), answer_tokens),
                    samples=samples, shared=shared, plan=TrainPlan(steps + 1, answer_tokens, "group", "token"), seed=3,
                    checkpoints=Checkpoints(Path(folder), "bench"), work_dir=Path(folder), emit=(log := Log()),
                )  # fmt: skip
            peak = torch.cuda.max_memory_allocated()
            parts = {key: statistics.median(log.values[f"time/{key}_s"][1:]) for key in ("rollout", "train", "sync")}
            results.append(
                summary(case, log.values["time/step_s"], aepo=aepo, parts=parts, peak_gb=(peak - before) / 1e9)
            )
            results[-1]["k3_kl"] = log.values["mismatch/k3_kl"]
            print(json.dumps(results[-1]), flush=True)
    engine.close()
    return results


def shared_settings(batch_size: int, aepo: bool) -> dict[str, Any]:
    """rl.shared of params.yaml with the values that both sides use."""
    import yaml

    from stages.rl.config import RLSharedConfig

    base = yaml.safe_load((Path(__file__).parents[1] / "flows/profiles/base.yaml").read_text())["rl"]["shared"]
    base = {key: value for key, value in base.items() if key in RLSharedConfig.model_fields}
    return base | {
        "group_size": GROUP, "batch_size": batch_size, "temperature": 1.0, "top_p": 1.0, "std_scope": "group",
        "denominator": "batch", "overlong": "keep", "max_row_tokens": 65_536, "checkpoint_every_steps": 10_000,
        "aepo": base["aepo"] | {"enabled": aepo}, "negative_clipping": base["negative_clipping"],
    }  # fmt: skip


class Log:
    """Takes what a stage emits."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def __call__(self, _step: int, values: Any) -> None:
        for key, value in values.items():
            self.values.setdefault(key, []).append(float(value))


def run_trl(model: Path, steps: int, cases: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    import gc

    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    os.environ |= {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29511",
    }

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            torch.cuda.synchronize()
            self._start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            torch.cuda.synchronize()
            self.seconds.append(time.perf_counter() - self._start)

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [parity(ids) for ids in completion_ids]

    results = []
    for case in cases:
        length, answer_tokens, count = CASES[case]
        rows = count * GROUP
        per_device = min(rows, 16 if length < 1000 else 8)
        prompts = make_prompts(length, count * (steps + 1), options.ragged)
        with tempfile.TemporaryDirectory() as folder:
            config = GRPOConfig(
                output_dir=folder, num_generations=GROUP, per_device_train_batch_size=per_device,
                gradient_accumulation_steps=rows // per_device, num_iterations=1, beta=0.0, loss_type="dapo",
                scale_rewards="group", temperature=1.0, top_p=1.0, top_k=0, max_completion_length=answer_tokens,
                generation_kwargs={"ignore_eos": True}, learning_rate=2e-6, lr_scheduler_type="constant",
                weight_decay=0.01, max_grad_norm=1.0, bf16=True, model_init_kwargs={"dtype": "bfloat16"},
                shuffle_dataset=False, report_to="none", logging_steps=1, save_strategy="no", max_steps=steps + 1,
                use_vllm=True, vllm_mode="colocate", vllm_gpu_memory_utilization=MEMORY_SHARE,
                vllm_max_model_length=length + answer_tokens, vllm_importance_sampling_correction=options.correction, seed=0,
            )  # fmt: skip
            trainer = GRPOTrainer(
                model=str(model), reward_funcs=reward, args=config, callbacks=[clock := Clock()],
                processing_class=AutoTokenizer.from_pretrained(model),
                train_dataset=Dataset.from_list([{"prompt": " ".join(f"w{i}" for i in ids)} for ids in prompts]),
            )  # fmt: skip
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            trainer.train()
            peak = torch.cuda.max_memory_allocated()
            lengths = [
                entry["completions/mean_length"]
                for entry in trainer.state.log_history
                if "completions/mean_length" in entry
            ]
            results.append(summary(case, clock.seconds, lengths=lengths, peak_gb=(peak - before) / 1e9))
            print(json.dumps(results[-1]), flush=True)
        del trainer
        gc.collect()
        torch.cuda.empty_cache()
    return results


def versions() -> dict[str, str]:
    import importlib.metadata as metadata

    import torch

    found = {name: metadata.version(name) for name in ("torch", "transformers", "vllm", "trl")}
    return found | {"device": torch.cuda.get_device_name()}


def print_table(legs: list[dict[str, Any]]) -> None:
    """Medians over the legs of each side, and their ratio."""
    steps: dict[tuple[str, str], list[float]] = {}
    for leg in legs:
        for row in leg["rows"]:
            if "steps" in row:
                side = leg["side"] + ("" if leg["side"] == "trl" else ", AEPO on" if row["aepo"] else ", AEPO off")
                steps.setdefault((row["case"], side), []).extend(row["steps"])
    print("P/L          side            median step s   TRL / this")
    for (case, side), seconds in sorted(steps.items()):
        median = statistics.median(seconds)
        rival = steps.get((case, "trl"))
        ratio = f"{statistics.median(rival) / median:.2f}" if rival else "-"
        print(f"{case:<12} {side:<15} {median:<15.2f} {ratio}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--legs", default="ours,trl,trl,ours")
    parser.add_argument("--steps", type=int, default=3, help="counted steps of each case in each leg")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--sleep-level", type=int, default=0, help="of our engine: 0 stays awake while training")
    parser.add_argument("--ragged", action="store_true", help="every second prompt has three quarters of the length")
    parser.add_argument("--correction", action="store_true", help="TRL's importance-sampling correction on")
    parser.add_argument("--model", type=Path, default=Path(tempfile.gettempdir()) / "longfuse-bench-model")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--leg", help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    cases = options.cases.split(",")
    if options.leg:
        if options.leg == "ours":
            rows = run_ours(options.model, options.steps, cases, options)
        else:
            rows = run_trl(options.model, options.steps, cases, options)
        options.out.write_text(json.dumps(rows))
        return
    if not (options.model / "config.json").is_file():
        write_model(options.model)
    legs = []
    for number, side in enumerate(options.legs.split(",")):
        started = time.perf_counter()
        rows = []
        for part in cases if side == "trl" else [options.cases]:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "leg.json"
                command = [sys.executable, __file__, "--leg", side, "--model", str(options.model), "--out", str(path)]
                command += ["--steps", str(options.steps), "--cases", part, "--sleep-level", str(options.sleep_level)]
                command += [f"--{name}" for name in ("ragged", "correction") if getattr(options, name)]
                code = subprocess.run(command, check=False).returncode
                if code or not path.is_file():
                    print(f"leg {number} ({side}, {part}) failed with exit code {code}", flush=True)
                    continue
                rows += json.loads(path.read_text())
        legs.append({"side": side, "seconds": time.perf_counter() - started, "rows": rows})
        if options.out:  # after every leg: what was measured is kept if a later leg fails
            options.out.write_text(json.dumps({"versions": versions(), "legs": legs}, indent=1) + "\n")
    print(json.dumps(versions()))
    print_table(legs)


if __name__ == "__main__":
    main()
