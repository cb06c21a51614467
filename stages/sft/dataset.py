"""Samples as supervised examples: the single-pass prompt, and the reasoning and gold answer with the end token.

Loss is on what follows the prompt alone. The answer is written in the form that the prompt asks for (a list: items
separated by semicolons); reasoning, where there is any, stands in <think> tags before it (traces.py, teacher.py). Where
the chat template opens <think> itself, the reasoning goes on from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from stages.common.prompts import full_context_messages, materialise_context
from stages.common.records import Sample
from stages.common.seeds import rng
from stages.common.storage import DocumentStore
from stages.common.tokens import ChatTokenizer


@dataclass(frozen=True)
class Example:
    """prompt_ids: the conversation up to the assistant's turn. answer_ids: the answer, end token included.

    form: full_context, or agent for a turn or the answer of the memory agent (agent_traces.py).
    """

    sample_id: str
    task_type: str
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    form: Literal["full_context", "agent"] = "full_context"


def answer_text(sample: Sample) -> str:
    """The gold answer as the model should write it."""
    return sample.answer if isinstance(sample.answer, str) else "; ".join(sample.answer)


def response_text(sample: Sample, trace: str | None, reasoning_is_open: bool = False) -> str:
    """What the model should write after the prompt."""
    if trace is None and not reasoning_is_open:
        return answer_text(sample)
    opening = "" if reasoning_is_open else "<think>\n"
    return f"{opening}{trace + chr(10) if trace else ''}</think>\n\n{answer_text(sample)}"


def build_examples(
    samples: Sequence[Sample],
    documents: DocumentStore,
    tokenizer: ChatTokenizer,
    max_tokens: int,
    traces: Mapping[str, str] | None = None,
) -> tuple[list[Example], int]:
    """Examples of at most `max_tokens` tokens (prompt plus answer), and how many samples were longer.

    traces: reasoning by sample id; samples without one are answered straight away.
    """
    examples = []
    for sample in samples:
        prompt = tokenizer.encode_chat(full_context_messages(sample, materialise_context(sample, documents)))
        response = response_text(sample, (traces or {}).get(sample.id), tokenizer.opens_reasoning)
        answer = (*tokenizer.encode_text(response), tokenizer.eos_id)
        if len(prompt) + len(answer) <= max_tokens:
            examples.append(Example(sample.id, sample.task_type.value, prompt, answer))
    return examples, len(samples) - len(examples)


def epoch_order(task_types: Sequence[str], seed: int, epoch: int) -> list[int]:
    """All indices once, shuffled so that every stretch holds the task types in proportion of the data.

    Example: 4 of a and 2 of b might give a b a a b a: sample i of a task's n lands near place i/n of the epoch.
    """
    stream = rng(seed, "sft", epoch)
    places: list[tuple[float, int]] = []
    for task in sorted(set(task_types)):
        mine = [index for index, other in enumerate(task_types) if other == task]
        stream.shuffle(mine)
        places += [((rank + stream.random()) / len(mine), index) for rank, index in enumerate(mine)]
    return [index for _, index in sorted(places)]


def batch_indices(task_types: Sequence[str], batch_size: int, step: int, seed: int) -> list[int]:
    """The examples of a step (0-based): a window on the endless row of epochs, so it needs no state to resume."""
    first = step * batch_size
    orders: dict[int, list[int]] = {}
    batch = []
    for place in range(first, first + batch_size):
        epoch, rank = divmod(place, len(task_types))
        if epoch not in orders:
            orders[epoch] = epoch_order(task_types, seed, epoch)
        batch.append(orders[epoch][rank])
    return batch
