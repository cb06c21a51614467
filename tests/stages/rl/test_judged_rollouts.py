"""An LLM judge in the RL loop: rewards and counters of rollouts, metrics, and a killed run that ends bit for bit the same."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from stages.common.config import NO_ENDPOINT
from stages.common.records import AnswerKind
from stages.common.scripted_chat_server import ScriptedChatServer, ScriptedReply
from stages.common.storage import DocumentStore, write_jsonl
from stages.engines.scripted_engine import ScriptedEngine
from stages.rewards.judge import build_reward
from stages.rl.rollout import FullContextRolloutSource
from tests.stages.rl.test_rl_stage import AGENT, config_of, run_stage
from tests.stages.rl.tiny_world import make_samples, write_model_folder

ANSWERS = ["harbour of cranes", "the port", "", "cranes, many cranes"]


def candidate(request: dict) -> str:
    found = re.search(r"<candidate-\w+>\n(.*)\n", request["messages"][1]["content"])
    assert found
    return found[1]


def endpoint(server: ScriptedChatServer):
    return NO_ENDPOINT.model_copy(update={"model": "judge", "base_url": server.base_url, "timeout_seconds": 5.0})


def text_samples(gold: str):
    documents, samples = make_samples()
    return documents, [s.model_copy(update={"answer": gold, "answer_kind": AnswerKind.TEXT}) for s in samples]


def test_rollouts_carry_the_larger_score_and_what_the_judge_said(tmp_path):
    documents, samples = text_samples("harbour of cranes")
    write_jsonl(tmp_path / "documents.jsonl", documents)
    engine = ScriptedEngine(lambda prompt, request, index: ANSWERS[index])
    with ScriptedChatServer(lambda request: "[[YES]]" if candidate(request) == "the port" else "[[NO]]") as server:
        reward = build_reward(endpoint(server), tmp_path)
        source = FullContextRolloutSource(
            engine,
            DocumentStore([tmp_path / "documents.jsonl"]),
            max_output_tokens=32,
            group_size=4,
            temperature=1.0,
            top_p=1.0,
            seed=1,
            reward=reward,
        )
        groups = source(samples[:2], 0)
        metrics = reward.take_metrics()
        reward.close()
        assert len(server.requests) == 4  # two answers to each of two questions
    for group in groups:
        assert [rollout.reward for rollout in group.rollouts] == [1.0, 1.0, 0.0, 0.0]
        assert [rollout.counters for rollout in group.rollouts] == [
            {},
            {"judge_asked": 1, "judge_yes": 1, "judge_failed": 0},
            {},
            {"judge_asked": 1, "judge_yes": 0, "judge_failed": 0},
        ]
    assert metrics["judge/calls"] == 4


def fickle(request: dict) -> str | ScriptedReply:
    """YES, NO or garbage, by the candidate alone."""
    choice = hashlib.sha256(candidate(request).encode()).digest()[0] % 5
    return ScriptedReply(body=b"garbage") if choice == 0 else "[[YES]]" if choice < 3 else "[[NO]]"


def judged(requests: list[dict]) -> list[str]:
    """The questions to which the server has an answer: after failures in a row the client may skip one that would fail too."""
    return [json.dumps(request["messages"]) for request in requests if isinstance(fickle(request), str)]


class KilledError(Exception):
    """Stands for a kill in the middle of a run."""


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("judged_world")
    write_model_folder(root / "base")
    documents, samples = text_samples("no model says this")
    write_jsonl(root / "documents.jsonl", documents)
    write_jsonl(root / "train.jsonl", samples)
    return {
        "parent": root / "base",
        "train": root / "train.jsonl",
        "documents": root / "documents.jsonl",
        "base_model": root / "base" / "model",
    }


def test_a_killed_run_with_a_judge_ends_like_an_unbroken_one(world, tmp_path):
    stage = {"max_input_tokens": 400, "max_output_tokens": 8, "filter_prompts": 0, "steps": 3}
    shared = {"overlong": "keep", "aepo": {"entropy_low": 0.01, "entropy_high": 9.0}}
    with ScriptedChatServer(fickle) as server:
        config = config_of(
            "rl@stage1", rl={"shared": shared, "stage1": stage}, endpoints={"judge": endpoint(server).model_dump()}
        )
        emitted: list[dict] = []
        run_stage("rl@stage1", world, tmp_path / "a", config, lambda step, metrics: emitted.append(dict(metrics)))
        asked = judged(server.requests)

        server.play(fickle)

        def kill(step, metrics):
            if step == 1:
                raise KilledError

        with pytest.raises(KilledError):
            run_stage("rl@stage1", world, tmp_path / "b", config, kill)
        run_stage("rl@stage1", world, tmp_path / "b", config)
        again = judged(server.requests)

    files = ["metrics.jsonl", "rollouts.jsonl", "model.json"]  # model.json holds the weights' md5
    for name in files:
        assert (tmp_path / "a" / "data" / name).read_bytes() == (tmp_path / "b" / "data" / name).read_bytes(), name
    assert sorted(again) == sorted(asked)
    assert len(asked) == len(set(asked)) > 0
    assert sum(metrics["judge/disagreements"] for metrics in emitted) > 0
    assert sum(metrics["judge/failed"] for metrics in emitted) > 0
    kept = [json.loads(line) for line in (tmp_path / "a" / "data" / "metrics.jsonl").read_text().splitlines()]
    for metrics, step in zip(emitted, kept, strict=True):
        assert step["judge/asked"] == metrics["judge/asked"] >= metrics["judge/disagreements"] + metrics["judge/failed"]
        assert {"judge/calls", "judge/latency_p95_s"} <= set(metrics)
        assert not {"judge/calls", "judge/cache_hits", "judge/latency_p95_s"} & set(step)


def split_or_judge(request: dict) -> str:
    """A scripted model that splits questions, and says YES to every answer."""
    content = request["messages"][-1]["content"]
    if "Split a question" not in content:
        return "[[YES]]"
    question = content.split("<question>\n")[1].split("\n</question>")[0]
    core, _, form = question.partition(" say? ")
    return json.dumps({"core": f"{core} say?", "instructions": form})


def test_memory_rl_has_its_questions_split_by_the_judges_model_and_records_its_verdict(world, tmp_path):
    _, samples = text_samples("no model says this")
    asked = [s.model_copy(update={"question": f"{s.question} In Latin, if you can."}) for s in samples]
    write_jsonl(tmp_path / "train.jsonl", asked)
    agent = AGENT | {"split_question": "model"}
    memory = {"agent": agent, "max_input_tokens": 400, "steps": 1, "filter_prompts": 0}
    recorded: list[dict] = []

    class Recording:
        def __call__(self, step, metrics):
            pass

        def trajectory(self, record):
            recorded.append(record)

    with ScriptedChatServer(split_or_judge) as server:
        config = config_of(
            "memory_rl",
            rl={"shared": {"overlong": "keep"}},
            memory_rl=memory,
            endpoints={"judge": endpoint(server).model_dump()},
        )
        inputs = world | {"train": tmp_path / "train.jsonl", "heldout": tmp_path / "train.jsonl"}
        run_stage("memory_rl", inputs, tmp_path / "run", config, Recording())
    (kept,) = (tmp_path / "run").rglob("question_splits.jsonl")
    splits = [json.loads(line) for line in kept.read_text().splitlines() if line]
    assert len(splits) == len({split["question"] for split in splits}) > 0
    assert {split["instructions"] for split in splits} == {"In Latin, if you can."}
    assert {record["attributes"].get("judge") for record in recorded} <= {"yes", None}
    assert any(record["attributes"].get("judge") == "yes" for record in recorded)
