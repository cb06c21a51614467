"""Synthesis at scale: a folder of documents through ingest, five generators, assembly and programmatic verification.

    .venv/bin/python benchmarks/synthesis.py CORPUS --tokenizer tokenizer.json [--mb 10 20 40] [--questions 3300] [--out FILE]

Runs the stages' own run functions, each in a process of its own, with the paper's lengths (mean 34,231 tokens, at most 119,932), and
prints seconds, samples/s, MB/s and peak memory of the whole process tree per step, then what must hold: answers that
re-derive, spans that hold, multi-hop answers that are unique in the graph, near-duplicate questions, families, places of
evidence, what decontamination left. Checks that need a model are not part of it: they are timed with a model, in verify.

--mb: subsets of so many megabytes (every n-th file) and as many questions in proportion, to see that time grows linearly. --benchmarks: a folder of benchmark
samples for decontamination. --keep DIR: keep the stages' outputs there (`longfuse inspect --outputs DIR/40mb`).
--named-entities: also time multi_hop with a spaCy pipeline's named entities, apart from the table (extra `ner`).
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from flows.catalog import TASKS, stage_spec  # noqa: E402
from flows.params import profile_params, stage_config  # noqa: E402
from stages.common.storage import iter_json_lines, read_json, write_json, write_jsonl  # noqa: E402

WANTED = {"samples": 14_100, "seconds": 600, "peak_gib": 3.0, "near_duplicates": 0.01, "families": 30}


def tree_rss_bytes() -> int:
    """Resident memory of this process's children and their children; pages that they share count once per process."""
    total = 0
    for process in psutil.Process().children(recursive=True):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def cpu_seconds() -> float:
    """Processor time of this process's children that have ended, and of theirs: what other work on the machine leaves alone."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Steps:
    """Runs steps one after the other and notes seconds and memory of each."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def run(self, name: str, function: Any, *arguments: Any) -> dict[str, int]:
        """`function(*arguments)` in a process of its own; it returns counts. RuntimeError if it fails."""
        context = multiprocessing.get_context("spawn")
        receiving, sending = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(sending, function, arguments))
        start, peak, done = time.monotonic(), 0, threading.Event()
        cpu_before = cpu_seconds()
        process.start()

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.2):
                peak = max(peak, tree_rss_bytes())

        watcher = threading.Thread(target=watch)
        watcher.start()
        sending.close()
        try:
            counts: dict[str, int] = receiving.recv()
        except EOFError:
            raise RuntimeError(f"{name} failed; its error stands above") from None
        finally:
            process.join()
            done.set()
            watcher.join()
        seconds = time.monotonic() - start
        self.rows.append(
            {
                "step": name,
                "seconds": round(seconds, 1),
                "cpu_seconds": round(cpu_seconds() - cpu_before, 1),
                "peak_gib": round(peak / 2**30, 2),
                "counts": counts,
            }
        )
        print(f"  {name:34}{seconds:8.1f} s{peak / 2**30:7.2f} GiB   {counts}", flush=True)
        return counts


def _child(sending: Any, function: Any, arguments: tuple[Any, ...]) -> None:
    logging.basicConfig(level=logging.WARNING)
    sending.send(function(*arguments))


def run_stage(name: str, params: dict[str, Any], inputs: dict[str, Path], outputs: Path) -> dict[str, int]:
    """One stage through its run function, into outputs/<stage>/data."""
    spec = stage_spec(name)
    out_dir = outputs.joinpath(*name.split("@")) / "data"
    state_dir = outputs / "state" / name
    for folder in (out_dir, state_dir):
        folder.mkdir(parents=True)
    return spec.run_function()(stage_config(spec, params), inputs, out_dir, state_dir, _ignore)


def _ignore(step: int, metrics: Any) -> None:
    """Step metrics are MLflow's; here nothing is recorded."""
    del step, metrics


def verify_programs(outputs: Path) -> dict[str, int]:
    """The programmatic part of verify: kept samples and drops as the stage would write them."""
    from stages.synthesis.programmatic import programmatic_in_parallel

    kept, dropped = programmatic_in_parallel(outputs / "assemble" / "data")
    out_dir = outputs / "verify" / "data"
    write_jsonl(out_dir / "samples.jsonl", kept)
    write_jsonl(out_dir / "dropped.jsonl", dropped)
    write_json(out_dir / "summary.json", {"dropped": dict(Counter(record.reason for record in dropped))})
    return {"kept": len(kept), "dropped": len(dropped)}


