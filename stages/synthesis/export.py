"""The training set as a Hugging Face dataset: parquet files and a README that tells `datasets` which split is where.

    OUT/README.md                      configurations and splits, how to read, the data card
    OUT/data/{train,sft,test}.parquet  samples; contexts as references, or as texts with the prompt
    OUT/documents/documents.parquet    (references only) every document once

Written in batches, so memory does not grow with the number of samples. Parquet needs one type per column: `proof` is JSON text,
`answers` is always a list.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stages.common.prompts import full_context_messages, materialise_context
from stages.common.records import Sample
from stages.common.storage import DocumentStore, iter_json_lines, iter_records, write_text

if TYPE_CHECKING:
    import pyarrow as pa

Contexts = Literal["references", "text"]

_SAMPLES_PER_BATCH = 64
_DOCUMENTS_PER_BATCH = 32
SPLITS = {"train": "train", "sft": "sft", "test": "heldout"}  # split of the dataset -> file of stratify


def write_dataset(
    folder: Path, stratified: Path, documents_file: Path, verification: Path, contexts: Contexts
) -> dict[str, int]:
    """Write the dataset into an existing empty folder; samples per split. InputError for missing or damaged files."""
    documents = DocumentStore([documents_file])
    rates = {str(row["id"]): row.get("pass_rate") for row in iter_json_lines(verification)}
    counts = {}
    used: set[str] = set()
    for split, name in SPLITS.items():
        rows = _rows(iter_records(stratified / f"{name}.jsonl", Sample), documents, rates, contexts, used)
        path = folder / "data" / f"{split}.parquet"
        counts[split] = _write(path, rows, _sample_schema(contexts), _SAMPLES_PER_BATCH)
        if not counts[split]:
            path.unlink()  # `datasets` refuses a split without rows
    if contexts == "references":
        shown = (documents[document_id] for document_id in documents if document_id in used)
        texts = ({"id": d.id, "title": d.title, "category": str(d.category), "text": d.text} for d in shown)
        _write(folder / "documents" / "documents.parquet", texts, _document_schema(), _DOCUMENTS_PER_BATCH)
    card = stratified / "datacard.md"
    about = card.read_text(encoding="utf-8") if card.is_file() else ""
    for figure in sorted(stratified.glob("datacard_*.svg")):
        write_text(folder / figure.name, figure.read_text(encoding="utf-8"))
    write_text(folder / "README.md", _readme(contexts, [split for split in SPLITS if counts[split]]) + about)
    return counts


def _rows(
    samples: Iterable[Sample],
    documents: DocumentStore,
    rates: Mapping[str, Any],
    contexts: Contexts,
    used: set[str],
) -> Iterator[dict[str, Any]]:
    for sample in samples:
        answers = [sample.answer] if isinstance(sample.answer, str) else list(sample.answer)
        row: dict[str, Any] = {
            "id": sample.id,
            "task_type": str(sample.task_type),
            "question": sample.question,
            "answer": "; ".join(answers),
            "answers": answers,
            "answer_kind": str(sample.answer_kind),
            "choices": sample.choices,
            "evidence": [evidence.model_dump() for evidence in sample.evidence],
            "proof": json.dumps(sample.proof, ensure_ascii=False, sort_keys=True),
            "generator": sample.generator,
            "context": [span.model_dump() for span in sample.context],
            "context_tokens": sample.context_tokens,
            "pass_rate": rates.get(sample.id),
        }
        used |= {span.document_id for span in sample.context}
        if contexts == "text":
            row["context_text"] = materialise_context(sample, documents)
            row["messages"] = full_context_messages(sample, row["context_text"])
        yield row


def _write(path: Path, rows: Iterable[dict[str, Any]], schema: pa.Schema, per_batch: int) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        remaining = iter(rows)
        while batch := list(islice(remaining, per_batch)):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
            count += len(batch)
    return count


def _sample_schema(contexts: Contexts) -> pa.Schema:
    import pyarrow as pa

    span = [("document_id", pa.string()), ("start", pa.int64()), ("end", pa.int64())]
    fields = [
        *((name, pa.string()) for name in ("id", "task_type", "question", "answer")),
        ("answers", pa.list_(pa.string())),
        ("answer_kind", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("evidence", pa.list_(pa.struct([*span, ("quote", pa.string())]))),
        ("proof", pa.string()),
        ("generator", pa.string()),
        ("context", pa.list_(pa.struct(span))),
        ("context_tokens", pa.int64()),
        ("pass_rate", pa.float64()),
    ]
    if contexts == "text":
        message = pa.struct([("role", pa.string()), ("content", pa.string())])
        fields += [("context_text", pa.string()), ("messages", pa.list_(message))]
    return pa.schema(fields)


def _document_schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema([(name, pa.string()) for name in ("id", "title", "category", "text")])


_READ_TEXT = """from datasets import load_dataset

samples = load_dataset("OUT")  # splits: train (RL), sft, test (held out)
samples["train"][0]["messages"]  # the prompt; "answers" are right
"""

_READ_REFERENCES = """from datasets import load_dataset

samples = load_dataset("OUT", "samples")  # splits: train (RL), sft, test (held out)
documents = {row["id"]: row["text"] for row in load_dataset("OUT", "documents")["train"]}
sample = samples["train"][0]
parts = [documents[span["document_id"]][span["start"] : span["end"]] for span in sample["context"]]
"""


def _readme(contexts: Contexts, splits: Sequence[str]) -> str:
    """The front matter that `datasets` reads, and how to use it."""
    lines = ["---", "configs:", "- config_name: samples", "  default: true", "  data_files:"]
    for split in splits:
        lines += [f"  - split: {split}", f"    path: data/{split}.parquet"]
    if contexts == "references":
        lines += [
            "- config_name: documents",
            "  data_files:",
            "  - split: train",
            "    path: documents/documents.parquet",
        ]
    code = _READ_TEXT if contexts == "text" else _READ_REFERENCES
    return "\n".join([*lines, "---", "", "```python", code.rstrip(), "```", "", ""])
