"""The corpus of evaluation_examples.py and the rows of benchmark_rows.py as files."""

import pytest
from benchmark_rows import BABI, ROWS
from evaluation_examples import CAPITALS, CHAT, document

from stages.common.records import Category
from stages.common.storage import DocumentStore, write_jsonl


@pytest.fixture
def documents(tmp_path):
    path = tmp_path / "documents.jsonl"
    write_jsonl(
        path,
        [document(Category.GENERAL, "capitals", CAPITALS), document(Category.DIALOGUES, "chat", CHAT)],
    )
    return DocumentStore([path])


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmarks")
    for name, rows in ROWS.items():
        write_jsonl(folder / name, rows)
    (folder / "nocha" / "book.txt").write_text("Anne is small.")
    (folder / "babilong").mkdir()
    (folder / "babilong" / "qa1_single-supporting-fact_test.txt").write_text(BABI)
    prose = "It was a bright day. The clock struck one. Nobody came. " * 40
    write_jsonl(
        folder / "documents.jsonl",
        [
            document(Category.GENERAL, "prose", prose),
            document(Category.DIALOGUES, "chat", "ann: hello\nbob: hi there\n" * 9),
        ],
    )
    return folder
