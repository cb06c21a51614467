"""An LLM judge beside the rules: the score is max(rule, judge) as in the paper, and how often the two agree is reported.

The judge sees every answer that a benchmark allows it to see, not only those that the rule refuses: agreement could not
be known otherwise. Its replies are kept by content (stages/common/chat_cache.py), so a resumed or repeated run asks
nothing twice; a call that fails leaves the rule's score and is counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import Literal

from stages.common.chat import ChatFailedError, Message
from stages.common.chat_client import OpenAIChat
from stages.common.gathering import gather_all
from stages.common.text import final_answer
from stages.evaluation.base import Judge, Prediction
from stages.rewards.judge_prompt import JUDGE_TOKENS, judge_messages, verdict_of

_log = logging.getLogger(__name__)

Verdict = Literal["yes", "no", "failed"]


def usual_judge(question: str, gold: str | list[str]) -> Judge:
    """The judge of the reward (paper, Table 6): does the final answer say the same as the gold one?

    Several gold answers are given as alternatives.
    """
    wanted = gold if isinstance(gold, str) else " or: ".join(gold)
    return Judge(messages=partial(_messages, question, wanted), verdict=verdict_of)


def _messages(question: str, gold: str, response: str) -> list[Message]:
    return judge_messages(question, gold, final_answer(response))


def judge_all(chat: OpenAIChat, asked: Sequence[tuple[Judge, str]]) -> list[Verdict]:
    """The verdict on each (judge, response), in order. Raises EndpointError for a wrong key, model or address."""

    async def one(judge: Judge, response: str) -> Verdict:
        try:
            reply = await chat.complete(judge.messages(response), max_tokens=JUDGE_TOKENS, temperature=0.0, seed=0)
            return "yes" if judge.verdict(reply) else "no"
        except ChatFailedError as error:
            _log.debug("the judge failed: %s", error)
            return "failed"

    async def gather() -> list[Verdict]:
        async with chat:
            return await gather_all(one(judge, response) for judge, response in asked)

    return asyncio.run(gather())


def with_verdict(prediction: Prediction, verdict: Verdict, decides_alone: bool) -> Prediction:
    """The prediction with the judge's say in its score."""
    score = prediction.rule_score
    if verdict != "failed":
        judged = float(verdict == "yes")
        score = judged if decides_alone else max(score, judged)
    return prediction.model_copy(update={"judge": verdict, "score": score})
