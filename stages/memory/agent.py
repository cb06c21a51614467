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
from collections.abc import Generator, Iterator, Sequence

from stages.common.fitting import cut_to_tokens
from stages.common.rollouts import Completion, GenerationRequest, Segment
from stages.common.seeds import derive_seed
from stages.common.text import strip_reasoning
from stages.common.tokens import Message
from stages.engines.base import RolloutEngine
from stages.memory.chunking import iter_chunks
from stages.memory.parsing import parse_turn
from stages.memory.prompts import answer_messages, defuse, update_messages
from stages.memory.results import AgentResult, AgentTask, Document, Turn
from stages.memory.window import AgentLengths, check_window

__all__ = ["AgentResult", "AgentTask", "MemoryAgent", "Turn"]

CUT_NOTICE = " [memory cut]"


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
    ) -> None:
        self._engine = engine
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
        check_window(self._lengths, engine, "", "")

    def answer(self, question: str, document: Document) -> AgentResult:
        """Read the document and answer. A document without text gives an answer from the empty memory, without turns.

        document: the text, or a UTF-8 file.
        Raises InputError if the question does not fit into the window or the document cannot be read.
        """
        steps = self.trajectory(question, document, self._format_instruction, self._seed)
        request = next(steps)
        while True:
            (completion,) = self._engine.generate_all([request])[0]
            try:
                request = steps.send(completion)
            except StopIteration as finished:
                return finished.value

    async def answer_async(self, question: str, document: Document) -> AgentResult:
        """`answer` as a coroutine: several of them share the engine's batches."""
        return await self.finish(self.trajectory(question, document, self._format_instruction, self._seed))

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
        self, steps: Generator[GenerationRequest, Completion, AgentResult], completion: Completion | None = None
    ) -> AgentResult:
        """Run a trajectory to its end; `completion` answers the request that it has yielded already, if any."""
        try:
            request = next(steps) if completion is None else steps.send(completion)
            while True:
                (completion,) = await self._engine.generate(request)
                request = steps.send(completion)
        except StopIteration as finished:
            return finished.value

    def trajectory(
        self, question: str, document: Document, format_instruction: str, seed: int, keep_segments: bool = False
    ) -> Generator[GenerationRequest, Completion, AgentResult]:
        """Yields a request per turn and one for the answer, is sent the completion of each, returns the result.

        keep_segments: also return all prompts and responses as ids, which takes O(document) memory.
        """
        question = defuse(question)
        check_window(self._lengths, self._engine, question, defuse(format_instruction))
        tokenizer = self._engine.tokenizer
        memory = plan = ""
        turns: list[Turn] = []
        segments: list[Segment] = []
        prompt_tokens = response_tokens = 0
        for number, section in enumerate(self._sections(document), start=1):
            messages = update_messages(question, memory, plan, section, number)
            request = self._request(messages, self._lengths.turn, derive_seed(seed, "memory_turn", number))
            completion = yield request
            prompt_tokens += len(request.prompt_ids)
            response_tokens += len(completion.token_ids)
            if keep_segments:
                segments.append(_segment(request, completion, is_answer=False))
            turn = self._turn(number, memory, plan, completion)
            turns.append(turn)
            memory, plan = turn.memory, turn.plan
        messages = answer_messages(question, memory, defuse(format_instruction))
        request = self._request(messages, self._lengths.answer, derive_seed(seed, "memory_answer"))
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
        )

    def _turn(self, number: int, memory: str, plan: str, completion: Completion) -> Turn:
        """The state after a response: a new memory and plan, or the old ones if it does not parse."""
        response = self._engine.tokenizer.decode(completion.token_ids)
        parsed = parse_turn(response)
        memory_cut = False
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
        )

    def _sections(self, document: Document) -> Iterator[str]:
        """The document's chunks, defused, none longer than chunk_tokens; those without text are skipped."""
        for chunk in iter_chunks(document, self._lengths.chunk, self._count):
            if not chunk.strip():
                continue
            section = defuse(chunk)
            if section == chunk or self._count(section) <= self._lengths.chunk:
                yield section
            else:  # a document full of our tags grows by defusing
                yield from iter_chunks(section, self._lengths.chunk, self._count)

    def _request(self, messages: list[Message], max_tokens: int, seed: int) -> GenerationRequest:
        return GenerationRequest(
            prompt_ids=self._engine.tokenizer.encode_chat(messages),
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
