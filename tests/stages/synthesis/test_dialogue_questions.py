"""Turns in the three dialogue forms, windows, and questions whose answers are read off by hand."""

from itertools import pairwise

import pytest
from memory_conversations import LONGEST, wanted
from sample_corpus import doc, ingested

from stages.common.errors import InputError, NotEnoughDataError
from stages.common.records import AnswerKind, Category, QAPair, Span, TaskType
from stages.common.seeds import rng
from stages.common.storage import read_records
from stages.common.turns import Turn, parse_turns
from stages.synthesis import dialogue, recall
from stages.synthesis.config import DialogueStage
from stages.synthesis.dialogue import make_questions
from stages.synthesis.dialogue_proofs import rederive_mrcr, rederive_reply, rederive_speaker
from stages.synthesis.memory_asking import Ask
from stages.synthesis.near_duplicates import near_duplicates
from stages.synthesis.sessions import Session
from stages.synthesis.windows import Window, askable, cut_windows

MEETING = "# Meeting 7\n\n" + "".join(
    f"[{number}] {speaker}: {text}\n"
    for number, (speaker, text) in enumerate(
        [
            ("The Chair (Ann Lee (York, Lib.))", "We will start with the budget today."),
            ("Marketing", "I think we need more money for advertising."),
            ("Designer", "The yellow case: it was too expensive last time."),
            ("Marketing", "Nobody asked for a yellow case anyway."),
            ("The Chair (Ann Lee (York, Lib.))", "Please let the designer finish his report."),
            ("Designer", "Rubber would be cheaper than the plastic one."),
        ]
    )
)


def conversation(name="m7", text=MEETING, title="Meeting 7"):
    return doc(name, text, Category.DIALOGUES, title)


def test_askable_turns_are_plain_and_of_moderate_length():
    def turn(text):
        return Turn("x", text, 0, 0, len(text))

    assert askable(turn("We need more money"))
    assert not askable(turn("Uh no"))
    assert not askable(turn("{vocalsound} we need more money"))
    assert not askable(turn("word " * 26))
    assert not askable(turn("We need\nmore money"))


def questions_of(text, count=40):
    return make_questions([conversation(text=text)], wanted(count), seed=3)


def test_the_answer_is_the_string_and_the_turn():
    for pair in questions_of(MEETING):
        if pair.proof["kind"] == "mrcr":
            window = MEETING[pair.proof["window"]["start"] : pair.proof["window"]["end"]]
            said = pair.answer.removeprefix(pair.proof["prefix"])
            assert pair.answer_kind is AnswerKind.SEQUENCE
            assert 10 <= len(pair.proof["prefix"]) <= 12
            assert pair.proof["prefix"].isalnum()
            assert pair.proof["prefix"] in pair.question
            assert window.count(said) == 1
            if pair.generator == "dialogue_memory/mrcr_speaker":
                before = window[: window.index(said)]
                # The turn's own "Speaker:" stands right before its text.
                assert before.count(f"] {pair.proof['speaker']}: ") == pair.proof["ordinal"]
                assert window.count(f"] {pair.proof['speaker']}: ") == pair.proof["needles"]


CHAIR = ["Chair: Welcome back to this long meeting, all of you."]
ANN = [f"Ann: The lantern of room {n} is broken again." for n in range(4)]
BOB = [f"Bob: My window in room {n} does not close." for n in range(3)] + [
    "Bob: Those windows were painted last spring."
]
CLEO = [f"Cleo: Our garden has {n} apple trees this year." for n in range(8)]
DORA = ["Dora: Nobody may water the flowers.", "Dora: The flowers want some water."]


def recall_of(turns, family):
    """Questions of one family about the turns as one window, over many seeds; all of them re-derived."""
    text = "".join(f"[{number}] {turn}\n" for number, turn in enumerate(turns))
    document = conversation(text=text)
    whole = tuple(parse_turns(text))
    window = Window(document, (Session("", 0, whole),), whole, 0)
    found = [pair for seed in range(60) if (pair := family(Ask(window, rng(seed, "recall"), seed)))]
    for pair in found:
        assert rederive_mrcr(pair, window.read) == pair.answer
        damaged = pair.model_copy(update={"proof": pair.proof | {"needles": pair.proof["needles"] + 1}})
        assert rederive_mrcr(damaged, window.read) is None
    return found


