"""What all dialogue questions share: what a family is given, and how a memory question is put together."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from stages.common.records import AnswerKind, Evidence, QAPair, TaskType
from stages.common.turns import Turn
from stages.synthesis.pairs import make_pair
from stages.synthesis.sessions import session_name
from stages.synthesis.windows import Window


@dataclass(frozen=True)
class Ask:
    """One window to be asked about. others: windows of the same kind of dialogue, for what this one does not say.

    is_first: the first round, in which a family leaves a window that suits it badly to the others.
    """

    window: Window
    chance: random.Random
    seed: int
    others: Sequence[Window] = field(default_factory=tuple)
    is_first: bool = False

    def shuffled(self, items: Sequence[Any]) -> list[Any]:
        return self.chance.sample(items, len(items))


Family = Callable[[Ask], QAPair | None]


def memory_pair(
    ask: Ask,
    kind: str,
    question: str,
    answer: str,
    evidence: list[Evidence],
    proof: dict[str, Any],
    answer_kind: AnswerKind = AnswerKind.TEXT,
) -> QAPair:
    """A question of one kind (`temporal/order`) about the window."""
    return make_pair(
        task_type=TaskType.DIALOGUE_MEMORY,
        question=question,
        answer=answer,
        answer_kind=answer_kind,
        evidence=evidence,
        proof={**proof, "window": ask.window.span},
        generator=f"dialogue_memory/{kind}",
        seed=ask.seed,
    )


def session_of(ask: Ask, turn: Turn) -> tuple[dict[str, str], Sequence[Turn]] | None:
    """(the name of the turn's session, its turns) where there are several sessions and a name that does not quote the turn."""
    sessions = ask.window.sessions
    if len(sessions) < 2:
        return None
    session = next(session for session in sessions if session.turns[0].start <= turn.start <= session.turns[-1].start)
    name = session_name(sessions, session)
    if name is None or ("opening" in name and turn == session.turns[0]):
        return None
    return name, session.turns


def large_first(ask: Ask, numbers: Iterable[int]) -> list[int]:
    """Possible answers in a random order in which large ones mostly come first: small ones are possible far more often."""
    return sorted(numbers, key=lambda number: ask.chance.random() ** (1 / number**2), reverse=True)
