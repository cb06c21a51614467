"""Answers that are finished, kept in the state folder the moment they are: a kill loses only what was being generated.

One line per batch of questions that became finished together (one question, where each finishes by itself), appended in
one write and synced. A torn last line is cut off; a line that is damaged is as if never written. One process at a time.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from stages.common.errors import InputError
from stages.common.records import Record
from stages.evaluation.planning import Key, Planned

_log = logging.getLogger(__name__)


class Answer(Record):
    """One sample as the model gave it, before any scoring."""

    text: str
    failure: str | None = None  # why there is no answer
    finish_reason: Literal["stop", "length"] | None = None
    prompt_tokens: int = 0
    response_tokens: int = 0
    context_tokens: int | None = None
    context_cut: bool = False
    turns: int = 0


class FinishedAnswers:
    """The answers in a file. Use it in `with`; InputError if another process has the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._answers: dict[tuple[Key, str], list[Answer]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise InputError(
                f"another evaluation is writing {path}. Wait for it, or give another output folder (--out)."
            ) from None
        self._read()

    def __enter__(self) -> FinishedAnswers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()  # gives the lock back

    def get(self, planned: Planned) -> list[Answer] | None:
        """The answers of a question, if it is finished and was the same question."""
        return self._answers.get((planned.key, planned.content))

    def add(self, finished: Sequence[tuple[Planned, list[Answer]]]) -> None:
        """Append questions that became finished together."""
        line = json.dumps(
            [
                {
                    "key": planned.key,
                    "content": planned.content,
                    "answers": [a.model_dump(mode="json") for a in answers],
                }
                for planned, answers in finished
            ]
        )  # ASCII: lone surrogates of a reply survive
        self._file.write(line.encode("ascii") + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        for planned, answers in finished:
            self._answers[planned.key, planned.content] = answers

    def _read(self) -> None:
        self._file.seek(0)
        whole = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break  # torn by a kill
            whole += len(line)
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError):  # ValidationError is a ValueError
                _log.warning("%s: a damaged line is skipped, its questions are asked again", self._path)
        self._file.truncate(whole)
        self._file.seek(0, os.SEEK_END)

    def _take(self, line: Any) -> None:
        for entry in line:
            benchmark, mode, name = entry["key"]
            answers = [Answer.model_validate(answer) for answer in entry["answers"]]
            self._answers[(str(benchmark), str(mode), str(name)), str(entry["content"])] = answers
