"""From names of benchmarks to planned questions. What cannot be asked is told, never silently left out."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from stages.common.errors import ConfigError, InputError
from stages.evaluation.base import Benchmark, BrokenRow, LoadRequest, Mode
from stages.evaluation.planning import Planned, plan

_log = logging.getLogger(__name__)


@dataclass
class Selection:
    """Questions in order; skipped: benchmark, or "benchmark (mode)" -> why it is not asked; broken: rows that are none."""

    planned: list[Planned] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    broken: dict[str, list[BrokenRow]] = field(default_factory=dict)


def benchmark_named(name: str, catalogue: Mapping[str, Benchmark]) -> Benchmark:
    """The benchmark. ConfigError names the nearest one."""
    if name in catalogue:
        return catalogue[name]
    near = difflib.get_close_matches(name, catalogue, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ConfigError(
        f"there is no benchmark {name!r}.{hint} `longfuse eval --list` shows them: {', '.join(catalogue)}."
    )


def select(
    benchmarks: Sequence[Benchmark], modes: Sequence[Mode], request: Callable[[Benchmark], LoadRequest]
) -> Selection:
    """The questions of every benchmark in every mode that makes sense for it, benchmark by benchmark.

    One whose data are not at hand, unreadable or without a single question is skipped with the reason, also logged.
    """
    chosen = Selection()
    for benchmark in benchmarks:
        wanted = [mode for mode in modes if mode in benchmark.modes]
        asked = request(benchmark)
        reason = None
        if not wanted:
            reason = f"it is asked in the modes {', '.join(benchmark.modes)} only"
        else:
            available = benchmark.available(asked)
            reason = None if available.at_hand else available.reason
        if reason is None:
            reason = _load(benchmark, asked, wanted, chosen)
        if reason is not None:
            chosen.skipped[benchmark.name] = reason
            _log.warning("%s is skipped: %s", benchmark.name, reason)
    return chosen


def _load(benchmark: Benchmark, request: LoadRequest, modes: Sequence[Mode], chosen: Selection) -> str | None:
    """Add the questions; why there are none, otherwise."""
    try:
        loaded = benchmark.load(request)
    except InputError as error:
        return str(error)
    if loaded.broken:
        chosen.broken[benchmark.name] = loaded.broken
        first = loaded.broken[0]
        _log.warning(
            "%s: %d rows are broken and left out, the first is %s: %s",
            benchmark.name,
            len(loaded.broken),
            first.where,
            first.reason,
        )
    if not loaded.questions:
        return f"not one usable question ({len(loaded.broken)} broken rows)"
    for mode in modes:
        asked = [question for question in loaded.questions if mode in question.modes]
        chosen.planned += [plan(question, mode) for question in asked]
        if missing := len(loaded.questions) - len(asked):
            why = f"{missing} of {len(loaded.questions)} questions: {benchmark.context_missing}"
            chosen.skipped[f"{benchmark.name} ({mode})"] = why
            _log.warning("%s (%s) is skipped for %s", benchmark.name, mode, why)
    return None
