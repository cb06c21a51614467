"""Contexts of thousands of tokens: what hypothesis finds about exactness, bounds, references and workers."""

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sample_corpus import doc, ingested, store, surveyed, word_counter, word_tokenizer

from stages.common.prompts import materialise_context
from stages.common.records import AnswerKind, Category, Evidence, QAPair, Sample, TaskType
from stages.common.shards import ProcessExecutor, SerialExecutor
from stages.common.storage import read_json, read_records, write_jsonl
from stages.synthesis import assemble
from stages.synthesis.checks import evidence_in_context, quotes_equal_spans
from stages.synthesis.config import AssembleConfig, AssembleStage
from stages.synthesis.context_parts import Assembled
from stages.synthesis.contexts import ContextMaker

LIMITS = {
    "min_context_tokens": 4000,
    "mean_context_tokens": 7000,
    "max_context_tokens": 12000,
    "max_span_tokens": 5000,
    "hard_distractors": 1.0,
    "reserved_documents": 0.0,
}


def page(number):
    """A document of 300 to 9,000 words: sections with blank lines, indented code, a long line, a table."""
    chance = random.Random(number)
    lines = [f"# Page {number}", ""]
    for section in range(chance.randint(3, 90)):
        lines += [
            f"## Part {section}",
            "",
            " ".join(f"w{chance.randrange(5000)}" for _ in range(chance.randint(5, 160))),
        ]
        lines += ["", "    indented words here", "", "| name | figure |", f"| row {section} | {section} |", ""]
    category = [Category.GENERAL, Category.ACADEMIC, Category.CODE][number % 3]
    return doc(f"page{number}", "\n".join(lines), category, title=f"Page {number}")


