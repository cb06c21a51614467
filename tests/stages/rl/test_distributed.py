"""What processes tell each other, and what happens if one does not answer."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from stages.common.errors import EnvironmentFailureError
from stages.common.storage import DocumentStore, write_jsonl
from stages.engines.transformers_engine import TransformersEngine
from stages.rl.distributed import DistributedRolloutSource, World, current_world
from stages.rl.finished import encode_group
from stages.rl.rollout import FullContextRolloutSource
from tests.stages.rl.process_group import run_together
from tests.stages.rl.tiny_world import make_samples, write_model_folder

VALUE = {"text": "größer\n", "number": 0.1 + 0.2, "none": None, "list": [1, [2.5e-308]]}


def test_a_process_alone_needs_nobody():
    world = World(0, 1, None)
    world.meet("anything")
    assert world.gather(VALUE, "anything") == [VALUE]
    assert world.from_first(VALUE, "anything") == VALUE
    assert current_world() == world


def make_source(folder: Path, world: World | None) -> Any:
    source = FullContextRolloutSource(
        TransformersEngine(folder / "model", compute_dtype="float32"),
        DocumentStore([folder / "documents.jsonl"]),
        max_output_tokens=6,
        group_size=2,
        temperature=1.0,
        top_p=1.0,
        seed=5,
    )
    return source if world is None else DistributedRolloutSource(source, world)


def talk(rank: int, *, folder: str) -> list[Any]:
    """Run in both processes."""
    world = current_world()
    assert (world.rank, world.size) == (rank, 2)
    assert world.gather({"rank": rank, "long": "x" * (1 + 1000 * rank)}, "test")[1]["rank"] == 1
    assert world.gather(VALUE, "test") == [VALUE, VALUE]
    assert world.from_first(rank, "test") == 0
    samples, kept = make_samples(per_task=1)[1], []
    source = make_source(Path(folder), world)
    groups = source(samples, 3, on_group=lambda group: kept.append(group.group_id))
    assert sorted(kept) == list(range(rank, 5, 2))
    refilled = source([samples[4]], 3, 1, places=[2])  # fewer prompts than processes
    assert [group.group_id for group in refilled] == [2]
    if rank == 1:
        return []  # it does not come
    started = time.monotonic()
    with pytest.raises(
        EnvironmentFailureError, match=r"process 0 of 2 .*did not all come: rollouts of step 7.*Ranks 1 failed"
    ):
        world.meet("rollouts of step 7", seconds=1)
    assert time.monotonic() - started < 20
    return [encode_group(group) for group in groups + refilled]


def test_two_processes_share_rollouts_and_name_who_does_not_come(tmp_path: Path):
    write_model_folder(tmp_path)
    documents, samples = make_samples(per_task=1)
    write_jsonl(tmp_path / "documents.jsonl", documents)
    told, _ = run_together(2, "tests.stages.rl.test_distributed:talk", tmp_path, folder=str(tmp_path))
    alone = make_source(tmp_path, None)
    expected = alone(samples, 3) + alone([samples[4]], 3, 1, places=[2])
    assert told == [_as_json(encode_group(group)) for group in expected]


def _as_json(value: Any) -> Any:
    import json

    return json.loads(json.dumps(value))
