"""Solver and verifier of self-evolution: which proposed questions hold.

A candidate is kept if the solver, who sees the documents but not the answer, arrives at the proposer's answer, and if
the same solver without the documents does not. Rules compare first; the verifier is asked where they cannot tell.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from stages.common.chat import ChatFailedError, ChatModel
from stages.common.chat_json import schema_of
from stages.common.records import AnswerKind
from stages.common.text import collapse_blanks
from stages.rewards.judge_prompt import same_answer
from stages.rewards.rules import normalise, numeric_match
from stages.synthesis.self_evolve_calls import Candidate, Evolution, ask, phase, record_of
from stages.synthesis.self_evolve_prompts import Excerpt, Solution, solver_messages

_SOLVER_TOKENS = 2048
_MAX_ANSWER_CHARACTERS = 400  # a longer one is no short answer


async def verify(
    chat: ChatModel, candidates: Sequence[Candidate], closed_book: bool, evolution: Evolution
) -> list[tuple[Candidate, dict[str, Any]]]:
    """The candidates that the solver answers alike with the documents, and not without, each with its proof."""

    async def solve(candidate: Candidate) -> str:
        return await _solution(chat, candidate.question, candidate.excerpts)

    async def recall(candidate: Candidate) -> str:
        return await _solution(chat, candidate.question, ())

    async def compare(pair: tuple[Candidate, str]) -> bool:
        return await same_answer(chat, pair[0].question, pair[0].answer, pair[1])

    answered = await _step("solver", solve, candidates, evolution)
    same = await _alike("verifier", compare, answered, evolution)
    agreed = []
    for candidate, answer, verdict in same:
        if verdict is None:
            evolution.drop("solver_disagrees", f"the solver says {answer!r}", record_of(candidate))
        else:
            agreed.append((candidate, {"solver": answer[:500], "verdict": verdict}))
    if not closed_book:
        return agreed
    proofs = {id(candidate): proof for candidate, proof in agreed}
    recalled = await _step("closed_book", recall, [candidate for candidate, _ in agreed], evolution)
    known = await _alike("closed_book", compare, recalled, evolution)
    kept = []
    for candidate, answer, verdict in known:
        if verdict is not None:
            evolution.drop("answered_without_documents", f"from memory: {answer!r}", record_of(candidate))
        else:
            kept.append((candidate, {**proofs[id(candidate)], "closed_book": answer[:500]}))
    return kept


async def _step(
    role: str, call: Callable[[Candidate], Awaitable[str]], candidates: Sequence[Candidate], evolution: Evolution
) -> list[tuple[Candidate, str]]:
    """The answers of one phase; candidates whose call failed are dropped."""
    kept = []
    for candidate, answer in zip(candidates, await phase(role, call, candidates, evolution), strict=True):
        if isinstance(answer, ChatFailedError):
            evolution.drop_failed(role, answer, record_of(candidate))
        else:
            kept.append((candidate, answer))
    return kept


async def _alike(
    role: str,
    compare: Callable[[tuple[Candidate, str]], Awaitable[bool]],
    answered: Sequence[tuple[Candidate, str]],
    evolution: Evolution,
) -> list[tuple[Candidate, str, str | None]]:
    """(candidate, answer, how they agree: equal, judged, None). The verifier is asked only where the rules cannot tell."""
    ruled = [_by_rule(candidate, answer) for candidate, answer in answered]
    open_ = [pair for pair, verdict in zip(answered, ruled, strict=True) if verdict == "open"]
    judged = iter(await phase(role, compare, open_, evolution))
    result: list[tuple[Candidate, str, str | None]] = []
    for (candidate, answer), verdict in zip(answered, ruled, strict=True):
        if verdict != "open":
            result.append((candidate, answer, verdict))
            continue
        said = next(judged)
        if isinstance(said, ChatFailedError):
            evolution.drop_failed(role, said, record_of(candidate))
        else:
            result.append((candidate, answer, "judged" if said else None))
    return result


def _by_rule(candidate: Candidate, answer: str) -> str | None:
    """equal, None (different) or open (a verifier must tell)."""
    plain = normalise(answer)
    if candidate.kind is AnswerKind.NUMBER:
        return "equal" if numeric_match(answer, candidate.answer) else None
    if plain == normalise(candidate.answer):
        return "equal"
    if plain in ("", "unknown") or len(answer) > _MAX_ANSWER_CHARACTERS:
        return None
    return "open"


async def _solution(chat: ChatModel, question: str, excerpts: Sequence[Excerpt]) -> str:
    messages = solver_messages(question, excerpts)
    solution = await ask(chat, messages, Solution, schema_of(Solution), _SOLVER_TOKENS, 0.0, 0)
    return collapse_blanks(solution.answer)
