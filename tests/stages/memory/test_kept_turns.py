"""A group's turns outlive a kill: what was generated is not asked for again, and the group is the same."""

import pytest

from stages.common.rollouts import Completion
from stages.engines.scripted_engine import ScriptedEngine
from stages.rl.finished import FinishedGroups
from tests.stages.memory.test_memory_rollout import documents, reader, sample, source  # noqa: F401


class StopError(Exception):
    """A kill in the middle of a group."""


class StoppingLog:
    """A turn log in memory that stops the run after some turns."""

    def __init__(self, stop_after=None):
        self.kept, self.stop_after = {}, stop_after

    def get(self, name):
        return self.kept.get(name)

    def add(self, name, completions):
        if self.stop_after is not None and len(self.kept) == self.stop_after:
            raise StopError
        self.kept[name] = completions


@pytest.mark.parametrize("stop_after", [0, 1, 2, 3])
def test_only_missing_turns_are_asked_for_after_a_stop(documents, stop_after):  # noqa: F811
    whole_engine = ScriptedEngine(reader)
    whole = source(documents, whole_engine)([sample("a")], step=3)
    log = StoppingLog(stop_after)
    with pytest.raises(StopError):
        source(documents)([sample("a")], step=3, turn_log=log)
    assert len(log.kept) == stop_after
    log.stop_after = None
    engine = ScriptedEngine(reader)
    assert source(documents, engine)([sample("a")], step=3, turn_log=log) == whole
    # The first turn is one request for the whole group.
    assert len(engine.requests) == len(whole_engine.requests) - stop_after


def test_turns_of_another_step_or_sample_are_not_taken(documents):  # noqa: F811
    log = StoppingLog()
    source(documents)([sample("a")], step=3, turn_log=log)
    engine = ScriptedEngine(reader)
    source(documents, engine)([sample("b")], step=3, turn_log=log)
    assert len(engine.requests) == 7  # the first turn, then three of each of two trajectories


def test_turns_are_on_disk_by_attempt_and_a_torn_line_is_cut_off(tmp_path):
    path = tmp_path / "rollouts.jsonl"
    completions = [Completion((1, 2), (-0.5, -1.25), "stop"), Completion((), (), "length")]
    finished = FinishedGroups(path, "f", 3)
    finished.turn_log(0).add("0/s/first", completions)
    finished.turn_log(0).add("0/s/all/1", completions[:1])
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    again = FinishedGroups(path, "f", 3)
    assert again.turn_log(0).get("0/s/first") == completions
    assert again.turn_log(0).get("0/s/all/1") is None
    assert again.turn_log(1).get("0/s/first") is None
    again.turn_log(0).add("0/s/all/1", completions[:1])
    assert path.read_bytes() == whole
