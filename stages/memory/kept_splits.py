"""Splits of questions that were asked of a model, kept on disk: a resumed run reads with the same prompts.

A reply itself is kept by the chat client, but not that a call failed and the rules' split was used instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from stages.memory.query import SplitQuery

SplitMany = Callable[[Sequence[str]], Sequence[SplitQuery]]


class KeptSplits:
    """A SplitMany that asks `ask` about each question once; what it said is appended to the file `path`."""

    def __init__(self, path: Path, ask: SplitMany) -> None:
        self._path = path
        self._ask = ask
        self._known = dict(_read(path))

    def __call__(self, questions: Sequence[str]) -> list[SplitQuery]:
        """The splits, in order."""
        new = list(dict.fromkeys(question for question in questions if question not in self._known))
        if new:
            found = dict(zip(new, self._ask(new), strict=True))
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                for question, split in found.items():
                    file.write(f"\n{json.dumps({'question': question, **split._asdict()})}\n")
            self._known |= found
        return [self._known[question] for question in questions]


def _read(path: Path) -> Mapping[str, SplitQuery]:
    """What a file holds; half a line of a killed process is passed over."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            kept = json.loads(line)
            found[kept["question"]] = SplitQuery(kept["core"], kept["instructions"])
        except (ValueError, KeyError, TypeError):
            continue
    return found
