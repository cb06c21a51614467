"""Merge of whole checkpoints by SCE, tensor by tensor, without building a model (recipe section 5).

Memory holds one tensor of each checkpoint and its merged form, whatever the size of the model.
Tokenizer and architecture of all models must be equal: weights of different vocabularies do not correspond.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stages.common.errors import InputError
from stages.merge.checkpoint import INDEX_FILE, Checkpoint, write_checkpoint
from stages.merge.compatibility import check_config, check_tensors, check_tokenizer, drop_tied_head
from stages.merge.sce import SceReport, Weighting, sce_merge_with_report

_log = logging.getLogger(__name__)

MAX_SHARD_BYTES = 5_000_000_000
_COPIED_SUFFIXES = {".json", ".jinja", ".txt", ".model"}


@dataclass(frozen=True)
class TensorReport:
    """What became of one tensor. `sce` is None for integer tensors, which must be equal and are copied."""

    name: str
    parameters: int
    sce: SceReport | None


def merge_checkpoints(
    base_dir: Path,
    expert_dirs: Sequence[Path],
    out_dir: Path,
    *,
    select_topk: float = 1.0,
    weighting: Weighting = "scale_free",
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> list[TensorReport]:
    """Merge experts over their common base into `out_dir`, with the base's config and tokenizer files.

    Tensors are written in the widest type among base and experts: rounding to a narrower one would erase small
    differences. Returns one report per tensor, in the order of the base's files.

    Raises InputError (naming folder and tensor) if configs, tokenizers, tensor names or shapes differ, a shard is
    missing or damaged, a value is not finite, or `out_dir` holds files already.
    """
    if not expert_dirs:
        raise InputError("a merge needs at least one expert")
    if out_dir.exists() and any(out_dir.iterdir()):
        raise InputError(f"{out_dir} is not empty. Give a new folder for the merged model.")
    if len(expert_dirs) == 1 and select_topk < 1:
        _log.warning("One expert with select_topk < 1: the variance is zero everywhere, so the result is the base.")
    for expert_dir in expert_dirs:
        check_config(base_dir, expert_dir)
        check_tokenizer(base_dir, expert_dir)
    base = Checkpoint(base_dir)
    experts = [Checkpoint(folder) for folder in expert_dirs]
    for checkpoint in (base, *experts):
        drop_tied_head(checkpoint)
    for expert in experts:
        check_tensors(base, expert)

    reports: dict[str, TensorReport] = {}

    def merged(name: str) -> Tensor:
        tensor, reports[name] = _merge_tensor(name, base, experts, select_topk, weighting)
        return tensor

    out_dir.mkdir(parents=True, exist_ok=True)
    specs = {name: (base.shapes[name], _out_dtype(name, base, experts)) for name in base.names}
    _log.info("Merging %d tensors of %d experts over the base", len(specs), len(experts))
    write_checkpoint(out_dir, specs, merged, max_shard_bytes)
    for path in sorted(base_dir.iterdir()):
        if path.is_file() and path.suffix in _COPIED_SUFFIXES and path.name != INDEX_FILE:
            shutil.copyfile(path, out_dir / path.name)
    return [reports[name] for name in base.names]


def _merge_tensor(
    name: str, base: Checkpoint, experts: Sequence[Checkpoint], select_topk: float, weighting: Weighting
) -> tuple[Tensor, TensorReport]:
    base_tensor = _finite(base, name)
    expert_tensors = [_finite(expert, name) for expert in experts]
    parameters = base_tensor.numel()
    if not base_tensor.is_floating_point():
        for expert, tensor in zip(experts, expert_tensors, strict=True):
            if not torch.equal(tensor, base_tensor):
                raise InputError(f"{expert.folder}: integer tensor {name} differs from that of {base.folder}.")
        return base_tensor, TensorReport(name, parameters, None)
    base_tensor = base_tensor.to(_out_dtype(name, base, experts))
    tensor, report = sce_merge_with_report(base_tensor, expert_tensors, select_topk, weighting)
    return tensor, TensorReport(name, parameters, report)


def _finite(checkpoint: Checkpoint, name: str) -> Tensor:
    tensor = checkpoint.read(name)
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        bad = int((~torch.isfinite(tensor)).sum())
        raise InputError(
            f"{checkpoint.folder}: tensor {name} holds {bad} values that are NaN or infinite. "
            "The training that made it diverged: lower its learning rate and run it again."
        )
    return tensor


def _out_dtype(name: str, base: Checkpoint, experts: Sequence[Checkpoint]) -> torch.dtype:
    dtype = base.dtypes[name]
    for expert in experts:
        dtype = torch.promote_types(dtype, expert.dtypes[name])
    return dtype
