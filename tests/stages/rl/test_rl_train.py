import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.common.errors import LongfuseError
from stages.common.records import Sample
from stages.common.rollouts import RolloutGroup
from stages.common.storage import DocumentStore
from stages.engines.transformers_engine import TransformersEngine
from stages.rl.checkpoint import Checkpoints
from stages.rl.config import RLSharedConfig
from stages.rl.heldout import HeldOut
from stages.rl.rollout import FullContextRolloutSource
from stages.rl.train import Progress, TrainPlan, train
from tests.stages.rl.tiny_world import make_policy, make_samples, write_inputs, write_model_folder
from tests.train_settings import RL_SHARED

KEYS = {
    "reward/mean", "reward/std", "reward/zero_std_frac", "entropy/seq_mean", "entropy/token_mean", "entropy/positive",
    "entropy/negative", "aepo/masking", "aepo/negatives_masked", "aepo/switches", "adv/abs_mean", "adv/positive_frac",
    "adv/negative_frac", "loss/policy", "loss/masked_token_frac", "grad_norm", "len/prompt/mean", "len/prompt/max",
    "len/response/mean", "len/response/p95", "len/response/max", "len/truncated_frac", "mismatch/k3_kl",
    "mismatch/logp_abs_mean", "mismatch/logp_abs_max", "progress/prompts", "progress/tokens", "progress/skipped_steps",
}  # fmt: skip
VOLATILE = {
    "time/step_s", "time/rollout_s", "time/reward_s", "time/train_s", "time/sync_s", "perf/tokens_per_s",
    "perf/unique_token_frac", "perf/peak_memory_gb",
}  # fmt: skip
TASKS = ("dialogue_memory", "multi_hop", "multiple_choice", "numerical", "reading_comprehension")


class Killed(BaseException):
    """Ends a run the way a signal does."""


class SmallIds(FullContextRolloutSource):
    """The real source with another reward, one that a random model gets partly right: the share of ids below 128."""

    calls: int = 0
    groups: int = 0
    scale: float = 1.0
    stop_after_groups: int | None = None

    def __init__(self, *arguments, **settings) -> None:
        super().__init__(*arguments, **settings)
        self.answers: list[tuple[int, ...]] = []

    def __call__(self, samples: Sequence[Sample], step: int, attempt: int = 0, **places) -> list[RolloutGroup]:
        self.calls += 1
        return super().__call__(samples, step, attempt, **places)

    async def _group(self, *arguments) -> RolloutGroup:
        group = await super()._group(*arguments)
        if self.groups == self.stop_after_groups:
            raise Killed
        self.groups += 1
        self.answers.append(group.rollouts[0].segments[-1].response_ids)
        return replace(group, rollouts=tuple(replace(r, reward=self.scale * self._share(r)) for r in group.rollouts))

    @staticmethod
    def _share(rollout) -> float:
        ids = rollout.segments[-1].response_ids
        return sum(token < 128 for token in ids) / len(ids)


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
        self.shared = RLSharedConfig.model_validate(RL_SHARED | changes)
        self.emitted: dict[int, dict[str, float]] = {}
        self.kill_at: int | None = None
        self.failure: BaseException = Killed()
        self.held_out: HeldOut | None = None

    def train(self, steps: int = 4) -> Progress:
        def emit(step, metrics):
            self.emitted[step] = dict(metrics)
            if step == self.kill_at:
                raise self.failure

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
            held_out=self.held_out,
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
    assert resumed.source.groups == 6 * (4 - (kill_at + 1))
    assert min(resumed.emitted) == kill_at // every * every


@pytest.mark.parametrize("stop_after", [1, 8, 15])
def test_a_run_stopped_between_groups_makes_only_the_missing_ones(world, tmp_path, stop_after):
    unbroken = Run(*world, tmp_path / "a", checkpoint_every_steps=100)
    unbroken.train(3)
    stopped = Run(*world, tmp_path / "b", checkpoint_every_steps=100)
    stopped.source.stop_after_groups = stop_after
    with pytest.raises(Killed):
        stopped.train(3)
    resumed = Run(*world, tmp_path / "b", checkpoint_every_steps=100)
    resumed.train(3)
    assert resumed.policy.digest() == unbroken.policy.digest()
    assert resumed.metrics_file() == unbroken.metrics_file()
    assert resumed.source.groups == 18 - stop_after
    # The stop came as a signal does: what was trained so far was saved although no checkpoint was due.
    assert min(resumed.emitted) == stop_after // 6


