"""Typed triples over all documents as one graph (paper section 3.1): entities, and how they name each other.

Nodes are document ids, named by their entity. An edge is one entry of a list value in the head's document that names the
tail's entity: Algeria --land boundaries (border countries), 989 km--> Libya. Attributes of an entity are its facts.
Names are matched after normalisation and through the aliases that documents give for themselves ("US or USA").

Departs from the paper: triples come from headings, list values and tables, not from an LLM, so every one has a span.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

import networkx as nx

from stages.synthesis.corpus import Corpus
from stages.synthesis.entities import normalise_name
from stages.synthesis.facts import Fact
from stages.synthesis.lists import Item, parse_list

_ALIAS_LEAVES = ("abbreviation", "conventional short form", "conventional long form", "short name", "also known as")
_PLAIN_NAME = re.compile(r"[A-Z][\w .'-]{1,60}")


@dataclass(frozen=True)
class Mention:
    """An edge: `item` of the head's list names the tail. `alias` is the tail's fact that gives that name, if needed."""

    relation: str
    fact: Fact
    items: tuple[Item, ...]
    item: Item
    alias: Fact | None


@dataclass(frozen=True)
class KnowledgeGraph:
    """The graph and the facts of each node."""

    graph: nx.MultiDiGraph
    facts_of: dict[str, list[Fact]]

    def mentions(self) -> list[tuple[str, str, Mention]]:
        """(head, tail, edge), in insertion order."""
        return [(head, tail, data["mention"]) for head, tail, data in self.graph.edges(data=True)]


def build_graph(corpus: Corpus) -> KnowledgeGraph:
    """Nodes for all entities, an edge for every list entry that names another document's entity."""
    graph: nx.MultiDiGraph = nx.MultiDiGraph()
    for document_id, entity in corpus.entities.items():
        graph.add_node(document_id, name=entity.name)
    facts_of: defaultdict[str, list[Fact]] = defaultdict(list)
    for fact in corpus.facts:
        facts_of[fact.document_id].append(fact)
    names = _names(corpus)
    for fact in corpus.facts:
        if fact.quantity is not None or fact.source != "heading":
            continue
        items = parse_list(fact.text)
        for item in items or ():
            tail, alias = names.get(normalise_name(item.name), (None, None))
            if tail is not None and tail != fact.document_id:
                mention = Mention(relation_name(fact), fact, tuple(items or ()), item, alias)
                graph.add_edge(fact.document_id, tail, key=(mention.relation, item.name), mention=mention)
    return KnowledgeGraph(graph, dict(facts_of))


def relation_name(fact: Fact) -> str:
    """One spelling of a relation: case and punctuation folded ("exports partners")."""
    return " ".join(re.findall(r"[a-z0-9]+", fact.attribute.casefold()))


def _names(corpus: Corpus) -> dict[str, tuple[str, Fact | None]]:
    """Normalised name -> (document id, the fact that states it or None for the entity's own name).

    A name that two documents claim belongs to neither.
    """
    claims: defaultdict[str, dict[str, Fact | None]] = defaultdict(dict)
    for document_id, entity in corpus.entities.items():
        claims[normalise_name(entity.name)][document_id] = None
    for fact in corpus.facts:
        if fact.source == "heading" and fact.labels[-1].casefold() in _ALIAS_LEAVES:
            for name in fact.text.split(" or "):
                if _PLAIN_NAME.fullmatch(name):
                    claims[normalise_name(name)].setdefault(fact.document_id, fact)
    return {name: next(iter(who.items())) for name, who in claims.items() if name and len(who) == 1}