def subset(corpus: Path, folder: Path, megabytes: float) -> float:
    """Links to every n-th unit (file, or package of code) of the corpus until about so many MB; the MB reached."""
    units = sorted({_unit(path.relative_to(corpus)) for path in corpus.rglob("*") if path.is_file()})
    sizes = {unit: _size(corpus / unit) for unit in units}
    share = min(1.0, megabytes * 1e6 / sum(sizes.values()))
    reached = taken = 0.0
    for unit in units:
        reached += share * sizes[unit]
        if taken + sizes[unit] / 2 <= reached:
            taken += sizes[unit]
            (folder / unit).parent.mkdir(parents=True, exist_ok=True)
            if (corpus / unit).is_dir():
                shutil.copytree(corpus / unit, folder / unit)
            else:
                shutil.copy(corpus / unit, folder / unit)
    return taken / 1e6


def _unit(path: Path) -> Path:
    return Path(*path.parts[:2]) if path.parts[0] == "code" else path


def _size(path: Path) -> int:
    return (
        sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else path.stat().st_size
    )


def with_named_entities(params: dict[str, Any], documents: Path, outputs: Path, megabytes: float) -> dict[str, Any]:
    """multi_hop with named entities, in an outputs folder of its own: the figures of that step alone."""
    steps = Steps()
    changed = json.loads(json.dumps(params))
    changed["synthesize"]["multi_hop"]["named_entities"] = True
    name = "synthesize@multi_hop"
    steps.run(f"{name}, entities", run_stage, name, changed, {"documents": documents}, outputs / "named_entities")
    row = steps.rows[0]
    graph = read_json(outputs / "named_entities" / "synthesize" / "multi_hop" / "data" / "graph.json")
    triples = {"named_entity_triples": graph["rules"].get("named_entity", 0)}
    return {**row, **triples, "seconds_per_mb": round(row["seconds"] / megabytes, 2)}


def measure(corpus: Path, megabytes: float, outputs: Path, params: dict[str, Any], tokenizer: Path) -> dict[str, Any]:
    """All steps over one folder; the figures."""
    steps = Steps()
    ingested = outputs / "ingest" / "data"
    against = ROOT / params["ingest"]["decontaminate_against"]
    inputs_of_ingest = {"corpus": corpus, "tokenizer": tokenizer, "benchmarks": against}
    steps.run("ingest", run_stage, "ingest", params, inputs_of_ingest, outputs)
    for task in TASKS:
        documents = ingested / ("dialogues" if task == "dialogue_memory" else "documents")
        steps.run(f"synthesize@{task}", run_stage, f"synthesize@{task}", params, {"documents": documents}, outputs)
    questions = {task: outputs / "synthesize" / task / "data" / "qa.jsonl" for task in TASKS}
    inputs: dict[str, Path] = {"documents": ingested, "tokenizer": tokenizer, **questions}
    steps.run("assemble", run_stage, "assemble", params, inputs, outputs)
    steps.run("verify (programmatic)", verify_programs, outputs)
    for row in steps.rows:
        made = row["counts"].get("questions") or row["counts"].get("samples") or row["counts"].get("kept")
        row["samples_per_second"] = round(made / row["seconds"], 1) if made else None
        row["mb_per_second"] = round(megabytes / row["seconds"], 2)
    return {
        "megabytes": round(megabytes, 1),
        "steps": steps.rows,
        "seconds": round(sum(row["seconds"] for row in steps.rows), 1),
        "cpu_seconds": round(sum(row["cpu_seconds"] for row in steps.rows), 1),
        "peak_gib": max(row["peak_gib"] for row in steps.rows),
        **figures(outputs),
        "multi_hop_unique_in_graph": unique_in_graph(outputs, params["synthesize"]["multi_hop"]["named_entities"]),
        "contaminated_documents_left": contaminated_left(ingested, inputs_of_ingest["benchmarks"]),
    }


