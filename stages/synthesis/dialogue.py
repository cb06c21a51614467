"""Dialogue memory: recall a turn of a real conversation (stage synthesize@dialogue_memory).

Three families, over windows of consecutive turns:
- mrcr/speaker: "prepend <random string> to the 2nd turn of X": the answer is the string and the turn, word for word;
- mrcr/opening: the same for the N-th turn that begins with certain words ("Can I get ..."), repeated requests as in MRCR;
- recall: who said a quoted sentence; what was answered to it.

Turns are counted in the window; the question says so and names the turn with which the window begins.

Departure from MRCR: its conversations are generated, ours are real, so the ordinal is what makes the question hard.
Windows do not overlap, so held-out windows exist; most are small, since a short context must be able to hold one whole.
"""

from __future__ import annotations

import random
import string
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from stages.common.metrics import Emit
from stages.common.records import AnswerKind, Document, Evidence, QAPair, Span, TaskType
from stages.common.seeds import rng
from stages.common.storage import iter_records
from stages.common.turns import Turn, opening, ordinal, parse_turns
from stages.synthesis.config import SynthesizeStage
from stages.synthesis.near_duplicates import near_duplicates
from stages.synthesis.pairs import make_pair, write_pairs
from stages.synthesis.rederive import rederive

# Window lengths in characters: (share of the windows, shortest, longest). The last class grows with the corpus.
_SHORT, _MEDIUM, _LONG = (0.6, 120, 320), (0.9, 320, 750), (1.0, 750, 60_000)
_MIN_TURNS, _MAX_ROUNDS = 3, 4
_MIN_WORDS, _MAX_WORDS = 3, 25
_MARKS = frozenset("{}[]<>")  # {vocalsound}, tool output, removed names
_FIRST_WORDS = 8  # of a window, quoted in the question
# Said while another speaks; they tell nothing apart.
_FILLERS = frozenset(
    [
        "ah",
        "aha",
        "eh",
        "er",
        "erm",
        "hm",
        "hmm",
        "huh",
        "mhm",
        "mm",
        "mmm",
        "mm-hmm",
        "oh",
        "ok",
        "okay",
        "so",
        "uh",
        "uh-huh",
        "uhm",
        "um",
        "well",
        "yeah",
        "yep",
        "yes",
        "no",
        "right",
    ]
)


@dataclass(frozen=True)
class Window:
    """Consecutive turns of one document; the question's context holds them all."""

    document: Document
    turns: tuple[Turn, ...]

    @property
    def start(self) -> int:
        return self.turns[0].start

    @property
    def end(self) -> int:
        return self.turns[-1].end


def run(
    config: SynthesizeStage, inputs: Mapping[str, Path], out_dir: Path, state_dir: Path, emit: Emit
) -> dict[str, int]:
    """Make dialogue questions. NotEnoughDataError if the conversations yield too few."""
    del state_dir, emit
    documents = list(iter_records(inputs["documents"] / "dialogues.jsonl", Document))
    pairs = make_questions(documents, config.generator.questions, config.seed)
    return write_pairs(out_dir, TaskType.DIALOGUE_MEMORY, pairs, [], config.generator)


def make_questions(documents: list[Document], questions: int, seed: int) -> list[QAPair]:
    """Up to `questions` pairs; each round asks another question of every window until there are enough.

    Questions that ask nearly the same as an earlier one are taken out after each round, as verify would.
    """
    windows = cut_windows(documents, questions, seed)
    rng(seed, "dialogue", "order").shuffle(windows)
    found: dict[str, QAPair] = {}
    for round_number in range(_MAX_ROUNDS):
        for number, window in enumerate(windows):
            if len(found) == questions:
                break
            chance = rng(seed, "dialogue", window.document.id, window.start, round_number)
            # Two of three questions are of the MRCR form; a family that finds nothing leaves the window to the next.
            order = _FAMILIES[(number + round_number) % len(_FAMILIES) :] + _FAMILIES
            made = (family(window, chance, seed) for family in order)
            pair = next((pair for pair in made if pair and rederive(pair, _reader(window)) == pair.answer), None)
            if pair is not None:
                found.setdefault(pair.id, pair)
        repeats = near_duplicates(list(found.values()))
        found = {own_id: pair for own_id, pair in found.items() if own_id not in repeats}
        if len(found) == questions:
            break
    return list(found.values())


