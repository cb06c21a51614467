"""Multi-hop questions over the knowledge graph (stage synthesize@multi_hop, paper section 3.1).

    documents -> triples (extraction.py) -> graph (knowledge_graph.py) -> steps that name one thing (steps.py)
      -> paths by random walk and breadth-first search (paths.py), values told vaguely (obfuscate.py) -> words and proof (narrative.py)
      -> four paradigms (multi_fact.py, temporal.py, causal.py, hypothetical.py) -> checked questions

Each question has one answer in the whole graph, checked against every triple; its proof is run again on its evidence before it
is taken. Departs from the paper: triples and words come from rules; `rewrite.py` makes them fluent where there is an LLM.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl

from stages.common.chat_access import open_chat
from stages.common.chat_client import OpenAIChat
from stages.common.metrics import Emit
from stages.common.records import Dropped, TaskType
from stages.common.seeds import rng
from stages.common.shards import ProcessExecutor, ShardExecutor
from stages.common.storage import DocumentStore, write_json, write_jsonl
from stages.synthesis import causal, hypothetical, multi_fact, temporal
from stages.synthesis.config import MultiHopConfig, MultiHopStage
from stages.synthesis.draft_checks import DraftChecks
from stages.synthesis.drafts import Draft, Workbench
from stages.synthesis.extracted import Extracted
from stages.synthesis.extraction import document_files, extract
from stages.synthesis.knowledge_graph import KnowledgeGraph, build_graph
from stages.synthesis.knowledge_graph_llm import ReadByModel, triples_by_model
from stages.synthesis.narrative import Narrator
from stages.synthesis.obfuscate import Obfuscator
from stages.synthesis.path_spread import spread_of
from stages.synthesis.paths import Sampler
from stages.synthesis.rewrite import rewrite_selection
from stages.synthesis.selection import Selection, write_selection
from stages.synthesis.steps import find_steps

log = logging.getLogger(__name__)

Stream = Iterator[Draft | None]

CHARACTERS_PER_TOKEN = 4
MAX_ROUNDS = 8  # of replacing questions that ask nearly the same as another
MAX_FAILURES = 300  # in a row, after which a stream counts as dry
# Of the questions, as long as there are others, each domain as many: a repository or a filing states all its facts itself.
SINGLE_SHARE = 0.15
HELD_COUNTS_AS = 10  # failures of a stream: one that gives nothing else need not be asked for long
# Of ten questions; what one paradigm cannot give, the others do.
SHARES = {multi_fact.PARADIGM: 4, temporal.PARADIGM: 2, causal.PARADIGM: 2, hypothetical.PARADIGM: 2}


def run(
    config: MultiHopStage, inputs: Mapping[str, Path], out_dir: Path, state_dir: Path, emit: Emit
) -> dict[str, int]:
    """Make multi-hop questions. NotEnoughDataError if the documents yield too few."""
    folder = inputs["documents"]
    extracted = extract(folder, ProcessExecutor(), config.generator.named_entities, state_dir)
    store = DocumentStore(document_files(folder))
    chat = open_chat(config.writer, state_dir)  # one for the stage: reading and rewriting share its budget
    read_by_model(extracted, store, chat, config.seed)
    graph = build_graph(extracted)
    selection = make_questions(graph, store, config.generator, config.seed)
    selection.dropped[:0] = extracted.dropped
    selection = rewrite_selection(selection, chat, out_dir)
    counts = write_selection(selection, TaskType.MULTI_HOP, config.generator, extracted.documents, out_dir)
    write_graph(graph, out_dir)
    spread = spread_of(selection.questions)
    write_json(out_dir / "paths.json", spread)
    emit(0, {f"multi_hop/{name}": value for name, value in spread.items() if isinstance(value, float)})
    return counts


def read_by_model(extracted: Extracted, store: DocumentStore, chat: OpenAIChat | None, seed: int) -> None:
    """Add the triples that a model reads, if an endpoint is configured; what it got wrong is counted among the drops."""
    if chat is None:
        return

    async def ask() -> ReadByModel:
        async with chat:
            named = extracted.names.filter(pl.col("type") != "package").select("document_id", "name", "type")
            known = ((store[document_id], name, kind) for document_id, name, kind in named.iter_rows())
            return await triples_by_model(known, chat, seed)

    found = asyncio.run(ask())
    extracted.triples = pl.concat([extracted.triples, found.triples])
    for reason, count in sorted(found.dropped.items()):
        detail = f"{count} replies or triples of the model"
        extracted.dropped.append(
            Dropped(reason=f"model_{reason}", stage="synthesize", detail=detail, record={"count": count})
        )
    log.info("the model read %d triples, %d dropped", found.triples.height, found.dropped.total())


def read_graph(
    folder: Path, executor: ShardExecutor, *, named_entities: bool = False
) -> tuple[KnowledgeGraph, Extracted]:
    """The graph of ingest's `documents` folder."""
    extracted = extract(folder, executor, named_entities)
    return build_graph(extracted), extracted