def figures(outputs: Path) -> dict[str, Any]:
    """What must hold, from the files alone."""
    from stages.common.records import QAPair, Sample
    from stages.common.storage import DocumentStore, iter_records
    from stages.synthesis.checks import answer_is_rederived, quotes_equal_spans
    from stages.synthesis.near_duplicates import near_duplicates

    assembled = outputs / "assemble" / "data"
    documents = DocumentStore([assembled / "documents.jsonl"], cached_documents=2048)
    made: Counter[str] = Counter()
    rederived: Counter[str] = Counter()
    spans_hold = pieces = 0
    for sample in iter_records(assembled / "samples.jsonl", Sample):
        task = str(sample.task_type)
        made[task] += 1
        rederived[task] += answer_is_rederived(sample, documents) is None
        pieces += len(sample.evidence)
        spans_hold += len(sample.evidence) if quotes_equal_spans(sample, documents) is None else 0
    kept = list(iter_records(outputs / "verify" / "data" / "samples.jsonl", Sample))
    asked = [
        pair for task in TASKS for pair in iter_records(outputs / "synthesize" / task / "data" / "qa.jsonl", QAPair)
    ]
    summary = read_json(assembled / "summary.json")
    verified = read_json(outputs / "verify" / "data" / "summary.json")["dropped"]
    ingest = read_json(outputs / "ingest" / "data" / "summary.json")
    return {
        "kept": len(kept),
        "kept_per_task": dict(Counter(str(sample.task_type) for sample in kept)),
        "rederived": {task: _share(rederived[task], made[task]) for task in made},
        "spans_hold": _share(spans_hold, pieces),
        "multi_hop_questions": made["multi_hop"],
        # documents per hop, questions with one document, and with a vague description, by its kind
        "multi_hop_paths": read_json(outputs / "synthesize" / "multi_hop" / "data" / "paths.json"),
        "near_duplicates_before": _share(len(near_duplicates(asked)), len(asked)),
        "near_duplicates_left": _share(len(near_duplicates(kept)), len(kept)),
        "families": len({sample.generator for sample in kept}),
        "numerical_families": len({sample.generator for sample in kept if sample.task_type == "numerical"}),
        "context_tokens": summary["context_tokens"],
        "evidence_deciles": list(summary["evidence_deciles"].values()),
        "dropped_by_verify": verified,
        "dropped_by_ingest": ingest.get("dropped", {}),
        "decontamination": ingest.get("decontamination"),
        "samples_mb": round((assembled / "samples.jsonl").stat().st_size / 1e6, 1),
    }


def unique_in_graph(outputs: Path, named_entities: bool) -> dict[str, Any]:
    """Multi-hop questions whose every step names one thing in a graph made anew from the documents.

    What describes ("the country whose capital is X") must have one head, what is looked up one tail, and a name in a list
    ("USA") must name one entity, under whatever kind of alias. A vague description must hold for the values of one head alone, of
    all values of the relation; a ranked group must be all that have the attribute. Items of lists are told apart inside their
    row, which re-derivation checks.
    """
    from stages.common.shards import ProcessExecutor
    from stages.synthesis.extraction import extract
    from stages.synthesis.knowledge_graph import build_graph
    from stages.synthesis.vague_values import holds as satisfies

    graph = build_graph(extract(outputs / "ingest" / "data" / "documents", ProcessExecutor(), named_entities))
    at: dict[tuple[str, int, int], list[tuple[int, int, int]]] = {}
    columns = ("document_id", "start", "end", "head_id", "relation_id", "tail_id")
    for document_id, start, end, *triple in graph.triples.select(columns).iter_rows():
        at.setdefault((document_id, start, end), []).append(tuple(triple))
    named: dict[int, set[int]] = {}
    is_alias = pl.col("relation").str.starts_with("alias: ")
    for head, tail in graph.triples.filter(is_alias).select("head_id", "tail_id").iter_rows():
        named.setdefault(tail, set()).add(head)
    said: dict[str, list[tuple[int, str, str]]] = {}  # relation -> head, value and unit of every triple
    values_of = ("relation", "head_id", "tail_type", "tail_text", "number", "unit")
    for relation, head, kind, text, number, unit in graph.triples.select(values_of).iter_rows():
        said.setdefault(relation, []).append((head, number, unit) if kind == "number" else (head, text, ""))
    unique = steps = unknown = 0
    ambiguous: list[str] = []
    for question in iter_json_lines(outputs / "synthesize" / "multi_hop" / "data" / "qa.jsonl"):
        holds = True
        for hop in question["proof"]["hops"]:
            backward = hop["op"] in ("describe", "back")
            if hop["op"] in ("select", "pick") or "without" in hop:
                continue
            if hop["op"] == "rank" or "vague" in hop:
                described = hop["rows"] if hop["op"] == "rank" else [hop["row"]]
                steps += len(described)
                values = said.get(described[0]["attribute"], [])
                unknown += not values
                if hop["op"] == "rank":
                    holds = holds and len({head for head, _, _ in values}) == len(values) == len(described)
                else:
                    holds = holds and len({head for head, *value in values if satisfies(hop["vague"], *value)}) == 1
                continue
            for row in [hop["row"]] if "row" in hop else hop.get("rows", []):
                steps += 1
                triples = at.get((row["document_id"], row["start"], row["end"]), [])
                unknown += not triples
                # A span can state several triples ("imports" and "import of x"); one of them is the step's.
                if hop["op"] == "alias":
                    counts = [len(named[tail]) for _, _, tail in triples if tail in named]
                else:
                    counts = [len(graph.heads(r, t)) if backward else len(graph.tails(h, r)) for h, r, t in triples]
                holds = holds and bool(counts) and min(counts) == 1
        unique += holds
        if not holds and len(ambiguous) < 5:
            ambiguous.append(question["id"])
    return {"unique": unique, "steps": steps, "steps_not_in_graph": unknown, "examples_not_unique": ambiguous}


