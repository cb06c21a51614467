"""Records of trajectories: whole for usual readings, bounded for any."""

import json

import pytest

from stages.memory.record import MAX_TURNS, cut, trajectory_record
from stages.memory.results import AgentResult, Turn


def turn(number, memory, before="", plan="p"):
    return Turn(
        number, memory, plan, "the response", True, False, False, before,
        chunk_start=10 * number - 10, chunk_end=10 * number, chunk_tokens=3, prompt_tokens=5, response_tokens=2,
        seconds=0.5,
    )  # fmt: skip


def test_a_usual_reading_is_recorded_whole():
    result = AgentResult("Bonn", (turn(1, "m1"), turn(2, "m2", "m1")), "Bonn.", 20, 7, answer_seconds=0.25)
    record = trajectory_record("k", "Which city?", result, {"reward": 1.0}, ended_ms=9)
    told = {"prompt_tokens": 5, "response_tokens": 2, "seconds": 0.5, "chunk_tokens": 3}
    told |= {"plan": "p", "parsed": True, "truncated": False, "memory_cut": False}
    first = {"number": 1, "memory_before": "", "memory": "m1", "chunk_start_token": 0, "chunk_start": 0}
    second = {"number": 2, "memory_before": "m1", "memory": "m2", "chunk_start_token": 3, "chunk_start": 10}
    assert record == {
        "key": "k", "question": "Which city?", "answer": "Bonn", "answer_seconds": 0.25, "ended_ms": 9,
        "attributes": {
            "reward": 1.0, "prompt_tokens": 20, "completion_tokens": 7, "turns": 2, "parse_failures": 0,
            "truncated_turns": 0, "memory_cuts": 0, "turns_left_out": 0,
        },
        "turns": [first | told | {"chunk_end": 10}, second | told | {"chunk_end": 20}],
    }  # fmt: skip


@pytest.mark.parametrize("turns", [1, 40, 400, 5000])
def test_a_record_is_bounded_however_long_reading_and_memory_are(turns):
    long = "x" * 60_000
    read = tuple(turn(number, long, long, long) for number in range(1, turns + 1))
    record = trajectory_record("k", long, AgentResult(long, read, long, 1, 1), {})
    assert len(json.dumps(record)) < 1_000_000
    kept = record["turns"]
    assert len(kept) == min(turns, MAX_TURNS)
    assert record["attributes"]["turns_left_out"] == turns - len(kept)
    assert (kept[0]["number"], kept[-1]["number"]) == (1, turns)
    assert kept[-1]["chunk_start_token"] == 3 * (turns - 1)  # as if no turn had been left out
    assert all(entry["memory"].endswith("more characters]") for entry in kept)


def test_a_cut_says_how_much_is_missing():
    assert cut("abcdef", 6) == "abcdef"
    assert cut("abcdefg", 4) == "abcd [... 3 more characters]"
