"""Abstention, shares of the kinds, and proofs of memory questions: each gives its answer, and none does after tampering."""

import random
import string

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory_conversations import CAFE, LONGEST, MEETING, SHOP, answers, asked, record, wanted, window_of
from sample_corpus import doc, span_of, store

from stages.common.records import AnswerKind, Category, QAPair, Sample, Span
from stages.synthesis import abstention, knowledge_update
from stages.synthesis.checks import refusal
from stages.synthesis.dialogue import make_questions
from stages.synthesis.mentions import NOT_MENTIONED, OR_NOT_MENTIONED
from stages.synthesis.model_checks import ModelChecks
from stages.synthesis.rederive import rederive
from stages.synthesis.windows import cut_windows


def other(text):
    return [window_of(text, name="other")]


BAKERY = MEETING.replace("budget", "bakery").replace("12500", "733").replace("prototype", "croissant")


def test_what_is_said_elsewhere_is_not_mentioned():
    gaps = asked(abstention.unsaid, MEETING, others=other(CAFE))
    assert answers(gaps) == {NOT_MENTIONED}
    assert any('"My order number is ____ and the name is Peterson."' in pair.question for pair in gaps)
    mentions = asked(abstention.unmentioned, MEETING, others=other(BAKERY))
    assert answers(mentions, 'the word "bakery"') == {NOT_MENTIONED}
    assert answers(mentions, 'the word "yellow"') == set()


def test_a_sentence_that_is_said_in_other_words_is_not_called_absent():
    alike = BAKERY.replace(
        "The bakery leaves 733 for each croissant now.", "The budget leaves 733 for prototype work now."
    )
    assert not any(
        "____" in pair.question and "budget" in pair.question
        for pair in asked(abstention.unsaid, MEETING, others=other(alike))
    )


def test_records_of_another_session_and_fields_that_a_record_lacks():
    pairs = asked(
        abstention.unshown, SHOP, tries=200, others=other(SHOP.replace("#W", "#V").replace('"total"', '"weight"'))
    )
    assert answers(pairs) == {NOT_MENTIONED}
    assert any('"#W77"' in pair.question and "Session 1" in pair.question for pair in pairs)
    assert any('"weight"' in pair.question and '"#W' in pair.question for pair in pairs)


def put_into_the_window(pair, said):
    """A text of as many sessions in which the window says the thing after all, and the proof's window over it."""
    text = MEETING + f"[7] Cleo Hunt: {said}\n"
    window = window_of(text)
    return pair.model_copy(update={"proof": {**pair.proof, "window": window.span}}), window


def test_abstention_fails_when_the_window_says_it():
    gap = next(p for p in asked(abstention.unsaid, MEETING, others=other(CAFE)) if "order number is ____" in p.question)
    for said in ("My order number is 991 and the name is Peterson.", "Peterson, that order number, what was it?"):
        changed, window = put_into_the_window(gap, said)
        assert rederive(changed, window.read) is None
    mention = next(p for p in asked(abstention.unmentioned, MEETING, others=other(BAKERY)) if '"bakery"' in p.question)
    for said in ("There is a bakery nearby.", "We saw two bakerys there."):
        changed, window = put_into_the_window(mention, said)
        assert rederive(changed, window.read) is None
    harmless, window = put_into_the_window(mention, "There is nothing nearby.")
    assert rederive(harmless, window.read) == NOT_MENTIONED


def as_sample(pair, document):
    window = Span.model_validate(pair.proof["window"])
    return Sample(**dict(pair), context=[window], context_tokens=1), document


def test_checks_keep_the_offered_phrase_for_abstention_alone(tmp_path):
    window = window_of(MEETING)
    pair = asked(abstention.unmentioned, MEETING, others=other(BAKERY))[0]
    sample, document = as_sample(pair, window.document)
    documents = store(tmp_path, document)
    assert refusal(sample, documents) is None
    lie = sample.model_copy(update={"proof": {**sample.proof, "kind": "last_mention"}})
    assert refusal(lie, documents)[0] == "answer_in_question"
    more = sample.model_copy(update={"context": [span_of(document, document.text)]})
    assert refusal(more, documents)[0] == "turns_ambiguous"


def test_the_closed_book_check_keeps_abstention():
    checks = ModelChecks.__new__(ModelChecks)
    checks._config = type("Config", (), {"closed_book_threshold": 0.5, "attempts": 2})()
    absent = as_sample(asked(abstention.unmentioned, MEETING, others=other(BAKERY))[0], None)[0]
    known = as_sample(asked(knowledge_update.last_mention, MEETING)[0], None)[0]
    assert checks._answerable(absent, 1.0) is None
    assert checks._answerable(known, 1.0)[0] == "answerable_without_documents"


# --- all kinds

NAMES = ["Ann Lee", "Bob Marsh", "Cleo Hunt"]
WORDS = st.lists(
    st.sampled_from(
        [
            "budget",
            "yellow",
            "Jennifer",
            "48213",
            "window",
            "latte",
            "lattes",
            "oat",
            "milk",
            "battery",
            "{gap}",
            "of",
            "the",
            "in",
            "to",
        ]
    ),
    min_size=2,
    max_size=14,
).map(" ".join)
TURN = st.tuples(
    st.sampled_from(NAMES), st.one_of(WORDS, st.text(max_size=40), st.just(record("pending")), st.just('{"a": ['))
)
CONVERSATION = st.lists(st.lists(TURN, min_size=1, max_size=8), min_size=1, max_size=6)


def written(conversation):
    return "".join(
        f"# Session {number}\n\n" + "".join(f"{who}: {' '.join(said.split())}\n" for who, said in turns) + "\n"
        for number, turns in enumerate(conversation)
    )