PAGES = [page(number) for number in range(24)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(documents, survey, counter)"""
    folder = tmp_path_factory.mktemp("world")
    documents = store(folder, *PAGES)
    return documents, surveyed(folder, documents), word_counter(folder)


def question(spans, number=0, **changes):
    """A question over (page, start, end) spans."""
    evidence = [
        Evidence(document_id=PAGES[p].id, start=start, end=end, quote=PAGES[p].text[start:end])
        for p, start, end in spans
    ]
    fields = {
        "id": f"multi_hop-{number}",
        "task_type": TaskType.MULTI_HOP,
        "question": "What follows?",
        "answer": "nothing that any page says",
        "answer_kind": AnswerKind.TEXT,
        "evidence": evidence,
        "proof": {"kind": "path"},
        "generator": "multi_hop/test",
        "seed": 1,
    }
    return QAPair.model_validate({**fields, **changes})


spans = st.tuples(st.integers(0, len(PAGES) - 1), st.floats(0, 0.98), st.integers(1, 400)).map(
    lambda drawn: (
        drawn[0],
        (start := int(drawn[1] * len(PAGES[drawn[0]].text))),
        min(len(PAGES[drawn[0]].text), start + drawn[2]),
    )
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(spans, min_size=1, max_size=4), st.integers(0, 1000))
def test_any_evidence_is_kept_whole_in_a_context_of_exactly_the_counted_length(world, evidence, seed):
    documents, survey, counter = world
    maker = ContextMaker(documents, survey, counter, AssembleConfig.model_validate(LIMITS), seed)
    made = maker.make(question(evidence))
    assert isinstance(made, Assembled), made
    sample = made.sample
    assert quotes_equal_spans(sample, documents) is None
    assert evidence_in_context(sample, documents) is None
    assert sample.context_tokens <= LIMITS["max_context_tokens"]
    assert sample.context_tokens == counter.count(materialise_context(sample, documents))
    assert len(made.positions) == len(sample.evidence)
    assert all(0 <= position <= 1 for position in made.positions)
    # References alone give the same text: nothing else is needed to read a sample.
    again = Sample.model_validate_json(sample.model_dump_json())
    assert materialise_context(again, documents) == materialise_context(sample, documents)


def test_contexts_of_a_tokenizer_whose_lines_do_not_add_up_are_counted_whole(world):
    documents, survey, counter = world
    limits = AssembleConfig.model_validate(LIMITS)
    maker = ContextMaker(documents, survey, counter, limits, 1, counts_add_up=False)
    made = maker.make(question([(0, 0, 40)]))
    assert isinstance(made, Assembled)
    assert made.sample.context_tokens == counter.count(materialise_context(made.sample, documents))


def test_short_documents_are_shown_whole_and_long_ones_in_long_spans(world):
    documents, survey, counter = world
    maker = ContextMaker(documents, survey, counter, AssembleConfig.model_validate(LIMITS), 1)
    whole = parts = 0
    for number in range(20):
        made = maker.make(question([(number, 0, 30)], number))
        assert isinstance(made, Assembled)
        for span in made.sample.context:
            text = documents[span.document_id].text
            whole += text.strip() == text[span.start : span.end]
            parts += len(text.split()) > 5000 and len(text[span.start : span.end].split()) > 500
    assert whole > 5
    assert parts > 5


def test_reserved_documents_are_shown_beside_no_other_document_s_evidence(world):
    documents, survey, counter = world
    limits = AssembleConfig.model_validate({**LIMITS, "reserved_documents": 0.3})
    maker = ContextMaker(documents, survey, counter, limits, 1)
    reserved = {page.id for page in PAGES if maker.is_reserved(page.id)}
    assert 0 < len(reserved) < len(PAGES)
    assert {page.category for page in PAGES if page.id in reserved} == {page.category for page in PAGES}
    shown = set()
    for number, page_ in enumerate(PAGES):
        made = maker.make(question([(number, 0, 30)], number))
        assert isinstance(made, Assembled)
        if page_.id not in reserved:
            shown |= {span.document_id for span in made.sample.context}
    assert shown
    assert not shown & reserved


def stage_inputs(folder: Path):
    """Ingest's folder and eight questions a task."""
    inputs = {"documents": ingested(folder / "ingest", *PAGES), "tokenizer": word_tokenizer(folder)}
    for offset, task in enumerate(TaskType):
        pairs = [question([((offset + n) % len(PAGES), 0, 30 + n)], task_type=task, id=f"{task}-{n}") for n in range(8)]
        inputs[task] = folder / f"{task}.jsonl"
        write_jsonl(inputs[task], pairs)
    return inputs


def run(folder: Path, inputs, out, executor):
    config = AssembleStage.model_validate({"assemble": LIMITS, "seed": 3})
    (folder / out).mkdir()
    return assemble.run(config, inputs, folder / out, folder / f"state {out}", lambda *_: None, executor=executor)


def test_any_number_of_workers_makes_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(assemble, "_QUESTIONS_PER_SHARD", 3)
    inputs = stage_inputs(tmp_path)
    run(tmp_path, inputs, "alone", SerialExecutor())
    run(tmp_path, inputs, "two", ProcessExecutor(2))
    names = sorted(path.name for path in (tmp_path / "alone").iterdir())
    assert names == ["documents.jsonl", "dropped.jsonl", "samples.jsonl", "summary.json"]
    for name in names:
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_an_interrupted_run_goes_on_from_its_last_shard(tmp_path, monkeypatch):
    monkeypatch.setattr(assemble, "_QUESTIONS_PER_SHARD", 4)
    inputs = stage_inputs(tmp_path)
    config = AssembleStage.model_validate({"assemble": LIMITS, "seed": 3})
    real, made = assemble.assemble_shard, []

    class InterruptedRunError(Exception):
        pass

    def stops_at_the_fourth(pairs, setup):
        if len(made) == 3:
            raise InterruptedRunError
        made.append(pairs)
        return real(pairs, setup)

    monkeypatch.setattr(assemble, "assemble_shard", stops_at_the_fourth)
    (tmp_path / "out").mkdir()
    with pytest.raises(InterruptedRunError):
        assemble.run(config, inputs, tmp_path / "out", tmp_path / "state", lambda *_: None, executor=SerialExecutor())
    again = []

    def counts(pairs, setup):
        again.append(pairs)
        return real(pairs, setup)

    monkeypatch.setattr(assemble, "assemble_shard", counts)
    assemble.run(config, inputs, tmp_path / "out", tmp_path / "state", lambda *_: None, executor=SerialExecutor())
    assert len(made) + len(again) == 10
    assert len(read_records(tmp_path / "out" / "samples.jsonl", Sample)) == 40


def test_the_summary_says_where_the_evidence_stands(tmp_path):
    run(tmp_path, stage_inputs(tmp_path), "out", SerialExecutor())
    summary = read_json(tmp_path / "out" / "summary.json")
    assert sum(summary["evidence_deciles"].values()) == pytest.approx(1.0, abs=0.001)
    assert summary["context_tokens"]["max"] <= LIMITS["max_context_tokens"]
    assert set(summary["evidence_deciles_per_task"]) == {str(task) for task in TaskType}
