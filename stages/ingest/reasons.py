"""Why a file, or a part of one, does not become a document."""

from __future__ import annotations

from enum import StrEnum

from stages.common.errors import LongfuseError


class DropReason(StrEnum):
    """Every reason that ingest writes into dropped.jsonl and counts in summary.json."""

    UNREADABLE = "unreadable"  # the system refuses to open it
    NOT_A_FILE = "not_a_file"  # a pipe, socket or device
    SYMLINK_FOLDER = "symlink_folder"  # links to folders are not followed, so no loop can form
    BAD_NAME = "bad_name"  # line breaks, control characters or bytes that are no UTF-8
    UNSUPPORTED_FORMAT = "unsupported_format"
    TOO_LARGE = "too_large"
    BINARY = "binary"  # holds NUL bytes
    NOT_UTF8 = "not_utf8"
    BAD_UNICODE = "bad_unicode"  # endless runs of combining marks
    BAD_HTML = "bad_html"
    BAD_CSV = "bad_csv"
    BAD_JSON = "bad_json"
    NOT_A_DIALOGUE = "not_a_dialogue"
    TOO_DEEP = "too_deep"  # nested beyond any document
    TOO_SHORT = "too_short"
    DUPLICATE = "duplicate"  # same text as another document
    DUPLICATE_ID = "duplicate_id"


class UnusableError(LongfuseError):
    """Raised by a reader; the stage turns it into a dropped record and goes on."""

    def __init__(self, reason: DropReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