def tampered(pair, window):
    """The question with one thing of its proof changed, and with another text under the same window."""
    for key, value in pair.proof.items():
        if isinstance(value, str) and key not in ("kind", "form", "which", "opening"):
            yield pair.model_copy(update={"proof": {**pair.proof, key: value + "x"}}), window.read
        if key == "window":
            gone = {**value, "start": value["end"], "end": value["end"]}
            yield pair.model_copy(update={"proof": {**pair.proof, key: gone}}), window.read
        if key in ("said", "session", "window", "step", "phrase", "id"):
            yield pair.model_copy(update={"proof": {**pair.proof, key: 5}}), window.read
    yield pair, lambda span: ""


def check(documents, pairs, questions, seed):
    """Every question re-derives from its window, quotes what is there, and gives something else after tampering."""
    texts = {document.id: document.text for document in documents}
    windows = {(w.document.id, w.start): w for w in cut_windows(documents, questions, seed, LONGEST)}
    for pair in pairs:
        place = Span.model_validate(pair.proof["window"])
        for item in pair.evidence:
            assert texts[item.document_id][item.start : item.end] == item.quote
            assert place.start <= item.start < item.end <= place.end
        window = windows.get((place.document_id, place.start))
        if window is None:
            assert pair.proof["kind"] in ("speaker_of", "reply_to")  # a turn and its neighbours
            continue
        assert rederive(pair, window.read) == pair.answer
        for changed, read in tampered(pair, window):
            assert rederive(changed, read) != pair.answer


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(CONVERSATION, st.integers(0, 5))
def test_every_question_is_rederived_and_no_tampered_one_is(conversation, seed):
    documents = [doc("talk", written(conversation), Category.DIALOGUES), doc("twin", MEETING, Category.DIALOGUES)]
    pairs = make_questions(documents, wanted(30), seed)
    assert pairs == make_questions(documents, wanted(30), seed)
    check(documents, pairs, 30, seed)


FAMILIES = [
    "single_session/gap",
    "single_session/record",
    "multi_session/count",
    "multi_session/which",
    "multi_session/records",
    "temporal/order",
    "temporal/next",
    "temporal/between",
    "temporal/first",
    "knowledge_update/record",
    "knowledge_update/mention",
    "knowledge_update/correction",
    "abstention/gap",
    "abstention/record",
    "abstention/mention",
]


def long_corpus():
    chance = random.Random(5)
    drinks = ["mocha", "latte", "cortado", "espresso", "macchiato", "steamer"]
    names = ["Laura", "Peter", "Marie", "Fred", "Bruno", "Sofia"]
    orders = "# Orders\n\n" + "".join(
        f"## Dialogue dlg-{n:08x}\n\nuser: I would like a {chance.choice(drinks)} for {chance.choice(names)} number {n}.\n"
        f"assistant: Is order {n + 1000} for the {chance.choice(drinks)} right?\nuser: Actually make that {n} cups, please.\n"
        f"assistant: It is ready at counter {chance.choice(string.ascii_uppercase)} in {n} minutes.\n\n"
        for n in range(150)
    )
    meeting = "".join(
        f"[{n}] {chance.choice(NAMES)}: I think the {chance.choice(drinks)} of {chance.choice(names)} costs {n + 300} now.\n"
        for n in range(900)
    )
    shop = "".join(
        f"# Session {n}\n\nuser: Where is my parcel number {n} by now?\n"
        f'tool: {{"order_id": "#W{n}", "status": "pending", "city": "{chance.choice(names)}ville"}}\n'
        f"assistant: Parcel {n} waits in the house.\nuser: Then please send it on, will you?\n"
        f'tool: {{"order_id": "#W{n}", "status": "shipped", "city": "{chance.choice(names)}ville"}}\n\n'
        for n in range(80)
    )
    return [doc(name, text, Category.DIALOGUES) for name, text in (("o", orders), ("m", meeting), ("s", shop))]


def test_questions_of_all_families_hold_and_fail_when_tampered_with():
    documents = long_corpus()
    pairs = make_questions(documents, wanted(900), seed=7)
    assert {pair.generator for pair in pairs} >= {f"dialogue_memory/{name}" for name in FAMILIES}
    check(documents, pairs, 900, seed=7)


def test_half_is_mrcr_and_the_other_kinds_are_even():
    pairs = make_questions(long_corpus(), wanted(280), seed=3)
    kinds = {}
    for pair in pairs:
        kind = pair.generator.split("/")[1]
        kinds["mrcr" if kind.startswith("mrcr") else kind] = (
            kinds.get("mrcr" if kind.startswith("mrcr") else kind, 0) + 1
        )
    assert len(pairs) == 280
    assert kinds.pop("mrcr") in range(130, 150)
    assert set(kinds) == {
        "who_said",
        "reply",
        "single_session",
        "multi_session",
        "temporal",
        "knowledge_update",
        "abstention",
    }
    assert all(14 <= count <= 32 for count in kinds.values()), kinds


def test_questions_that_may_be_unanswerable_mostly_have_an_answer():
    pairs: list[QAPair] = make_questions(long_corpus(), wanted(600), seed=4)
    offered = [pair for pair in pairs if OR_NOT_MENTIONED in pair.question]
    absent = [pair for pair in offered if pair.answer == NOT_MENTIONED]
    assert 0 < len(absent) <= 0.4 * len(offered)
    assert all(pair.generator.startswith("dialogue_memory/abstention/") for pair in absent)


def test_no_answer_stands_in_its_question_but_the_offered_phrase():
    for pair in make_questions(long_corpus(), wanted(600), seed=6):
        if pair.answer_kind is AnswerKind.TEXT and pair.answer != NOT_MENTIONED:
            assert f" {pair.answer} " not in pair.question
