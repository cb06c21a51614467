"""Sampling paths around a target entity (paper section 3.1): random walks and breadth-first search, against the steps.

A path ends at the target and begins at something that a question can name: a value ("Algiers"), a phrase, or an entity's own
name. Among several tries the path is taken whose steps are read from the most documents; steps in one document must stand
`min_distance_characters` apart where that is asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from random import Random

import numpy as np
import rustworkx as rx

from stages.synthesis.knowledge_graph import Ids, KnowledgeGraph
from stages.synthesis.steps import Step, Steps

TRIES = 6
MAX_BREADTH = 24


@dataclass(frozen=True, eq=False)
class Sampler:
    """Paths over the steps of a graph."""

    graph: KnowledgeGraph
    steps: Steps
    min_distance_characters: int

    @cached_property
    def _is_entity(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        return self.graph.nodes["entity"].to_numpy()

    @cached_property
    def _entity_graph(self) -> rx.PyDiGraph[int, int]:
        """Steps from entity to entity; nodes have the graph's numbers, edges those of their steps."""
        graph: rx.PyDiGraph[int, int] = rx.PyDiGraph()
        graph.add_nodes_from(range(self.graph.nodes.height))
        between = self._is_entity[self.steps.source] & self._is_entity[self.steps.target]
        columns = (self.steps.source, self.steps.target, np.arange(len(self.steps)))
        graph.add_edges_from(list(zip(*(column[between].tolist() for column in columns), strict=True)))
        return graph

    @cached_property
    def _documents(self) -> list[str]:
        return self.graph.triples["document_id"].to_list()

    @cached_property
    def _places(self) -> tuple[Ids, Ids]:
        columns = self.graph.triples
        return columns["start"].to_numpy().astype(np.int64), columns["end"].to_numpy().astype(np.int64)

    def describe(self, entity: int, length: int, chance: Random, avoid: Sequence[int] = ()) -> list[Step] | None:
        """`length` steps that lead to the entity, the first one first; None if none was found.

        Half of the paths are random walks, half lie on breadth-first search's shortest ways.
        """
        best: list[Step] | None = None
        most = 0
        for _ in range(TRIES):
            search = self._walk if chance.random() < 0.5 else self._breadth_first
            path = search(entity, length, chance, {entity, *avoid})
            if path is None or not self.apart([step.row for step in path]):
                continue
            documents = len({self._documents[step.row] for step in path})
            if documents > most:
                best, most = path, documents
            if documents == length:
                break
        return best

    def _walk(self, entity: int, length: int, chance: Random, seen: set[int]) -> list[Step] | None:
        """A random walk against the steps, without coming back to a node."""
        path: list[Step] = []
        node, visited = entity, set(seen)
        for left in range(length, 0, -1):
            step = self._pick(self.steps.into(node), visited, last=left == 1, chance=chance)
            if step is None:
                return None
            path.append(step)
            visited.add(step.source)
            node = step.source
        return path[::-1]

    def _pick(self, into: Ids, visited: set[int], *, last: bool, chance: Random) -> Step | None:
        """A step from a literal if it is the last one, from an entity otherwise."""
        wanted = into[self._is_entity[self.steps.source[into]] != last]
        # A name in the question is a beginning too, where nothing describes the entity.
        if last and (not len(wanted) or chance.random() < 0.15):
            wanted = into[self._is_entity[self.steps.source[into]]]
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
        parent: dict[int, Step | None] = {entity: None}
        depth = {entity: 0}
        queue = deque([entity])
        while queue:
            node = queue.popleft()
            if depth[node] == length - 1:
                continue
            into = sorted(index for _, _, index in self._entity_graph.in_edges(node))
            if len(into) > MAX_BREADTH:
                into = sorted(chance.sample(into, MAX_BREADTH))
            for index in into:
                step = self.steps[index]
                if step.source not in depth and step.source not in seen:
                    depth[step.source] = depth[node] + 1
                    parent[step.source] = step
                    queue.append(step.source)
        ends = [node for node, steps in depth.items() if steps == length - 1]
        if not ends:
            return None
        end = chance.choice(ends)
        first = self._pick(self.steps.into(end), set(depth), last=True, chance=chance)
        if first is None:
            return None
        path = [first]
        while (onwards := parent[end]) is not None:
            path.append(onwards)
            end = onwards.target
        return path

    def apart(self, rows: Sequence[int]) -> bool:
        """True if values that are read from one document stand far enough from each other."""
        starts, ends = self._places
        for index, row in enumerate(rows):
            for other in rows[:index]:
                if row == other:
                    return False
                if self._documents[row] == self._documents[other]:
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
