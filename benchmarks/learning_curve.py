"""A learning curve on a CPU in minutes: the real loop on a small random model, where the reward rises and AEPO switches.

    python -m benchmarks.learning_curve [--steps 45] [--out docs/results]

The model is the plumbing profile's (a random two-layer Qwen3-MoE with a 2K vocabulary). The task can be checked by rule and
needs no knowledge: answer in vowels; the reward is the share of the answer's characters that are vowels, about a quarter
for a model that babbles. Sampler, rollouts, advantages, AEPO, updates and checkpoints are those of every RL stage; only the
reward is made here. Two runs with one seed: AEPO on, with a band that the entropy crosses, and AEPO off. Writes
learning_curve.md, .svg and .json; equal parameters give equal numbers on one machine.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from stages.base_model.random_model import write_random_model
from stages.common.records import AnswerKind, Category, Document, Sample, Span, TaskType
from stages.common.rollouts import RolloutGroup
from stages.common.storage import DocumentStore, write_json, write_jsonl, write_text
from stages.engines.groups import Slot
from stages.engines.transformers_engine import TransformersEngine
from stages.rl.checkpoint import Checkpoints
from stages.rl.config import RLSharedConfig
from stages.rl.policy import OptimizerSettings
from stages.rl.rollout import FullContextRolloutSource
from stages.rl.torch_policy import TorchPolicy
from stages.rl.train import TrainPlan, train

logger = logging.getLogger(__name__)

SEED = 7
ANSWER_TOKENS = 12
SHARED: dict[str, Any] = {
    "group_size": 8,
    "batch_size": 5,
    "temperature": 1.0,
    "top_p": 1.0,
    "std_scope": "task",
    "denominator": "group",
    "aepo": {"enabled": True, "entropy_low": 1.3, "entropy_high": 1.4, "entropy_source": "same_batch"},
    "negative_clipping": {"level": "none", "side": "high", "threshold": 0.0},
    "overlong": "keep",
    "overlong_buffer_tokens": 0,
    "dynamic_sampling": False,
    "max_refills": 0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "max_row_tokens": 4096,
    "overlong_prompts": "drop",
    "checkpoint_every_steps": 1000,
    "keep_checkpoints": 1,
    "eval_every_steps": 0,
    "eval_prompts": 5,
    "max_skipped_steps": 0,
}
COLORS = {"on": "#0b6fa4", "off": "#c1571a"}


class Vowels(FullContextRolloutSource):
    """The real rollout source; an answer earns the share of its characters that are vowels."""

    async def _group(self, sample: Sample, place: int, seed: int, slot: Slot) -> RolloutGroup:
        group = await super()._group(sample, place, seed, slot)
        scored = (replace(rollout, reward=share_of_vowels(rollout.text)) for rollout in group.rollouts)
        return replace(group, rollouts=tuple(scored))


def share_of_vowels(text: str) -> float:
    """Share of a text's characters (blanks aside) that are vowels; 0 for an empty one."""
    characters = [character for character in text.lower() if not character.isspace()]
    return sum(character in "aeiou" for character in characters) / max(1, len(characters))


def write_samples(folder: Path) -> tuple[DocumentStore, list[Sample]]:
    """Five short questions of each task type."""
    text = "A note of a few words, so that there is something to read."
    documents = [
        Document(
            id=f"general/{task.value}", category=Category.GENERAL, title=task.value, text=text, source=task.value,
            format="text", tokens=len(text) // 4,
        )
        for task in TaskType
    ]  # fmt: skip
    samples = [
        Sample(
            id=f"{task.value}-{number}", task_type=task, question=f"Question {number}: answer in vowels.", answer="a",
            answer_kind=AnswerKind.TEXT, evidence=[], proof={"kind": "none"}, generator="benchmark", seed=0,
            context=[Span(document_id=f"general/{task.value}", start=0, end=len(text))], context_tokens=len(text) // 4,
        )
        for task in TaskType for number in range(5)
    ]  # fmt: skip
    write_jsonl(folder / "documents.jsonl", documents)
    return DocumentStore([folder / "documents.jsonl"]), samples


def run(folder: Path, steps: int, learning_rate: float, aepo: Mapping[str, Any]) -> list[dict[str, float]]:
    """Train from the random model; the metrics of every step."""
    shared = RLSharedConfig.model_validate(SHARED | {"aepo": SHARED["aepo"] | dict(aepo)})
    model = folder / "model"
    if not model.exists():
        write_random_model(model, SEED)
    policy = TorchPolicy(
        model,
        compute_dtype="float32",
        temperature=shared.temperature,
        learning_rate=learning_rate,
        optimizer=OptimizerSettings(0.9, 0.999, 1e-8, 0.01, 1.0),
    )
    engine = TransformersEngine(model, model=policy.model, tokenizer=policy.tokenizer)
    documents, samples = write_samples(folder)
    lines: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as state:
        train(
            policy=policy,
            engine=engine,
            source=Vowels(
                engine,
                documents,
                max_output_tokens=ANSWER_TOKENS,
                group_size=shared.group_size,
                temperature=shared.temperature,
                top_p=shared.top_p,
                seed=SEED,
            ),
            samples=samples,
            shared=shared,
            plan=TrainPlan(steps, ANSWER_TOKENS, "task", "token"),
            seed=SEED,
            checkpoints=Checkpoints(Path(state), "learning-curve"),
            work_dir=Path(state) / "work",
            emit=lambda step, metrics: lines.append({"step": float(step), **metrics}),
        )
    return lines


