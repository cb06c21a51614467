"""One question to one engine: k answers in one of the three modes.

Sample i of a question has the seed (seed, "evaluate", benchmark, mode, id) with i, whatever else is asked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial

from stages.common.chat import ChatFailedError
from stages.common.chat_breaker import SILENT
from stages.common.errors import InputError
from stages.common.rollouts import Completion, GenerationRequest
from stages.common.seeds import derive_seed
from stages.common.tokens import Message
from stages.engines.base import RolloutEngine
from stages.evaluation.base import FollowUp
from stages.evaluation.config import AskSettings
from stages.evaluation.finished import Answer
from stages.evaluation.planning import Planned
from stages.evaluation.prompting import context_text, fit_prompt
from stages.memory.agent import AgentResult, MemoryAgent
from stages.memory.query import split_query

OnRead = Callable[[Planned, int, AgentResult], None]  # a question, the number of its sample, how it was read

_log = logging.getLogger(__name__)

# Reasons that say something about the moment, not about the model: the question can be asked again.
MAY_BE_ASKED_AGAIN = SILENT | {"budget"}
TOO_LONG = "too_long"  # the question alone does not fit into the window


async def answer_question(
    engine: RolloutEngine, planned: Planned, settings: AskSettings, on_read: OnRead | None = None
) -> list[Answer]:
    """The k answers. Raises ChatFailedError if a server gave none that could not come later, and UserErrors.

    on_read: gets every trajectory of the agent with the number of its sample.
    """
    seed = derive_seed(settings.seed, "evaluate", *planned.key)
    if planned.mode == "memory_agent":
        samples = (
            _agent_answer(
                engine,
                planned,
                settings,
                derive_seed(seed, i),
                None if on_read is None else partial(on_read, planned, i),
            )
            for i in range(settings.samples)
        )
        return list(await asyncio.gather(*samples))
    return await _single_pass(engine, planned, settings, seed)


async def _single_pass(engine: RolloutEngine, planned: Planned, settings: AskSettings, seed: int) -> list[Answer]:
    question = planned.question
    if planned.mode == "closed_book":
        context, make = "", _constant(question.closed_book_messages())
    else:
        context, make = context_text(question.context()), question.prompt
    budget = _budget(question.answer_tokens, settings, engine)
    limit = min(settings.max_input_tokens, engine.max_model_tokens - budget)
    prompt = fit_prompt(make, context, engine.tokenizer, limit, question.answer_prefix)
    if prompt is None:
        _log.warning("%s %s has more than %d tokens without its context", question.benchmark, question.id, limit)
        return [Answer(text="", failure=TOO_LONG)] * settings.samples
    context_tokens = question.context_tokens
    if context_tokens is None and context:
        context_tokens = len(engine.tokenizer.encode_text(context))
    request = GenerationRequest(
        prompt_ids=prompt.ids,
        n=settings.samples,
        max_tokens=budget,
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=seed,
    )
    answers = [
        _answer(
            engine,
            result,
            prompt_tokens=len(prompt.ids),
            context_tokens=None if planned.mode == "closed_book" else context_tokens,
            context_cut=prompt.context_cut,
        )
        for result in await _generate(engine, request)
    ]
    follow_up = question.follow_up
    if follow_up is None:
        return answers
    seconds = (
        _second_call(engine, follow_up, answer, settings, derive_seed(seed, "follow_up", number))
        for number, answer in enumerate(answers)
    )
    return list(await asyncio.gather(*seconds))


async def _second_call(
    engine: RolloutEngine, follow_up: FollowUp, first: Answer, settings: AskSettings, seed: int
) -> Answer:
    """The reply that stands in place of the first response; a first response without text is left as it is."""
    if first.failure is not None or not first.text.strip():
        return first
    budget = _budget(follow_up.answer_tokens, settings, engine)
    limit = min(settings.max_input_tokens, engine.max_model_tokens - budget)
    prompt = fit_prompt(follow_up.messages, first.text, engine.tokenizer, limit)
    if prompt is None:
        return first.model_copy(update={"text": "", "failure": TOO_LONG})
    request = GenerationRequest(
        prompt_ids=prompt.ids,
        max_tokens=budget,
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=seed,
    )
    (result,) = await _generate(engine, request)
    return _answer(
        engine,
        result,
        prompt_tokens=first.prompt_tokens + len(prompt.ids),
        more_response_tokens=first.response_tokens,
        context_tokens=first.context_tokens,
        context_cut=first.context_cut,
    )


async def _agent_answer(
    engine: RolloutEngine,
    planned: Planned,
    settings: AskSettings,
    seed: int,
    on_read: Callable[[AgentResult], None] | None,
) -> Answer:
    question = planned.question
    agent = MemoryAgent(
        engine,
        settings.agent.chunk_tokens,
        settings.agent.memory_tokens,
        settings.agent.turn_tokens,
        settings.agent.answer_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        prompt_order=settings.agent.prompt_order,
        split=split_query
        if settings.agent.split_question == "rules"
        else None,  # model: split before asking (session.py)
    )
    steps = agent.trajectory(question.question, question.context(), question.answer_form, seed)
    try:
        first = next(steps)
    except InputError as error:  # it does not fit beside a chunk
        _log.warning("%s %s: %s", question.benchmark, question.id, error)
        return Answer(text="", failure=TOO_LONG)
    try:
        (completion,) = await engine.generate(first)
        result = await agent.finish(steps, completion)
    except ChatFailedError as error:
        return _failed(error)
    if on_read is not None:
        on_read(result)
    return Answer(
        text=result.text,
        finish_reason="stop",
        prompt_tokens=result.prompt_tokens,
        response_tokens=result.response_tokens,
        context_tokens=question.context_tokens,
        turns=len(result.turns),
    )


async def _generate(engine: RolloutEngine, request: GenerationRequest) -> Sequence[Completion | ChatFailedError]:
    """The completions; where each is a call of its own, a failed one in its place."""
    if not getattr(engine, "samples_apart", False):
        return await engine.generate(request)
    single = [
        GenerationRequest(
            prompt_ids=request.prompt_ids,
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            seed=derive_seed(request.seed, copy),
        )
        for copy in range(request.n)
    ]

    async def one(alone: GenerationRequest) -> Completion | ChatFailedError:
        try:
            return (await engine.generate(alone))[0]
        except ChatFailedError as error:
            return error

    return await asyncio.gather(*(one(alone) for alone in single))


def _answer(
    engine: RolloutEngine,
    result: Completion | ChatFailedError,
    *,
    prompt_tokens: int,
    context_tokens: int | None,
    context_cut: bool,
    more_response_tokens: int = 0,
) -> Answer:
    if isinstance(result, ChatFailedError):
        return _failed(result)
    return Answer(
        text=engine.tokenizer.decode_response(result.token_ids),
        finish_reason=result.finish_reason,
        prompt_tokens=prompt_tokens,
        response_tokens=more_response_tokens + len(result.token_ids),
        context_tokens=context_tokens,
        context_cut=context_cut,
    )


def _failed(error: ChatFailedError) -> Answer:
    """The model's own failure as an answer; one of the moment is raised again."""
    if error.reason in MAY_BE_ASKED_AGAIN:
        raise error
    return Answer(text="", failure=error.reason)


def _budget(answer_tokens: int, settings: AskSettings, engine: RolloutEngine) -> int:
    """Tokens of a response: the benchmark's and those for reasoning, within the limit and half of the window."""
    wanted = min(settings.max_output_tokens, answer_tokens + settings.reasoning_tokens)
    return max(1, min(wanted, engine.max_model_tokens // 2))


def _constant(messages: Sequence[Message]) -> Callable[[str], Sequence[Message]]:
    return lambda _: messages
