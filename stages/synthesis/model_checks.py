"""Checks that ask a model (paper section 3.3), written against the engine protocol.

- closed book (knowledge grounding): k attempts without documents; what is answered anyway tests no reading;
- pass rate: k attempts with the context; stratify bins by it;
- robustness: k attempts with more irrelevant text; a sample whose pass@k falls to zero is too brittle to learn from.

Departure: robustness is asked only of samples that were solved at least once, for nothing can fall from zero; the
others count as unsolvable without spending generation on them.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from stages.common.prompts import closed_book_messages, full_context_messages, materialise_context, opening_tag
from stages.common.records import AnswerKind, Sample, Span
from stages.common.rollouts import GenerationRequest
from stages.common.seeds import derive_seed, rng
from stages.common.storage import DocumentStore
from stages.common.tokens import Message
from stages.engines.base import RolloutEngine
from stages.synthesis.checks import Refusal
from stages.synthesis.config import VerifyConfig
from stages.synthesis.distractors import RandomPlaces, distractor
from stages.synthesis.excerpts import TokenOffsets
from stages.synthesis.open_questions import CountedIn
from stages.synthesis.text_words import Library

log = logging.getLogger(__name__)

Reward = Callable[[Sample, str], float]

_STANDARD_ERRORS = 2.0  # letters: how far above chance the closed-book mean must be
_TRIES = 200
_LEAST_EXTRA_TOKENS = 16

CLOSED_BOOK, WITH_CONTEXT, ROBUSTNESS = CHECK_NAMES = ("closed_book", "with_context", "robustness")
# Parts of the seeds of the attempts.
_SEEDED_AS = {CLOSED_BOOK: "closed book", WITH_CONTEXT: "with context", ROBUSTNESS: "more distractors"}


@dataclass(frozen=True)
class Verdict:
    """What the model did with one sample; None: not asked."""

    closed_book_mean: float | None = None
    pass_rate: float | None = None
    robust_pass_rate: float | None = None
    refused: Refusal | None = None


@dataclass
class CheckCost:
    """What one check took. seconds: its wall time, with making its prompts and scoring; they never enter a cached output."""

    samples: int = 0
    attempts: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


class ModelChecks:
    """The three checks with one engine. `reward(sample, response)` scores a response in [0, 1].

    costs: of each check, in the order in which they run.
    """

    def __init__(self, engine: RolloutEngine, reward: Reward, config: VerifyConfig, seed: int) -> None:
        self._engine = engine
        self._reward = reward
        self._config = config
        self._seed = seed
        self.costs = {name: CheckCost() for name in CHECK_NAMES}

    @contextmanager
    def _timed(self, check: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.costs[check].seconds += time.monotonic() - started

    def judge(self, samples: Sequence[Sample], documents: DocumentStore, offsets: TokenOffsets) -> dict[str, Verdict]:
        """A verdict per sample id. Each check is one call of the engine over all samples that are still in."""
        verdicts: dict[str, Verdict] = {}
        open_samples = []
        for sample in samples:
            if self._room(self._full_context_ids(sample, documents)) < 0:
                detail = f"prompt and answer exceed the model's {self._engine.max_model_tokens} tokens"
                verdicts[sample.id] = Verdict(refused=("too_long_for_model", detail))
            else:
                open_samples.append(sample)

        with self._timed(CLOSED_BOOK):
            prompts = [self._closed_book_ids(sample) for sample in open_samples]
            closed = self._attempt(CLOSED_BOOK, open_samples, prompts)
        for sample, rewards in zip(open_samples, closed, strict=True):
            mean = _mean(rewards)
            refused = self._answerable(sample, mean)
            verdicts[sample.id] = Verdict(closed_book_mean=mean, refused=refused)
        open_samples = [sample for sample in open_samples if verdicts[sample.id].refused is None]

        with self._timed(WITH_CONTEXT):
            prompts = [self._full_context_ids(sample, documents) for sample in open_samples]
            read = self._attempt(WITH_CONTEXT, open_samples, prompts)
        solved = []
        for sample, rewards in zip(open_samples, read, strict=True):
            refused = None
            if max(rewards) > 0:
                solved.append(sample)
            elif self._config.require_solvable:
                refused = ("not_robust", f"none of {len(rewards)} attempts with the context earns a reward")
            closed_mean = verdicts[sample.id].closed_book_mean
            verdicts[sample.id] = Verdict(closed_mean, _mean(rewards), refused=refused)

        with self._timed(ROBUSTNESS):
            extended = self._robustness(solved, documents, offsets)
        for sample, rewards in extended:
            refused = None
            if self._config.require_solvable and max(rewards) == 0:
                refused = ("not_robust", f"none of {len(rewards)} attempts with more irrelevant text earns a reward")
            known = verdicts[sample.id]
            verdicts[sample.id] = Verdict(known.closed_book_mean, known.pass_rate, _mean(rewards), refused)
        return verdicts

    def _robustness(
        self, samples: Sequence[Sample], documents: DocumentStore, offsets: TokenOffsets
    ) -> list[tuple[Sample, list[float]]]:
        source, library = RandomPlaces.of_store(documents), Library(documents)
        counted_in = CountedIn(library)
        extended = []
        for sample in samples:
            room = self._room(self._full_context_ids(sample, documents))
            budget = min(self._config.extra_distractor_tokens, room)
            if budget >= _LEAST_EXTRA_TOKENS:
                extended.append(with_more_distractors(sample, budget, library, source, counted_in, offsets, self._seed))
        # Titles cost tokens too: what does not fit after all is not asked.
        prompts = [(sample, self._full_context_ids(sample, documents)) for sample in extended]
        fitting = [(sample, prompt) for sample, prompt in prompts if self._room(prompt) >= 0]
        asked = [sample for sample, _ in fitting]
        return list(zip(asked, self._attempt(ROBUSTNESS, asked, [prompt for _, prompt in fitting]), strict=True))

    def _attempt(self, check: str, samples: Sequence[Sample], prompts: Sequence[tuple[int, ...]]) -> list[list[float]]:
        """Rewards of k completions per prompt."""
        log.info("%s: %d samples, %d attempts each", check, len(samples), self._config.attempts)
        if not samples:
            return []
        requests = [
            GenerationRequest(
                prompt_ids=prompt,
                n=self._config.attempts,
                max_tokens=self._config.max_answer_tokens,
                temperature=self._config.temperature,
                top_p=self._config.top_p,
                seed=derive_seed(self._seed, "verify", _SEEDED_AS[check], sample.id),
            )
            for sample, prompt in zip(samples, prompts, strict=True)
        ]
        answered = self._engine.generate_all(requests)
        rewards = [
            [self._reward(sample, self._engine.tokenizer.decode(completion.token_ids)) for completion in completions]
            for sample, completions in zip(samples, answered, strict=True)
        ]
        cost = self.costs[check]
        cost.samples += len(samples)
        cost.attempts += self._config.attempts * len(samples)
        cost.prompt_tokens += sum(map(len, prompts))
        cost.completion_tokens += sum(len(each.token_ids) for completions in answered for each in completions)
        log.info("%s: mean reward %.3f", check, _mean([_mean(row) for row in rewards]))
        return rewards

    def _answerable(self, sample: Sample, mean: float) -> Refusal | None:
        if sample.proof.get("kind") == "not_mentioned":
            # Whoever sees no documents rightly says "not mentioned". What keeps this from being a habit that pays are the
            # questions of the same form that have an answer.
            return None
        limit = closed_book_limit(sample, self._config.closed_book_threshold, self._config.attempts)
        if mean <= limit:
            return None
        return "answerable_without_documents", f"closed-book mean reward {mean:.3f} is above {limit:.3f}"

    def _room(self, prompt: tuple[int, ...]) -> int:
        """Tokens that the model's window has left beside the prompt and the answer."""
        return self._engine.max_model_tokens - len(prompt) - self._config.max_answer_tokens

    def _closed_book_ids(self, sample: Sample) -> tuple[int, ...]:
        return self._ids(closed_book_messages(sample))

    def _full_context_ids(self, sample: Sample, documents: DocumentStore) -> tuple[int, ...]:
        return self._ids(full_context_messages(sample, materialise_context(sample, documents)))

    def _ids(self, messages: list[Message]) -> tuple[int, ...]:
        return self._engine.tokenizer.encode_chat(messages)


