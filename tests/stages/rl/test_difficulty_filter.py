from collections import Counter

import pytest

from stages.common.errors import ConfigError
from stages.common.rollouts import Rollout, RolloutGroup
from stages.rl.filter import draw_balanced, measure, select
from stages.rl.finished import FinishedGroups
from tests.stages.rl.tiny_world import make_samples

SAMPLES = make_samples(per_task=4)[1]  # 20 samples: 4 of each of 5 tasks


def ids_of(task: str) -> list[str]:
    return [sample.id for sample in SAMPLES if sample.task_type == task]


def test_a_draw_takes_tasks_in_turn_and_no_sample_twice():
    drawn = draw_balanced(SAMPLES, 12, 1, "knob")
    counts = Counter(sample.task_type for sample in drawn)
    assert sorted(counts.values()) == [2, 2, 2, 3, 3]
    assert len({sample.id for sample in drawn}) == 12
    assert draw_balanced(SAMPLES, 12, 1, "knob") == drawn
    assert draw_balanced(SAMPLES, 12, 2, "knob") != drawn


def test_a_draw_of_more_than_there_is_takes_all():
    assert len(draw_balanced(SAMPLES, 1000, 1, "knob")) == 20


def test_a_draw_smaller_than_the_number_of_tasks_names_the_knob():
    with pytest.raises(ConfigError, match="the knob is 4"):
        draw_balanced(SAMPLES, 4, 1, "the knob")


def test_prompts_strictly_between_never_and_always_solved_are_kept_in_order():
    a, b, c, d = ids_of("numerical")
    selected = select(SAMPLES, {d: 0.5, a: 0.25, b: 0.0, c: 1.0}, share=1)
    assert [(entry.id, entry.mean_reward, entry.reason) for entry in selected] == [
        (a, 0.25, "in_range"),
        (d, 0.5, "in_range"),
    ]


def test_a_task_below_its_share_is_filled_up_with_what_is_closest_to_one_half():
    a, b, c, d = ids_of("numerical")
    x, y, _, _ = ids_of("multi_hop")
    selected = select(SAMPLES, {a: 0.75, b: 0.0, c: 1.0, d: 0.0, x: 0.0, y: 0.0}, share=2)
    reasons = {entry.id: entry.reason for entry in selected}
    assert reasons[a] == "in_range"
    # b, c and d are equally far; ids decide
    assert {i for i, reason in reasons.items() if reason == "fallback"} == {min(b, c, d), x, y}


class Scripted:
    """A rollout source whose last reward of a group is the step."""

    reward_seconds = 0.0

    def __init__(self, stop_after: int | None = None) -> None:
        self.made = 0
        self.stop_after = stop_after

    def __call__(self, samples, step, attempt=0, *, places=None, on_group=None, turn_log=None):
        groups = []
        for place, s in zip(places, samples, strict=True):
            if self.made == self.stop_after:
                raise KeyboardInterrupt
            self.made += 1
            rollouts = tuple(Rollout((), "", reward) for reward in (0.0, 1.0, 1.0, step))
            groups.append(RolloutGroup(s.id, s.task_type.value, place, rollouts))
            on_group(groups[-1])
        return groups


def test_measuring_averages_over_the_rollouts_of_each_prompt(tmp_path):
    means = measure(Scripted(), SAMPLES[:5], 3, FinishedGroups(tmp_path / "filter.jsonl", "run", 0))
    assert list(means.values()) == [0.5, 0.5, 0.5, 0.75, 0.75]


def test_a_killed_filter_measures_the_rest_only(tmp_path):
    path = tmp_path / "filter.jsonl"
    with pytest.raises(KeyboardInterrupt):
        measure(Scripted(stop_after=4), SAMPLES[:5], 3, FinishedGroups(path, "run", 0))
    source = Scripted()
    means = measure(source, SAMPLES[:5], 3, FinishedGroups(path, "run", 0))
    assert source.made == 1
    assert means == measure(Scripted(), SAMPLES[:5], 3, FinishedGroups(tmp_path / "other.jsonl", "run", 0))
