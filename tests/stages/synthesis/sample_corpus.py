"""Documents, stores, a word tokenizer and samples for the tests of reading, dialogue, assembly and verification."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from stages.common.records import AnswerKind, Category, Document, Evidence, Sample, Span, TaskType
from stages.common.storage import DocumentStore, write_jsonl
from stages.common.tokens import TokenCounter
from stages.synthesis.survey import Survey, document_shards, survey_shard, write_survey


def doc(name: str, text: str, category: Category = Category.GENERAL, title: str = "") -> Document:
    return Document(
        id=f"{category}/{name}",
        category=category,
        title=title or name,
        text=text,
        source=f"{category}/{name}.md",
        format="markdown",
        tokens=len(text.split()),
    )


def store(tmp_path: Path, *documents: Document) -> DocumentStore:
    """A store over one file; several stores may live in one tmp_path."""
    path = tmp_path / f"documents-{len(list(tmp_path.glob('documents-*')))}.jsonl"
    write_jsonl(path, documents)
    return DocumentStore([path])


def ingested(folder: Path, *documents: Document) -> Path:
    """Ingest's data folder: a file per category, empty ones too."""
    for category in Category:
        of_category = [document for document in documents if document.category is category]
        where = "dialogues" if category is Category.DIALOGUES else "documents"
        write_jsonl(folder / where / f"{category}.jsonl", of_category)
    return folder


def word_tokenizer(folder: Path) -> Path:
    """A tokenizer.json for which every run of non-blanks is one token, so counts can be made by hand."""
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def word_counter(folder: Path) -> TokenCounter:
    return TokenCounter(word_tokenizer(folder))


def surveyed(folder: Path, documents: DocumentStore) -> Survey:
    """The survey of a store's documents, made as the stage makes it."""
    here = folder / f"survey-{len(list(folder.glob('survey-*')))}"
    write_jsonl(here / "documents.jsonl", [documents[document_id] for document_id in documents])
    tokenizer = word_tokenizer(folder)
    tables = [survey_shard(shard, tokenizer) for shard in document_shards([here / "documents.jsonl"])]
    write_survey(tables, here / "arrays")
    return Survey(here / "arrays")


def span_of(document: Document, part: str) -> Span:
    start = document.text.index(part)
    return Span(document_id=document.id, start=start, end=start + len(part))


def evidence_of(document: Document, part: str) -> Evidence:
    return Evidence(**dict(span_of(document, part)), quote=part)


def value_sample(
    document: Document,
    heading: str,
    answer: str,
    *,
    id: str = "reading_comprehension-1",
    task_type: TaskType = TaskType.READING_COMPREHENSION,
    context: list[Span] | None = None,
    **changes: object,
) -> Sample:
    """ "What does T say under the heading H?" with the passage as evidence and, unless given, as context."""
    passage = f"## {heading}\n\n{answer}"
    fields: dict[str, object] = {
        "id": id,
        "task_type": task_type,
        "question": f'What does "{document.title}" say under the heading "{heading}"?',
        "answer": answer,
        "answer_kind": AnswerKind.TEXT,
        "evidence": [evidence_of(document, passage)],
        "proof": {"kind": "value_under", "heading": heading},
        "generator": "reading_comprehension/value_under",
        "seed": 1,
        "context": [span_of(document, passage)] if context is None else context,
        "context_tokens": 10,
    }
    return Sample.model_validate({**fields, **changes})
