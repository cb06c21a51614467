import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stages.common.errors import LongfuseError
from stages.common.records import Sample
from stages.common.rollouts import RolloutGroup
from stages.common.storage import DocumentStore
from stages.engines.transformers_engine import TransformersEngine
from stages.rl.checkpoint import Checkpoints
from stages.rl.config import RLSharedConfig
from stages.rl.rollout import FullContextRolloutSource
from stages.rl.train import Progress, TrainPlan, train
from tests.stages.rl.tiny_world import make_policy, make_samples, write_inputs, write_model_folder

SHARED = {
    "group_size": 3,
    "batch_size": 6,
    "temperature": 1.0,
    "top_p": 1.0,
    "std_scope": "task",
    "denominator": "group",
    "aepo": {"enabled": True, "entropy_low": 0.1, "entropy_high": 99.0, "entropy_source": "same_batch"},
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
    "max_row_tokens": 2048,
    "checkpoint_every_steps": 1,
    "max_skipped_steps": 0,
}
KEYS = {
    "reward/mean", "entropy/seq_mean", "entropy/token_mean", "aepo/masking", "aepo/negatives_masked", "loss/policy",
    "grad_norm", "len/response/mean", "len/response/p95", "len/response/max", "len/truncated_frac", "mismatch/k3_kl",
    "progress/prompts", "progress/tokens",
}  # fmt: skip
VOLATILE = {
    "time/step_s", "time/rollout_s", "time/reward_s", "time/train_s", "time/sync_s", "perf/tokens_per_s",
    "perf/unique_token_frac", "perf/peak_memory_gb",
}  # fmt: skip
TASKS = ("dialogue_memory", "multi_hop", "multiple_choice", "numerical", "reading_comprehension")


class SmallIds(FullContextRolloutSource):
    """The real source with another reward, one that a random model gets partly right: the share of ids below 128."""

    calls: int = 0
    scale: float = 1.0

    def __call__(self, samples: Sequence[Sample], step: int, attempt: int = 0) -> list[RolloutGroup]:
        self.calls += 1
        return [
            replace(group, rollouts=tuple(replace(r, reward=self.scale * self._share(r)) for r in group.rollouts))
            for group in super().__call__(samples, step, attempt)
        ]

    @staticmethod
    def _share(rollout) -> float:
        ids = rollout.segments[-1].response_ids
        return sum(token < 128 for token in ids) / len(ids)


class Killed(BaseException):
    pass


class Run:
    """One training run on real parts; `kill_at` raises out of the emit callback of that step."""

    def __init__(self, root: Path, model: Path, state: Path, compute_dtype: str = "float32", **changes) -> None:
        settings = {"temperature": changes.pop("trainer_temperature", 1.0), "compute_dtype": compute_dtype}
        self.policy = make_policy(model, **settings, learning_rate=changes.pop("learning_rate", 1e-3))
        engine = TransformersEngine(model, model=self.policy.model, tokenizer=self.policy.tokenizer)
        self.source = SmallIds(
            engine,
            DocumentStore([root / "documents.jsonl"]),
            max_output_tokens=6,
            group_size=3,
            temperature=1.0,
            top_p=1.0,
            seed=5,
        )
        self.engine, self.state = engine, state
        self.shared = RLSharedConfig.model_validate(SHARED | changes)
        self.emitted: dict[int, dict[str, float]] = {}
        self.kill_at: int | None = None

    def train(self, steps: int = 4) -> Progress:
        def emit(step, metrics):
            self.emitted[step] = dict(metrics)
            if step == self.kill_at:
                raise Killed

        return train(
            policy=self.policy,
            engine=self.engine,
            source=self.source,
            samples=make_samples()[1],
            shared=self.shared,
            plan=TrainPlan(steps, 6, self.shared.std_scope, "token"),
            seed=5,
            checkpoints=Checkpoints(self.state, "run"),
            work_dir=self.state / "work",
            emit=emit,
        )

    def metrics_file(self) -> str:
        return (self.state / "work" / "metrics.jsonl").read_text()


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("rl_train")
    write_inputs(root)
    return root, write_model_folder(root)


@pytest.mark.parametrize(
    ("compute_dtype", "every", "kill_at"),
    [("float32", 1, 0), ("float32", 2, 1), ("float32", 2, 2), ("bfloat16", 1, 2), ("bfloat16", 5, 3)],
)
def test_a_killed_run_continues_to_the_same_weights_and_metrics(world, tmp_path, compute_dtype, every, kill_at):
    unbroken = Run(*world, tmp_path / "a", compute_dtype, checkpoint_every_steps=every)
    unbroken.train()

    killed = Run(*world, tmp_path / "b", compute_dtype, checkpoint_every_steps=every)
    killed.kill_at = kill_at
    with pytest.raises(Killed):
        killed.train()
    resumed = Run(*world, tmp_path / "b", compute_dtype, checkpoint_every_steps=every)
    resumed.train()

    assert resumed.policy.digest() == unbroken.policy.digest()
    assert resumed.metrics_file() == unbroken.metrics_file()
    assert len(resumed.metrics_file().splitlines()) == 4
    # Rollouts that the killed run had finished were not made again.
    assert resumed.source.calls == 4 - (kill_at + 1)
    assert min(resumed.emitted) == kill_at // every * every


