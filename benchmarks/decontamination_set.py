"""Native benchmark files -> what ingest must keep documents clear of: questions, answers and gold evidence.

    python -m benchmarks.decontamination_set FOLDER OUT            OUT/benchmarks.jsonl, the texts
    python -m benchmarks.decontamination_set FOLDER OUT --hashes   OUT/benchmarks.parquet, hashes of their 13-grams alone

FOLDER has one folder per benchmark, with the files as their authors publish them. Contexts that merely hold the evidence somewhere
are left out: a filing is not spoilt because a benchmark asks about another page of it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stages.common.errors import InputError
from stages.common.storage import iter_json_lines, write_jsonl
from stages.ingest.decontaminate import BenchmarkText
from stages.ingest.words import WordHasher

_NUMBER = re.compile(r"\d[\d,.]*\d|\d")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z(])")

Item = tuple[str, str, list[str], list[str]]  # id, question, answers, evidence
Row = dict[str, Any]


def hotpotqa(row: Row) -> Iterator[Item]:
    sentences = {(title, number): text for title, texts in row["context"] for number, text in enumerate(texts)}
    gold = [sentences[title, number] for title, number in row["supporting_facts"] if (title, number) in sentences]
    yield row["_id"], row["question"], [row["answer"]], gold


def musique(row: Row) -> Iterator[Item]:
    gold = [paragraph["paragraph_text"] for paragraph in row["paragraphs"] if paragraph.get("is_supporting")]
    yield row["id"], row["question"], [row["answer"], *row.get("answer_aliases", [])], gold


def longbench_v1(row: Row) -> Iterator[Item]:
    question = row["prompt"].rpartition("Question:")[2] if "Question:" in row["prompt"] else ""
    yield row["id"], question.removesuffix("Answer:"), row["answers"], []


def longbench_v2(row: Row) -> Iterator[Item]:
    choices = "\n".join(row[f"choice_{letter}"] for letter in "ABCD")
    yield row["_id"], f"{row['question']}\n{choices}", [row.get(f"choice_{row['answer']}", "")], []


def mmlu_pro(row: Row) -> Iterator[Item]:
    yield str(row["question_id"]), "\n".join([row["question"], *row["options"]]), [], []


def closed_book(row: Row) -> Iterator[Item]:
    yield row["id"], row["question"], [str(row["answer"])], []


def tatqa(row: Row) -> Iterator[Item]:
    """Evidence: of the paragraphs and the table that it names, the sentences and rows that hold the answer or its operands.

    Whole paragraphs would be wrong: accounting policies read alike in every annual report.
    """
    paragraphs = {str(paragraph["order"]): paragraph["text"] for paragraph in row["paragraphs"]}
    rows = [" ".join(cells) for cells in row["table"]["table"]]
    for question in row["questions"]:
        answer = question["answer"]
        answers = [str(part) for part in answer] if isinstance(answer, list) else [str(answer)]
        sought = {text.lower() for text in answers if len(text) > 2} | set(
            _NUMBER.findall(question["derivation"] or "")
        )
        texts = [s for order in question["rel_paragraphs"] for s in _SENTENCE_END.split(paragraphs.get(order, ""))]
        texts += rows if "table" in question["answer_from"] else []
        gold = [text for text in texts if any(part in text.lower() for part in sought)]
        yield question["uid"], question["question"], answers, gold


def convfinqa(row: Row) -> Iterator[Item]:
    gold = [row["golden_text"], row["golden_table"]]
    yield row["id"], "\n".join(row["questions"]), [str(row["answer"])], [text for text in gold if text]


def qmsum(row: Row) -> Iterator[Item]:
    turns = [turn["content"] for turn in row["meeting_transcripts"]]
    for number, query in enumerate(row["general_query_list"] + row["specific_query_list"]):
        spans = [(int(first), int(last)) for first, last in query.get("relevant_text_span", [])]
        gold = [turn for first, last in spans for turn in turns[first : last + 1]]
        yield f"{row['meeting_id']}-{number}", query["query"], [query["answer"]], gold


def longmemeval(row: Row) -> Iterator[Item]:
    gold = [turn["content"] for session in row["evidence_sessions"] for turn in session["turns"]]
    yield row["question_id"], row["question"], [str(row["answer"])], gold


def nocha(row: Row) -> Iterator[Item]:
    yield f"{row['book_title']}-{row['index']}-{row['type']}", row["claim"], [], []


def bfcl_memory(row: Row) -> Iterator[Item]:
    if "ground_truth" in row:  # the other files are tools and conversations
        question = "\n".join(turn["content"] for turns in row["question"] for turn in turns)
        yield row["id"], question, [str(answer) for answer in row["ground_truth"]], [row["source"]]


READERS: dict[str, Callable[[Row], Iterator[Item]]] = {
    "bfcl_v4_memory": bfcl_memory,
    "convfinqa": convfinqa,
    "frames": closed_book,
    "hotpotqa": hotpotqa,
    "live_math": closed_book,
    "longbench_v1_mini": longbench_v1,
    "longbench_v2": longbench_v2,
    "longmemeval_evidence": longmemeval,
    "mmlu_pro": mmlu_pro,
    "musique": musique,
    "nocha_sample": nocha,
    "qmsum": qmsum,
    "tatqa": tatqa,
}


def read_benchmarks(folder: Path) -> Iterator[BenchmarkText]:
    """Every item of every benchmark that has a reader. InputError if a file does not have its authors' form."""
    for name, reader in READERS.items():
        for path in sorted((folder / name).glob("*.jsonl")):
            for row in iter_json_lines(path):
                try:
                    for item_id, question, answers, evidence in reader(row):
                        yield BenchmarkText(
                            benchmark=name, id=item_id, question=question, answers=answers, evidence=evidence
                        )
                except (KeyError, TypeError, ValueError) as error:
                    raise InputError(f"{path} has not the form that {name} is published in: {error!r}") from None


def write_hashes(items: Iterator[BenchmarkText], path: Path) -> Counter[str]:
    """Write (benchmark, gram) rows, sorted; return the distinct 13-grams per benchmark."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    hasher = WordHasher()
    found: dict[str, set[int]] = {}
    for item in items:
        found.setdefault(item.benchmark, set()).update(item.grams(hasher).tolist())
    names = [name for name in sorted(found) for _ in found[name]]
    grams = np.array([gram for name in sorted(found) for gram in sorted(found[name])], dtype=np.uint64)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"benchmark": pa.array(names).dictionary_encode(), "gram": grams})
    # Hashes do not compress, but sorted ones have small differences.
    encoding = {"gram": "DELTA_BINARY_PACKED"}
    pq.write_table(table, path, compression="zstd", use_dictionary=["benchmark"], column_encoding=encoding)
    return Counter({name: len(grams) for name, grams in found.items()})


def main(arguments: list[str]) -> int:
    """Exit code 0, or 2 with a message if nothing can be read."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.decontamination_set", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("folder", type=Path, help="one folder per benchmark, native files")
    parser.add_argument("out", type=Path, help="where benchmarks.jsonl or benchmarks.parquet goes")
    parser.add_argument("--hashes", action="store_true", help="hashes of 13-grams only, no text")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.hashes:
            print(json.dumps(write_hashes(read_benchmarks(chosen.folder), chosen.out / "benchmarks.parquet")))
        else:
            written = write_jsonl(chosen.out / "benchmarks.jsonl", read_benchmarks(chosen.folder))
            print(f"{written} items")
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
