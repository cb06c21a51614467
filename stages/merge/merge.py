"""Merge of whole checkpoints, tensor by tensor, without building a model (recipe section 5).

Tensors are shared out to threads, the largest first; each is read, merged and written a block at a time, so memory is a few
blocks per thread whatever the size of the model or of its largest tensor, and reading, arithmetic and writing overlap.

Shards are made in `work_dir` (by default beside the output) and renamed into place as a folder at the very end: an output
folder that exists is whole. A merge that was killed goes on from its last finished shard.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stages.common.errors import InputError
from stages.common.storage import read_json, write_text
from stages.merge.averages import linear_blocks, task_arithmetic_blocks
from stages.merge.checkpoint import INDEX_FILE, Checkpoint
from stages.merge.compatibility import check_config, check_tensors, check_tokenizer, drop_tied_head
from stages.merge.finished import JOURNAL, FinishedShards
from stages.merge.passes import BLOCK, Figures, one_torch_thread
from stages.merge.sce import Weighting, check_arguments, sce_blocks
from stages.merge.sources import Arena, FileTensors
from stages.merge.special_tokens import check_generation, check_sentencepiece, check_special_tokens
from stages.merge.tensor_report import TensorReport
from stages.merge.writing import Shard, ShardWriter, Spec, plan_shards, write_index

_log = logging.getLogger(__name__)

MAX_SHARD_BYTES = 5_000_000_000
METHODS = ("sce", "linear", "task_arithmetic")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DTYPE_POLICIES = ("auto", "base", *DTYPES)
_COPIED_SUFFIXES = {".json", ".jinja", ".txt", ".model"}


@dataclass(frozen=True, kw_only=True)
class Method:
    """How tensors are merged. `weights`: for linear and task_arithmetic, one per expert."""

    name: str = "sce"
    select_topk: float = 1.0
    weighting: Weighting = "scale_free"
    weights: tuple[float, ...] = ()


def merge_checkpoints(
    base_dir: Path,
    expert_dirs: Sequence[Path],
    out_dir: Path,
    *,
    method: str = "sce",
    select_topk: float = 1.0,
    weighting: Weighting = "scale_free",
    weights: Sequence[float] | None = None,
    dtype: str = "auto",
    max_shard_bytes: int = MAX_SHARD_BYTES,
    work_dir: Path | None = None,
    threads: int | None = None,
) -> list[TensorReport]:
    """Merge experts over their common base into `out_dir`, with the base's config and tokenizer files.

    Args:
        base_dir: model folder with safetensors.
        expert_dirs: the same, at least one.
        out_dir: does not exist, or is an empty folder.
        method: sce; linear (mean of the experts) or task_arithmetic (base plus weighted differences).
        select_topk: of sce.
        weighting: of sce.
        weights: of the other two, one per expert; None: 1/n for linear, 1 for task_arithmetic.
        dtype: of the written floating-point tensors. float32, bfloat16, float16; base: the base's, tensor by tensor; auto:
            per tensor the widest among base and experts, since rounding to a narrower one would erase small differences.
            It changes the last rounding alone: arithmetic is in float32 or wider, moments are summed in float64.
        max_shard_bytes: a file above it is split as transformers splits.
        work_dir: where the shards are made, on the disk of `out_dir`; None: `<out_dir>.partial`.
        threads: tensors merged at once; None: one more than the processors that this process may use, at most 16, so that
            one reads or writes while the others compute. The result does not depend on it.

    Returns one report per tensor, in the order of the base's files.

    Raises InputError (naming folder and tensor) if configs, tokenizers, special tokens, tensor names or shapes differ, a shard is
    missing or damaged, a value is not finite, or `out_dir` holds files already.
    """
    how = _method(method, select_topk, weighting, weights, len(expert_dirs))
    if dtype not in DTYPE_POLICIES:
        raise InputError(f"dtype must be one of {', '.join(DTYPE_POLICIES)}, not {dtype!r}.")
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise InputError(f"{out_dir} is not empty. Give a new folder for the merged model.")
    base, experts = _opened(base_dir, expert_dirs)
    specs = {name: (base[name].shape, _out_dtype(name, base, experts, dtype)) for name in base.names}
    shards = plan_shards(specs, max_shard_bytes)
    work_dir = work_dir or out_dir.with_name(out_dir.name + ".partial")
    finished = FinishedShards(work_dir, [base, *experts], (how, shards))
    _log.info("Merging %d tensors of %d experts over the base by %s", len(specs), len(experts), method)
    reports: dict[str, TensorReport] = {}
    # Each thread says so for itself: the number is one per thread in the library that computes the sums.
    count = threads or _default_threads()
    with one_torch_thread(), ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for number, shard in enumerate(shards, start=1):
            done = finished.get(shard)
            if done is None:
                done = _merge_shard(work_dir, shard, base, experts, how, pool)
                finished.add(shard, done)
            else:
                _log.info("%s was finished before", shard.file)
            reports.update({report.name: report for report in done})
            _log.info("Merged %d of %d files", number, len(shards))
    write_index(work_dir, shards)
    _copy_settings(base_dir, work_dir, {dtype for _, dtype in specs.values() if dtype.is_floating_point})
    _into_place(work_dir, out_dir)
    # Last: without its journal an unfinished folder could not be told from anybody's.
    (out_dir / JOURNAL).unlink(missing_ok=True)
    return [reports[name] for name in base.names]


def _method(
    name: str, select_topk: float, weighting: Weighting, weights: Sequence[float] | None, experts: int
) -> Method:
    """The method, checked. InputError says which setting is wrong."""
    check_arguments(experts, select_topk)
    if name not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}, not {name!r}.")
    if name == "sce":
        if weights is not None:
            raise InputError("weights are computed by sce; give them with method linear or task_arithmetic.")
        if experts == 1 and select_topk < 1:
            _log.warning("One expert with select_topk < 1: the variance is zero everywhere, so the result is the base.")
        return Method(select_topk=select_topk, weighting=weighting)
    if weights is None:
        weights = [1 / experts if name == "linear" else 1.0] * experts
    if len(weights) != experts:
        raise InputError(f"{len(weights)} weights were given for {experts} experts: give one for each.")
    if name == "linear" and sum(weights) <= 0:
        raise InputError(f"the weights of a linear merge sum to {sum(weights)}: the sum must be above 0.")
    return Method(name=name, weights=tuple(weights))


def _opened(base_dir: Path, expert_dirs: Sequence[Path]) -> tuple[Checkpoint, list[Checkpoint]]:
    """Base and experts, known to belong together."""
    base = Checkpoint(base_dir)
    experts = [Checkpoint(folder) for folder in expert_dirs]
    for expert_dir in expert_dirs:
        check_config(base_dir, expert_dir)
        check_tokenizer(base_dir, expert_dir)
        check_special_tokens(base_dir, expert_dir)
        check_sentencepiece(base_dir, expert_dir)
        check_generation(base_dir, expert_dir)
    for checkpoint in (base, *experts):
        drop_tied_head(checkpoint)
    for expert in experts:
        check_tensors(base, expert)
    return base, experts


def _default_threads() -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, usable + 1)


def _merge_shard(
    work_dir: Path, shard: Shard, base: Checkpoint, experts: Sequence[Checkpoint], how: Method, pool: ThreadPoolExecutor
) -> list[TensorReport]:
    """One file of the output, whole or not at all."""
    with ShardWriter(work_dir, shard) as writer:
        # The largest first: otherwise one thread would still be at the embedding when the others are done.
        names = sorted(shard.specs, key=lambda name: -base[name].count)
        running = [
            pool.submit(_merge_tensor, name, shard.specs[name], base, experts, how, writer.write) for name in names
        ]
        try:
            reports = {future.result().name: future.result() for future in running}
        except BaseException:
            for future in running:
                future.cancel()
            for future in running:
                if not future.cancelled():
                    future.exception()  # wait: it still writes into the file
            raise
    return [reports[name] for name in shard.specs]


_arenas = threading.local()


def _own_arena() -> Arena:
    """This thread's; it goes with the thread."""
    if not hasattr(_arenas, "arena"):
        _arenas.arena = Arena()
    arena: Arena = _arenas.arena
    return arena