def _reader(window: Window) -> Callable[[Span], str]:
    return lambda span: window.document.text[span.start : span.end]


def cut_windows(documents: list[Document], questions: int, seed: int) -> list[Window]:
    """Cut every conversation into windows that do not overlap."""
    total_characters = sum(len(document.text) for document in documents)
    longest = min(_LONG[2], max(2 * _LONG[1], 8 * total_characters // max(1, questions)))
    windows = []
    for document in documents:
        windows += list(_windows_of(document, longest, rng(seed, "windows", document.id)))
    return windows


def _windows_of(document: Document, longest: int, chance: random.Random) -> Iterator[Window]:
    turns = parse_turns(document.text)
    first = 0
    while first < len(turns):
        if len(_told(turns[first])) < _MIN_WORDS:  # "Mm-hmm." cannot name a window
            first += 1
            continue
        wanted = _window_characters(longest, chance)
        last = first
        while last + 1 < len(turns) and turns[last + 1].end - turns[first].start <= wanted:
            last += 1
        if last - first + 1 >= _MIN_TURNS:
            yield Window(document, tuple(turns[first : last + 1]))
        first = last + 1


def _window_characters(longest: int, chance: random.Random) -> int:
    share = chance.random()
    for up_to, low, high in (_SHORT, _MEDIUM):
        if share < up_to:
            return chance.randint(low, high)
    return int(_LONG[1] * (longest / _LONG[1]) ** chance.random())  # log-uniform


def askable(turn: Turn) -> bool:
    """True for a turn that can be repeated word for word: one line of plain words, neither a grunt nor a speech."""
    words = turn.text.split()
    return (
        turn.is_one_line
        and _MIN_WORDS <= len(words) <= _MAX_WORDS
        and not _MARKS.intersection(turn.text)
        and any(len(word) > 3 for word in words)
        and len(_told(turn)) >= _MIN_WORDS
    )


def _told(turn: Turn) -> list[str]:
    """The words of a turn that are no fillers ("Mm - hmm.")."""
    words = (word.strip(string.punctuation).lower() for word in turn.text.split())
    return [word for word in words if word and word not in _FILLERS]


def _part(window: Window) -> str:
    """The window in words, by the turn with which it begins."""
    first = window.turns[0]
    said = " ".join(first.text.split()[:_FIRST_WORDS])
    return (
        f'In the conversation "{window.document.title}", take the part from the turn "{first.speaker}: {said}" on, '
        "as far as it is given."
    )


def _prefix(chance: random.Random) -> str:
    """MRCR's random string. A letter first, so that it never looks like an ordinal."""
    rest = chance.choices(string.ascii_letters + string.digits, k=chance.randint(9, 11))
    return chance.choice(string.ascii_letters) + "".join(rest)


def _evidence(document: Document, *turns: Turn) -> list[Evidence]:
    return [
        Evidence(document_id=document.id, start=turn.start, end=turn.end, quote=document.text[turn.start : turn.end])
        for turn in turns
    ]


def _span(window: Window) -> dict[str, str | int]:
    return {"document_id": window.document.id, "start": window.start, "end": window.end}


def _around(window: Window, turn: Turn) -> dict[str, str | int]:
    """The turn with the ones before and after it: what a quoted turn needs, whatever the window's length."""
    index = window.turns.index(turn)
    return _span(Window(window.document, window.turns[max(0, index - 1) : index + 2]))


def _by_speaker(window: Window, chance: random.Random, seed: int) -> QAPair | None:
    """Prepend a string to the N-th turn of a speaker."""
    times = Counter(turn.speaker for turn in window.turns)
    gold = [turn for turn in window.turns[1:] if times[turn.speaker] >= 2 and askable(turn)]
    if not gold:
        return None
    turn = chance.choice(gold)
    same = [other for other in window.turns if other.speaker == turn.speaker]
    number, prefix = same.index(turn) + 1, _prefix(chance)
    return make_pair(
        task_type=TaskType.DIALOGUE_MEMORY,
        question=f"{_part(window)} Prepend {prefix} to the {ordinal(number)} turn of "
        f"{turn.speaker} in it: write {prefix} directly followed by what {turn.speaker} says there.",
        answer=prefix + turn.text,
        answer_kind=AnswerKind.SEQUENCE,
        evidence=_evidence(window.document, turn),
        proof={
            "kind": "mrcr",
            "prefix": prefix,
            "ordinal": number,
            "speaker": turn.speaker,
            "opening": "",
            "window": _span(window),
        },
        generator="dialogue_memory/mrcr_speaker",
        seed=seed,
    )


def _by_opening(window: Window, chance: random.Random, seed: int) -> QAPair | None:
    """Prepend a string to the N-th turn that begins with the same two words as another one."""
    times = Counter(opening(turn.text, 2) for turn in window.turns)
    gold = [
        turn
        for turn in window.turns[1:]
        if askable(turn)
        and times[opening(turn.text, 2)] >= 2
        and not _FILLERS.issuperset(opening(turn.text, 2).split())
    ]
    if not gold:
        return None
    turn = chance.choice(gold)
    begin = opening(turn.text, 2)
    same = [other for other in window.turns if opening(other.text, 2) == begin]
    number, prefix = same.index(turn) + 1, _prefix(chance)
    return make_pair(
        task_type=TaskType.DIALOGUE_MEMORY,
        question=f'{_part(window)} Several turns in it begin with the words "{begin}". '
        f"Prepend {prefix} to the {ordinal(number)} of them: write {prefix} directly followed by that turn's text, "
        "without the speaker's name.",
        answer=prefix + turn.text,
        answer_kind=AnswerKind.SEQUENCE,
        evidence=_evidence(window.document, turn),
        proof={
            "kind": "mrcr",
            "prefix": prefix,
            "ordinal": number,
            "speaker": "",
            "opening": begin,
            "window": _span(window),
        },
        generator="dialogue_memory/mrcr_opening",
        seed=seed,
    )


def _who_said(window: Window, chance: random.Random, seed: int) -> QAPair | None:
    """Whose turn a quoted one is, where at least three people speak."""
    speakers = {turn.speaker for turn in window.turns}
    gold = [turn for turn in window.turns if askable(turn) and _is_quotable(window, turn)]
    gold = [turn for turn in gold if len(turn.speaker) >= 4 and turn.speaker.lower() not in turn.text.lower()]
    if len(speakers) < 3 or not gold:
        return None
    turn = chance.choice(gold)
    return make_pair(
        task_type=TaskType.DIALOGUE_MEMORY,
        question=f'In the conversation "{window.document.title}", who says: "{turn.text}"?',
        answer=turn.speaker,
        answer_kind=AnswerKind.TEXT,
        evidence=_evidence(window.document, turn),
        proof={"kind": "speaker_of", "said": turn.text, "window": _around(window, turn)},
        generator="dialogue_memory/who_said",
        seed=seed,
    )


def _reply(window: Window, chance: random.Random, seed: int) -> QAPair | None:
    """What the next turn after a quoted one says."""
    couples = [
        (turn, reply)
        for turn, reply in pairwise(window.turns)
        if turn.speaker != reply.speaker
        and _is_quotable(window, turn)
        and askable(turn)
        and askable(reply)
        and len(reply.text.split()) <= 15
        and reply.text.lower() not in turn.text.lower()
        and "\n#" not in window.document.text[turn.end : reply.start]  # another conversation begins there
    ]
    if not couples:
        return None
    turn, reply = chance.choice(couples)
    return make_pair(
        task_type=TaskType.DIALOGUE_MEMORY,
        question=f'In the conversation "{window.document.title}", {turn.speaker} says: "{turn.text}" '
        f"What does {reply.speaker} say right after that, word for word?",
        answer=reply.text,
        answer_kind=AnswerKind.TEXT,
        evidence=_evidence(window.document, turn, reply),
        proof={"kind": "reply_to", "said": turn.text, "window": _around(window, turn)},
        generator="dialogue_memory/reply",
        seed=seed,
    )


def _is_quotable(window: Window, turn: Turn) -> bool:
    """True if the turn's words occur once in the whole document, so that quoting them names one turn."""
    said = turn.text
    return len(said.split()) >= 4 and window.document.text.count(said) == 1


_FAMILIES: list[Callable[[Window, random.Random, int], QAPair | None]] = [
    _by_speaker,
    _by_opening,
    _by_speaker,
    _who_said,
    _by_opening,
    _reply,
]
