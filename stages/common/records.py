"""The nouns of the data side, named once. Files hold one record per line (JSONL).

Offsets are characters of the ingested document's `text`; `quote` is exactly that span.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class TaskType(StrEnum):
    """The five RL task types, balanced in every batch (paper section 4.2)."""

    MULTI_HOP = "multi_hop"  # facts joined across documents
    NUMERICAL = "numerical"  # computed from table cells
    READING_COMPREHENSION = "reading_comprehension"  # order, count, find
    DIALOGUE_MEMORY = "dialogue_memory"  # recall a turn of a long conversation
    MULTIPLE_CHOICE = "multiple_choice"  # one letter of four


class Category(StrEnum):
    """What kind of text a document is (paper section 3.1)."""

    CODE = "code"
    ACADEMIC = "academic"
    PROFESSIONAL = "professional"
    GENERAL = "general"
    DIALOGUES = "dialogues"


class AnswerKind(StrEnum):
    """How an answer is compared with the gold one."""

    TEXT = "text"  # cover exact match
    NUMBER = "number"  # numeric match
    LETTER = "letter"  # option letter
    SEQUENCE = "sequence"  # SequenceMatcher ratio (MRCR)
    SET = "set"  # set F1; the gold answer is a list


class Record(BaseModel):
    """Base of all records: frozen, unknown keys refused, so that a damaged file is noticed."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Table(Record):
    """A table of a document: where it stands in the text, as a Markdown pipe table, and what is said about it."""

    start: int = Field(ge=0, description="First character of the header line in `Document.text`.")
    end: int = Field(ge=0, description="End of the last row, without its line break.")
    caption: str = Field(description="Caption, or the heading above; empty if there is neither.")
    units: str = Field(description="What the caption or the lines around say of units (`in millions, except EPS`).")
    header: list[str] = Field(description="Column names; empty ones included.")
    rows: int = Field(ge=0, description="Rows below the header.")


class SourceFile(Record):
    """One file of a repository that became one document."""

    path: str = Field(description="Inside the repository, with `/`.")
    start: int = Field(ge=0, description="First character of the file's text in `Document.text`, after its file line.")
    end: int = Field(ge=0)


class Document(Record):
    """One ingested document."""

    id: str = Field(description="`<category>/<relative path without suffix>`, stable over runs and machines.")
    category: Category
    title: str
    text: str
    source: str = Field(description="Path relative to the corpus folder, with `/`.")
    format: str = Field(
        description="Reader that made it: text, markdown, html, pdf, latex, csv, xlsx, parquet, python, dialogue."
    )
    tokens: int = Field(ge=0, description="Length in tokens of the base model's tokenizer.")
    language: str = Field(
        default="", description="ISO 639-1 code, recognised on a sample of the text; empty if unknown."
    )
    licence: str | None = Field(default=None, description="As a sibling LICENSE, SOURCES.md or the file's head says.")
    tables: list[Table] = Field(default_factory=list, description="In reading order.")
    files: list[SourceFile] = Field(default_factory=list, description="Of a repository: every file and its span.")


class Span(Record):
    """Characters [start, end) of a document."""

    document_id: str
    start: int = Field(ge=0)
    end: int = Field(ge=0)


class Evidence(Span):
    """A span that supports the answer; `quote == document.text[start:end]`."""

    quote: str


class QAPair(Record):
    """A question with a checkable answer and its proof, before a context is assembled."""

    id: str = Field(description="`<task_type>-<12 hex digits of the content>`.")
    task_type: TaskType
    question: str
    answer: str | list[str] = Field(description="The gold answer; a list for answer_kind `set`.")
    answer_kind: AnswerKind
    choices: list[str] = Field(default_factory=list, description="Four options for a letter question, else empty.")
    evidence: list[Evidence]
    proof: dict[str, Any] = Field(
        description="How to re-derive the answer: {kind: sql, sql, rows} | {kind: path, hops} | {kind: quote} | ..."
    )
    generator: str = Field(description="Name of the rule that made it.")
    seed: int


class Sample(QAPair):
    """A question with its context: spans of documents in reading order."""

    context: list[Span]
    context_tokens: int = Field(ge=0, description="Tokens of the materialised context (base model's tokenizer).")


class Dropped(Record):
    """A record that was filtered out, kept so that it can be looked at."""

    reason: str = Field(description="A value of the stage's reasons, counted in record.json.")
    stage: str
    detail: str = Field(description="What was seen, in one sentence.")
    record: dict[str, Any]
