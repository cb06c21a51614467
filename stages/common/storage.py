"""Reading and writing the files that stages exchange: JSONL, JSON, documents by id, model pointers.

Every file is written beside its final name and renamed, so a file that exists is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from stages.common.errors import InputError
from stages.common.records import Document, Span

R = TypeVar("R", bound=BaseModel)


def write_text(path: Path, text: str) -> None:
    """Write atomically (UTF-8, newline kept)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file with sorted keys: equal values give equal bytes."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file. InputError if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist. Run the stage that makes it (`longfuse plan` names it).") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON ({error}). Delete it and run again.") from None


def write_jsonl(path: Path, records: Iterable[BaseModel | dict[str, Any]]) -> int:
    """Write records one per line, return how many. Equal records give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    count = 0
    with partial.open("w", encoding="utf-8", newline="") as file:
        for record in records:
            value = record.model_dump(mode="json") if isinstance(record, BaseModel) else record
            file.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    return count


def iter_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSONL file. InputError names the file and line that is damaged."""
    try:
        file = path.open(encoding="utf-8", newline="\n")
    except FileNotFoundError:
        raise InputError(f"{path} does not exist. Run the stage that makes it (`longfuse plan` names it).") from None
    with file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(
                    f"{path}:{number} is not valid JSON ({error}). Delete the file and run again."
                ) from None


def iter_records(path: Path, record_type: type[R]) -> Iterator[R]:
    """Yield the records of a JSONL file. InputError names the line that does not fit `record_type`."""
    for number, value in enumerate(iter_json_lines(path), start=1):
        try:
            yield record_type.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InputError(
                f"{path}: record {number} is no {record_type.__name__}: {where}: {first['msg']}."
            ) from None


def read_records(path: Path, record_type: type[R]) -> list[R]:
    """All records of a JSONL file as a list."""
    return list(iter_records(path, record_type))


class DocumentStore:
    """Documents by id, read from JSONL files on demand.

    Holds one byte offset per document and a small cache of documents, so memory stays bounded for large corpora.
    """

    def __init__(self, paths: Sequence[Path], cached_documents: int = 256) -> None:
        self._where: dict[str, tuple[Path, int, int]] = {}
        self._cache: OrderedDict[str, Document] = OrderedDict()
        self._cached_documents = cached_documents
        for path in paths:
            self._index(path)

    def _index(self, path: Path) -> None:
        if not path.is_file():
            raise InputError(f"{path} does not exist. Run the stage that makes it (`longfuse plan` names it).")
        offset = 0
        with path.open("rb") as file:
            for line in file:
                if line.strip():
                    # The id is the first key of every document line, see write_jsonl and Document.
                    document_id = json.loads(line)["id"]
                    self._where[document_id] = (path, offset, len(line))
                offset += len(line)

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, document_id: str) -> bool:
        return document_id in self._where

    def __iter__(self) -> Iterator[str]:
        """Document ids, in file order."""
        return iter(self._where)

    def __getitem__(self, document_id: str) -> Document:
        """The document. InputError if there is none of that id."""
        if document_id in self._cache:
            self._cache.move_to_end(document_id)
            return self._cache[document_id]
        if document_id not in self._where:
            raise InputError(
                f"no document {document_id!r}: the dataset belongs to another corpus. Run `longfuse run` again."
            )
        path, offset, length = self._where[document_id]
        with path.open("rb") as file:
            file.seek(offset)
            document = Document.model_validate_json(file.read(length))
        self._cache[document_id] = document
        if len(self._cache) > self._cached_documents:
            self._cache.popitem(last=False)
        return document

    def text_of(self, span: Span) -> str:
        """The characters of a span."""
        return self[span.document_id].text[span.start : span.end]


def md5_of_file(path: Path) -> str:
    """md5 of a file's bytes, streamed (DVC's hash, so that pointers can be compared with dvc.lock)."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def md5_of_folder(folder: Path) -> str:
    """md5 over the sorted (relative path, md5) pairs of a folder's files."""
    digest = hashlib.md5(usedforsecurity=False)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()} {md5_of_file(path)}\n".encode())
    return digest.hexdigest()


def write_model_pointer(data_dir: Path, model_dir: Path) -> None:
    """Write `data_dir/model.json` = {path, md5}; `path` is relative to `data_dir`.

    A stage that made a model points at its own `model/`; a pass-through stage points at its parent's.
    """
    relative = os.path.relpath(model_dir, data_dir).replace(os.sep, "/")
    write_json(data_dir / "model.json", {"path": relative, "md5": md5_of_folder(model_dir)})


def open_model_pointer(data_dir: Path) -> Path:
    """The model folder that `data_dir/model.json` points at, its md5 checked.

    Raises InputError if the pointer or the folder is missing, or if the bytes are not those that were written.
    """
    pointer = read_json(data_dir / "model.json")
    model_dir = Path(os.path.normpath(data_dir / pointer["path"]))
    if not model_dir.is_dir():
        raise InputError(
            f"{data_dir / 'model.json'} points at {model_dir}, which does not exist. Run `longfuse run` again."
        )
    found = md5_of_folder(model_dir)
    if found != pointer["md5"]:
        raise InputError(
            f"the model in {model_dir} was changed by hand (md5 {found}, {pointer['md5']} was written). "
            "Run `longfuse run`: it restores or remakes it."
        )
    return model_dir


def count_lines(path: Path) -> int:
    """Lines of a text file."""
    with path.open("rb") as file:
        return sum(1 for _ in file)
