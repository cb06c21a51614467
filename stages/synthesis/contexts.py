"""One question's context (paper section 3, context extension): evidence excerpts, then irrelevant text to the target length.

The target is drawn from the length distribution; evidence documents give excerpts around their spans (a dialogue its window
exactly); distractors are whole documents where they fit and long spans otherwise, hard ones first; evidence is placed
uniformly. Every count is of the text that a model will see, exact, and never above the limit.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from stages.common.prompts import materialise_context
from stages.common.records import QAPair, Sample, Span
from stages.common.seeds import rng
from stages.common.storage import DocumentStore
from stages.common.tokens import TokenCounter
from stages.synthesis.config import AssembleConfig
from stages.synthesis.context_order import Placed, arrange
from stages.synthesis.context_parts import Assembled, Block, Draft, needed_spans, tokens_before
from stages.synthesis.distractor_rules import guard_of, is_open
from stages.synthesis.distractors import DistractorSource, Place, short_excerpt
from stages.synthesis.excerpts import Excerpt, excerpt_around, excerpts_over, merge
from stages.synthesis.lengths import LengthDistribution
from stages.synthesis.line_tokens import LineCounter, LineTokens
from stages.synthesis.long_excerpts import LONG_TOKENS, long_excerpt, whole_document
from stages.synthesis.survey import Survey
from stages.synthesis.text_words import Library

_FEWEST_PARTS = 3  # finding the right document is always part of the task
_LEAST_LONG_PART_TOKENS = 2048  # a context has at most so many long parts that each has about this length
_SMALLEST_DISTRACTOR_TOKENS = 24
_LEAST_FILLER_TOKENS = 256
_TRIES, _TRIES_PER_PART = 60, 4
_WHOLE_DOCUMENT_SHARE = 0.5

TooLong = str  # what was seen, for dropped.jsonl


class ContextMaker:
    """Makes contexts over one corpus."""

    def __init__(
        self,
        documents: DocumentStore,
        survey: Survey,
        counter: TokenCounter,
        limits: AssembleConfig,
        seed: int,
        *,
        counts_add_up: bool = True,
    ) -> None:
        """counts_add_up: False for a tokenizer whose counts of lines do not (line_tokens.py): contexts are counted whole."""
        self._survey = survey
        self._library = Library(documents)
        self._counter = counter
        self._lines = LineCounter(counter)
        self._last_tag = counter.count("</document>") - self._lines.closing_tokens
        self._source = DistractorSource(survey, self._library)
        self._limits = limits
        self._lengths = LengthDistribution.with_mean(
            limits.min_context_tokens, limits.mean_context_tokens, limits.max_context_tokens
        )
        self._seed = seed
        self._reserved = reserved_documents(survey, limits.reserved_documents, seed)
        self._counts_add_up = counts_add_up

    def make(self, pair: QAPair) -> Assembled | TooLong:
        """The question with its context, or what was too long about its evidence."""
        limits = self._limits
        chance = rng(self._seed, "assemble", pair.id)
        target = round(self._lengths.length_at(chance.random()))
        needed = needed_spans(pair)
        fewest = max(_FEWEST_PARTS, len(needed) + 1, -(-target // limits.max_span_tokens))
        parts = chance.randint(fewest, max(fewest, target // _LEAST_LONG_PART_TOKENS))
        share = max(_SMALLEST_DISTRACTOR_TOKENS, target // parts)
        draft = self._evidence(pair, needed, share, chance)
        if not isinstance(draft, Draft):
            return draft
        if draft.tokens + self._last_tag > limits.max_context_tokens:
            return _too_much(draft.tokens, limits.max_context_tokens)
        hard = rng(self._seed, "hard", pair.id).random() < limits.hard_distractors
        size = min(share, limits.max_span_tokens)
        tries = _TRIES + _TRIES_PER_PART * parts
        self._fill(draft, pair, islice(self._source.places(pair, chance, hard=hard), tries), size, target, chance)
        if (
            draft.tokens + self._last_tag < limits.min_context_tokens
        ):  # the last excerpt ended at a line's end before the target
            more = islice(self._source.places(pair, chance, hard=hard), tries)
            self._fill(
                draft, pair, more, size, min(limits.max_context_tokens, limits.min_context_tokens + size), chance
            )
        return self._finish(pair, draft)

    def exact_tokens(self, sample: Sample) -> int:
        """Tokens of the materialised context, counted as a whole."""
        return self._counter.count(materialise_context(sample, self._library.documents))

    # --- evidence

    def _evidence(
        self, pair: QAPair, needed: dict[str, list[tuple[int, int]]], share: int, chance: random.Random
    ) -> Draft | TooLong:
        draft = Draft(evidence_documents=len(needed))
        most = self._limits.max_span_tokens
        for document_id, spans in needed.items():
            number = self._survey.number_of[document_id]
            tags = self._tag_tokens(number)
            # Of a window one turn more would change which turn is the N-th.
            budget = 1 if pair.proof.get("window") else min(most, max(1, share - tags))
            text, lines = self._library[document_id].text, self._line_tokens(number)
            found = self._over(text, lines, spans, budget, chance)
            if found is None:
                characters = sum(end - start for start, end in spans)
                return f"{characters} characters of evidence in {document_id} exceed {most} tokens"
            draft.blocks[document_id] = Block(self._counted(found, lines, text), tags)
        return draft

    def _over(
        self, text: str, lines: LineTokens, spans: Sequence[tuple[int, int]], budget: int, chance: random.Random
    ) -> Sequence[Excerpt] | None:
        """Excerpts of one document that hold all spans; None if they would be longer than a document may give."""
        most = self._limits.max_span_tokens
        if budget >= LONG_TOKENS:
            together = long_excerpt(lines, (min(s for s, _ in spans), max(e for _, e in spans)), budget, chance)
            if together is not None:
                return [together]
            groups = merge(list(spans))
            each = max(1, budget // len(groups))
            parts = [
                long_excerpt(lines, group, each, chance)
                or excerpt_around(text, group, 1, most, self._counter.offsets, chance)
                for group in groups
            ]
            if all(part is not None for part in parts) and sum(part.tokens for part in parts if part) <= most:
                joined = merge([(part.start, part.end) for part in parts if part is not None])
                return [Excerpt(start, end, 0) for start, end in joined]
            budget = 1
        return excerpts_over(text, spans, budget, most, self._counter.offsets, chance)

    # --- distractors

    def _fill(
        self, draft: Draft, pair: QAPair, places: Iterator[Place], size: int, target: int, chance: random.Random
    ) -> None:
        """Other documents' excerpts of about `size` tokens until the target; the last one takes what is left."""
        evidence = list(dict.fromkeys(span.document_id for span in pair.evidence))
        guard = guard_of(pair, [self._library[document_id] for document_id in evidence])
        may_be_held_out = any(self.is_reserved(document_id) for document_id in evidence)
        stated: set[str] = set()
        if is_open(pair):
            stated = set().union(*(self._source.documents_with_key(key) for key in self._source.keys_of(pair)))
        smallest = max(_SMALLEST_DISTRACTOR_TOKENS, min(_LEAST_FILLER_TOKENS, size // 8))  # no scraps in long contexts
        for place in places:
            left = target - draft.tokens - self._last_tag
            if left < smallest:
                return
            number = self._survey.number_of[place.document_id]
            if place.document_id in draft.blocks or place.document_id in stated:
                continue
            if not may_be_held_out and self.is_reserved(place.document_id):
                continue
            if not guard.allows_document(self._survey.titles[number], self._survey.sources[number]):
                continue
            tags = self._tag_tokens(number)
            # What would be too little for one more excerpt goes to this one.
            budget = (size if left >= size + 2 * tags + smallest else left) - tags
            if budget < smallest // 2:
                continue
            found = self._take(place, number, min(budget, self._limits.max_span_tokens), left - tags, chance)
            if found is None or not smallest // 2 <= found.tokens <= left - tags:
                continue
            if guard.allows_text(self._library.words(place.document_id), found.start, found.end):
                draft.blocks[place.document_id] = Block([found], tags)

    def is_reserved(self, document_id: str) -> bool:
        """True for a document that stands beside no other document's evidence, unless that is reserved, too."""
        return document_id in self._reserved

    def _take(self, place: Place, number: int, budget: int, left: int, chance: random.Random) -> Excerpt | None:
        """A whole document if it fits, else a part of it around the place."""
        lines = self._line_tokens(number)
        whole = whole_document(lines)
        if whole is not None and whole.tokens <= min(left, self._limits.max_span_tokens):
            if whole.tokens <= budget and budget >= LONG_TOKENS:
                return whole
            if chance.random() < _WHOLE_DOCUMENT_SHARE and whole.tokens >= _SMALLEST_DISTRACTOR_TOKENS:
                return whole
        if budget >= LONG_TOKENS:
            found = long_excerpt(lines, (place.start, place.end), budget, chance) or long_excerpt(
                lines, (place.start, place.start), budget, chance
            )
            if found is not None:
                return found
            budget = LONG_TOKENS  # a segment longer than the budget: cut inside it
        text = self._library[place.document_id].text
        short = short_excerpt(text, place, budget, self._counter.offsets, chance)
        return self._counted([short], lines, text)[0] if short is not None else None

    # --- counting and order

    def _finish(self, pair: QAPair, draft: Draft) -> Assembled | TooLong:
        """Arrange and count; take distractors away again while the count is over the limit."""
        limit = self._limits.max_context_tokens
        while True:
            order = arrange(
                [self._placed(pair, name, draft) for name in draft.blocks], rng(self._seed, "order", pair.id)
            )
            spans = [
                Span(document_id=name, start=excerpt.start, end=excerpt.end)
                for name in order
                for excerpt in draft.blocks[name].excerpts
            ]
            sample = Sample(**dict(pair), context=spans, context_tokens=0)
            tokens = draft.tokens + self._last_tag if self._counts_add_up else self.exact_tokens(sample)
            if tokens <= limit:
                counted = sample.model_copy(update={"context_tokens": tokens})
                return Assembled(counted, self._positions(pair, order, draft))
            if len(draft.blocks) == draft.evidence_documents:
                return _too_much(tokens, limit)
            draft.blocks.popitem()

    def _placed(self, pair: QAPair, document_id: str, draft: Draft) -> Placed:
        block = draft.blocks[document_id]
        found = [
            at
            for evidence in pair.evidence
            if evidence.document_id == document_id and (at := tokens_before(block, evidence)) is not None
        ]
        return Placed(document_id, block.tokens, sum(found) / len(found) if found else None)

    def _positions(self, pair: QAPair, order: Sequence[str], draft: Draft) -> tuple[float, ...]:
        begins, total = {}, 0
        for name in order:
            begins[name] = total
            total += draft.blocks[name].tokens
        found = []
        for evidence in pair.evidence:
            at = tokens_before(draft.blocks[evidence.document_id], evidence)
            if at is not None:
                found.append(round((begins[evidence.document_id] + at) / total, 4))
        return tuple(found)

    def _counted(self, excerpts: Sequence[Excerpt], lines: LineTokens, text: str) -> list[Excerpt]:
        return [Excerpt(e.start, e.end, self._lines.span(lines, text, e.start, e.end)) for e in excerpts]

    def _tag_tokens(self, number: int) -> int:
        return self._survey.opening_tokens[number] + self._lines.closing_tokens

    def _line_tokens(self, number: int) -> LineTokens:
        columns: list[Any] = [
            self._survey.column(name, number) for name in ("starts", "text_ends", "before", "last_tokens")
        ]
        return LineTokens(*columns)


def _too_much(tokens: int, limit: int) -> TooLong:
    return f"the evidence takes {tokens} tokens, a context holds {limit}"


def reserved_documents(survey: Survey, share: float, seed: int) -> frozenset[str]:
    """The same share of every category, one document at least: questions of every task can then be held out."""
    reserved: set[str] = set()
    for category in sorted(set(survey.categories)):
        pairs = zip(survey.ids, survey.categories, strict=True)
        of_category = sorted(document_id for document_id, other in pairs if other == category)
        rng(seed, "reserved", category).shuffle(of_category)
        reserved |= set(of_category[: math.ceil(share * len(of_category))])
    return frozenset(reserved)