def contaminated_left(ingested: Path, benchmarks: Path) -> int | None:
    """Documents that ingest kept with words of a benchmark that are no boilerplate among them; None without benchmarks."""
    from stages.common.records import Document
    from stages.common.storage import iter_records
    from stages.ingest.decontaminate import hits_of, load_benchmarks
    from stages.ingest.words import WordHasher, words_of

    grams = load_benchmarks(benchmarks).grams
    if not len(grams):
        return None
    hasher, left = WordHasher(), 0
    common = frozenset(read_json(ingested / "boilerplate_grams.json"))
    for path in sorted(ingested.glob("d*/*.jsonl")):
        for document in iter_records(path, Document):
            left += not common.issuperset(hits_of(hasher(words_of(document.text)), grams).tolist())
    return left


def _share(part: int, whole: int) -> float:
    return round(part / whole, 5) if whole else 0.0


def table(result: dict[str, Any]) -> list[str]:
    """The figures of one corpus as text."""
    head = f"{'step':34}{'seconds':>9}{'CPU s':>9}{'samples/s':>11}{'MB/s':>8}{'peak GiB':>10}"
    lines = [f"\n{result['megabytes']} MB", head]
    for row in result["steps"]:
        speed = row["samples_per_second"]
        lines.append(
            f"{row['step']:34}{row['seconds']:>9}{row['cpu_seconds']:>9}{speed if speed is not None else '-':>11}{row['mb_per_second']:>8}"
            f"{row['peak_gib']:>10}"
        )
    lines.append(f"{'together':34}{result['seconds']:>9}{result['cpu_seconds']:>9}{'':>19}{result['peak_gib']:>10}")
    for key, value in result.items():
        if key not in ("megabytes", "steps", "seconds", "cpu_seconds", "peak_gib"):
            lines.append(f"  {key:26}{json.dumps(value)}")
    return lines


def parameters(corpus: Path, options: argparse.Namespace, share: float = 1.0) -> dict[str, Any]:
    """The profile of the paper's lengths; questions per generator as asked for."""
    params: dict[str, Any] = json.loads(json.dumps(profile_params("paper_4b")))
    params["ingest"]["sources"] = str(corpus)
    for task in TASKS:
        params["synthesize"][task]["questions"] = round(share * options.questions)
    if options.benchmarks is not None:
        params["ingest"]["decontaminate_against"] = str(options.benchmarks.resolve())
    return params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json of the target model")
    parser.add_argument("--mb", type=float, nargs="*", default=[], help="subsets of so many MB; none: the whole corpus")
    parser.add_argument("--questions", type=int, default=3300, help="per task, of the whole corpus")
    parser.add_argument(
        "--benchmarks", type=Path, help="benchmark texts in the form of data/benchmarks (default: those)"
    )
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    parser.add_argument("--named-entities", action="store_true", help="also time multi_hop with named entities")
    parser.add_argument("--keep", type=Path, help="keep the stages' outputs in this folder")
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        work = options.keep or Path(temporary)
        total = _size(options.corpus) / 1e6
        for megabytes in options.mb or [total]:
            corpus, reached = options.corpus.resolve(), total
            if megabytes < 0.98 * total:
                corpus = Path(temporary, f"corpus-{megabytes:g}")
                reached = subset(options.corpus.resolve(), corpus, megabytes)
            outputs = work / f"{megabytes:.0f}mb"
            shutil.rmtree(outputs, ignore_errors=True)
            share = reached / total
            print(f"{reached:.1f} MB, {round(share * options.questions)} questions per task", flush=True)
            result = measure(corpus, reached, outputs, parameters(corpus, options, share), options.tokenizer.resolve())
            if options.named_entities:
                documents = outputs / "ingest" / "data" / "documents"
                params = parameters(corpus, options, share)
                result["named_entities"] = with_named_entities(params, documents, outputs, reached)
            results.append(result)
            print("\n".join(table(result)), flush=True)
    if options.out:
        options.out.write_text(
            json.dumps({"cores": os.cpu_count(), "limits": WANTED, "results": results}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
