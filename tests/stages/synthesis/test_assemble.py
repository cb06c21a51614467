"""Context extension: lengths, what is whole, what is refused as a distractor, order, files, bad input."""

import random
import subprocess
import sys

import pytest
from sample_corpus import doc, evidence_of, ingested, store, surveyed, value_sample, word_counter, word_tokenizer

from stages.common.errors import ConfigError, InputError, NotEnoughDataError
from stages.common.prompts import materialise_context
from stages.common.records import AnswerKind, Category, Document, QAPair, Sample, TaskType
from stages.common.storage import read_json, read_records, write_jsonl
from stages.synthesis import assemble
from stages.synthesis.assemble import document_paths, documents_to_keep
from stages.synthesis.checks import evidence_in_context
from stages.synthesis.config import AssembleConfig, AssembleStage
from stages.synthesis.context_parts import Assembled
from stages.synthesis.contexts import ContextMaker
from stages.synthesis.distractor_rules import guard_of, is_open
from stages.synthesis.distractors import DistractorSource, distractor
from stages.synthesis.text_words import Library, TextWords

FILLER = "\n".join(f"Line {n} speaks of nothing in particular." for n in range(60))


def country(name, capital, coast):
    text = f"# {name}\n\n## Capital\n\n{capital}\n\n## Coastline\n\n{coast} km\n\n## Notes\n\n{FILLER}\n"
    return doc(name.lower(), text, title=name)


LANDS = [
    country("Arcadia", "Alba", 10),
    country("Borduria", "Szoh", 20),
    country("Cagliostro", "Cagli", 30),
    country("Drackenberg", "Drack", 40),
]
LIMITS = AssembleConfig(
    min_context_tokens=120,
    mean_context_tokens=140,
    max_context_tokens=160,
    max_span_tokens=60,
    hard_distractors=1.0,
    reserved_documents=0.0,
)


def pair_of(sample, **changes):
    fields = {key: value for key, value in dict(sample).items() if key in QAPair.model_fields}
    return QAPair(**{**fields, **changes})


def coast_question(land=LANDS[0], id="numerical-1", **changes):
    fields = {
        "id": id,
        "task_type": TaskType.NUMERICAL,
        "question": f"What is the coastline of {land.title}, in km?",
        "answer": "10",
        "answer_kind": AnswerKind.NUMBER,
        "evidence": [evidence_of(land, f"## Coastline\n\n{10 * (1 + LANDS.index(land))} km")],
        "proof": {"kind": "sql"},
        "generator": "numerical/lookup",
        "seed": 1,
    }
    return QAPair.model_validate({**fields, **changes})


def assembled(tmp_path, pair, documents=None, limits=LIMITS, seed=1):
    documents = documents or store(tmp_path, *LANDS)
    maker = ContextMaker(documents, surveyed(tmp_path, documents), word_counter(tmp_path), limits, seed)
    made = maker.make(pair)
    return made.sample if isinstance(made, Assembled) else made, documents


def test_the_context_holds_the_evidence_and_has_the_target_length(tmp_path):
    counter = word_counter(tmp_path)
    for seed in range(10):
        sample, documents = assembled(tmp_path, coast_question(), seed=seed)
        assert evidence_in_context(sample, documents) is None
        assert 120 <= sample.context_tokens <= 160
        assert sample.context_tokens == counter.count(materialise_context(sample, documents))


def test_a_look_up_stands_beside_the_same_attribute_of_other_countries(tmp_path):
    sample, documents = assembled(tmp_path, coast_question())
    texts = [documents.text_of(span) for span in sample.context]
    assert len(texts) >= 3
    assert all("## Coastline" in text for text in texts)
    assert len({span.document_id for span in sample.context}) == len(texts)


def test_the_place_of_the_evidence_varies_with_the_seed(tmp_path):
    places = set()
    for seed in range(12):
        sample, _ = assembled(tmp_path, coast_question(), seed=seed)
        places.add([span.document_id for span in sample.context].index(LANDS[0].id))
    assert {0, 1, 2} <= places


def test_equal_seeds_give_equal_samples(tmp_path):
    assert assembled(tmp_path, coast_question())[0] == assembled(tmp_path, coast_question())[0]
    assert assembled(tmp_path, coast_question())[0] != assembled(tmp_path, coast_question(), seed=2)[0]


