"""A stage spends its endpoint's budget once, however many parts of it ask the model, and however often it was interrupted."""

from __future__ import annotations

import json

import pytest
from fact_corpus import country, write_documents

from stages.common.chat import EndpointError
from stages.common.config import NO_ENDPOINT
from stages.common.scripted_chat_server import ScriptedChatServer, ScriptedReply
from stages.common.shards import SerialExecutor
from stages.synthesis import multi_hop, numerical
from stages.synthesis.config import MultiHopStage, NumericalStage

EXTRA = "\n## Society\n\n### Population\n\n#### total\n\n{}\n"
NAMES = ("Chile", "Peru", "Mali", "Kenya", "Ghana", "Nepal", "Norway", "Japan")
QUESTIONS = {"questions": 12, "min_questions": 1}
LIMITS = {"min_hops": 2, "max_hops": 6, "min_distance_tokens": 0, "max_evidence_characters": 0, "named_entities": False}
FAMILIES = {"families": {"lookup": 0.5, "computed": 0.5}, "max_entities": 6, "written": 8}
REPLY_TOKENS = 1_200  # of every call here: less than is set aside for any, so that the limit holds exactly


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    made = [
        country(
            name,
            f"{name} City",
            f"{number * 311 + 100:,} km",
            f"{NAMES[number - 1]} {number * 7 + 5} km",
            EXTRA.format(f"{number * 77_777 + 1000:,}"),
        )
        for number, name in enumerate(NAMES)
    ]
    return write_documents(tmp_path_factory.mktemp("documents"), made)


def run_multi_hop(writer, documents, out):
    stage = MultiHopStage.model_validate({"generator": QUESTIONS | LIMITS, "seed": 3, "writer": writer})
    return multi_hop.run(stage, {"documents": documents}, out, out / "state", lambda step, metrics: None)


def run_numerical(writer, documents, out):
    stage = NumericalStage.model_validate({"generator": QUESTIONS | FAMILIES, "seed": 3, "writer": writer})
    return numerical.make(stage, documents, out, out / "state", SerialExecutor())


# What runs the stage, and by which words of their instructions its two askers are known, in their order.
STAGES = {
    "multi_hop": (run_multi_hop, "as triples", "Say it as a careful person"),
    "numerical": (run_numerical, "Say it as a careful person", "hard numerical questions"),
}


def no_use(request):
    """A reply that is of no use, at a known price."""
    del request
    return ScriptedReply("no", usage={"prompt_tokens": 200, "completion_tokens": REPLY_TOKENS - 200})


def endpoint(server, budget):
    return {**NO_ENDPOINT.model_dump(), "model": "m", "base_url": server.base_url, "budget_tokens": budget}


def asked_by(request, words):
    return words in request["messages"][0]["content"]


@pytest.mark.parametrize("name", STAGES)
def test_two_parts_of_a_stage_share_its_budget_also_when_it_was_interrupted_between_them(name, documents, tmp_path):
    run, first, second = STAGES[name]
    with ScriptedChatServer(no_use) as server:
        run(endpoint(server, None), documents, tmp_path / "unlimited")
        by_first = sum(asked_by(request, first) for request in server.requests)
        by_second = sum(asked_by(request, second) for request in server.requests)
        assert min(by_first, by_second) >= 4

        # Enough for either part alone, not for both.
        budget = REPLY_TOKENS * (max(by_first, by_second) + 2) + 1_000
        server.play(no_use)
        run(endpoint(server, budget), documents, tmp_path / "at_once")
        at_once = REPLY_TOKENS * len(server.requests)
        assert at_once <= budget
        assert len(server.requests) < by_first + by_second

        server.play(lambda request: ScriptedReply(status=401) if asked_by(request, second) else no_use(request))
        with pytest.raises(EndpointError):
            run(endpoint(server, budget), documents, tmp_path / "resumed")
        paid = REPLY_TOKENS * sum(not asked_by(request, second) for request in server.requests)
        server.play(no_use)
        run(endpoint(server, budget), documents, tmp_path / "resumed")
        # Each call once: those that the interruption cancelled may reach the server late, and are asked again.
        calls = {json.dumps(request, sort_keys=True) for request in server.requests}
        assert paid + REPLY_TOKENS * len(calls) == at_once
    for file in ("qa.jsonl", "dropped.jsonl", "rewriting.json"):
        assert (tmp_path / "resumed" / file).read_bytes() == (tmp_path / "at_once" / file).read_bytes()
