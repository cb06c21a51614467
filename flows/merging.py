"""The body of `longfuse merge`: experts of one base into one model folder, outside of any pipeline."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast, get_args

from flows.bucket_data import require_here
from stages.common.errors import ConfigError, InputError
from stages.common.storage import open_model_pointer, write_json
from stages.merge.checkpoint import Checkpoint
from stages.merge.merge import merge_checkpoints
from stages.merge.sce import Weighting
from stages.merge.tensor_report import summarise


def merge_models(
    base: Path,
    experts: Sequence[Path],
    out: Path,
    *,
    method: str,
    select_topk: float,
    weighting: str,
    weights: Sequence[float],
    dtype: str,
    shard_gb: float,
    report: Path | None,
    say: Callable[[str], None],
) -> None:
    """Merge, write the report (`<out>/merge.json` unless told otherwise) and say what became of the model.

    A folder that holds `model.json` (a stage's data folder) stands for the model that it points at.
    Raises UserError for whatever the user can mend.
    """
    if weighting not in get_args(Weighting):
        raise ConfigError(f"--weighting must be one of {', '.join(get_args(Weighting))}, not {weighting!r}.")
    if shard_gb <= 0:
        raise ConfigError(f"--shard-gb {shard_gb}: a shard needs a size above 0.")
    base_dir = _model_dir(base)
    expert_dirs = [_model_dir(expert) for expert in experts]
    _check_room(base_dir, out)
    with _log_lines(say):
        reports = merge_checkpoints(
            base_dir,
            expert_dirs,
            out,
            method=method,
            select_topk=select_topk,
            weighting=cast("Weighting", weighting),
            weights=weights or None,
            dtype=dtype,
            max_shard_bytes=max(1, int(shard_gb * 1e9)),
        )
    names = _names(experts)
    summary = summarise(reports, names)
    path = report or out / "merge.json"
    settings = {
        "method": method, "select_topk": select_topk, "weighting": weighting, "weights": list(weights) or None, "dtype": dtype,
    }  # fmt: skip
    rows = [row.as_row() for row in reports]
    write_json(path, {**settings, "experts": names, "summary": summary, "tensors": rows})
    say(f"{len(reports)} tensors, {sum(row.parameters for row in reports):,} parameters: {out}")
    for key, value in summary.items():
        say(f"  {key.replace('_', ' '):<28}{'-' if value is None else f'{value:.4g}'}")
    say(f"Per tensor: {path}")


@contextmanager
def _log_lines(say: Callable[[str], None]) -> Iterator[None]:
    """What the merge logs, said as it comes; the logger is afterwards as it was."""

    class Say(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(record.getMessage())

    logger, handler = logging.getLogger("stages.merge"), Say(logging.INFO)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _model_dir(folder: Path) -> Path:
    require_here(folder)
    if (folder / "model.json").is_file():
        return open_model_pointer(folder)
    return folder


def _names(experts: Sequence[Path]) -> list[str]:
    """Short names for the report: the folders', numbered where two are equal."""
    names = [expert.resolve().name or "expert" for expert in experts]
    return [name if names.count(name) == 1 else f"{name}_{i}" for i, name in enumerate(names, start=1)]


def _check_room(base_dir: Path, out: Path) -> None:
    """The output has the base's size at least: better said now than after half of it."""
    base = Checkpoint(base_dir)
    needed = sum(base[name].count * base[name].dtype.itemsize for name in base.names)
    place = out.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise InputError(
            f"the merged model needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free on the disk of {out}. Make room."
        )