def test_a_failure_is_no_reason_to_write_a_checkpoint(world, tmp_path):
    run = Run(*world, tmp_path, checkpoint_every_steps=100)
    run.kill_at = 1
    run.failure = LongfuseError("the disk is full")
    with pytest.raises(LongfuseError, match="the disk is full"):
        run.train(3)
    assert not list(tmp_path.glob("checkpoint-*"))


def test_dynamic_sampling_resumes_its_refills(world, tmp_path):
    changes = {"dynamic_sampling": True, "max_refills": 2}
    unbroken = Run(*world, tmp_path / "a", **changes)
    unbroken.source.scale = 0.0
    unbroken.train(2)
    stopped = Run(*world, tmp_path / "b", **changes)
    stopped.source.scale = 0.0
    stopped.source.stop_after_groups = 10  # in the first refill of the first step
    with pytest.raises(Killed):
        stopped.train(2)
    resumed = Run(*world, tmp_path / "b", **changes)
    resumed.source.scale = 0.0
    resumed.train(2)
    assert resumed.source.groups == 36 - 10
    assert resumed.metrics_file() == unbroken.metrics_file()
    assert resumed.policy.digest() == unbroken.policy.digest()


def test_training_leaves_the_global_random_generators_alone(world, tmp_path):
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    Run(*world, tmp_path).train(1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]  # noqa: NPY002


def held_out_of(run: Run, every_steps: int) -> HeldOut:
    source = SmallIds(
        run.engine, run.source._documents, max_output_tokens=6, group_size=1, temperature=1.0, top_p=1.0, seed=9
    )
    return HeldOut(source, make_samples()[1][::3], every_steps)


def test_held_out_prompts_are_scored_every_n_steps_and_change_nothing_else(world, tmp_path):
    plain, evaluated = (Run(*world, tmp_path / name, learning_rate=3e-2) for name in "ab")
    plain.train(3)
    evaluated.held_out = held_out_of(evaluated, every_steps=2)
    evaluated.train(3)
    keys = {"eval/reward/mean", *(f"eval/reward/{task}/mean" for task in TASKS)}
    assert [keys <= set(evaluated.emitted[step]) for step in range(3)] == [True, False, True]
    per_task = [evaluated.emitted[0][f"eval/reward/{task}/mean"] for task in TASKS]
    assert evaluated.emitted[0]["eval/reward/mean"] == pytest.approx(sum(per_task) / 5)
    assert evaluated.policy.digest() == plain.policy.digest()
    # The same prompts and seeds each time: only the weights differ
    answers = evaluated.held_out.source.answers
    assert answers[:5] != answers[5:]
    fresh = held_out_of(Run(*world, tmp_path / "c"), every_steps=1).source
    fresh(make_samples()[1][::3], 0)
    assert fresh.answers == answers[:5]


def test_an_evaluation_that_was_finished_is_not_made_again(world, tmp_path):
    unbroken = Run(*world, tmp_path / "a")
    unbroken.held_out = held_out_of(unbroken, every_steps=1)
    unbroken.train(2)
    stopped = Run(*world, tmp_path / "b")
    stopped.held_out = held_out_of(stopped, every_steps=1)
    stopped.source.stop_after_groups = 2
    with pytest.raises(Killed):
        stopped.train(2)
    resumed = Run(*world, tmp_path / "b")
    resumed.held_out = held_out_of(resumed, every_steps=1)
    resumed.train(2)
    assert resumed.held_out.source.calls == 1
    assert resumed.metrics_file() == unbroken.metrics_file()


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
    kinds = ("reward/{}/mean", "adv/std/{}", "entropy/{}", "len/truncated_frac/{}")
    per_task = {kind.format(task) for kind in kinds for task in TASKS}
    assert set(run.emitted[0]) == KEYS | VOLATILE | per_task
    (line,) = run.metrics_file().splitlines()
    assert set(json.loads(line)) == KEYS | per_task | {"step"}
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
    run = Run(*world, tmp_path, overlong="mask", aepo=RL_SHARED["aepo"] | {"enabled": False})
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