def closed_book_limit(sample: Sample, threshold: float, attempts: int) -> float:
    """The highest closed-book mean that is kept.

    Letters are guessed right at a rate of 1 / options, so for them the mean must be above chance by two standard
    errors of `attempts` guesses as well. With one attempt that is above 1: a single hit tells nothing.
    """
    if sample.answer_kind is not AnswerKind.LETTER or not sample.choices:
        return threshold
    chance = 1 / len(sample.choices)
    return max(threshold, chance + _STANDARD_ERRORS * math.sqrt(chance * (1 - chance) / attempts))


def with_more_distractors(
    sample: Sample,
    extra_tokens: int,
    library: Library,
    source: RandomPlaces,
    counted_in: CountedIn,
    offsets: TokenOffsets,
    seed: int,
) -> Sample:
    """The sample with up to `extra_tokens` tokens of further irrelevant excerpts between its documents."""
    chance = rng(seed, "extra distractors", sample.id)
    shown = {span.document_id for span in sample.context}
    asked = counted_in.asked(sample)
    blocks = _blocks(sample.context)
    left = extra_tokens
    for place in islice(source.places(sample, chance), _TRIES):
        if left < _LEAST_EXTRA_TOKENS:
            break
        if place.document_id in shown or counted_in.states(place.document_id, asked):
            continue
        header = len(offsets(f"{opening_tag(library[place.document_id].title)}\n\n</document>\n"))
        if left - header < _LEAST_EXTRA_TOKENS // 2:
            continue
        made = distractor(sample, place, library, left - header, offsets, chance)
        if made is not None:
            span = Span(document_id=place.document_id, start=made.start, end=made.end)
            blocks.insert(chance.randrange(len(blocks) + 1), [span])
            shown.add(place.document_id)
            left -= made.tokens + header
    context = [span for block in blocks for span in block]
    return Sample(**{**dict(sample), "context": context})


def _blocks(context: Sequence[Span]) -> list[list[Span]]:
    """Neighbouring spans of one document stay together."""
    blocks: list[list[Span]] = []
    for span in context:
        if blocks and blocks[-1][0].document_id == span.document_id:
            blocks[-1].append(span)
        else:
            blocks.append([span])
    return blocks


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def verification_row(sample: Sample, verdict: Verdict | None) -> dict[str, Any]:
    """A line of verification.jsonl."""
    verdict_or_none = verdict or Verdict()
    return {
        "id": sample.id,
        "model_checked": verdict_or_none.pass_rate is not None,
        "closed_book_mean": verdict_or_none.closed_book_mean,
        "pass_rate": verdict_or_none.pass_rate,
        "robust_pass_rate": verdict_or_none.robust_pass_rate,
    }
