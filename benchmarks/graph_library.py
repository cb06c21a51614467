"""Which graph library holds the entity graph: rustworkx or networkx, on the same graph in one run.

    .venv/bin/python benchmarks/graph_library.py DOCUMENTS [--copies 1 10 100] [--out FILE]

DOCUMENTS is the `documents` folder that ingest leaves (outputs/ingest/data/documents). Its triples become the knowledge graph, and
the steps from entity to entity the graph that paths are sampled on (stages/synthesis/paths.py). For larger graphs it is copied and
every twentieth edge led on into another copy, so that degrees stay and the whole hangs together.

Each library works in a process of its own: seconds to build from two arrays, memory that the graph holds and takes at its peak (what
the process had with the arrays and the library does not count), visited nodes per second of breadth-first search, and steps per
second of random walks without coming back, both against the edges as the sampler goes. A third row does without a library: sorted
numpy columns, as the knowledge graph itself is indexed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

LIBRARIES = ("rustworkx", "networkx", "numpy columns")
MAX_VISITED = 500  # nodes of one search
WALK_STEPS = 6
SECONDS = 3.0  # of each kind of search
LED_ON_EVERY = 20

Ids = npt.NDArray[np.int64]
Neighbours = Callable[[int], Sequence[int]]


def entity_edges(documents: Path) -> tuple[int, Ids, Ids]:
    """Number of nodes, and source and target of every step from entity to entity."""
    from stages.common.shards import ProcessExecutor
    from stages.synthesis.extraction import extract
    from stages.synthesis.knowledge_graph import build_graph
    from stages.synthesis.steps import find_steps

    graph = build_graph(extract(documents, ProcessExecutor(), named_entities=False))
    steps = find_steps(graph)
    entity = graph.nodes["entity"].to_numpy()
    between = entity[steps.source] & entity[steps.target]
    used, compact = np.unique([steps.source[between], steps.target[between]], return_inverse=True)
    source, target = compact.reshape(2, -1).astype(np.int64)
    return len(used), source, target


def copied(nodes: int, source: Ids, target: Ids, copies: int) -> tuple[int, Ids, Ids]:
    """The graph that often, the copies joined by edges that end in another one."""
    offsets = np.repeat(np.arange(copies, dtype=np.int64) * nodes, len(source))
    sources, targets = np.tile(source, copies) + offsets, np.tile(target, copies) + offsets
    chance = np.random.default_rng(17)
    led_on = np.arange(LED_ON_EVERY - 1, len(targets), LED_ON_EVERY)
    if copies > 1:
        targets[led_on] = targets[led_on] % nodes + chance.integers(copies, size=len(led_on)) * nodes
    return nodes * copies, sources, targets


def built(library: str, nodes: int, source: Ids, target: Ids) -> Neighbours:
    """The graph in a library, as the function that gives the nodes from which edges lead to a node; edges keep their number."""
    if library == "rustworkx":
        import rustworkx as rx

        graph: Any = rx.PyDiGraph()
        graph.add_nodes_from(range(nodes))
        graph.add_edges_from(list(zip(source.tolist(), target.tolist(), range(len(source)), strict=True)))
        return lambda node: [source for source, _, _ in graph.in_edges(node)]
    if library == "networkx":
        import networkx as nx

        multi: Any = nx.MultiDiGraph()
        multi.add_nodes_from(range(nodes))
        multi.add_edges_from(zip(source.tolist(), target.tolist(), range(len(source)), strict=True))
        return lambda node: [source for source, _, _ in multi.in_edges(node, keys=True)]
    order = np.argsort(target, kind="stable")
    sources, starts = source[order], np.searchsorted(target[order], np.arange(nodes + 1))
    return lambda node: sources[starts[node] : starts[node + 1]].tolist()


def breadth_first_rate(neighbours: Neighbours, starts: Sequence[int]) -> float:
    """Visited nodes per second."""
    visited, begun = 0, time.perf_counter()
    for start in starts:
        seen, queue = {start}, deque([start])
        while queue and len(seen) < MAX_VISITED:
            for node in neighbours(queue.popleft()):
                if node not in seen:
                    seen.add(node)
                    queue.append(node)
        visited += len(seen)
        if time.perf_counter() - begun > SECONDS:
            break
    return visited / (time.perf_counter() - begun)


def walk_rate(neighbours: Neighbours, starts: Sequence[int], chance: Random) -> float:
    """Steps per second."""
    steps, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < SECONDS:
        node = chance.choice(starts)
        seen = {node}
        for _ in range(WALK_STEPS):
            onwards = [other for other in neighbours(node) if other not in seen]
            if not onwards:
                break
            node = chance.choice(onwards)
            seen.add(node)
            steps += 1
    return steps / (time.perf_counter() - begun)


def peak_rss_bytes() -> int:
    """Highest resident memory of this process (its ru_maxrss would be the parent's, if that was larger)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def measured(sending: Any, library: str, path: Path) -> None:
    """In a process of its own: the figures of one library on one graph."""
    arrays = np.load(path)
    nodes, source, target = int(arrays["nodes"]), arrays["source"], arrays["target"]
    starts = np.random.default_rng(5).choice(target, size=20_000).tolist()
    importlib.import_module(library.partition(" ")[0])
    before, begun = psutil.Process().memory_info().rss, time.perf_counter()
    neighbours = built(library, nodes, source, target)
    seconds = time.perf_counter() - begun
    held = psutil.Process().memory_info().rss - before
    peak = peak_rss_bytes() - before
    sending.send(
        {
            "library": library,
            "nodes": nodes,
            "edges": len(source),
            "build_seconds": round(seconds, 3),
            "held_mb": round(held / 1e6, 1),
            "peak_mb": round(peak / 1e6, 1),
            "bfs_nodes_per_second": round(breadth_first_rate(neighbours, starts)),
            "walk_steps_per_second": round(walk_rate(neighbours, starts, Random(5))),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", type=Path)
    parser.add_argument("--copies", type=int, nargs="*", default=[1, 10, 100])
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    options = parser.parse_args()
    nodes, source, target = entity_edges(options.documents)
    context, rows = multiprocessing.get_context("spawn"), []
    print(
        f"{'library':14}{'nodes':>10}{'edges':>10}{'build s':>10}{'held MB':>10}{'peak MB':>10}{'BFS nodes/s':>14}{'walk steps/s':>14}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for copies in options.copies:
            path = Path(folder, f"{copies}.npz")
            total, sources, targets = copied(nodes, source, target, copies)
            np.savez(path, nodes=total, source=sources, target=targets)
            for library in LIBRARIES:
                receiving, sending = context.Pipe(duplex=False)
                process = context.Process(target=measured, args=(sending, library, path))
                process.start()
                sending.close()
                row = receiving.recv()
                process.join()
                rows.append(row)
                print(
                    f"{row['library']:14}{row['nodes']:>10,}{row['edges']:>10,}{row['build_seconds']:>10}{row['held_mb']:>10}"
                    f"{row['peak_mb']:>10}{row['bfs_nodes_per_second']:>14,}{row['walk_steps_per_second']:>14,}",
                    flush=True,
                )
    if options.out:
        options.out.write_text(json.dumps({"cores": os.cpu_count(), "results": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
