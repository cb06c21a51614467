"""Questions about single turns: who said a quoted sentence, and what was answered to it."""

from __future__ import annotations

from itertools import pairwise

from stages.common.records import AnswerKind, QAPair, TaskType
from stages.synthesis.memory_asking import Ask
from stages.synthesis.pairs import make_pair
from stages.synthesis.windows import askable, is_quotable


def who_said(ask: Ask) -> QAPair | None:
    """Whose turn a quoted one is, where at least three people speak."""
    window = ask.window
    speakers = {turn.speaker for turn in window.turns}
    gold = [turn for turn in window.turns if askable(turn) and len(turn.speaker) >= 4]
    gold = [turn for turn in gold if turn.speaker.lower() not in turn.text.lower()] if len(speakers) >= 3 else []
    # Drawn, then searched for in the whole conversation, which may be long.
    turn = next((turn for turn in ask.shuffled(gold) if is_quotable(window, turn)), None)
    if turn is None:
        return None
    return make_pair(
        task_type=TaskType.DIALOGUE_MEMORY,
        question=f'In the conversation "{window.document.title}", who says: "{turn.text}"?',
        answer=turn.speaker,
        answer_kind=AnswerKind.TEXT,
        evidence=window.evidence(turn),
        proof={"kind": "speaker_of", "said": turn.text, "window": window.around(turn)},
        generator="dialogue_memory/who_said",
        seed=ask.seed,
    )


def reply(ask: Ask) -> QAPair | None:
    """What the next turn after a quoted one says."""
    window = ask.window
    couples = [
        (turn, reply)
        for turn, reply in pairwise(window.turns)
        if turn.speaker != reply.speaker
        and askable(turn)
        and askable(reply)
        and len(reply.text.split()) <= 15
        and reply.text.lower() not in turn.text.lower()
        and "\n#" not in window.document.text[turn.end : reply.start]  # another conversation begins there
    ]
    couple = next((couple for couple in ask.shuffled(couples) if is_quotable(window, couple[0])), None)
    if couple is None:
        return None
    turn, reply = couple
    return make_pair(
        task_type=TaskType.DIALOGUE_MEMORY,
        question=f'In the conversation "{window.document.title}", {turn.speaker} says: "{turn.text}" '
        f"What does {reply.speaker} say right after that, word for word?",
        answer=reply.text,
        answer_kind=AnswerKind.TEXT,
        evidence=window.evidence(turn, reply),
        proof={"kind": "reply_to", "said": turn.text, "window": window.around(turn)},
        generator="dialogue_memory/reply",
        seed=ask.seed,
    )
