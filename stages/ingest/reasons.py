"""Why a file, or a part of one, does not become a document."""

from __future__ import annotations

from enum import StrEnum

from stages.common.errors import LongfuseError


class DropReason(StrEnum):
    """Every reason that ingest writes into dropped.jsonl and counts in summary.json."""

    # Found by the walk: never opened.
    UNREADABLE = "unreadable"  # the system refuses to open it
    NOT_A_FILE = "not_a_file"  # a pipe, socket or device
    SYMLINK_FOLDER = "symlink_folder"  # links to folders are not followed, so no loop can form
    SYMLINK_OUTSIDE = "symlink_outside"  # a link to a file that is not part of the corpus
    BAD_NAME = "bad_name"  # line breaks, control characters or bytes that are no UTF-8
    UNSUPPORTED_FORMAT = "unsupported_format"
    # Found by reading.
    TOO_LARGE = "too_large"  # the file, what it unpacks to, or a table in it
    BINARY = "binary"  # holds NUL bytes
    UNKNOWN_ENCODING = "unknown_encoding"  # no UTF-8, and no other encoding reads as text
    BAD_UNICODE = "bad_unicode"  # endless runs of combining marks
    BAD_GZIP = "bad_gzip"
    BAD_HTML = "bad_html"
    BAD_PDF = "bad_pdf"
    BAD_LATEX = "bad_latex"
    BAD_CSV = "bad_csv"
    BAD_XLSX = "bad_xlsx"
    BAD_PARQUET = "bad_parquet"
    BAD_JSON = "bad_json"
    NOT_A_DIALOGUE = "not_a_dialogue"
    TOO_DEEP = "too_deep"  # nested beyond any document
    TOO_SLOW = "too_slow"  # reading took longer than ingest.max_file_seconds
    OUT_OF_MEMORY = "out_of_memory"
    CRASHED = "crashed"  # the process that read it died, twice
    # Found by looking at the text.
    TOO_SHORT = "too_short"
    UNBROKEN = "unbroken"  # a run of characters without white space, longer than any word
    REPETITIVE = "repetitive"
    BOILERPLATE = "boilerplate"  # mostly cookie notices, menus and filler
    DAMAGED = "damaged"  # replacement characters, or text decoded with the wrong encoding
    # Found by comparing documents.
    DUPLICATE = "duplicate"  # same text as another document
    NEAR_DUPLICATE = "near_duplicate"
    DUPLICATE_ID = "duplicate_id"
    CONTAMINATED = "contaminated"  # holds words of a benchmark's question, answer or gold evidence


class UnusableError(LongfuseError):
    """Raised by a reader; the stage turns it into a dropped record and goes on."""

    def __init__(self, reason: DropReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
