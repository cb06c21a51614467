"""The memory agent's own turns as supervised examples: what an exact reader would have kept after each section.

    section 1    <memory>Nothing about the question yet.</memory><plan>Look for what the question asks.</plan>
    section 2    <memory>The red key was found in the kitchen.</memory><plan>Look for what else the question needs.</plan>
    answer       the kitchen

A small model that never saw the form reads and writes memories, but does not carry a fact through them, so RL has no
reward to start from. The prompts are those of the agent itself (stages/memory/agent.py), which is run with an exact
reader in the model's place: chunks, prompt order, caps and the split of the question are all its own.

The exact reader keeps the sample's evidence, word for word, in the order in which it stands in the text, each as soon as its section is read.
A sample is left out if the text of an evidence was cut by a section's end, if the memory would not fit into its cap or a
turn into its own, or if it has no evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from threading import Event
from typing import Any, NamedTuple

from stages.common.prompts import answer_instruction, core_question, defuse_tags, materialise_context
from stages.common.records import Sample
from stages.common.rollouts import Completion, Segment
from stages.common.seeds import rng
from stages.common.storage import DocumentStore
from stages.common.tokens import ChatTokenizer
from stages.engines.scripted_engine import ScriptedEngine
from stages.memory.agent import MemoryAgent
from stages.memory.config import MemoryAgentConfig
from stages.memory.prompts import defuse
from stages.memory.query import split_query
from stages.memory.results import AgentResult
from stages.sft.dataset import Example, epoch_order, response_text
from stages.sft.traces import shortened

NOTHING_FOUND = "Nothing about the question yet."
FIRST_PLAN = "Look for what the question asks."
NEXT_PLAN = "Look for what else the question needs."
_WINDOW = 1 << 40  # no window bounds a text that is only written down; sft.max_tokens does


class Reading(NamedTuple):
    """A segment per section and one for the answer; whether each section added to the memory."""

    segments: tuple[Segment, ...]
    adds: tuple[bool, ...]


def agent_examples(
    samples: Sequence[Sample],
    documents: DocumentStore,
    tokenizer: ChatTokenizer,
    agent: MemoryAgentConfig,
    wanted: int,
    max_tokens: int,
    seed: int,
) -> list[Example]:
    """Turns and answers of up to `wanted` samples, the task types in proportion of the data.

    max_tokens: of one turn, prompt and response; a sample with a longer one is left out as a whole.
    """
    found: list[Example] = []
    kept = 0
    for index in epoch_order([sample.task_type.value for sample in samples], seed, 0) if wanted else []:
        sample = samples[index]
        read = reading(sample, materialise_context(sample, documents), tokenizer, agent)
        if read is None:
            continue
        lengths = [len(segment.prompt_ids) + len(segment.response_ids) for segment in read.segments]
        if max(lengths) <= max_tokens:
            kept += 1
            taught = _balanced(read, rng(seed, "agent traces", sample.id))
            found += [
                Example(
                    f"{sample.id}/turn-{number}", sample.task_type.value, part.prompt_ids, part.response_ids, "agent"
                )
                for number, part in enumerate(read.segments, start=1)
                if number - 1 in taught
            ]
        if kept == wanted:
            break
    return found


def _balanced(read: Reading, chance: Random) -> set[int]:
    """Places of the segments to teach: turns that add to the memory, as many that leave it as it is, and the answer.

    Most sections say nothing about a question. Taught in their true share, they teach a small model to keep what it has,
    whatever it reads (measured: docs/results/memory_agent.md).
    """
    same = [place for place, adds in enumerate(read.adds) if not adds]
    adding = [place for place, adds in enumerate(read.adds) if adds]
    return {*adding, *chance.sample(same, k=min(len(same), len(adding))), len(read.adds)}


def reading(sample: Sample, text: str, tokenizer: Any, agent: MemoryAgentConfig) -> Reading | None:
    """The exact reader's turns over `text` and its answer; None if the sample cannot be read so (see above).

    tokenizer: any object with ChatTokenizer's interface.
    """
    as_shown = (defuse_tags(item.quote) for item in sample.evidence)
    quotes = [defuse(quote) for quote in sorted(dict.fromkeys(as_shown), key=text.find)]
    if not quotes:
        return None
    engine: Any = ScriptedEngine(lambda *_: "", tokenizer, max_model_tokens=_WINDOW, keep_requests=False)
    reader = MemoryAgent(
        engine,
        agent.chunk_tokens,
        agent.memory_tokens,
        agent.turn_tokens,
        agent.answer_tokens,
        prompt_order=agent.prompt_order,
        split=None if agent.split_question == "off" else split_query,
    )
    missing = quotes
    everything_read = Event()
    reasoning_is_open = bool(getattr(tokenizer, "opens_reasoning", False))
    steps = reader.trajectory(
        core_question(sample), text, answer_instruction(sample), 0, keep_segments=True, on_answer=everything_read.set
    )
    request = next(steps)
    while True:
        if everything_read.is_set():
            response = response_text(sample, None, reasoning_is_open)
        else:
            prompt = tokenizer.decode(request.prompt_ids)
            missing = [quote for quote in missing if quote not in prompt]
            response = "</think>\n\n" * reasoning_is_open + _turn([quote for quote in quotes if quote not in missing])
        ids = (*tokenizer.encode_text(response), tokenizer.eos_id)
        if len(ids) > request.max_tokens:
            return None
        try:
            request = steps.send(Completion(ids, (0.0,) * len(ids), "stop"))
        except StopIteration as finished:
            result: AgentResult = finished.value
            if missing or any(turn.memory_cut for turn in result.turns):
                return None
            before = "", *(turn.memory for turn in result.turns)
            adds = [turn.memory not in (was, NOTHING_FOUND) for turn, was in zip(result.turns, before, strict=False)]
            return Reading(result.segments, tuple(adds))


def _turn(found: Sequence[str]) -> str:
    """The reply of a turn: all evidence so far."""
    memory = "\n".join(shortened(quote) for quote in found) or NOTHING_FOUND
    return f"<memory>{memory}</memory><plan>{NEXT_PLAN if found else FIRST_PLAN}</plan>"
