"""Loads, parses and counts one unit, or finds all that in the cache of parsed documents."""

from __future__ import annotations

from pathlib import Path

from stages.common.tokens import TokenCounter
from stages.ingest.cache import CountedUnit, ParsedCache, content_key, parser_version
from stages.ingest.discover import Unit
from stages.ingest.readers import Parsed, Problem, check_format, load, parse
from stages.ingest.reasons import DropReason, UnusableError


class UnitReader:
    """Reads units of one corpus. `parsed` and `reused` count what was new and what the cache knew.

    max_bytes bounds a file and also the sum of a package's files.
    """

    def __init__(self, corpus: Path, max_bytes: int, tokenizer_json: Path, cache_dir: Path) -> None:
        self._corpus = corpus
        self._max_bytes = max_bytes
        self._counter = TokenCounter(tokenizer_json)
        self._version = parser_version(tokenizer_json)
        self._cache = ParsedCache(cache_dir)
        self.parsed = 0
        self.reused = 0

    def read(self, unit: Unit) -> tuple[list[tuple[Parsed, int]], list[Problem]]:
        """Documents with their lengths in tokens, and what could not be used."""
        contents, problems = self._load(unit)
        if not contents:
            return [], problems
        counted = self._parse(unit, contents)
        documents = list(zip(counted.unit.documents, counted.tokens, strict=True))
        return documents, problems + counted.unit.problems

    def _parse(self, unit: Unit, contents: dict[str, bytes]) -> CountedUnit:
        key = content_key(self._version, unit.id, unit.source, contents)
        known = self._cache.get(key)
        if known is not None:
            self.reused += 1
            return known
        parsed = parse(unit, contents)
        counted = CountedUnit(unit=parsed, tokens=[self._counter.count(document.text) for document in parsed.documents])
        self._cache.put(key, counted)
        self.parsed += 1
        return counted

    def _load(self, unit: Unit) -> tuple[dict[str, bytes], list[Problem]]:
        """Bytes of the members that can be loaded, by path; nothing if the unit as a whole cannot be used."""
        contents: dict[str, bytes] = {}
        problems = []
        size = 0
        try:
            check_format(unit)
        except UnusableError as error:
            return {}, [Problem(path=unit.source, reason=error.reason, detail=error.detail)]
        for path in unit.members:
            try:
                contents[path] = load(self._corpus / path, self._max_bytes)
            except UnusableError as error:
                problems.append(Problem(path=path, reason=error.reason, detail=error.detail))
                continue
            size += len(contents[path])
            if size > self._max_bytes:  # only a package gets here: each file is within the limit
                detail = (
                    f"a package of {len(unit.members)} files with more than {self._max_bytes / 1e6:g} MB "
                    "(ingest.max_file_mb); put its parts into folders of their own"
                )
                return {}, [*problems, Problem(path=unit.source, reason=DropReason.TOO_LARGE, detail=detail)]
        return contents, problems

    def forget_unused(self) -> None:
        """Keep in the cache only what this run read."""
        self._cache.prune()
