"""Model checks with a scripted engine: who is asked what, and who is dropped for which reason."""

import pytest
from sample_corpus import doc, evidence_of, span_of, store, value_sample, word_counter

from stages.common.metrics import is_volatile
from stages.common.records import AnswerKind, Sample, TaskType
from stages.common.shards import SerialExecutor
from stages.common.storage import iter_json_lines, read_json, read_records, write_jsonl
from stages.engines.scripted_engine import ScriptedEngine
from stages.synthesis.checks import evidence_in_context, refusal
from stages.synthesis.config import VerifyConfig
from stages.synthesis.distractors import RandomPlaces
from stages.synthesis.model_checks import closed_book_limit, with_more_distractors
from stages.synthesis.open_questions import CountedIn
from stages.synthesis.programmatic import programmatic, programmatic_in_parallel
from stages.synthesis.text_words import Library
from stages.synthesis.verify import draw_spread, verify

FILLER = "\n".join(f"Line {n} of this page speaks of nothing in particular." for n in range(50))
PLACES = [
    doc(f"place{n}", f"# Place{n}\n\n## Climate\n\nsome weather of kind {word}\n\n## Notes\n\n{FILLER}\n")
    for n, word in enumerate(["alpha", "beta", "gamma", "delta"])
]
SAMPLES = [
    value_sample(place, "Climate", f"some weather of kind {word}", id=f"reading_comprehension-{n}")
    for n, (place, word) in enumerate(zip(PLACES, ["alpha", "beta", "gamma", "delta"], strict=True))
]


def config(**changes):
    base = {
        "samples_per_task": 10,
        "attempts": 2,
        "extra_distractor_tokens": 40,
        "max_answer_tokens": 60,
        "temperature": 0.7,
        "top_p": 0.95,
        "closed_book_threshold": 0.5,
        "require_solvable": True,
    }
    return VerifyConfig.model_validate({**base, **changes})


def checked(tmp_path, script, samples=SAMPLES, max_model_tokens=100_000, seed=1, **changes):
    """(engine, kept ids, reasons by id, rows of verification.jsonl by id)"""
    engine = ScriptedEngine(script, max_model_tokens=max_model_tokens)
    out = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
    documents = store(tmp_path, *PLACES)
    verify(samples, documents, engine, word_counter(tmp_path).offsets, config(**changes), seed, out)
    dropped = {row["record"]["id"]: row["reason"] for row in iter_json_lines(out / "dropped.jsonl")}
    rows = {row["id"]: row for row in iter_json_lines(out / "verification.jsonl")}
    kept = [sample.id for sample in read_records(out / "samples.jsonl", Sample)]
    assert list(rows) == kept
    return engine, kept, dropped, rows


def reads(prompt, request, index):
    """Answers what stands under "Climate" of the place that the question names; nothing without documents."""
    name = prompt.split('What does "')[1].split('"')[0]
    shown = prompt.split(f'<document title="{name}">')
    return shown[1].split("## Climate\n\n")[1].split("\n")[0] if len(shown) > 1 else "I do not know"


def test_a_model_that_reads_keeps_every_sample(tmp_path):
    engine, kept, dropped, rows = checked(tmp_path, reads)
    assert kept == [sample.id for sample in SAMPLES]
    assert dropped == {}
    assert rows[kept[0]] == {
        "id": kept[0],
        "model_checked": True,
        "closed_book_mean": 0.0,
        "pass_rate": 1.0,
        "robust_pass_rate": 1.0,
    }
    assert engine.calls == 3  # closed book, with context, with more distractors: one call each
    assert [request.n for request in engine.requests] == [2] * 12
    assert len({request.seed for request in engine.requests}) == 12


def test_what_the_model_knows_without_documents_is_dropped_and_not_asked_again(tmp_path):
    def knows_the_first(prompt, request, index):
        return "some weather of kind alpha" if "place0" in prompt else "no idea"

    engine, kept, dropped, _ = checked(tmp_path, knows_the_first, require_solvable=False)
    assert dropped == {SAMPLES[0].id: "answerable_without_documents"}
    assert kept == [sample.id for sample in SAMPLES[1:]]
    assert len(engine.requests) == 4 + 3


