"""The memory agent: reads a document of any length chunk by chunk and answers from its memory (paper section 2.3).

    memory, plan = "", ""
    for chunk in document:    memory, plan = policy(question, memory, plan, chunk)      the memory is replaced
    answer = policy(question, memory, format instruction)

One trajectory is a generator of requests that is fed completions, so the same code serves one question (`answer`), many
at once (`answer_all`) and training (stages/memory/rollout.py). Ours where the paper is silent: reasoning before the
memory is generated but not stored; a turn that does not parse keeps the old memory and is counted; a memory over its
cap is cut and says so; the plan has a cap too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

from stages.common.fitting import cut_to_tokens
from stages.common.rollouts import Completion, GenerationRequest, Segment
from stages.common.seeds import derive_seed
from stages.common.text import strip_reasoning
from stages.common.tokens import Message
from stages.engines.base import RolloutEngine
from stages.memory.ahead import read_ahead
from stages.memory.chunking import iter_chunks
from stages.memory.parsing import parse_turn
from stages.memory.prompts import PromptOrder, answer_messages, defuse, update_messages
from stages.memory.query import Splitter, split_query
from stages.memory.results import AgentResult, AgentTask, Document, OnTurn, Turn
from stages.memory.window import AgentLengths, check_window

__all__ = ["AgentResult", "AgentTask", "MemoryAgent", "Turn"]

CUT_NOTICE = " [memory cut]"

Trajectory = Generator[GenerationRequest, Completion, AgentResult]
Generate = Callable[[GenerationRequest], Awaitable[list[Completion]]]


@dataclass(frozen=True)
class _Section:
    """A chunk as the model sees it, and where it stands in the document (characters)."""

    text: str
    start: int
    end: int
    ids: tuple[int, ...]


class MemoryAgent:
    """Answers questions to documents of any length in O(chunk) memory.

    Args:
        engine: generates; its tokenizer counts.
        chunk_tokens: document tokens read per turn.
        memory_tokens: cap on the stored memory.
        turn_tokens: cap on what a turn generates: reasoning, memory and plan.
        answer_tokens: cap on the final response.
        plan_tokens: cap on the stored plan; None: a quarter of the memory's.
        temperature, top_p: sampling; 0 is greedy.
        seed: of the agent; every turn derives its own.
        format_instruction: how the answer is to be written; only the last prompt holds it.
        prompt_order: memory_first as in the paper; section_first puts the section before memory and plan, so that all
            trajectories of a document share every section's tokens.
        split: takes the formatting instructions out of a question, which then stand in the last prompt only; None: the
            question is asked as it is.

    Raises InputError, with the numbers, if the lengths do not fit into the engine's window.
    """

    def __init__(
        self,
        engine: RolloutEngine,
        chunk_tokens: int,
        memory_tokens: int,
        turn_tokens: int,
        answer_tokens: int,
        *,
        plan_tokens: int | None = None,
        temperature: float = 0.7,
        top_p: float = 0.95,
        seed: int = 0,
        format_instruction: str = "",
        prompt_order: PromptOrder = "memory_first",
        split: Splitter | None = split_query,
    ) -> None:
        self._engine = engine
        self._split = split
        self._lengths = AgentLengths(
            chunk=chunk_tokens,
            memory=memory_tokens,
            plan=max(8, memory_tokens // 4) if plan_tokens is None else plan_tokens,
            turn=turn_tokens,
            answer=answer_tokens,
        )
        self._temperature = temperature
        self._top_p = top_p
        self._seed = seed
        self._format_instruction = format_instruction
        self._prompt_order: PromptOrder = prompt_order
        check_window(self._lengths, engine, "", "")

    def answer(self, question: str, document: Document, *, on_turn: OnTurn | None = None) -> AgentResult:
        """Read the document and answer. A document without text gives an answer from the empty memory, without turns.

        document: the text, or a UTF-8 file of any size. on_turn: gets every turn before the next one is asked.
        Raises InputError if the question does not fit into the window or the document cannot be read.
        """
        steps = self.trajectory(question, document, self._format_instruction, self._seed, on_turn=on_turn)
        request = next(steps)
        while True:
            (completion,) = self._engine.generate_all([request])[0]
            try:
                request = steps.send(completion)
            except StopIteration as finished:
                return finished.value

    async def answer_async(self, question: str, document: Document, *, on_turn: OnTurn | None = None) -> AgentResult:
        """`answer` as a coroutine: several share the engine's batches, and a cancelled one takes its request back."""
        steps = self.trajectory(question, document, self._format_instruction, self._seed, on_turn=on_turn)
        return await self.finish(steps)

    def answer_all(self, tasks: Sequence[AgentTask]) -> list[AgentResult]:
        """Answers to several questions, each trajectory at its own pace, in the order of the tasks."""

        async def gather() -> list[AgentResult]:
            return await asyncio.gather(
                *(
                    self.finish(self.trajectory(task.question, task.document, task.format_instruction, task.seed))
                    for task in tasks
                )
            )

        return asyncio.run(gather())

    async def finish(
        self, steps: Trajectory, completion: Completion | None = None, generate: Generate | None = None
    ) -> AgentResult:
        """Run a trajectory to its end.

        completion answers the request that it has yielded already, if any. generate: asks (default: the engine).
        """
        generate = generate or self._engine.generate
        try:
            request = next(steps) if completion is None else steps.send(completion)
            while True:
                (completion,) = await generate(request)
                request = steps.send(completion)
        except StopIteration as finished:
            return finished.value

    def trajectory(
        self,
        question: str,
        document: Document,
        format_instruction: str,
        seed: int,
        keep_segments: bool = False,
        on_turn: OnTurn | None = None,
        on_answer: Callable[[], None] | None = None,
    ) -> Trajectory:
        """Yields a request per turn and one for the answer, is sent the completion of each, returns the result.

        keep_segments: also return all prompts and responses as ids, which takes O(document) memory.
        on_answer: called before the last request is yielded, once everything is read.
        """
        if self._split is not None:
            question, asked_form = self._split(question)
            format_instruction = f"{asked_form}\n{format_instruction}".strip() if asked_form else format_instruction
        question = defuse(question)
        check_window(self._lengths, self._engine, question, defuse(format_instruction))
        tokenizer = self._engine.tokenizer
        memory = plan = ""
        turns: list[Turn] = []
        segments: list[Segment] = []
        prompt_tokens = response_tokens = 0
        for number, section in enumerate(read_ahead(self._sections(document)), start=1):
            messages = update_messages(question, memory, plan, section.text, number, self._prompt_order)
            seed_of_turn = derive_seed(seed, "memory_turn", number)
            request = self._request(messages, self._lengths.turn, seed_of_turn, (section.text, section.ids))
            asked = time.perf_counter()
            completion = yield request
            prompt_tokens += len(request.prompt_ids)
            response_tokens += len(completion.token_ids)
            if keep_segments:
                segments.append(_segment(request, completion, is_answer=False))
            turn = self._turn(number, section, memory, plan, request, completion, time.perf_counter() - asked)
            turns.append(turn)
            if on_turn is not None:
                on_turn(turn)
            memory, plan = turn.memory, turn.plan
        messages = answer_messages(question, memory, defuse(format_instruction))
        request = self._request(messages, self._lengths.answer, derive_seed(seed, "memory_answer"))
        if on_answer is not None:
            on_answer()
        asked = time.perf_counter()
        completion = yield request
        if keep_segments:
            segments.append(_segment(request, completion, is_answer=True))
        text = tokenizer.decode(completion.token_ids)
        return AgentResult(
            answer=strip_reasoning(text),
            turns=tuple(turns),
            text=text,
            prompt_tokens=prompt_tokens + len(request.prompt_ids),
            response_tokens=response_tokens + len(completion.token_ids),
            segments=tuple(segments),
            answer_seconds=time.perf_counter() - asked,
        )

    def _turn(
        self,
        number: int,
        section: _Section,
        memory: str,
        plan: str,
        request: GenerationRequest,
        completion: Completion,
        seconds: float,
    ) -> Turn:
        """The state after a response: a new memory and plan, or the old ones if it does not parse."""
        response = self._engine.tokenizer.decode(completion.token_ids)
        parsed = parse_turn(response)
        before, memory_cut = memory, False
        if parsed is not None:
            full = defuse(parsed.memory)
            memory = cut_to_tokens(full, self._lengths.memory, self._count, CUT_NOTICE)
            memory_cut = memory != full
            plan = cut_to_tokens(defuse(parsed.plan), self._lengths.plan, self._count)
        return Turn(
            number=number,
            memory=memory,
            plan=plan,
            response=response,
            parsed=parsed is not None,
            truncated=completion.finish_reason == "length",
            memory_cut=memory_cut,
            memory_before=before,
            chunk_start=section.start,
            chunk_end=section.end,
            chunk_tokens=len(section.ids),
            prompt_tokens=len(request.prompt_ids),
            response_tokens=len(completion.token_ids),
            seconds=seconds,
        )

    def _sections(self, document: Document) -> Iterator[_Section]:
        """The document's chunks, defused, none longer than chunk_tokens; those without text are skipped."""
        start, encode = 0, self._engine.tokenizer.encode_text
        encoded: tuple[str, tuple[int, ...]] = ("", ())

        def count(text: str) -> int:
            nonlocal encoded
            encoded = (text, encode(text))
            return len(encoded[1])

        for chunk in iter_chunks(document, self._lengths.chunk, count):
            end = start + len(chunk)
            if chunk.strip():
                section = defuse(chunk)
                ids = encoded[1] if section == encoded[0] else encode(section)  # a chunk is counted last as it is
                if section == chunk or len(ids) <= self._lengths.chunk:
                    yield _Section(section, start, end, ids)
                else:  # a document full of our tags grows by defusing; no character is added, so places stay
                    position = start
                    for part in iter_chunks(section, self._lengths.chunk, self._count):
                        yield _Section(part, position, position + len(part), encode(part))
                        position += len(part)
            start = end

    def _request(
        self, messages: list[Message], max_tokens: int, seed: int, known: tuple[str, tuple[int, ...]] | None = None
    ) -> GenerationRequest:
        return GenerationRequest(
            prompt_ids=self._engine.tokenizer.encode_chat(messages, known),
            max_tokens=max_tokens,
            temperature=self._temperature,
            top_p=self._top_p,
            seed=seed,
        )

    def _count(self, text: str) -> int:
        return len(self._engine.tokenizer.encode_text(text))


def _segment(request: GenerationRequest, completion: Completion, is_answer: bool) -> Segment:
    return Segment(
        prompt_ids=request.prompt_ids,
        response_ids=completion.token_ids,
        logprobs=completion.logprobs,
        kind="answer" if is_answer else "memory",
        finish_reason=completion.finish_reason,
    )
