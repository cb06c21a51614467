"""The corpus of evaluation_examples.py as files."""

import pytest
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