def test_requests_fit_two_four_or_eight_turns_and_most_come_first():
    def speakers(*turns):
        return {(p.proof["speaker"], p.proof["needles"]) for p in recall_of([*CHAIR, *turns], recall.by_speaker)}

    assert speakers(*ANN[:3]) == set()
    assert speakers(*ANN, *BOB, *DORA) == {("Ann", 4), ("Bob", 4)}
    assert speakers(*ANN, *CLEO) == {("Cleo", 8)}
    assert speakers(*DORA, *ANN[:3]) == {("Dora", 2)}
    of_cleo = recall_of([*CHAIR, *CLEO], recall.by_speaker)
    assert {pair.proof["ordinal"] for pair in of_cleo} == set(range(1, 9))


def test_a_word_is_asked_for_where_the_speaker_says_it_whole():
    def words(*turns):
        return {(p.proof["speaker"], p.proof["word"]) for p in recall_of([*CHAIR, *turns], recall.by_word)}

    # Bob's "window" stands inside another word of his; three turns are no number of needles.
    assert words(*ANN, *BOB) == {("Ann", "lantern"), ("Ann", "broken")}
    assert words(*CLEO) == {("Cleo", "garden"), ("Cleo", "apple"), ("Cleo", "trees")}
    assert words(*DORA) == {("Dora", "flowers"), ("Dora", "water")}


def test_a_window_of_a_million_tokens_is_asked_about():
    numbers = rng(1, "words")
    words = ["".join(numbers.choices("abdeilmnorstu", k=7)) for _ in range(40_000)]
    text = "".join(
        f"[{n}] {('Ann', 'Bob', 'Cleo')[n % 3]}: Item {n} speaks of {words[n % 29_989]} and {words[n * 7_919 % 39_989]}.\n"
        for n in range(150_000)
    )
    windows = cut_windows([conversation(text=text)], 8, seed=1, max_characters=20_000_000)
    window = max(windows, key=lambda window: window.end - window.start)
    assert window.end - window.start > 4_000_000  # about four characters a token
    pair = recall.by_word(Ask(window, rng(1, "recall"), 1))
    assert pair.proof["needles"] in recall.NEEDLES
    assert rederive_mrcr(pair, window.read) == pair.answer


def test_all_families_of_single_turns_are_found_in_a_meeting():
    text = MEETING + "".join(
        f"[{10 + n}] {speaker}: I think colour number {n} sells well.\n"
        for n, speaker in enumerate(["Marketing", "Designer", "The Chair"] * 20)
    )
    assert {pair.generator for pair in questions_of(text)} >= {
        "dialogue_memory/mrcr_speaker",
        "dialogue_memory/mrcr_opening",
        "dialogue_memory/who_said",
        "dialogue_memory/reply",
    }


def text_of(span: Span) -> str:
    return MEETING[span.start : span.end]


def mrcr(ordinal_number, prefix="abcdefghij", question="prepend abcdefghij"):
    return QAPair(
        id="d",
        task_type=TaskType.DIALOGUE_MEMORY,
        question=question,
        answer="",
        answer_kind=AnswerKind.SEQUENCE,
        evidence=[],
        proof={
            "kind": "mrcr",
            "prefix": prefix,
            "needles": 2,
            "ordinal": ordinal_number,
            "speaker": "Marketing",
            "opening": "",
            "word": "",
            "window": {"document_id": "x", "start": 0, "end": len(MEETING)},
        },
        generator="g",
        seed=0,
    )


def test_rederiving_counts_the_speaker_s_turns_in_the_window():
    assert rederive_mrcr(mrcr(2), text_of) == "abcdefghijNobody asked for a yellow case anyway."
    assert rederive_mrcr(mrcr(3), text_of) is None
    assert rederive_mrcr(mrcr(0), text_of) is None
    assert rederive_mrcr(mrcr(2, question="prepend something"), text_of) is None


