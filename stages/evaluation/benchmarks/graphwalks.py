"""GraphWalks (openai): breadth-first search and parents in a long list of directed edges. Generated exactly, seeded.

As published, with the fix of February 2026: BFS asks for the nodes at exactly depth d (visited nodes do not come back),
parents exclude the node itself. The last line must be `Final Answer: [..]`, else the answer counts as an empty list.
Score: F1 of the sets, 1 if both are empty.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from functools import partial

from stages.common.seeds import rng
from stages.common.tokens import Message
from stages.evaluation.base import Availability, Benchmark, Loaded, LoadRequest, Question

_USUAL_QUESTIONS = 100  # per length
_ANSWER_TOKENS = 512
_MAX_DEPTH = 4
_NODE_CHARACTERS = 10
_FINAL = re.compile(r"Final Answer:\s*\[(.*)\]\s*$")

_INSTRUCTION = """\
You will be given a graph as a list of directed edges. All nodes have degree at least 1, and you will be asked to perform \
an operation on it.

Here is an example. The graph has these edges:
uvwx -> alke
abcd -> uvwx
abcd -> efgh
efgh -> uvwx

Example 1: Operation: Perform a BFS from node abcd with depth 1.
Final Answer: [uvwx, efgh]

Example 2: Operation: Perform a BFS from node alke with depth 1.
Final Answer: []

Example 3: Operation: Find the parents of node uvwx.
Final Answer: [abcd, efgh]

Here is the graph to operate on. The graph has the following edges:
"""
_FORM = 'End with a line of the form "Final Answer: [node, node]"; the list may be empty.'

Edges = list[tuple[str, str]]


def breadth_first(edges: Edges, start: str, depth: int) -> set[str]:
    """Nodes whose shortest way from `start` has exactly `depth` edges.

    >>> sorted(breadth_first([("a", "b"), ("b", "c"), ("a", "c")], "a", 1))
    ['b', 'c']
    """
    following = defaultdict(set)
    for source, target in edges:
        following[source].add(target)
    seen, layer = {start}, {start}
    for _ in range(depth):
        layer = {target for node in layer for target in following[node]} - seen
        seen |= layer
    return layer


def parents(edges: Edges, node: str) -> set[str]:
    """Nodes with an edge to `node`, without itself."""
    return {source for source, target in edges if target == node and source != node}


def final_set_f1(response: str, gold: frozenset[str]) -> float:
    """F1 of the set on the last line; a response without that line is an empty set, an empty response scores 0."""
    if not response.strip():
        return 0.0
    match = _FINAL.search(response.strip().splitlines()[-1].replace("*", ""))
    given = {item.strip() for item in match[1].split(",") if item.strip()} if match else set()
    if not given and not gold:
        return float(match is not None)  # published: 1 also without the line; that would pay for saying nothing
    return 2 * len(given & gold) / (len(given) + len(gold))


def _graph(tokens: int, request: LoadRequest, chance: random.Random) -> Edges:
    """Random edges of about `tokens` tokens, about two out of every node."""

    def node() -> str:
        return f"{chance.getrandbits(4 * _NODE_CHARACTERS):0{_NODE_CHARACTERS}x}"

    each = max(4, request.count_tokens("\n".join(f"{node()} -> {node()}" for _ in range(20))) // 20)
    count = max(4, tokens // each)
    nodes = [node() for _ in range(max(4, count // 2))]
    return [(chance.choice(nodes), chance.choice(nodes)) for _ in range(count)]


def _question(tokens: int, number: int, request: LoadRequest) -> Question:
    chance = rng(request.seed, "graphwalks", tokens, number)
    edges = _graph(tokens, request, chance)
    start = chance.choice(edges)[0]
    if number % 2 == 0:
        depth = chance.randint(1, _MAX_DEPTH)
        asked, gold, kind = (
            f"Perform a BFS from node {start} with depth {depth}.",
            breadth_first(edges, start, depth),
            "bfs",
        )
    else:
        target = chance.choice(edges)[1]
        asked, gold, kind = f"Find the parents of node {target}.", parents(edges, target), "parents"
    return Question(
        benchmark=f"graphwalks/{tokens}",
        id=f"{kind}-{number}",
        task_type="graph",
        question=f"Operation: {asked}",
        answer_form=_FORM,
        gold=sorted(gold),
        context=partial(_listed, edges),
        prompt=partial(_prompt, asked),
        metric="set_f1",
        score=partial(final_set_f1, gold=frozenset(gold)),
        answer_tokens=_ANSWER_TOKENS,
        groups={"operation": kind},
    )


def _listed(edges: Edges) -> str:
    return "\n".join(f"{source} -> {target}" for source, target in edges)


def _prompt(asked: str, context: str) -> list[Message]:
    return [{"role": "user", "content": f"{_INSTRUCTION}{context}\n\nOperation: {asked}\n{_FORM}"}]


def _load(request: LoadRequest) -> Loaded:
    each = _USUAL_QUESTIONS if request.limit is None else -(-request.limit // max(1, len(request.lengths)))
    questions = [_question(tokens, number, request) for tokens in request.lengths for number in range(each)]
    return Loaded(questions[: request.limit])


GRAPHWALKS = Benchmark(
    name="graphwalks",
    title="GraphWalks: BFS and parents in a long list of edges",
    source="generated (form of hub openai/graphwalks, MIT)",
    available=lambda _: Availability(True, "generated"),
    load=_load,
    modes=("full_context", "memory_agent"),
)
