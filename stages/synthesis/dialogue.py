"""Dialogue memory: recall what was said in real conversations (stage synthesize@dialogue_memory).

Half of the questions have the MRCR form (the paper's task), the rest are spread evenly over who said and was answered what, and the
kinds of LongMemEval (Wu et al. 2025): one session, several, time, knowledge that changes, what was never said. All by rules; every
answer is re-derived from the window of turns that the context shows.

Departures: MRCR's conversations are generated, ours are real, so the ordinal is what makes the question hard. LongMemEval's
questions are written by people about written sessions; ours ask for what can be proved from the turns.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from stages.common.metrics import Emit
from stages.common.records import AnswerKind, Document, QAPair, TaskType
from stages.common.seeds import rng
from stages.common.storage import iter_records
from stages.rewards.rules import numbers_in
from stages.synthesis import (
    abstention,
    knowledge_update,
    multi_session,
    recall,
    single_session,
    temporal_memory,
    turn_questions,
)
from stages.synthesis.checks import gives_answer_away
from stages.synthesis.config import DialogueConfig, DialogueStage
from stages.synthesis.memory_asking import Ask, Family
from stages.synthesis.near_duplicates import near_duplicates
from stages.synthesis.pairs import write_pairs
from stages.synthesis.rederive import rederive
from stages.synthesis.windows import USUAL_LONGEST, Window, cut_windows

_MAX_ROUNDS, _SHARED_ROUNDS, _OPEN_FROM_ROUND = 8, 2, 4
# Kind -> its share of the questions, and its families (by the last part of their generator's name).
KINDS: dict[str, tuple[int, dict[str, Family]]] = {
    "mrcr": (7, {"speaker": recall.by_speaker, "opening": recall.by_opening, "word": recall.by_word}),
    "who_said": (1, {"": turn_questions.who_said}),
    "reply": (1, {"": turn_questions.reply}),
    "single_session": (1, {"gap": single_session.said, "record": single_session.shown}),
    "multi_session": (
        1,
        {
            "count": multi_session.count_sessions,
            "which": multi_session.which_session,
            "records": multi_session.count_records,
        },
    ),
    "temporal": (
        1,
        {
            "order": temporal_memory.order,
            "next": temporal_memory.next_session,
            "between": temporal_memory.sessions_between,
            "first": temporal_memory.first_to_say,
        },
    ),
    "knowledge_update": (
        1,
        {
            "record": knowledge_update.record_change,
            "mention": knowledge_update.last_mention,
            "correction": knowledge_update.correction,
        },
    ),
    "abstention": (1, {"gap": abstention.unsaid, "record": abstention.unshown, "mention": abstention.unmentioned}),
}
_FAMILIES = [(kind, name, family) for kind, (_, families) in KINDS.items() for name, family in families.items()]
_QUESTIONS_PER_WINDOW = {"record": 3, "count": 2}  # of one family, else 1: more would differ too little
_Asked = tuple[str, int, Family]  # document, where the window starts
_Member = tuple[str, str, Family]  # kind, name
_ALL_SHARES = sum(share for share, _ in KINDS.values())
# Abstention: never above its share, and at most so many for each question with an answer in the same words, so that it
# does not pay as a habit.
_TWINS, _MOST_PER_TWIN = ("single_session", "knowledge_update"), 0.6


def run(
    config: DialogueStage, inputs: Mapping[str, Path], out_dir: Path, state_dir: Path, emit: Emit
) -> dict[str, int]:
    """Make dialogue questions. NotEnoughDataError if the conversations yield too few."""
    del state_dir, emit
    documents = list(iter_records(inputs["documents"] / "dialogues.jsonl", Document))
    pairs = make_questions(documents, config.generator, config.seed)
    return write_pairs(out_dir, TaskType.DIALOGUE_MEMORY, pairs, [], config.generator)


def make_questions(documents: list[Document], config: DialogueConfig, seed: int) -> list[QAPair]:
    """Up to `config.questions` pairs; each round asks another question of every window until there are enough.

    In the first rounds no family goes beyond its share, so that those which few windows suit find theirs; for some rounds more no
    kind does; then what is left over goes to any but abstention.
    Questions that ask nearly the same as an earlier one are taken out after each round, as verify would.
    """
    questions = config.questions
    windows = cut_windows(documents, questions, seed, config.max_window_characters)
    rng(seed, "dialogue", "order").shuffle(windows)
    windows.sort(
        key=lambda window: window.end - window.start <= USUAL_LONGEST
    )  # what a raised limit is for comes first
    of_folder: defaultdict[str, list[Window]] = defaultdict(list)
    for window in windows:
        of_folder[_folder(window)].append(window)
    found: dict[str, QAPair] = {}
    asked: Counter[_Asked] = Counter()
    for round_number in range(_MAX_ROUNDS):
        made = Counter(name for pair in found.values() for name in _names(pair))
        for window in windows:
            if len(found) == questions:
                break
            chance = rng(seed, "dialogue", window.document.id, window.start, round_number)
            ask = Ask(window, chance, seed, of_folder[_folder(window)], is_first=round_number == 0)
            allowed = [one for one in _FAMILIES if _is_allowed(one[0], one[1], made, questions, round_number)]
            pair = _question(ask, _in_turn(ask, allowed, made), asked)
            if pair is not None and pair.id not in found:
                found[pair.id] = pair
                made.update(_names(pair))
        repeats = near_duplicates(list(found.values()))
        found = {own_id: pair for own_id, pair in found.items() if own_id not in repeats}
        if len(found) == questions:
            break
    return list(found.values())


def _question(ask: Ask, families: Sequence[_Member], asked: Counter[_Asked]) -> QAPair | None:
    """A new question about the window, of the first family that finds something and has not asked enough about it before."""
    for _, name, family in families:
        key = (ask.window.document.id, ask.window.start, family)
        most = _QUESTIONS_PER_WINDOW.get(name, 1)
        if asked[key] >= most:
            continue
        pair = family(ask)
        if pair is not None and _is_sound(pair, ask.window):
            asked[key] += 1
            return pair
        if not ask.is_first:
            asked[key] = most  # nothing there: later rounds need not look again
    return None


def _is_allowed(kind: str, name: str, made: Mapping[str, int], questions: int, round_number: int) -> bool:
    """False for a family that has had its share for now."""
    if kind == "abstention" and made.get(kind, 0) >= _MOST_PER_TWIN * sum(made.get(twin, 0) for twin in _TWINS):
        return False
    share, families = KINDS[kind]
    wanted = math.ceil(questions * share / _ALL_SHARES)
    if kind != "mrcr" and round_number < _SHARED_ROUNDS and made.get(f"{kind}/{name}", 0) * len(families) >= wanted:
        return False
    is_open = round_number >= _OPEN_FROM_ROUND and kind != "abstention"
    return is_open or made.get(kind, 0) < wanted


def _in_turn(ask: Ask, families: Sequence[_Member], made: Mapping[str, int]) -> list[_Member]:
    """The families in the order in which they may ask: for half of the windows MRCR first, else those furthest behind.

    A coin decides, not what is behind, so that MRCR gets windows of all lengths and not those which suit nothing else.
    """
    mrcr = [one for one in families if one[0] == "mrcr"]
    others = sorted((one for one in families if one[0] != "mrcr"), key=lambda one: _lag(one[0], one[1], made))
    is_mrcr = ask.chance.random() < KINDS["mrcr"][0] / _ALL_SHARES
    mrcr = ask.shuffled(mrcr)
    return [*mrcr, *others] if is_mrcr else [*others, *mrcr]


def _lag(kind: str, name: str, made: Mapping[str, int]) -> float:
    """How much of its share a family has: of its kind's or of its own, whichever is less.

    So a family that few windows suit takes those, and one whose siblings find nothing makes up for them.
    """
    share, families = KINDS[kind]
    return min(made.get(kind, 0), made.get(f"{kind}/{name}", 0) * len(families)) / share


def _names(pair: QAPair) -> tuple[str, str]:
    """The question's kind, and its family."""
    kind, _, family = pair.generator.removeprefix("dialogue_memory/").replace("mrcr_", "mrcr/").partition("/")
    return kind, f"{kind}/{family}"


def _is_sound(pair: QAPair, window: Window) -> bool:
    """True if the answer follows from the window and does not stand in the question."""
    if gives_answer_away(pair):
        return False
    if pair.answer_kind is AnswerKind.NUMBER and numbers_in(str(pair.answer)) & numbers_in(pair.question):
        return False
    return rederive(pair, window.read) == pair.answer


def _folder(window: Window) -> str:
    return window.document.source.rpartition("/")[0]
