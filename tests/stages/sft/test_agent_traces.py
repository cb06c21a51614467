"""The agent's own turns as supervised examples: what an exact reader keeps, in the agent's own prompts."""

from __future__ import annotations

import json

import pytest

from stages.common.prompts import materialise_context
from stages.common.records import AnswerKind, Category, Document, Evidence, Sample, Span, TaskType
from stages.common.storage import DocumentStore, write_jsonl
from stages.common.tokens import ChatTokenizer
from stages.engines.scripted_engine import ByteTokenizer
from stages.memory.config import MemoryAgentConfig
from stages.memory.parsing import parse_turn
from stages.sft.agent_traces import FIRST_PLAN, NEXT_PLAN, NOTHING_FOUND, agent_examples, reading
from tests.stages.rl.tiny_world import write_model_folder
from tests.stages.sft.test_sft_stage import run_stage, stage_config
from tests.train_settings import AGENT

LENGTHS = MemoryAgentConfig.model_validate(AGENT)
ROOM, KEY = "The safe stands in room nine.", "Its key lies in the kitchen."
FILLER = "Tom was late again today.\n"
TEXT = 3 * FILLER + f"{ROOM}\n" + 4 * FILLER + f"{KEY}\n" + 2 * FILLER


def sample(*quotes: str, text: str = TEXT, name: str = "s") -> Sample:
    return Sample(
        id=name,
        task_type=TaskType.MULTI_HOP,
        question="Where is the safe's key? Answer with one word.",
        answer="kitchen",
        answer_kind=AnswerKind.TEXT,
        evidence=[
            Evidence(document_id="general/house", start=place, end=place + len(quote), quote=quote)
            for quote, place in ((quote, max(0, text.find(quote))) for quote in quotes)
        ],
        proof={"kind": "quote"},
        generator="test",
        seed=1,
        context=[Span(document_id="general/house", start=0, end=len(text))],
        context_tokens=len(text),
    )


def texts(segments) -> list[tuple[str, str]]:
    decode = ByteTokenizer().decode
    return [(decode(part.prompt_ids).split("<user>\n")[-1], decode(part.response_ids)) for part in segments]


def test_each_turn_keeps_the_evidence_so_far_and_the_answer_follows():
    read = reading(sample(KEY, ROOM), TEXT, ByteTokenizer(), LENGTHS)
    found = texts(read.segments)
    turns, (last_prompt, answer) = found[:-1], found[-1]
    memories = [parse_turn(response).memory for _, response in turns]
    plans = [parse_turn(response).plan for _, response in turns]
    kept = list(dict.fromkeys(memories))
    assert kept == [NOTHING_FOUND, ROOM, f"{ROOM}\n{KEY}"]  # in the text's order, whatever the evidence's
    assert read.adds == tuple(
        memory != before for memory, before in zip(memories, [NOTHING_FOUND, *memories], strict=False)
    )
    assert plans == [FIRST_PLAN if memory == NOTHING_FOUND else NEXT_PLAN for memory in memories]
    for number, ((prompt, _), memory) in enumerate(zip(turns, memories, strict=True)):
        before = memories[number - 1] if number else "(nothing yet)"
        assert f"<memory>{before}</memory>" in prompt
        assert (ROOM in prompt.split("<section")[1]) == (ROOM in memory and ROOM not in before)
        assert "<question>Where is the safe's key?</question>" in prompt  # the form of the answer comes last
    assert f"<memory>{ROOM}\n{KEY}</memory>" in last_prompt
    assert "Answer with one word.\nAnswer with the name or phrase only." in last_prompt
    assert answer == "kitchen"


def test_a_section_comes_first_if_the_agent_reads_so():
    order = LENGTHS.model_copy(update={"prompt_order": "section_first"})
    prompt, _ = texts(reading(sample(ROOM), TEXT, ByteTokenizer(), order).segments)[1]
    assert prompt.index("<section") < prompt.index("<memory>")


@pytest.mark.parametrize(
    ("quotes", "changes"),
    [
        ((), {}),  # no evidence
        (("no such words",), {}),
        ((f"{ROOM}\n{FILLER}{FILLER}{FILLER}{FILLER}{KEY}",), {}),  # cut by the ends of sections
        ((ROOM, KEY), {"memory_tokens": 40}),  # the memory would be cut
        ((ROOM, KEY), {"turn_tokens": 60}),  # the reply would be cut
        ((ROOM, KEY), {"answer_tokens": 3}),
    ],
)
def test_what_an_exact_reader_could_not_do_is_not_taught(quotes, changes):
    assert reading(sample(*quotes), TEXT, ByteTokenizer(), LENGTHS.model_copy(update=changes)) is None


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("agent_traces")
    write_model_folder(root / "base")
    document = Document(
        id="general/house", category=Category.GENERAL, title="house", text=TEXT, source="house.md", format="text", tokens=1
    )  # fmt: skip
    write_jsonl(root / "documents.jsonl", [document])
    samples = [sample(ROOM, KEY, name=f"s-{number}") for number in range(3)] + [sample(name="bare")]
    write_jsonl(root / "train.jsonl", samples)
    return {"base_model": root / "base", "samples": root / "train.jsonl", "documents": root / "documents.jsonl"}


def test_as_many_samples_as_wanted_are_read_none_with_a_turn_over_the_limit(world):
    tokenizer = ChatTokenizer(world["base_model"] / "model")
    documents = DocumentStore([world["documents"]])
    samples = [Sample.model_validate_json(line) for line in world["samples"].read_text().splitlines()]

    def ids(wanted, max_tokens=4_000):
        found = agent_examples(samples, documents, tokenizer, LENGTHS, wanted, max_tokens, seed=1)
        assert {example.form for example in found} <= {"agent"}
        return {example.sample_id.split("/")[0] for example in found}

    assert ids(0) == set()
    assert len(ids(2)) == 2
    assert ids(10) == {"s-0", "s-1", "s-2"}
    assert ids(10, max_tokens=1_000) == set()  # the prompt alone has more


def test_of_the_turns_that_add_nothing_as_many_are_taught_as_of_those_that_do(world):
    tokenizer = ChatTokenizer(world["base_model"] / "model")
    documents = DocumentStore([world["documents"]])
    read = reading(sample(ROOM, KEY), materialise_context(sample(ROOM, KEY), documents), tokenizer, LENGTHS)
    assert sum(read.adds) == 2 < len(read.adds) - 2
    examples = agent_examples([sample(ROOM, KEY)], documents, tokenizer, LENGTHS, 1, 4_000, seed=1)
    adding = [f"s/turn-{place + 1}" for place, adds in enumerate(read.adds) if adds]
    assert {*adding, f"s/turn-{len(read.segments)}"} < {example.sample_id for example in examples}
    assert len(examples) == 2 + 2 + 1


def test_the_stage_trains_on_turns_and_says_so(world, tmp_path):
    config = stage_config(agent_samples=2, max_tokens=2_500, steps=2)
    counts = run_stage(world, tmp_path, config)
    rows = [json.loads(line) for line in (tmp_path / "data" / "examples.jsonl").read_text().splitlines()]
    of_agent = [row for row in rows if row["trace"] == "agent"]
    assert counts["agent_turns"] == len(of_agent) > 4
    assert counts["samples"] == len(rows) - len(of_agent) == 4
    assert of_agent[0]["id"].endswith("/turn-1")
    assert of_agent[0]["response"].startswith("<memory>")
