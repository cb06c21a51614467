"""Programmatic checks: each names its reason on a sample that is damaged in one way."""

import pytest
from sample_corpus import doc, evidence_of, span_of, store, value_sample

from stages.common.records import AnswerKind, Category, Evidence, Span
from stages.synthesis.checks import refusal
from stages.synthesis.near_duplicates import near_duplicates, question_key

ATLAS = doc("atlas", "# Atlas\n\n## Climate\n\nmild and wet\n\n## Terrain\n\nbroad plains\n", title="Atlas of Chad")
TALK = doc("talk", "[0] Ann: Good morning to all.\n[1] Bob: We begin.\n[2] Ann: Now the budget.\n", Category.DIALOGUES)
GOOD = value_sample(ATLAS, "Climate", "mild and wet")


def refused(tmp_path, sample, *more):
    found = refusal(sample, store(tmp_path, ATLAS, TALK, *more))
    return None if found is None else found[0]


def test_a_sound_sample_passes(tmp_path):
    assert refused(tmp_path, GOOD) is None


def test_a_quote_that_is_not_the_span(tmp_path):
    shifted = GOOD.evidence[0].model_copy(update={"start": GOOD.evidence[0].start + 1})
    assert refused(tmp_path, GOOD.model_copy(update={"evidence": [shifted]})) == "quote_differs"
    beyond = Evidence(document_id=ATLAS.id, start=0, end=10_000, quote=ATLAS.text)
    assert refused(tmp_path, GOOD.model_copy(update={"evidence": [beyond]})) == "quote_differs"


def test_an_unknown_document_and_no_evidence(tmp_path):
    lost = GOOD.evidence[0].model_copy(update={"document_id": "general/lost"})
    assert refused(tmp_path, GOOD.model_copy(update={"evidence": [lost]})) == "unknown_document"
    assert refused(tmp_path, GOOD.model_copy(update={"evidence": []})) == "no_evidence"


def test_evidence_that_the_context_does_not_show(tmp_path):
    halves = [
        Span(document_id=ATLAS.id, start=0, end=GOOD.evidence[0].start + 5),
        Span(document_id=ATLAS.id, start=GOOD.evidence[0].start + 5, end=len(ATLAS.text)),
    ]
    assert refused(tmp_path, GOOD.model_copy(update={"context": halves})) == "evidence_not_in_context"
    elsewhere = [span_of(ATLAS, "broad plains")]
    assert refused(tmp_path, GOOD.model_copy(update={"context": elsewhere})) == "evidence_not_in_context"


def test_an_answer_that_stands_in_the_question(tmp_path):
    told = GOOD.model_copy(update={"question": 'Is it "Mild, and WET" in the Atlas of Chad?'})
    assert refused(tmp_path, told) == "answer_in_question"
    part_of_a_word = GOOD.model_copy(update={"question": "Is it mild and wetter?"})
    assert refused(tmp_path, part_of_a_word) is None


def test_a_proof_that_does_not_hold_or_gives_something_else(tmp_path):
    other = GOOD.model_copy(update={"proof": {"kind": "value_under", "heading": "Terrain"}})
    assert refused(tmp_path, other) == "not_rederivable"
    assert refused(tmp_path, GOOD.model_copy(update={"proof": {"kind": "unheard of"}})) == "not_rederivable"
    assert refused(tmp_path, GOOD.model_copy(update={"answer": "hot"})) == "rederived_differently"


def test_a_title_that_is_not_the_document_s(tmp_path):
    said = "broad plains"
    fields = {
        "question": f'Which document says: "{said}"',
        "answer": "Atlas of Mali",
        "evidence": [evidence_of(ATLAS, said)],
        "context": [span_of(ATLAS, said)],
        "proof": {"kind": "title_of", "sentence": said, "title": "Atlas of Mali"},
    }
    assert refused(tmp_path, GOOD.model_copy(update=fields)) == "rederived_differently"
    right = {"answer": "Atlas of Chad", "proof": {**fields["proof"], "title": "Atlas of Chad"}}
    assert refused(tmp_path, GOOD.model_copy(update={**fields, **right})) is None


def turn_question(context):
    window = span_of(TALK, TALK.text.strip())
    return GOOD.model_copy(
        update={
            "question": "prepend abcdefghij to the 2nd turn of Ann",
            "answer": "abcdefghijNow the budget.",
            "answer_kind": AnswerKind.SEQUENCE,
            "evidence": [evidence_of(TALK, "[2] Ann: Now the budget.")],
            "context": context or [window],
            "proof": {
                "kind": "mrcr",
                "prefix": "abcdefghij",
                "ordinal": 2,
                "speaker": "Ann",
                "opening": "",
                "word": "",
                "needles": 2,
                "window": window.model_dump(),
            },
        }
    )


def test_turns_are_counted_in_the_window_alone(tmp_path):
    twin = doc("twin", "[0] Ann: Something else.\n", Category.DIALOGUES, title="talk")
    assert refused(tmp_path, turn_question(None)) is None
    second_line = [span_of(TALK, "[2] Ann: Now the budget.")]
    assert refused(tmp_path, turn_question(second_line)) == "evidence_not_in_context"
    more = [span_of(TALK, TALK.text)]
    assert refused(tmp_path, turn_question(more)) == "turns_ambiguous"
    namesake = [span_of(TALK, TALK.text.strip()), span_of(twin, "[0] Ann: Something else.")]
    assert refused(tmp_path, turn_question(namesake), twin) == "turns_ambiguous"


def test_near_duplicates_are_later_questions_with_the_same_words():
    first = GOOD.model_copy(update={"id": "a", "question": "What is the capital of Chad?"})
    same = GOOD.model_copy(update={"id": "b", "question": "what  is capital of CHAD"})
    other = GOOD.model_copy(update={"id": "c", "question": "What is the capital of Mali?"})
    assert near_duplicates([first, same, other]) == {"b": "a"}


@pytest.mark.parametrize("question", ["1998 or 1999?", "A or B?"])
def test_numbers_and_letters_keep_questions_apart(question):
    swapped = question.replace("1998", "2001").replace("B", "C")
    assert question_key(GOOD.model_copy(update={"question": question})) != question_key(
        GOOD.model_copy(update={"question": swapped})
    )
