"""From a path to words, a proof and evidence.

path: "Algiers" -backward capital-> Algeria -max border-> Morocco        told in words, nested or with letters:
"the country with which the country whose capital is Algiers has its longest land border"
"Let A be the country whose capital is Algiers. Let B be the country with which A has its longest land border."
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import polars as pl

from stages.synthesis.knowledge_graph import KnowledgeGraph
from stages.synthesis.phrasing import entity_phrase
from stages.synthesis.relation_phrases import backward, forward, obfuscation, placed, placed_word, ranked, vague_subject
from stages.synthesis.steps import Step
from stages.synthesis.vague_values import range_words, words_for

LETTERS = "ABCDEFGHJKLM"
MAX_NESTED_STEPS = 2

_BY = {"max": "max", "min": "min", "nth": "value"}


@dataclass
class Told:
    """A description of one entity: its words, the sentences that must come before them, the proof so far.

    rows:  triples that are read (a path's length in hops); links: triples that only prove which entity a name means
    kinds: how each step describes (temporal, institutional, ordinal, attribute; verbatim where a value is copied)
    """

    words: str
    name: str
    before: list[str] = field(default_factory=list)
    hops: list[dict[str, Any]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    links: list[int] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)


class Narrator:
    """Words, proof rows and evidence spans of a graph's triples and nodes."""

    def __init__(self, graph: KnowledgeGraph) -> None:
        self._graph = graph

    @cached_property
    def _nodes(self) -> dict[str, pl.Series]:
        return {name: self._graph.nodes[name] for name in ("name", "proof_name", "type", "domain")}

    def triple(self, row: int) -> dict[str, Any]:
        """A triple's columns."""
        return self._graph.triples.row(row, named=True)

    def name(self, node: int) -> str:
        """How a proof names a node."""
        return str(self._nodes["proof_name"][node])

    def domain(self, node: int) -> str:
        """Code, filings, papers, country profiles or texts."""
        return str(self._nodes["domain"][node])

    def type(self, node: int) -> str:
        """country, class, number ..."""
        return str(self._nodes["type"][node])

    def named(self, node: int) -> str:
        """How a question names a node that it does not describe."""
        name, kind = str(self._nodes["name"][node]), self.type(node)
        if kind == "country":
            return entity_phrase(name)
        if kind in ("class", "function"):
            return f"the {kind} `{name}` in {self.name(node).rpartition(':')[0]}"
        if kind in ("module", "package"):
            return f"the {'file' if kind == 'module' else kind} {name}"
        if kind in ("paper", "work", "document"):
            return f'the {kind} "{name}"'
        return f"the filing of {name}" if kind == "filing" else name

    def tell(self, path: Sequence[Step], letters: list[str] | None = None) -> Told:
        """The entity at the end of a path, described. With `letters`, longer paths are cut into sentences."""
        first = path[0]
        told = Told(words=self.named(first.source), name=self.name(first.source))
        for index, step in enumerate(path):
            if letters and index and index % MAX_NESTED_STEPS == 0:
                self._letter(told, letters)
            self._step(told, step, first=index == 0)
        return told

    def follow(self, told: Told, step: Step) -> None:
        """Go one step further from a described entity."""
        self._step(told, step, first=False)

    def _letter(self, told: Told, letters: list[str]) -> None:
        letter = letters.pop(0)
        told.before.append(f"Let {letter} be {told.words}.")
        told.words = letter

    def letter(self, told: Told, letters: list[str]) -> str:
        """Give the described entity a letter; returns it."""
        self._letter(told, letters)
        return told.words

    def _step(self, told: Told, step: Step, *, first: bool) -> None:
        triple = self.triple(step.row)
        told.words = self._words(step, triple, told.words)
        literal = first and step.way == "backward" and triple["tail_type"] not in ("entity", "import")
        told.kinds.append(self.kind(step, triple, literal=literal))
        told.rows.append(step.row)
        row = self.row(triple)
        target = self.name(step.target)
        if step.way == "vague":
            told.hops.append(
                {"op": "describe", "row": row, "vague": {**(step.vague or {}), "words": words_for(step.vague or {})}}
            )
        elif step.way == "rank":
            told.hops.append(self._rank(step, told))
        elif step.way == "backward":
            hop = {"op": "describe", "row": row} if literal else {"op": "back", "from": told.name, "row": row}
            told.hops.append(self._linked(hop, triple, told))
        elif step.way == "forward":
            hop = {"op": "go", "from": told.name, "row": row, "to": target}
            told.hops.append(self._linked(hop, triple, told))
        else:
            told.hops.append(self.select(step, triple, told.name))
            alias: dict[str, Any] = {"op": "alias", "from": triple["tail_text"], "to": target}
            told.hops.append(self._linked(alias, triple, told, key="row"))
        told.name = target

    def kind(self, step: Step, triple: dict[str, Any], *, literal: bool) -> str:
        """How a step describes."""
        if step.vague is not None:
            return str(step.vague["kind"])
        return obfuscation(triple["relation"], triple["tail_type"], step.way, literal=literal)

    def _rank(self, step: Step, told: Told) -> dict[str, Any]:
        """The hop that ranks a whole group; the other entities' values are evidence as well."""
        assert step.vague is not None
        told.links += [row for row in step.vague["rows"] if row != step.row]
        rows = [self.row(self.triple(row)) for row in step.vague["rows"]]
        return {"op": "rank", "rows": rows, **{name: step.vague[name] for name in ("by", "rank", "words", "kind")}}

    def _linked(self, hop: dict[str, Any], triple: dict[str, Any], told: Told, key: str = "link") -> dict[str, Any]:
        if triple["link_row"] >= 0:
            told.links.append(triple["link_row"])
            hop[key] = self.row(self.triple(triple["link_row"]))
        return hop

    def select(self, step: Step, triple: dict[str, Any], source: str) -> dict[str, Any]:
        """The hop that takes an entry out of a list value: "select" says how, "pick" needs the whole list to be gone through."""
        hop = {
            "op": "pick" if step.vague else "select",
            "from": source,
            "row": self.list_row(triple),
            "by": _BY[step.way],
        }
        if step.vague is None:
            return {**hop, "value": triple["number"]}
        if step.vague["test"] == "place":
            rank = step.vague["rank"]
            return {
                **hop,
                **{name: step.vague[name] for name in ("by", "rank", "kind")},
                "words": placed_word(triple["relation"], step.vague["by"], rank),
            }
        return {**hop, "by": "range", "vague": {**step.vague, "words": range_words(step.vague)}}

    def _words(self, step: Step, triple: dict[str, Any], x: str) -> str:
        relation, head, tail = triple["relation"], triple["head_type"], triple["tail_type"]
        if step.way == "vague":
            return f"{vague_subject(relation, head, tail)} {words_for(step.vague or {})}"
        if step.way == "rank":
            return str((step.vague or {})["words"])
        if step.way == "forward":
            words = forward(relation, head, tail)
        elif step.way == "backward":
            words = backward(relation, head)
        else:
            words = ranked(relation)[("max", "min", "nth").index(step.way)]
        value = triple["tail_text"] if triple["tail_type"] not in ("entity", "import") else x
        if step.way == "nth":
            value = f"{triple['number']} {triple['unit'].replace('%', 'percent')}".strip()
            if step.vague is not None and step.vague["test"] == "place":
                words = placed(relation, step.vague["by"], step.vague["rank"])
            elif step.vague is not None:
                value = range_words(step.vague)
        assert words is not None
        return (
            words.replace("{{", "\x00")
            .replace("}}", "\x01")
            .replace("{v}", value)
            .replace("{x}", x)
            .replace("\x00", "{")
            .replace("\x01", "}")
        )

    def ask(self, step: Step, x: str) -> str:
        """The words of a last step: "the capital of A"."""
        return self._words(step, self.triple(step.row), x)

    def row(self, triple: dict[str, Any]) -> dict[str, Any]:
        """A triple as a row of a proof."""
        is_number = triple["tail_type"] == "number"
        return {
            "document_id": triple["document_id"],
            "entity": self.name(triple["head_id"]),
            "attribute": triple["relation"],
            "period": "",
            "value": triple["number"] if is_number else triple["tail_text"],
            "unit": triple["unit"] if is_number else "",
            "start": triple["start"],
            "end": triple["end"],
            "labels": list(triple["labels"]),
        }

    def list_row(self, triple: dict[str, Any]) -> dict[str, Any]:
        """The whole list value that an entry stands in; its text is filled in when the document is read."""
        return {**self.row(triple), "value": "", "unit": "", "start": triple["list_start"], "end": triple["list_end"]}

    def spans(self, rows: Sequence[int]) -> list[tuple[str, int, int]]:
        """Evidence spans of triples, each once, in order; a span inside another one is left out."""
        found: list[tuple[str, int, int]] = []
        for row in rows:
            triple = self.triple(row)
            flat = triple["evidence"]
            found += [(triple["document_id"], flat[i], flat[i + 1]) for i in range(0, len(flat), 2)]
        unique = list(dict.fromkeys(found))
        return [
            span
            for span in unique
            if not any(o != span and o[0] == span[0] and o[1] <= span[1] and span[2] <= o[2] for o in unique)
        ]
