from collections import Counter

import pytest

from stages.common.errors import ConfigError
from stages.common.rollouts import Rollout, RolloutGroup
from stages.rl.filter import draw_balanced, measure, select
from tests.stages.rl.tiny_world import make_samples

SAMPLES = make_samples(per_task=4)[1]  # 20 samples: 4 of each of 5 tasks


def ids_of(task: str) -> list[str]:
    return [sample.id for sample in SAMPLES if sample.task_type == task]


def test_a_draw_takes_tasks_in_turn_and_no_sample_twice():
    drawn = draw_balanced(SAMPLES, 12, seed=1)
    counts = Counter(sample.task_type for sample in drawn)
    assert sorted(counts.values()) == [2, 2, 2, 3, 3]
    assert len({sample.id for sample in drawn}) == 12
    assert draw_balanced(SAMPLES, 12, seed=1) == drawn
    assert draw_balanced(SAMPLES, 12, seed=2) != drawn


def test_a_draw_of_more_than_there_is_takes_all():
    assert len(draw_balanced(SAMPLES, 1000, seed=1)) == 20


def test_a_draw_smaller_than_the_number_of_tasks_names_the_knob():
    with pytest.raises(ConfigError, match="filter_prompts"):
        draw_balanced(SAMPLES, 4, seed=1)


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


def test_measuring_averages_over_the_rollouts_of_each_prompt():
    class Source:
        reward_seconds = 0.0

        def __call__(self, samples, step, attempt=0):
            return [
                RolloutGroup(
                    s.id, s.task_type.value, place, tuple(Rollout((), "", reward) for reward in (0.0, 1.0, 1.0, step))
                )
                for place, s in enumerate(samples)
            ]

    means = measure(Source(), SAMPLES[:5], batch_prompts=3)
    assert list(means.values()) == [0.5, 0.5, 0.5, 0.75, 0.75]