def make_questions(graph: KnowledgeGraph, documents: DocumentStore, config: MultiHopConfig, seed: int) -> Selection:
    """Up to `config.questions` questions: paradigms by their shares, in each the domains, families and hop counts in turn."""
    steps = find_steps(graph)
    distance = config.min_distance_tokens * CHARACTERS_PER_TOKEN
    sampler = Sampler(graph, steps, distance, Obfuscator(graph, documents))
    bench = Workbench(graph, steps, sampler, Narrator(graph), config.max_hops)
    checks = DraftChecks(bench.narrator, documents, config, seed)
    log.info("%d steps that name one thing", len(steps))
    streams = {name: _Turn(made) for name, made in _streams(bench, config, seed).items()}
    order = [name for name, share in SHARES.items() for _ in range(share)]
    singles = _Singles(bench, checks)
    position = 0
    for _ in range(MAX_ROUNDS):
        while len(checks.selection.questions) < config.questions:
            if singles.take_one():
                continue
            if not any(turn.waiting for turn in streams.values()):
                if not singles.holding:
                    break
                # Nothing else is left: what stands in one document is taken as it comes.
                singles.holding = False
                for turn in streams.values():
                    turn.begin_again()
            turn = streams[order[position % len(order)]]
            position += 1
            turn.take_one(checks, singles)
        if not checks.drop_near_duplicates():
            break
    return checks.close()


class _Singles:
    """Holds drafts whose facts all stand in one document back, beyond SINGLE_SHARE, until nothing else is left."""

    def __init__(self, bench: Workbench, checks: DraftChecks) -> None:
        self._sampler, self._checks = bench.sampler, checks
        self._held: dict[str, deque[Draft]] = {domain: deque() for domain in sorted(bench.entities)}
        self._taken = Counter[str]()
        self.holding = True

    def holds_back(self, draft: Draft) -> bool:
        """True if the draft stands in one document and waits."""
        if not self.holding or self._sampler.documents(draft.rows) > 1:
            return False
        self._held.setdefault(draft.domain, deque()).append(draft)
        return True

    def take_one(self) -> bool:
        """One that was held back: of a domain that has not had its share of them, or of any once nothing is held any more."""
        share = SINGLE_SHARE / max(1, len(self._held)) * len(self._checks.selection.questions)
        behind = sorted(self._held, key=lambda domain: self._taken[domain])
        return any(self._offer(domain) for domain in behind if not self.holding or self._taken[domain] < share)

    def _offer(self, domain: str) -> bool:
        held = self._held[domain]
        while held:
            if self._checks.offer(held.popleft()):
                self._taken[domain] += 1
                return True
        return False


class _Turn:
    """The streams of a paradigm, one question of each in turn; a stream that fails too often is given up."""

    def __init__(self, streams: list[Stream]) -> None:
        self._streams = streams
        self.begin_again()

    def begin_again(self) -> None:
        """All streams are asked again."""
        self.waiting = [(stream, 0) for stream in self._streams]

    def take_one(self, checks: DraftChecks, singles: _Singles) -> None:
        """One question from the next stream that gives one."""
        while self.waiting:
            stream, failures = self.waiting.pop(0)
            for draft in stream:
                held = draft is not None and singles.holds_back(draft)
                if draft is not None and not held and checks.offer(draft):
                    self.waiting.append((stream, 0))
                    return
                failures += HELD_COUNTS_AS if held else 1
                if failures >= MAX_FAILURES:
                    break


def _streams(bench: Workbench, config: MultiHopConfig, seed: int) -> dict[str, list[Stream]]:
    """Every source of drafts, with its own random numbers."""
    domains = sorted(bench.entities)
    hops = range(config.min_hops, config.max_hops + 1)
    numbers, dates = ({domain for found, domain in bench.groups if found == kind} for kind in ("number", "date"))
    found: dict[str, list[Stream]] = {name: [] for name in SHARES}
    for domain in domains:
        for count in hops:
            chance = rng(seed, "chains", domain, count)
            found[multi_fact.PARADIGM].append(multi_fact.chains(bench, domain, count, chance))
    for domain in sorted(numbers):
        found[multi_fact.PARADIGM].append(multi_fact.comparisons(bench, domain, rng(seed, "comparisons", domain)))
        found[hypothetical.PARADIGM].append(hypothetical.exchanges(bench, domain, rng(seed, "exchanges", domain)))
    for domain in sorted(dates):
        found[temporal.PARADIGM].append(temporal.orders(bench, domain, rng(seed, "orders", domain)))
        found[temporal.PARADIGM].append(temporal.gaps(bench, domain, rng(seed, "gaps", domain)))
        found[hypothetical.PARADIGM].append(hypothetical.later(bench, domain, rng(seed, "later", domain)))
    found[temporal.PARADIGM].append(temporal.statements(bench, rng(seed, "statements")))
    for half in (hops[: len(hops) // 2], hops[len(hops) // 2 :]):
        if half:
            found[hypothetical.PARADIGM].append(hypothetical.without(bench, half, rng(seed, "without", half[0])))
    for count in hops:
        found[causal.PARADIGM].append(causal.stated(bench, count, rng(seed, "stated", count)))
        found[causal.PARADIGM].append(causal.dependencies(bench, count, rng(seed, "dependencies", count)))
    return found


def write_graph(graph: KnowledgeGraph, out_dir: Path) -> None:
    """The graph's size, and a line for each merge: what was read as one, by which rule, and where both stand (merges.py)."""
    counts = graph.merges.group_by("kind", "rule").len().sort("kind", "rule")
    write_json(
        out_dir / "graph.json",
        {
            "nodes": graph.nodes.height,
            "triples": graph.triples.height,
            "relations": len(graph.relations),
            "rules": dict(sorted(graph.triples["rule"].value_counts().iter_rows())),
            "types": dict(sorted(graph.nodes["type"].value_counts().iter_rows())),
            "merges": {f"{kind}, {rule}": count for kind, rule, count in counts.iter_rows()},
        },
    )
    write_jsonl(out_dir / "merges.jsonl", graph.merges.iter_rows(named=True))