def test_a_distractor_must_not_hold_a_text_answer(tmp_path):
    echo = doc("echo", f"# Echo\n\n## Climate\n\nwarm and dry\n\n{FILLER}")
    own = doc("own", f"# Own\n\n## Climate\n\nwarm and dry\n\n{FILLER}")
    other = doc("other", f"# Other\n\n## Climate\n\ncold and wet\n\n{FILLER}")
    pair = pair_of(value_sample(own, "Climate", "warm and dry"))
    for seed in range(10):
        sample, documents = assembled(tmp_path, pair, store(tmp_path, own, echo, other), seed=seed)
        texts = [documents.text_of(span) for span in sample.context if span.document_id != own.id]
        assert texts
        assert not any("warm and dry" in text for text in texts)


def allows(pair, text, evidence=()):
    return guard_of(pair, list(evidence)).allows_text(TextWords(text), 0, len(text))


def test_answers_are_found_in_whole_words_and_letters_by_their_option():
    pair = pair_of(value_sample(LANDS[0], "Capital", "Alba"))
    assert not allows(pair, "the town of ALBA.")
    assert allows(pair, "the Albanian town")
    letter = pair.model_copy(
        update={"answer": "B", "answer_kind": AnswerKind.LETTER, "choices": ["Oslo", "Rome", "Bern", "Lima"]}
    )
    assert not allows(letter, "all roads lead to Rome")
    assert allows(letter, "A. Oslo")
    number = pair.model_copy(update={"answer": "12", "answer_kind": AnswerKind.NUMBER})
    assert allows(number, "12")
    said = pair.model_copy(
        update={"answer": "Xy12Yes of course", "answer_kind": AnswerKind.SEQUENCE, "proof": {"prefix": "Xy12"}}
    )
    assert not allows(said, "[3] Ann: Yes, of course!")


def test_a_long_text_may_hold_the_answer_far_from_whom_the_question_is_about():
    pair = pair_of(value_sample(LANDS[0], "Capital", "Alba"))
    filler = "nothing of note " * 400
    assert allows(pair, f"Alba {filler} Arcadia", [LANDS[0]])
    assert not allows(pair, f"{filler} Alba, in Arcadia {filler}", [LANDS[0]])


def row(land, attribute, value):
    return {"document_id": land.id, "entity": land.title, "attribute": attribute, "value": value}


def test_no_distractor_states_the_asked_figure_of_the_asked_entity():
    pair = coast_question(proof={"kind": "sql", "rows": [row(LANDS[0], "coastline", "10")]})
    assert not allows(pair, "Others say that ARCADIA has a coastline of 12 km.")
    assert allows(pair, "Arcadia borders Borduria." + " nothing" * 60 + " A coastline of 20 km.")
    assert allows(pair, "Borduria has a coastline of 20 km.")


def test_what_counts_entities_that_the_question_does_not_name_is_shown_with_no_other_one(tmp_path):
    rows = [row(land, "coastline", str(10 * (1 + n))) for n, land in enumerate(LANDS[:2])]
    named = coast_question(
        question="How many of Arcadia and Borduria have a coastline above 15 km?",
        proof={"kind": "sql", "sql": "SELECT count(*) FROM facts", "rows": rows},
    )
    assert not is_open(named)
    evidence = [evidence_of(land, f"## Coastline\n\n{10 * (1 + n)} km") for n, land in enumerate(LANDS[:2])]
    unnamed = coast_question(
        question="How many of the countries shown have a coastline above 15 km?",
        proof={"kind": "sql", "sql": "SELECT count(*) FROM facts", "rows": rows},
        evidence=evidence,
    )
    assert is_open(unnamed)
    fable = doc("fable", f"# Fable\n\n{FILLER}")
    for seed in range(5):
        sample, _ = assembled(tmp_path, unnamed, store(tmp_path, *LANDS, fable), seed=seed)
        assert {span.document_id for span in sample.context} <= {LANDS[0].id, LANDS[1].id, fable.id}


def test_files_of_one_series_are_no_distractors_for_look_ups_of_each_other():
    def filing(name):
        return Document(**{**dict(doc(name, "text")), "source": f"filings/{name}.md", "title": f"Filing {name}"})

    ten_k, ten_q, other = filing("aapl-10K"), filing("aapl-10Q"), filing("ibm-10K")
    guard = guard_of(coast_question(), [ten_k])
    assert not guard.allows_document(ten_q.title, ten_q.source)
    assert guard.allows_document(other.title, other.source)
    reading = guard_of(coast_question(task_type=TaskType.READING_COMPREHENSION), [ten_k])
    assert reading.allows_document(ten_q.title, ten_q.source)
    assert not reading.allows_document("Filing aapl-10K", "elsewhere/x.md")