def switches(lines: Sequence[Mapping[str, float]]) -> list[int]:
    """Steps at which masking went on or off."""
    masking = [0.0, *(line["aepo/masking"] for line in lines)]
    return [step for step, (before, now) in enumerate(pairwise(masking)) if before != now]


def draw(curves: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> None:
    """Reward above, entropy with AEPO's band below."""
    figure = Figure(figsize=(7.5, 5.5), layout="constrained")
    FigureCanvasSVG(figure)
    reward, entropy = figure.subplots(2, 1, sharex=True)
    for name, lines in curves.items():
        steps = [line["step"] for line in lines]
        reward.plot(steps, [line["reward/mean"] for line in lines], color=COLORS[name], label=f"AEPO {name}")
        entropy.plot(steps, [line["entropy/seq_mean"] for line in lines], color=COLORS[name], label=f"AEPO {name}")
    low, high = SHARED["aepo"]["entropy_low"], SHARED["aepo"]["entropy_high"]
    entropy.axhspan(low, high, color="#0b6fa4", alpha=0.10, label="AEPO's band")
    for line in curves["on"]:
        if line["aepo/masking"]:
            reward.axvspan(line["step"] - 0.5, line["step"] + 0.5, color="#0b6fa4", alpha=0.08, linewidth=0)
    reward.set_ylabel("mean reward")
    entropy.set_ylabel("entropy (nats)")
    entropy.set_xlabel("update (shaded: negatives masked)")
    for axes in (reward, entropy):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def table(curves: Mapping[str, Sequence[Mapping[str, float]]], every: int) -> str:
    """Every n-th step of both runs as Markdown."""
    rows = [
        "| update | reward, AEPO on | entropy | masking | reward, AEPO off | entropy |",
        "|---|---|---|---|---|---|",
    ]
    last = len(curves["on"]) - 1
    for step in sorted({*range(0, last + 1, every), last, *switches(curves["on"])}):
        on, off = curves["on"][step], curves["off"][step]
        rows.append(
            f"| {step} | {on['reward/mean']:.3f} | {on['entropy/seq_mean']:.2f} | {'on' if on['aepo/masking'] else 'off'} "
            f"| {off['reward/mean']:.3f} | {off['entropy/seq_mean']:.2f} |"
        )
    return "\n".join(rows)


def report(curves: Mapping[str, Sequence[Mapping[str, float]]], learning_rate: float, seconds: float) -> str:
    """The page."""
    on = curves["on"]
    aepo = SHARED["aepo"]
    changes = ", ".join(f"{'on' if on[step]['aepo/masking'] else 'off'} at update {step}" for step in switches(on))
    return f"""# Learning curve on a CPU

Made by `python -m benchmarks.learning_curve` (one thread, {seconds:.0f} s for both runs). The loop of the
RL stages on the plumbing profile's random Qwen3-MoE (two layers, 2K vocabulary); reward: share of an answer's characters
that are vowels; {SHARED["batch_size"]} prompts x {SHARED["group_size"]} answers of at most {ANSWER_TOKENS} tokens per update, learning rate {learning_rate:g}, task
std, group denominator. AEPO's band is {aepo["entropy_low"]} to {aepo["entropy_high"]} nats here (the paper's 0.1 to 0.3 fit a trained 30B model).

![reward and entropy](learning_curve.svg)

Reward from {on[0]["reward/mean"]:.3f} to {on[-1]["reward/mean"]:.3f} with AEPO, from {curves["off"][0]["reward/mean"]:.3f} to {curves["off"][-1]["reward/mean"]:.3f} without. AEPO's masking of negatives went {changes}.

{table(curves, max(1, len(on) // 10))}

The example shows that the parts work together; it says nothing about which setting is better on real tasks.
"""


def main() -> None:
    """Run both, write the page, the figure and the numbers."""
    parser = argparse.ArgumentParser(description="Learning curve of the RL loop on a CPU.")
    parser.add_argument("--steps", type=int, default=45)
    parser.add_argument("--learning-rate", type=float, default=1e-2)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        curves = {
            name: run(Path(folder), arguments.steps, arguments.learning_rate, {"enabled": name == "on"})
            for name in ("on", "off")
        }
    seconds = time.perf_counter() - started
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_text(arguments.out / "learning_curve.md", report(curves, arguments.learning_rate, seconds))
    draw(curves, arguments.out / "learning_curve.svg")
    kept = ("step", "reward/mean", "entropy/seq_mean", "aepo/masking", "grad_norm", "loss/policy")
    write_json(
        arguments.out / "learning_curve.json",
        {name: [{key: line[key] for key in kept if key in line} for line in lines] for name, lines in curves.items()},
    )
    print(json.dumps({name: [round(line["reward/mean"], 3) for line in lines] for name, lines in curves.items()}))


if __name__ == "__main__":
    main()
