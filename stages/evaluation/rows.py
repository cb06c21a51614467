"""Reading benchmark files that may be damaged: a row that is no question is kept with its place and reason, never fatal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from stages.common.errors import InputError
from stages.evaluation.base import BrokenRow, Loaded, LoadRequest, Question

Row = dict[str, Any]
Located = tuple[str, Row]  # where it stands, and the row

_MAX_REASON_CHARACTERS = 200


def find_file(request: LoadRequest, name: str, patterns: Sequence[str]) -> Path | None:
    """The first file that fits a pattern: in `<data_dir>/<name>/`, then in `<data_dir>/` itself. None if there is none."""
    if request.data_dir is None:
        return None
    for folder in (request.data_dir / name, request.data_dir):
        for pattern in patterns:
            found = sorted(path for path in folder.glob(pattern) if path.is_file())
            if found:
                return found[0]
    return None


def read_rows(path: Path) -> tuple[list[Located], list[BrokenRow]]:
    """Rows of a .jsonl, .json (a list, or an object with the list `data`) or .parquet file, and the lines that are no JSON object.

    Raises InputError if the file as a whole cannot be read.
    """
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            return _objects(path.name, enumerate(pq.read_table(path).to_pylist(), start=1))
        if path.suffix == ".json":
            values = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(values, dict) and isinstance(values.get("data"), list):  # SQuAD's official file
                values = values["data"]
            if not isinstance(values, list):
                raise InputError(f"{path} holds no list of rows. Give JSONL, a JSON list or parquet.")
            return _objects(path.name, enumerate(values, start=1))
        return _lines(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read: {error}. Give JSONL, a JSON list or parquet.") from None


def _lines(path: Path) -> tuple[list[Located], list[BrokenRow]]:
    rows: list[Located] = []
    broken: list[BrokenRow] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path.name}:{number}"
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
                broken.append(BrokenRow(where, _short(f"no JSON: {error}")))
                continue
            _add(where, value, rows, broken)
    return rows, broken


def _objects(name: str, values: Iterable[tuple[int, Any]]) -> tuple[list[Located], list[BrokenRow]]:
    rows: list[Located] = []
    broken: list[BrokenRow] = []
    for number, value in values:
        _add(f"{name}:{number}", value, rows, broken)
    return rows, broken


def _add(where: str, value: Any, rows: list[Located], broken: list[BrokenRow]) -> None:
    if not isinstance(value, dict):
        broken.append(BrokenRow(where, f"a {type(value).__name__} where an object was expected"))
    elif not _is_unicode(value):
        broken.append(BrokenRow(where, "text that is not Unicode (lone surrogates)"))
    else:
        rows.append((where, value))


def _is_unicode(value: Row) -> bool:
    """False if a text holds half of a surrogate pair, which JSON can write but no file or tokenizer takes."""
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        return False
    return True


def hub_rows(name: str, split: str, config: str | None = None) -> list[Located]:
    """Rows of a data set of the Hugging Face hub (or of a local folder in its form).

    Raises InputError if `datasets` is not installed, or the data set cannot be had.
    """
    try:
        from datasets import load_dataset
    except ImportError:
        raise InputError("the hub needs the package `datasets`: pip install datasets. Or give --data DIR.") from None
    try:
        rows = load_dataset(name, config, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name} cannot be had from the hub ({_short(str(error))}). Download it elsewhere and give --data DIR."
        ) from None
    return [(f"{name}/{split}:{number}", dict(row)) for number, row in enumerate(rows, start=1)]


def hub_file(name: str, file: str) -> Path:
    """A file of a data set of the Hugging Face hub, for sets whose rows `datasets` cannot make a table of.

    Raises InputError if it cannot be had.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, file, repo_type="dataset"))
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{file} of {name} cannot be had from the hub ({_short(str(error))}). Download it elsewhere and give --data DIR."
        ) from None


def questions_of(
    rows: Iterable[Located],
    parse: Callable[[Row], Question | list[Question]],
    broken: Sequence[BrokenRow] = (),
    limit: int | None = None,
) -> Loaded:
    """Questions of rows, in order; what `parse` cannot use (KeyError, TypeError, ValueError, ...) is a broken row.

    limit: questions at most; reading ends there. A second question of the same name (of one benchmark) is a broken row,
    since answers are kept by name.
    """
    questions: list[Question] = []
    bad = list(broken)
    seen: set[tuple[str, str]] = set()
    for where, row in rows:
        if limit is not None and len(questions) >= limit:
            break
        try:
            made = parse(row)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            said = f"no field {error}" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
            bad.append(BrokenRow(where, _short(said)))
            continue
        for question in made if isinstance(made, list) else [made]:
            if (question.benchmark, question.id) in seen:
                bad.append(BrokenRow(where, _short(f"a second question named {question.id}")))
            elif limit is None or len(questions) < limit:
                seen.add((question.benchmark, question.id))
                questions.append(question)
    return Loaded(questions, bad)


def _short(text: str) -> str:
    return " ".join(text.split())[:_MAX_REASON_CHARACTERS]