def source_over(tmp_path, documents):
    return DistractorSource(surveyed(tmp_path, documents), Library(documents))


def test_easy_distractors_come_from_anywhere(tmp_path):
    pair, source = coast_question(), source_over(tmp_path, store(tmp_path, *LANDS))
    hard = [place.end - place.start for place, _ in zip(source.places(pair, random.Random(1)), range(3), strict=False)]
    easy = [
        place.end - place.start
        for place, _ in zip(source.places(pair, random.Random(1), hard=False), range(3), strict=False)
    ]
    assert min(hard) > 0  # whole coastline sections
    assert easy == [0, 0, 0]  # bare positions


def test_after_equal_attributes_come_documents_that_share_rare_words(tmp_path):
    sibling = doc("sibling", "Quibbles about zeppelins and the Great Moor.\n" + FILLER)
    others = [doc(f"other{n}", f"Page {n} about gardens.\n{FILLER}") for n in range(20)]
    own = doc("own", "# Own\n\n## Motto\n\nzeppelins over the Great Moor\n\nquibbles\n")
    pair = pair_of(value_sample(own, "Motto", "zeppelins over the Great Moor"))
    source = source_over(tmp_path, store(tmp_path, own, *others, sibling))
    first = next(source.places(pair, random.Random(1)))
    assert first.document_id == sibling.id


def test_a_named_distractor_is_taken_first(tmp_path):
    span = {"document_id": LANDS[3].id, "start": LANDS[3].text.index("Line 30"), "end": LANDS[3].text.index("Line 31")}
    pair = coast_question(proof={"kind": "sql", "distractors": [span]}, task_type=TaskType.READING_COMPREHENSION)
    documents = store(tmp_path, *LANDS)

    first = next(source_over(tmp_path, documents).places(pair, random.Random(1)))
    assert (first.document_id, first.start) == (LANDS[3].id, span["start"])
    made = distractor(pair, first, Library(documents), 8, word_counter(tmp_path).offsets, random.Random(1))
    assert made is not None
    assert LANDS[3].text[made.start : made.end].startswith("Line 30")


TALK = doc(
    "talk",
    "# Talk\n\n" + "".join(f"[{n}] {'AB'[n % 2]}nn: This is remark number {n}.\n" for n in range(30)),
    Category.DIALOGUES,
    "Talk",
)


def dialogue_question(first=4, last=9):
    lines = [line for line in TALK.text.splitlines(keepends=True) if line.startswith("[")]
    start = TALK.text.index(lines[first])
    end = TALK.text.index(lines[last]) + len(lines[last].rstrip())
    return coast_question(
        id="dialogue_memory-1",
        task_type=TaskType.DIALOGUE_MEMORY,
        question="prepend abcdefghij to the 2nd turn of Ann",
        answer="abcdefghijThis is remark number 6.",
        answer_kind=AnswerKind.SEQUENCE,
        evidence=[evidence_of(TALK, "[6] Ann: This is remark number 6.")],
        proof={
            "kind": "mrcr",
            "prefix": "abcdefghij",
            "ordinal": 2,
            "speaker": "Ann",
            "opening": "",
            "word": "",
            "needles": (last - first + 1) // 2,
            "window": {"document_id": TALK.id, "start": start, "end": end},
        },
    ), (start, end)


def test_a_dialogue_s_window_is_shown_whole_and_no_turn_more(tmp_path):
    pair, window = dialogue_question()
    for seed in range(8):
        sample, _ = assembled(tmp_path, pair, store(tmp_path, TALK, *LANDS), seed=seed)
        assert [(s.start, s.end) for s in sample.context if s.document_id == TALK.id] == [window]


def test_evidence_beyond_the_span_limit_is_refused_with_the_reason(tmp_path):
    pair, _ = dialogue_question(0, 29)
    refused, _ = assembled(tmp_path, pair, store(tmp_path, TALK, *LANDS))
    assert isinstance(refused, str)
    assert "exceed 60 tokens" in refused


def test_evidence_of_many_documents_beyond_the_context_is_refused(tmp_path):
    texts = ["word " * 50 + str(n) for n in range(4)]
    documents = [doc(f"d{n}", text) for n, text in enumerate(texts)]
    pair = coast_question(evidence=[evidence_of(d, t) for d, t in zip(documents, texts, strict=True)])
    refused, _ = assembled(tmp_path, pair, store(tmp_path, *documents))
    assert isinstance(refused, str)
    assert "a context holds 160" in refused


