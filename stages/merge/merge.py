"""Merge of whole checkpoints by SCE, tensor by tensor, without building a model (recipe section 5).

Memory holds one tensor of each checkpoint and its merged form, whatever the size of the model.
Tokenizer and architecture of all models must be equal: weights of different vocabularies do not correspond.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.common.errors import InputError
from stages.common.storage import read_json
from stages.merge.checkpoint import INDEX_FILE, Checkpoint, write_checkpoint
from stages.merge.sce import SceReport, Weighting, sce_merge_with_report

_log = logging.getLogger(__name__)

MAX_SHARD_BYTES = 5_000_000_000
_HEAD = "lm_head.weight"
_EMBEDDING = "embed_tokens.weight"
# Keys of config.json that say how a folder was saved, not what the model is.
_IGNORED_CONFIG = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache"}
# State of the last call that transformers leaves in tokenizer.json.
_IGNORED_TOKENIZER = {"padding", "truncation"}
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
        _check_config(base_dir, expert_dir)
        _check_tokenizer(base_dir, expert_dir)
    base = Checkpoint(base_dir)
    experts = [Checkpoint(folder) for folder in expert_dirs]
    for checkpoint in (base, *experts):
        _drop_tied_head(checkpoint)
    for expert in experts:
        _check_tensors(base, expert)

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


def _check_tensors(base: Checkpoint, expert: Checkpoint) -> None:
    missing = [name for name in base.names if name not in expert.shapes]
    extra = [name for name in expert.names if name not in base.shapes]
    for names, verb in ((missing, "lacks"), (extra, "has additional")):
        if names:
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            raise InputError(f"{expert.folder} {verb} tensors compared with {base.folder}: {shown}.")
    for name in base.names:
        if expert.shapes[name] != base.shapes[name]:
            is_vocabulary = name.endswith((_EMBEDDING, _HEAD))
            hint = " The vocabularies differ: merge only models trained from this base." if is_vocabulary else ""
            raise InputError(
                f"{expert.folder}: tensor {name} has shape {expert.shapes[name]}, "
                f"in {base.folder} it has {base.shapes[name]}.{hint}"
            )
        if expert.dtypes[name].is_floating_point != base.dtypes[name].is_floating_point:
            raise InputError(
                f"{expert.folder}: tensor {name} has type {expert.dtypes[name]}, in {base.folder} {base.dtypes[name]}."
            )


def _drop_tied_head(checkpoint: Checkpoint) -> None:
    """With tied embeddings the head is the embedding: merged once, written once."""
    if not _config(checkpoint.folder).get("tie_word_embeddings", False) or _HEAD not in checkpoint.shapes:
        return
    embedding = next((name for name in checkpoint.names if name.endswith(_EMBEDDING)), None)
    if embedding is None:
        return
    if not torch.equal(checkpoint.read(embedding), checkpoint.read(_HEAD)):
        raise InputError(
            f"{checkpoint.folder}: config.json ties the embeddings, but {_HEAD} differs from {embedding}. "
            "Save the model again with one of them."
        )
    checkpoint.forget(_HEAD)


def _config(folder: Path) -> dict[str, Any]:
    value = read_json(folder / "config.json")
    if not isinstance(value, dict):
        raise InputError(f"{folder / 'config.json'} is no JSON object.")
    return value


def _check_config(base_dir: Path, expert_dir: Path) -> None:
    base, expert = _config(base_dir), _config(expert_dir)
    keys = sorted(key for key in (base.keys() | expert.keys()) - _IGNORED_CONFIG if base.get(key) != expert.get(key))
    if keys:
        shown = ", ".join(f"{key} {expert.get(key)!r} instead of {base.get(key)!r}" for key in keys[:5])
        raise InputError(f"{expert_dir / 'config.json'} describes another model than {base_dir}: {shown}.")


def _check_tokenizer(base_dir: Path, expert_dir: Path) -> None:
    """Equal vocabulary and rules (tokenizer.json) and equal chat template."""
    base_file, expert_file = base_dir / "tokenizer.json", expert_dir / "tokenizer.json"
    for file in (base_file, expert_file):
        if not file.is_file():
            raise InputError(f"{file} does not exist: a merge checks that the models share their tokenizer.")
    if base_file.read_bytes() != expert_file.read_bytes():
        base, expert = read_json(base_file), read_json(expert_file)
        keys = sorted(
            key for key in (base.keys() | expert.keys()) - _IGNORED_TOKENIZER if base.get(key) != expert.get(key)
        )
        if keys:
            raise InputError(f"{expert_file} differs from {base_file} in {', '.join(keys)}: merge models of one base.")
    if _chat_template(base_dir) != _chat_template(expert_dir):
        raise InputError(f"the chat templates of {expert_dir} and {base_dir} differ: their prompts do not correspond.")


def _chat_template(folder: Path) -> str | None:
    """The template, from its own file or from tokenizer_config.json."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    settings = folder / "tokenizer_config.json"
    if settings.is_file():
        template = json.loads(settings.read_text(encoding="utf-8")).get("chat_template")
        return str(template) if template is not None else None
    return None