def test_half_the_attempts_right_is_the_pass_rate(tmp_path):
    def every_other(prompt, request, index):
        return reads(prompt, request, index) if index == 0 else "wrong"

    _, kept, _, rows = checked(tmp_path, every_other)
    assert [rows[id]["pass_rate"] for id in kept] == [0.5] * 4


def test_what_more_text_hides_is_dropped_only_if_that_is_asked_for(tmp_path):
    def reads_three_documents_at_most(prompt, request, index):
        return reads(prompt, request, index) if prompt.count("<document ") < 2 else "lost"

    _, kept, dropped, _ = checked(tmp_path, reads_three_documents_at_most)
    assert kept == []
    assert set(dropped.values()) == {"not_robust"}
    _, kept, dropped, rows = checked(tmp_path, reads_three_documents_at_most, require_solvable=False)
    assert dropped == {}
    assert [rows[id]["robust_pass_rate"] for id in kept] == [0.0] * 4


def test_what_is_never_solved_is_not_asked_for_robustness(tmp_path):
    engine, kept, dropped, rows = checked(tmp_path, lambda *_: "no idea", require_solvable=False)
    assert engine.calls == 2
    assert [(rows[id]["pass_rate"], rows[id]["robust_pass_rate"]) for id in kept] == [(0.0, None)] * 4
    _, kept, dropped, _ = checked(tmp_path, lambda *_: "no idea", require_solvable=True)
    assert set(dropped.values()) == {"not_robust"}


def test_unchecked_samples_are_kept_and_say_so(tmp_path):
    engine, kept, _, rows = checked(tmp_path, reads, samples_per_task=0)
    assert engine.calls == 0
    assert len(kept) == 4
    assert not any(row["model_checked"] or row["pass_rate"] is not None for row in rows.values())


def test_a_context_beyond_the_model_s_window_is_dropped(tmp_path):
    everything = [span_of(place, place.text) for place in PLACES]
    long = SAMPLES[0].model_copy(update={"context": everything})
    _, kept, dropped, _ = checked(tmp_path, reads, samples=[long, SAMPLES[1]], max_model_tokens=1_000)
    assert dropped == {SAMPLES[0].id: "too_long_for_model"}
    assert kept == [SAMPLES[1].id]


def test_unsound_samples_never_reach_the_model(tmp_path):
    damaged = SAMPLES[0].model_copy(update={"answer": "hot"})
    repeat = SAMPLES[1].model_copy(update={"id": "reading_comprehension-9"})
    engine, _, dropped, _ = checked(tmp_path, reads, samples=[damaged, SAMPLES[1], repeat])
    assert dropped == {SAMPLES[0].id: "rederived_differently", "reading_comprehension-9": "near_duplicate"}
    assert len(engine.requests) == 3


def test_two_runs_give_equal_bytes(tmp_path):
    checked(tmp_path, reads)
    checked(tmp_path, reads)
    for name in ("samples.jsonl", "verification.jsonl", "dropped.jsonl", "summary.json"):
        assert (tmp_path / "out0" / name).read_bytes() == (tmp_path / "out1" / name).read_bytes()


def test_the_summary_counts_per_task(tmp_path):
    checked(tmp_path, reads)
    tasks = read_json(tmp_path / "out0" / "summary.json")["tasks"]
    assert tasks["reading_comprehension"] == {
        "samples": 4,
        "kept": 4,
        "model_checked": 4,
        "closed_book_mean": 0.0,
        "pass_rate": 1.0,
        "robust_pass_rate": 1.0,
    }
    assert tasks["numerical"]["pass_rate"] is None