def test_one_document_alone_gives_a_context_without_distractors(tmp_path):
    sample, _ = assembled(tmp_path, coast_question(), store(tmp_path, LANDS[0]))
    assert {span.document_id for span in sample.context} == {LANDS[0].id}
    assert sample.context_tokens <= 160


def test_a_gigantic_line_is_cut(tmp_path):
    giant = doc("giant", "## Coastline\n\n10 km\n\n" + "x" * 300_000 + " " + "word " * 50_000)
    pair = coast_question(evidence=[evidence_of(giant, "## Coastline\n\n10 km")])
    sample, _ = assembled(tmp_path, pair, store(tmp_path, giant, *LANDS[1:]))
    assert sample.context_tokens <= 160


def questions(tmp_path, documents):
    """Inputs of the stage: each task one question, the numerical one two of which one is too long."""
    inputs = {"documents": ingested(tmp_path / "ingest", *documents), "tokenizer": word_tokenizer(tmp_path)}
    for task in TaskType:
        pairs = [coast_question(id=f"{task}-1", task_type=task)]
        if task is TaskType.NUMERICAL:
            notes = LANDS[0].text[LANDS[0].text.index("## Notes") :].rstrip()
            pairs.append(coast_question(id=f"{task}-2", evidence=[evidence_of(LANDS[0], notes)]))
        inputs[task] = tmp_path / f"{task}.jsonl"
        write_jsonl(inputs[task], pairs)
    return inputs


def run(tmp_path, inputs, low=120, high=160, out="out"):
    (tmp_path / out).mkdir()
    config = AssembleStage.model_validate(
        {
            "assemble": {
                "min_context_tokens": low,
                "mean_context_tokens": 140,
                "max_context_tokens": high,
                "max_span_tokens": 60,
                "hard_distractors": 1.0,
                "reserved_documents": 0.0,
            },
            "seed": 5,
        }
    )
    return assemble.run(config, inputs, tmp_path / out, tmp_path, lambda step, metrics: None)


def test_the_stage_writes_samples_documents_and_what_it_dropped(tmp_path):
    inputs = questions(tmp_path, [*LANDS, TALK])
    counts = run(tmp_path, inputs)
    assert counts == {"samples": 5, "dropped": 1, "documents": 5}
    samples = read_records(tmp_path / "out" / "samples.jsonl", Sample)
    assert [sample.task_type for sample in samples] == list(TaskType)
    kept = {document.id for document in read_records(tmp_path / "out" / "documents.jsonl", Document)}
    assert {span.document_id for sample in samples for span in sample.context} <= kept
    assert read_json(tmp_path / "out" / "summary.json")["dropped"] == {"evidence_too_long": 1}


def test_two_runs_give_equal_bytes(tmp_path):
    inputs = questions(tmp_path, [*LANDS, TALK])
    run(tmp_path, inputs, out="a")
    run(tmp_path, inputs, out="b")
    for name in ("samples.jsonl", "documents.jsonl", "dropped.jsonl", "summary.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_spare_documents_are_kept_for_verification_but_not_all(tmp_path):
    documents = store(tmp_path, *LANDS, *(doc(f"spare{n}", "text") for n in range(100)))
    sample, _ = assembled(tmp_path, coast_question(), documents)
    used = {span.document_id for span in sample.context}
    kept = documents_to_keep(used, documents, seed=1)
    assert used <= set(kept)
    assert len(kept) == len(used) + 64


def test_a_task_whose_questions_all_fail_is_named(tmp_path):
    inputs = questions(tmp_path, [*LANDS, TALK])
    write_jsonl(inputs[TaskType.MULTI_HOP], [])
    with pytest.raises(NotEnoughDataError, match="multi_hop: none of 0 questions"):
        run(tmp_path, inputs)


def test_a_minimum_above_the_maximum_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"min_context_tokens \(190\) is above"):
        run(tmp_path, questions(tmp_path, LANDS), low=190)


def test_a_missing_category_file_is_an_input_error(tmp_path):
    inputs = questions(tmp_path, LANDS)
    document_paths(inputs["documents"])[0].unlink()
    with pytest.raises(InputError, match="does not exist"):
        run(tmp_path, inputs)


def test_stages_without_a_model_load_neither_torch_nor_transformers():
    names = ["dialogue", "reading_comprehension", "assemble", "checks", "stratify"]
    code = "import sys\n" + "".join(f"import stages.synthesis.{name}\n" for name in names)
    code += "sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