def test_two_runs_give_the_same_bits_and_training_changes_the_weights(world, tmp_path):
    first, second = (Run(*world, tmp_path / name) for name in "ab")
    before = first.policy.digest()
    first.train(2)
    second.train(2)
    assert first.policy.digest() == second.policy.digest() != before
    assert first.metrics_file() == second.metrics_file()


def test_metric_keys_are_those_of_the_design(world, tmp_path):
    run = Run(*world, tmp_path)
    run.train(1)
    per_task = {f"reward/{t}/mean" for t in TASKS} | {f"adv/std/{t}" for t in TASKS}
    assert set(run.emitted[0]) == KEYS | VOLATILE | per_task | {"progress/skipped_steps"}
    (line,) = run.metrics_file().splitlines()
    assert set(json.loads(line)) == KEYS | per_task | {"progress/skipped_steps", "step"}
    values = run.emitted[0]
    assert values["progress/prompts"] == 6
    assert values["mismatch/k3_kl"] < 1e-8  # one model, float32, two ways of computing
    assert values["perf/unique_token_frac"] < 0.5  # three answers share a prompt
    assert values["len/response/max"] <= 6


def test_rewards_rise_on_a_task_that_can_be_learned(world, tmp_path):
    run = Run(*world, tmp_path, checkpoint_every_steps=100, learning_rate=1e-2)
    run.train(12)
    rewards = [run.emitted[step]["reward/mean"] for step in range(12)]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.2


def test_no_checkpoint_is_written_after_the_last_step(world, tmp_path):
    Run(*world, tmp_path).train(2)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-000001"]


def test_masking_starts_above_the_threshold_and_takes_negatives_out_of_the_loss(world, tmp_path):
    hot = {"enabled": True, "entropy_low": 0.1, "entropy_high": 0.2, "entropy_source": "same_batch"}
    masked, unmasked = Run(*world, tmp_path / "a", aepo=hot), Run(*world, tmp_path / "b")
    masked.train(1)
    unmasked.train(1)
    assert masked.emitted[0]["aepo/masking"] == 1
    assert masked.emitted[0]["aepo/negatives_masked"] > 0
    assert unmasked.emitted[0]["aepo/masking"] == 0
    assert masked.emitted[0]["loss/policy"] < unmasked.emitted[0]["loss/policy"]  # only positive terms remain
    assert masked.emitted[0]["adv/std/numerical"] == unmasked.emitted[0]["adv/std/numerical"]
    assert masked.policy.digest() != unmasked.policy.digest()


def test_previous_batch_entropy_acts_one_step_later(world, tmp_path):
    late = {"enabled": True, "entropy_low": 0.1, "entropy_high": 0.2, "entropy_source": "previous_batch"}
    run = Run(*world, tmp_path, aepo=late)
    run.train(2)
    assert [run.emitted[step]["aepo/masking"] for step in (0, 1)] == [0, 1]


def test_overlong_answers_are_masked_in_the_numerator(world, tmp_path):
    run = Run(*world, tmp_path, overlong="mask", aepo=SHARED["aepo"] | {"enabled": False})
    run.train(1)
    values = run.emitted[0]
    assert values["len/truncated_frac"] == 1  # a random model does not stop within 6 tokens
    assert values["loss/policy"] == 0
    assert values["grad_norm"] == 0
    assert values["reward/mean"] > 0


def test_the_length_penalty_changes_advantages_but_not_the_reported_reward(world, tmp_path):
    plain = Run(*world, tmp_path / "a")
    penalised = Run(*world, tmp_path / "b", overlong="penalise", overlong_buffer_tokens=6, std_scope="none")
    plain.train(1)
    penalised.train(1)
    assert plain.emitted[0]["reward/mean"] == penalised.emitted[0]["reward/mean"]


def test_groups_with_equal_rewards_are_drawn_again_at_most_max_refills_times(world, tmp_path):
    run = Run(*world, tmp_path, dynamic_sampling=True, max_refills=2)
    run.source.scale = 0.0  # every group's rewards are equal
    run.train(1)
    assert run.source.calls == 3
    assert run.emitted[0]["progress/prompts"] == 6


def test_too_many_updates_that_are_not_finite_stop_the_run(world, tmp_path):
    broken = Run(*world, tmp_path, max_skipped_steps=1, trainer_temperature=1e-45)  # logits overflow to infinity
    before = broken.policy.digest()
    with pytest.raises(LongfuseError, match="max_skipped_steps"):
        broken.train(4)
    assert broken.policy.digest() == before
    assert broken.emitted[0]["progress/skipped_steps"] == 1
    assert "loss/policy" not in broken.emitted[0]


def test_an_engine_that_returns_nan_is_named(world, tmp_path):
    run = Run(*world, tmp_path)
    with torch.no_grad():
        run.policy.model.model.norm.weight[0] = math.nan
    with pytest.raises(LongfuseError, match="not finite"):
        run.train(1)
