"""What a sample becomes depends on the sample, the documents and the seed: not on its neighbours, their order, or the workers."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sample_corpus import doc, ingested, store, surveyed, value_sample, word_counter, word_tokenizer

from stages.common.records import QAPair, TaskType
from stages.common.seeds import derive_seed
from stages.common.shards import ProcessExecutor, SerialExecutor
from stages.common.storage import write_jsonl
from stages.engines.scripted_engine import ScriptedEngine
from stages.synthesis import assemble
from stages.synthesis import programmatic as programmatic_module
from stages.synthesis.config import AssembleConfig, AssembleStage, VerifyConfig
from stages.synthesis.contexts import ContextMaker
from stages.synthesis.model_checks import ModelChecks
from stages.synthesis.programmatic import programmatic_in_parallel
from stages.synthesis.verify import draw_spread

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]
FILLER = "\n".join(f"Line {n} of this page speaks of nothing in particular." for n in range(40))
PLACES = [
    doc(name, f"# {name}\n\n## Climate\n\nweather of kind {name}\n\n## Notes\n\n{FILLER}\n", title=name.title())
    for name in WORDS
]
SAMPLES = [
    value_sample(place, "Climate", f"weather of kind {name}", id=f"reading_comprehension-{n}")
    for n, (place, name) in enumerate(zip(PLACES, WORDS, strict=True))
]
# Some are damaged, each in another way.
MIXED = [
    *SAMPLES[:5],
    SAMPLES[5].model_copy(update={"answer": "something else"}),
    SAMPLES[6].model_copy(update={"context": []}),
    SAMPLES[7].model_copy(update={"evidence": []}),
]
VERIFY = VerifyConfig.model_validate(
    {
        "samples_per_task": 10,
        "attempts": 2,
        "extra_distractor_tokens": 60,
        "max_answer_tokens": 60,
        "temperature": 0.7,
        "top_p": 0.95,
        "closed_book_threshold": 0.5,
        "require_solvable": False,
    }
)
LIMITS = AssembleConfig(
    min_context_tokens=120,
    mean_context_tokens=150,
    max_context_tokens=200,
    max_span_tokens=80,
    hard_distractors=0.5,
    reserved_documents=0.3,
)
ORDERS = st.permutations(range(len(SAMPLES)))
SLOW = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(documents, survey, counter)"""
    folder = tmp_path_factory.mktemp("world")
    documents = store(folder, *PLACES)
    return documents, surveyed(folder, documents), word_counter(folder)


def by_chance(prompt, request, index):
    """Right or wrong by prompt, seed and attempt alone, as a sampling model would be."""
    digest = hashlib.sha256(f"{prompt} {request.seed} {index}".encode()).digest()
    if "<document" not in prompt or digest[0] < 100:
        return "no idea"
    name = prompt.split('What does "')[1].split('"')[0]
    return f"weather of kind {name.lower()}"


@SLOW
@given(ORDERS, st.integers(0, 5))
def test_a_verdict_does_not_depend_on_the_order_of_samples(world, order, seed):
    documents, _, counter = world

    def judged(samples):
        return ModelChecks(ScriptedEngine(by_chance), _reward, VERIFY, seed).judge(samples, documents, counter.offsets)

    assert judged([SAMPLES[i] for i in order]) == judged(SAMPLES)


def _reward(sample, response):
    return float(response == sample.answer)


@SLOW
@given(ORDERS, st.integers(0, 5), st.integers(1, 8))
def test_the_draw_does_not_depend_on_the_order_of_samples(order, seed, count):
    assert draw_spread([SAMPLES[i] for i in order], count, seed) == draw_spread(SAMPLES, count, seed)


@SLOW
@given(ORDERS, st.integers(0, 5))
def test_a_context_does_not_depend_on_what_was_made_before(world, order, seed):
    documents, survey, counter = world
    pairs = [QAPair(**{key: value for key, value in dict(s).items() if key in QAPair.model_fields}) for s in SAMPLES]

    def made(these):
        maker = ContextMaker(documents, survey, counter, LIMITS, seed)
        return {pair.id: maker.make(pair) for pair in these}

    assert made([pairs[i] for i in order]) == made(pairs)


@SLOW
@given(st.permutations(MIXED), st.integers(1, 4000))
def test_what_is_refused_depends_on_neither_order_nor_shards(tmp_path, samples, shard_bytes):
    """Near-duplicates apart, of which the first is kept: here there are none."""
    folder = tmp_path / str(derive_seed(0, *(sample.id for sample in samples), shard_bytes))
    write_jsonl(folder / "samples.jsonl", samples)
    write_jsonl(folder / "documents.jsonl", PLACES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programmatic_module, "_SHARD_BYTES", shard_bytes)
        kept, dropped = programmatic_in_parallel(folder, SerialExecutor(), folder / "state")
    assert [sample.id for sample in kept] == [sample.id for sample in samples if sample in MIXED[:5]]
    assert {record.record["id"]: record.reason for record in dropped} == {
        MIXED[5].id: "rederived_differently",
        MIXED[6].id: "evidence_not_in_context",
        MIXED[7].id: "no_evidence",
    }


def test_one_worker_and_two_find_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(programmatic_module, "_SHARD_BYTES", 1500)
    write_jsonl(tmp_path / "samples.jsonl", [*MIXED, SAMPLES[0].model_copy(update={"id": "reading_comprehension-9"})])
    write_jsonl(tmp_path / "documents.jsonl", PLACES)
    found = [
        programmatic_in_parallel(tmp_path, executor, tmp_path / f"state{number}")
        for number, executor in enumerate((SerialExecutor(), ProcessExecutor(1), ProcessExecutor(2)))
    ]
    assert found[0] == found[1] == found[2]
    assert [record.reason for record in found[0][1]][-1] == "near_duplicate"


def test_one_worker_and_two_assemble_the_same_bytes_and_verify_the_same_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(assemble, "_QUESTIONS_PER_SHARD", 3)
    inputs = {"documents": ingested(tmp_path / "in", *PLACES), "tokenizer": word_tokenizer(tmp_path)}
    for task in TaskType:
        samples = [s.model_copy(update={"id": f"{task}-{n}", "task_type": task}) for n, s in enumerate(SAMPLES)]
        pairs = [
            {key: value for key, value in s.model_dump(mode="json").items() if key in QAPair.model_fields}
            for s in samples
        ]
        inputs[task] = tmp_path / f"{task}.jsonl"
        write_jsonl(inputs[task], pairs)
    config = AssembleStage(assemble=LIMITS, seed=3)
    for workers in (1, 2):
        out, state = tmp_path / f"out{workers}", tmp_path / f"state{workers}"
        assemble.run(config, inputs, out, state, lambda step, metrics: None, ProcessExecutor(workers))
    for name in ("samples.jsonl", "documents.jsonl", "dropped.jsonl", "summary.json"):
        assert (tmp_path / "out1" / name).read_bytes() == (tmp_path / "out2" / name).read_bytes()
    kept, dropped = programmatic_in_parallel(tmp_path / "out1", ProcessExecutor(2), tmp_path / "checked")
    assert (kept, dropped) == programmatic_in_parallel(tmp_path / "out2", SerialExecutor())
    assert kept