def _merge_tensor(
    name: str,
    spec: Spec,
    base: Checkpoint,
    experts: Sequence[Checkpoint],
    how: Method,
    write: Callable[[str, int, Tensor], None],
) -> TensorReport:
    source = FileTensors(name, base, experts, spec[1], _own_arena())

    def put(start: int, values_N: Tensor) -> None:
        write(name, start, values_N)

    if not base[name].dtype.is_floating_point:
        for start in range(0, source.count, BLOCK):
            put(start, source.equal_block(slice(start, min(start + BLOCK, source.count))))
        return TensorReport(name, source.count, None)
    figures: Figures
    if how.name == "sce":
        figures = sce_blocks(source, len(experts), how.select_topk, how.weighting, put)
    elif how.name == "linear":
        figures = linear_blocks(source, how.weights, put)
    else:
        figures = task_arithmetic_blocks(source, how.weights, put)
    return TensorReport(name, source.count, figures)


def _copy_settings(base_dir: Path, folder: Path, dtypes: set[torch.dtype]) -> None:
    """Config and tokenizer files of the base; `dtype` in config.json follows the weights, or they would be cast to it."""
    for path in sorted(base_dir.iterdir()):
        if path.is_file() and path.suffix in _COPIED_SUFFIXES and path.name not in (INDEX_FILE, JOURNAL):
            shutil.copyfile(path, folder / path.name)
    config = read_json(folder / "config.json")
    named = {key for key in ("dtype", "torch_dtype") if key in config}
    for dtype in dtypes if len(dtypes) == 1 else ():
        said = str(dtype).removeprefix("torch.")
        if any(config[key] != said for key in named):
            text = json.dumps({**config, **dict.fromkeys(named, said)}, indent=2, sort_keys=True) + "\n"
            write_text(folder / "config.json", text)


def _into_place(work_dir: Path, out_dir: Path) -> None:
    """Rename the finished folder to its name; from another disk by way of a copy beside it."""
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    try:
        work_dir.replace(out_dir)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = out_dir.with_name(out_dir.name + ".partial")
        shutil.copytree(work_dir, beside, dirs_exist_ok=True)
        beside.replace(out_dir)
        shutil.rmtree(work_dir)


def _out_dtype(name: str, base: Checkpoint, experts: Sequence[Checkpoint], policy: str) -> torch.dtype:
    dtype = base[name].dtype
    if policy == "base" or not dtype.is_floating_point:
        return dtype
    if policy != "auto":
        return DTYPES[policy]
    for expert in experts:
        dtype = torch.promote_types(dtype, expert[name].dtype)
    return dtype