def test_what_each_check_cost_is_told_apart_tokens_in_the_summary_and_seconds_to_the_tracker(tmp_path):
    told: dict[str, float] = {}
    engine = ScriptedEngine(reads)
    documents, out = store(tmp_path, *PLACES), tmp_path / "costs"
    offsets = word_counter(tmp_path).offsets
    verify(SAMPLES, documents, engine, offsets, config(), 1, out, emit=lambda step, metrics: told.update(metrics))
    summary = read_json(out / "summary.json")["checks"]
    assert summary["programmatic"] == {"samples": 4}
    per_call = [engine.requests[start : start + 4] for start in (0, 4, 8)]
    for name, requests in zip(("closed_book", "with_context", "robustness"), per_call, strict=True):
        assert summary[name]["samples"] == 4
        assert summary[name]["attempts"] == 8
        assert summary[name]["prompt_tokens"] == sum(len(request.prompt_ids) for request in requests)
        assert told[f"tokens/{name}/prompt"] == summary[name]["prompt_tokens"]
        assert told[f"tokens/{name}/completion"] == summary[name]["completion_tokens"]
        assert told[f"time/{name}_s"] > 0
        assert is_volatile(f"time/{name}_s")
    # Bytes are tokens here, and the end is one more.
    assert summary["closed_book"]["completion_tokens"] == 8 * (len("I do not know") + 1)
    kinds = ("alpha", "beta", "gamma", "delta")
    assert summary["with_context"]["completion_tokens"] == 2 * sum(len(f"some weather of kind {k}") + 1 for k in kinds)
    assert "seconds" not in (out / "summary.json").read_text()  # equal runs give equal bytes


def test_an_interrupted_programmatic_pass_resumes_at_the_shard(tmp_path, monkeypatch):
    assembled = tmp_path / "assembled"
    write_jsonl(assembled / "samples.jsonl", SAMPLES)
    write_jsonl(assembled / "documents.jsonl", PLACES[:3])
    monkeypatch.setattr("stages.synthesis.programmatic._SHARD_BYTES", 1)  # a shard per sample
    at_once = programmatic_in_parallel(assembled, SerialExecutor(), tmp_path / "other")
    calls: list[int] = []

    class Stopped(SerialExecutor):
        """Dies after two shards."""

        def map(self, function, shards, failed=None):
            for shard in shards:
                if len(calls) == 2:
                    raise KeyboardInterrupt
                calls.append(shard.start)
                yield function(shard)

    with pytest.raises(KeyboardInterrupt):
        programmatic_in_parallel(assembled, Stopped(), tmp_path / "state")
    again: list[str] = []

    def counted(sample, documents):
        again.append(sample.id)
        return refusal(sample, documents)

    monkeypatch.setattr("stages.synthesis.programmatic.refusal", counted)
    assert programmatic_in_parallel(assembled, SerialExecutor(), tmp_path / "state") == at_once
    assert again == [sample.id for sample in SAMPLES[2:]]
    assert [record.reason for record in at_once[1]] == ["unknown_document"]


def test_letters_must_beat_chance_by_two_standard_errors():
    letter = SAMPLES[0].model_copy(
        update={"answer": "A", "answer_kind": AnswerKind.LETTER, "choices": ["a", "b", "c", "d"]}
    )
    # 0.25 + 2 * sqrt(0.25 * 0.75 / 4) = 0.25 + 2 * 0.216506
    assert closed_book_limit(letter, 0.25, 4) == pytest.approx(0.683013, abs=1e-6)
    assert closed_book_limit(letter, 0.9, 4) == 0.9
    assert closed_book_limit(letter, 0.25, 1) > 1
    assert closed_book_limit(SAMPLES[0], 0.25, 4) == 0.25


def test_more_distractors_keep_the_evidence_and_grow_within_bounds(tmp_path):
    documents = store(tmp_path, *PLACES)
    counter = word_counter(tmp_path)
    source = RandomPlaces.of_store(documents)
    library = Library(documents)
    grown = with_more_distractors(SAMPLES[0], 40, library, source, CountedIn(library), counter.offsets, seed=1)
    assert evidence_in_context(grown, documents) is None
    assert len(grown.context) > 1
    added = [documents.text_of(span) for span in grown.context if span.document_id != PLACES[0].id]
    assert 16 <= sum(counter.count(text) for text in added) <= 40
    assert not any("alpha" in text for text in added)


