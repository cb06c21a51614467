"""Sampling paths around a target entity (paper section 3.1): random walks and breadth-first search, against the steps.

A path ends at the target and begins at something that a question can name: a value ("Algiers"), a phrase, or an entity's own
name. Values are told vaguely where obfuscate.py can. Among several tries the path is taken whose steps are read from the most
documents, those of the question's other facts (`beside`) among them, and that has something vague in it; steps in one document
must stand `min_distance_characters` apart where that is asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from random import Random

import numpy as np
import rustworkx as rx

from stages.synthesis.knowledge_graph import Ids, KnowledgeGraph
from stages.synthesis.obfuscate import Obfuscator
from stages.synthesis.steps import Step, Steps

TRIES = 8
PATIENCE = 3  # tries in a row that bring nothing better
MAX_BREADTH = 24
EDGES_AT_ONCE = 65_536
VAGUE_WORTH = 1.5  # documents
NAMED_SHARE = 0.3  # of the paths that may begin at a name: no document is spent on describing it
VAGUE_SHARE = 0.95  # of the descriptions, where one is found


@dataclass(frozen=True, eq=False)
class Sampler:
    """Paths over the steps of a graph."""

    graph: KnowledgeGraph
    steps: Steps
    min_distance_characters: int
    obfuscator: Obfuscator | None = None

    @cached_property
    def _is_entity(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        return self.graph.nodes["entity"].to_numpy()

    @cached_property
    def _between(self) -> Ids:
        """Steps from entity to entity."""
        both = self._is_entity[self.steps.source] & self._is_entity[self.steps.target]
        return np.flatnonzero(both).astype(np.int64)

    @cached_property
    def _entity_graph(self) -> rx.PyDiGraph[None, None]:
        """The steps of `_between` as edges, in that order; nodes have the graph's numbers. No Python object stays per edge."""
        graph: rx.PyDiGraph[None, None] = rx.PyDiGraph()
        graph.add_nodes_from([None] * self.graph.nodes.height)
        for first in range(0, len(self._between), EDGES_AT_ONCE):
            steps = self._between[first : first + EDGES_AT_ONCE]
            ends = (self.steps.source[steps].tolist(), self.steps.target[steps].tolist())
            graph.add_edges_from_no_data(list(zip(*ends, strict=True)))
        return graph

    @cached_property
    def _document(self) -> Ids:
        """The number of each triple's document."""
        documents = self.graph.triples["document_id"]
        return documents.rank("dense").to_numpy().astype(np.int64)

    def documents(self, rows: Iterable[int]) -> int:
        """How many documents triples are read from."""
        return len({int(self._document[row]) for row in rows})

    def elsewhere(self, rows: Ids, beside: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """For each of some rows: is it read from another document than all of those beside it."""
        return ~np.isin(self._document[rows], [int(self._document[row]) for row in beside])

    @cached_property
    def _places(self) -> tuple[Ids, Ids]:
        columns = self.graph.triples
        return columns["start"].to_numpy().astype(np.int64), columns["end"].to_numpy().astype(np.int64)

    def describe(
        self, entity: int, length: int, chance: Random, avoid: Sequence[int] = (), beside: Sequence[int] = ()
    ) -> list[Step] | None:
        """`length` steps that lead to the entity, the first one first; None if none was found.

        beside: rows of the question's other facts about the entity, which stand in documents as well. Half of the paths are random
        walks, half lie on breadth-first search's shortest ways.
        """
        best: list[Step] | None = None
        most, wanted = 0.0, length + self.documents(beside) + VAGUE_WORTH
        patience = PATIENCE
        for _ in range(TRIES):
            if not patience:
                break
            patience -= 1
            search = self._walk if chance.random() < 0.5 else self._breadth_first
            path = search(entity, length, chance, {entity, *avoid})
            if path is None or not self.apart([step.row for step in path]):
                continue
            path = [self.obfuscated(step, chance) for step in path]
            vague = any(step.vague is not None for step in path)
            found = self.documents([*(step.row for step in path), *beside]) + VAGUE_WORTH * vague
            if found > most:
                best, most, patience = path, found, PATIENCE
            if found >= wanted:
                break
        return best

    def obfuscated(self, step: Step, chance: Random) -> Step:
        """An entry of a list by its place or in a range instead of its number."""
        if self.obfuscator is None or step.way != "nth" or step.vague is not None:
            return step
        return self.obfuscator.of_entry(step, chance)

    def _walk(self, entity: int, length: int, chance: Random, seen: set[int]) -> list[Step] | None:
        """A random walk against the steps, without coming back to a node."""
        path: list[Step] = []
        node, visited = entity, set(seen)
        for left in range(length, 0, -1):
            step = self._pick(node, visited, last=left == 1, chance=chance)
            if step is None:
                return None
            path.append(step)
            visited.add(step.source)
            node = step.source
        return path[::-1]

    def _pick(self, node: int, visited: set[int], *, last: bool, chance: Random) -> Step | None:
        """A step from a literal, told vaguely if possible, if it is the last one, from an entity otherwise."""
        into = self.steps.into(node)
        named = self._is_entity[self.steps.source[into]]
        wanted, from_name = into[named != last], into[named]
        # A name in the question is a beginning too: its path spends no fact on describing, and each may stand in another document.
        if last and len(from_name) and chance.random() < NAMED_SHARE:
            wanted = from_name
        elif last and self.obfuscator is not None and chance.random() < VAGUE_SHARE:
            vague = self.obfuscator.describe(node, chance, visited)
            if vague is not None:
                return vague
        if last and not len(wanted):
            wanted = from_name
        kinds: dict[int, list[int]] = {}
        relation = self.graph.columns["relation_id"]
        for index in wanted.tolist():
            if int(self.steps.source[index]) not in visited:
                kinds.setdefault(int(relation[self.steps.row[index]]), []).append(index)
        if not kinds:
            return None
        return self.steps[chance.choice(kinds[chance.choice(sorted(kinds))])]

    def _breadth_first(self, entity: int, length: int, chance: Random, seen: set[int]) -> list[Step] | None:
        """A shortest way of `length` - 1 steps between entities, and a step from a literal before it."""
        parent: dict[int, int] = {}  # node -> its step towards the entity
        depth = {entity: 0}
        queue = deque([entity])
        while queue:
            node = queue.popleft()
            if depth[node] == length - 1:
                continue
            into = sorted(self._entity_graph.in_edge_indices(node))
            if len(into) > MAX_BREADTH:
                into = sorted(chance.sample(into, MAX_BREADTH))
            steps = self._between[into]
            for source, index in zip(self.steps.source[steps].tolist(), steps.tolist(), strict=True):
                if source not in depth and source not in seen:
                    depth[source] = depth[node] + 1
                    parent[source] = index
                    queue.append(source)
        ends = [node for node, steps_away in depth.items() if steps_away == length - 1]
        if not ends:
            return None
        end = chance.choice(ends)
        first = self._pick(end, set(depth), last=True, chance=chance)
        if first is None:
            return None
        path = [first]
        while end in parent:
            path.append(self.steps[parent[end]])
            end = path[-1].target
        return path

    def apart(self, rows: Sequence[int]) -> bool:
        """True if values that are read from one document stand far enough from each other."""
        starts, ends = self._places
        for index, row in enumerate(rows):
            for other in rows[:index]:
                if row == other:
                    return False
                if self._document[row] == self._document[other]:
                    gap = max(int(starts[row] - ends[other]), int(starts[other] - ends[row]))
                    if gap < self.min_distance_characters:
                        return False
        return True

    def resolves(self, path: Sequence[Step]) -> bool:
        """Follow a path through the whole graph as sets: True if every step, from one node, gives one node alone."""
        return all(self.image(step) == {step.target} for step in path) and all(
            before.target == after.source for before, after in pairwise(path)
        )

    def image(self, step: Step) -> set[int]:
        """Everything in the graph that the words of a step could mean, coming from its source."""
        if step.vague is not None:
            assert self.obfuscator is not None
            return self.obfuscator.image(step)
        relation = int(self.graph.columns["relation_id"][step.row])
        if step.way == "forward":
            return self.graph.tails(step.source, relation)
        if step.way == "backward":
            return self.graph.heads(relation, step.source)
        rows = self.graph.rows_from(step.source, relation)
        numbers = self.graph.triples["number"]
        values = {int(row): float(numbers[int(row)] or "nan") for row in rows}
        wanted = {"max": max, "min": min}[step.way](values.values()) if step.way != "nth" else values[step.row]
        tails = self.graph.columns["tail_id"]
        return {int(tails[row]) for row, value in values.items() if value == wanted}
