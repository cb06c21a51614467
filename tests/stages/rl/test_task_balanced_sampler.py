import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.common.errors import ConfigError, InputError
from stages.rl.sampler import TaskBalancedSampler


def tasks_of(counts: dict[str, int]) -> list[str]:
    return [task for task, count in counts.items() for _ in range(count)]


def take(sampler: TaskBalancedSampler, batches: int) -> list[list[int]]:
    return [next(sampler) for _ in range(batches)]


def test_each_batch_holds_the_same_number_of_every_task():
    tasks = tasks_of({"a": 4, "b": 9, "c": 5})
    for batch in take(TaskBalancedSampler(tasks, 6, seed=1), 10):
        assert Counter(tasks[i] for i in batch) == {"a": 2, "b": 2, "c": 2}


def test_extras_rotate_so_that_any_k_consecutive_batches_are_exactly_balanced():
    tasks = tasks_of({"a": 7, "b": 7, "c": 7, "d": 7, "e": 7})
    batches = take(TaskBalancedSampler(tasks, 8, seed=3), 20)
    for start in range(16):
        window = [tasks[i] for batch in batches[start : start + 5] for i in batch]
        assert Counter(window) == dict.fromkeys("abcde", 8)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(0, 9), st.integers(0, 5))
def test_every_sample_is_seen_before_any_repeats_and_no_batch_holds_one_twice(sizes, extra, seed):
    tasks = tasks_of({f"t{n}": size for n, size in enumerate(sizes)})
    batch_size = len(sizes) + extra
    most = -(-batch_size // len(sizes))
    seen: dict[str, list[int]] = {}
    for batch in take(TaskBalancedSampler(tasks, batch_size, seed), 12):
        for index in batch:
            seen.setdefault(tasks[index], []).append(index)
        for task, size in ((f"t{n}", size) for n, size in enumerate(sizes)):
            mine = [index for index in batch if tasks[index] == task]
            if size >= most:
                assert len(set(mine)) == len(mine)
    for indices in seen.values():
        size = tasks.count(tasks[indices[0]])
        for start in range(0, len(indices) - size + 1, size):
            assert len(set(indices[start : start + size])) == size


def test_a_resumed_sampler_continues_the_same_sequence():
    tasks = tasks_of({"a": 5, "b": 3})
    sampler = TaskBalancedSampler(tasks, 5, seed=9)
    take(sampler, 4)
    snapshot = json.loads(json.dumps(sampler.state_dict()))
    expected = take(sampler, 6)
    resumed = TaskBalancedSampler(tasks, 5, seed=9)
    resumed.load_state_dict(snapshot)
    assert take(resumed, 6) == expected


def test_a_snapshot_does_not_change_with_later_draws():
    sampler = TaskBalancedSampler(["a", "a", "b"], 2, seed=0)
    snapshot = sampler.state_dict()
    before = json.dumps(snapshot)
    take(sampler, 3)
    assert json.dumps(snapshot) == before


def test_a_snapshot_of_other_data_is_refused():
    snapshot = TaskBalancedSampler(["a", "a", "b"], 2, seed=0).state_dict()
    with pytest.raises(InputError, match="dataset"):
        TaskBalancedSampler(["a", "b", "b"], 2, seed=0).load_state_dict(snapshot)


def test_another_seed_gives_another_order():
    tasks = tasks_of({"a": 30, "b": 30})
    assert take(TaskBalancedSampler(tasks, 10, 1), 3) != take(TaskBalancedSampler(tasks, 10, 2), 3)


def test_fewer_places_than_tasks_is_an_error_that_names_the_knob():
    with pytest.raises(ConfigError, match="batch_size"):
        TaskBalancedSampler(["a", "b", "c"], 2, seed=0)


def test_no_samples_is_an_error():
    with pytest.raises(InputError, match="no sample"):
        TaskBalancedSampler([], 2, seed=0)


def test_replacements_are_of_the_task_and_not_in_the_batch():
    tasks = tasks_of({"a": 6, "b": 6})
    sampler = TaskBalancedSampler(tasks, 4, seed=5)
    batch = next(sampler)
    replacements = sampler.draw("a", 2, exclude=batch)
    assert all(tasks[i] == "a" for i in replacements)
    assert not set(replacements) & set(batch)


def test_a_task_smaller_than_its_share_repeats_within_the_batch():
    batch = next(TaskBalancedSampler(["a", "b", "b", "b"], 6, seed=0))
    assert Counter(batch)[0] == 3
    assert sorted(i for i in batch if i) == [1, 2, 3]