def test_more_distractors_add_no_document_that_an_open_question_would_count_in(tmp_path):
    """A question over "all" that names none: one more country with a coastline would be one more to count."""
    lands = [
        doc(name, f"# {name}\n\n## Coastline\n\n{n} km\n\n## Notes\n\n{FILLER}\n")
        for n, name in enumerate(["Arcadia", "Borduria", "Carinthia", "Doria", "Elysium"], start=1)
    ]
    tales = [doc(name, f"# {name}\n\n## Once\n\n{FILLER}\n") for name in ("Fable", "Gest")]
    evidence = [evidence_of(land, f"## Coastline\n\n{n} km") for n, land in enumerate(lands[:2], start=1)]
    rows = [{"entity": land.title, "attribute": "coastline", "value": "1"} for land in lands[:2]]
    counting = SAMPLES[0].model_copy(
        update={
            "task_type": TaskType.NUMERICAL,
            "question": "How many countries have a coastline?",
            "answer": "2",
            "answer_kind": AnswerKind.NUMBER,
            "proof": {"kind": "sql", "sql": "SELECT COUNT(*) FROM facts", "rows": rows},
            "evidence": evidence,
            "context": [span_of(land, land.text[:30]) for land in lands[:2]],
        }
    )
    naming = counting.model_copy(update={"question": "How many of Arcadia and Borduria have a coastline?"})
    documents = store(tmp_path, *lands, *tales)
    counter, library, source = word_counter(tmp_path), Library(documents), RandomPlaces.of_store(documents)
    added: dict[str, set[str]] = {"counting": set(), "naming": set()}
    for seed in range(10):
        for name, sample in (("counting", counting), ("naming", naming)):
            grown = with_more_distractors(sample, 60, library, source, CountedIn(library), counter.offsets, seed)
            added[name] |= {span.document_id for span in grown.context} - {land.id for land in lands[:2]}
    assert added["counting"] == {tale.id for tale in tales}
    assert added["naming"] >= {lands[2].id, lands[3].id}  # whoever is named is not counted with others


def test_the_draw_takes_every_generator_and_then_their_proportion():
    common = [SAMPLES[0].model_copy(update={"id": f"c{n}", "generator": "common"}) for n in range(90)]
    rare = [SAMPLES[0].model_copy(update={"id": f"r{n}", "generator": "rare"}) for n in range(10)]
    other_task = SAMPLES[0].model_copy(update={"id": "n", "task_type": TaskType.NUMERICAL})
    drawn = draw_spread([*common, *rare, other_task], 20, seed=1)
    assert len(drawn) == 21
    assert {"common", "rare"} <= {sample.generator for sample in drawn[1:]}
    assert drawn == draw_spread([other_task, *rare, *common], 20, seed=1)  # whatever the order in the file
    assert len(draw_spread(rare, 1, seed=1)) == 1


def test_every_sample_is_either_sound_or_dropped(tmp_path):
    sound, dropped = programmatic(SAMPLES, store(tmp_path, *PLACES[:2]))
    assert [sample.id for sample in sound] == [SAMPLES[0].id, SAMPLES[1].id]
    assert [record.reason for record in dropped] == ["unknown_document"] * 2


def test_a_closed_book_mean_at_the_threshold_is_kept_and_above_it_is_not(tmp_path):
    def knows_half(prompt, request, index):
        return f"some weather of kind {'alpha' if index == 0 else 'omega'}"

    _, _, dropped, _ = checked(tmp_path, knows_half, require_solvable=False, closed_book_threshold=0.5)
    assert dropped == {}
    _, _, dropped, _ = checked(tmp_path, knows_half, require_solvable=False, closed_book_threshold=0.49)
    assert dropped == {SAMPLES[0].id: "answerable_without_documents"}