def test_rederiving_speakers_and_replies():
    window = {"document_id": "x", "start": 0, "end": len(MEETING)}
    said = mrcr(1).model_copy(update={"proof": {"said": "Nobody asked for a yellow case anyway.", "window": window}})
    assert rederive_speaker(said, text_of) == "Marketing"
    assert rederive_reply(said, text_of) == "Please let the designer finish his report."
    unknown = mrcr(1).model_copy(update={"proof": {"said": "Nobody", "window": window}})
    assert rederive_speaker(unknown, text_of) is None
    assert rederive_reply(unknown, text_of) is None


def test_windows_do_not_overlap_and_small_ones_are_plentiful():
    text = "".join(f"[{n}] {'AB'[n % 2]}nn: This is sentence number {n} of the talk.\n" for n in range(2_000))
    windows = cut_windows([conversation(text=text)], 100, 1, LONGEST)
    assert all(first.end <= second.start for first, second in pairwise(windows))
    lengths = [window.end - window.start for window in windows]
    assert sum(length <= 380 for length in lengths) > len(lengths) / 2
    assert max(lengths) > 750


def test_equal_seeds_ask_equal_questions_and_others_do_not():
    first, second = questions_of(MEETING), questions_of(MEETING)
    assert first == second
    assert first != make_questions([conversation()], wanted(40), seed=4)


def config(questions, minimum):
    return DialogueStage.model_validate(
        {"generator": {"questions": questions, "min_questions": minimum, "max_window_characters": LONGEST}, "seed": 3}
    )


def test_the_stage_writes_its_files(tmp_path):
    inputs = {"documents": ingested(tmp_path / "in", conversation()) / "dialogues"}
    (tmp_path / "out").mkdir()
    counts = dialogue.run(config(5, 1), inputs, tmp_path / "out", tmp_path, lambda step, metrics: None)
    pairs = read_records(tmp_path / "out" / "qa.jsonl", QAPair)
    assert counts["questions"] == len(pairs) == len({pair.id for pair in pairs})
    assert (tmp_path / "out" / "dropped.jsonl").exists()
    assert (tmp_path / "out" / "summary.json").exists()


def test_no_dialogues_is_an_error_that_counts(tmp_path):
    inputs = {"documents": ingested(tmp_path / "in") / "dialogues"}
    with pytest.raises(NotEnoughDataError, match=r"dialogue_memory: 0 questions found, at least 8"):
        dialogue.run(config(5, 8), inputs, tmp_path, tmp_path, lambda step, metrics: None)
    with pytest.raises(InputError, match="does not exist"):
        dialogue.run(config(5, 8), {"documents": tmp_path / "no"}, tmp_path, tmp_path, lambda step, metrics: None)


def test_a_window_is_named_by_its_first_turn_and_never_asks_for_it():
    for pair in questions_of(MEETING):
        if pair.proof["kind"] == "mrcr":
            window = MEETING[pair.proof["window"]["start"] : pair.proof["window"]["end"]]
            first = window.split("\n")[0].partition("] ")[2]
            assert f'take the part from the turn "{" ".join(first.split()[:8])}'[:60] in pair.question
            assert pair.answer.removeprefix(pair.proof["prefix"]) not in window.split("\n")[0]


def test_turns_of_fillers_begin_no_window_and_are_not_asked_for():
    def turn(text):
        return Turn("x", text, 0, 0, len(text))

    assert not askable(turn("Mm - hmm. Okay. Yeah, right."))
    text = "[0] Ann: Mm - hmm.\n[1] Bob: Okay.\n" + MEETING.partition("\n\n")[2]
    assert all(
        window.turns[0].speaker not in ("Ann", "Bob")
        for window in cut_windows([conversation(text=text)], 9, 1, LONGEST)
    )
    many = "".join(f"[{n}] {'AB'[n % 2]}nn: Yeah, okay about the colour number {n}.\n" for n in range(40))
    assert not any(pair.proof.get("opening") for pair in questions_of(many))


def test_no_two_questions_ask_nearly_the_same():
    text = "".join(f"[{n}] {'AB'[n % 2]}nn: This is sentence number {n} of the talk.\n" for n in range(600))
    pairs = questions_of(text, count=120)
    assert len(pairs) > 60
    assert not near_duplicates(pairs)
