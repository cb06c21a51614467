"""May these checkpoints be merged? Weights correspond only if architecture, vocabulary and tensors do.

Every function raises InputError that names the folder and what differs.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch

from stages.common.errors import InputError
from stages.common.storage import read_json
from stages.merge.checkpoint import Checkpoint
from stages.merge.passes import BLOCK

_HEAD = "lm_head.weight"
_EMBEDDING = "embed_tokens.weight"
# `...experts.gate_up_proj` is a stack of experts; `...experts.0.up_proj.weight` is one of them.
_STACKED = re.compile(r"\.experts\.(gate_up_proj|gate_proj|up_proj|down_proj)(\.weight)?$")
# Keys of config.json that say how a folder was saved, not what the model is.
_IGNORED_CONFIG = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache"}
# State of the last call that transformers leaves in tokenizer.json.
_IGNORED_TOKENIZER = {"padding", "truncation"}


def check_tensors(base: Checkpoint, expert: Checkpoint) -> None:
    """Equal names, shapes and kinds of numbers."""
    missing = [name for name in base.names if name not in expert]
    extra = [name for name in expert.names if name not in base]
    if missing and extra and _is_stacked(base) != _is_stacked(expert):
        stacked, apart = (base, expert) if _is_stacked(base) else (expert, base)
        raise InputError(
            f"{stacked.folder} keeps the experts of a layer stacked in one tensor, {apart.folder} one tensor per expert. "
            "Load one of them with transformers and save it again: both then have transformers' layout."
        )
    for names, verb in ((missing, "lacks"), (extra, "has additional")):
        if names:
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            raise InputError(f"{expert.folder} {verb} tensors compared with {base.folder}: {shown}.")
    for name in base.names:
        if expert[name].shape != base[name].shape:
            is_vocabulary = name.endswith((_EMBEDDING, _HEAD))
            hint = " The vocabularies differ: merge only models trained from this base." if is_vocabulary else ""
            raise InputError(
                f"{expert.folder}: tensor {name} has shape {expert[name].shape}, "
                f"in {base.folder} it has {base[name].shape}.{hint}"
            )
        if expert[name].dtype.is_floating_point != base[name].dtype.is_floating_point:
            raise InputError(
                f"{expert.folder}: tensor {name} has type {expert[name].dtype}, in {base.folder} {base[name].dtype}."
            )


def _is_stacked(checkpoint: Checkpoint) -> bool:
    """Mixture of experts with one tensor for all experts of a layer, as in memory, not one per expert as on disk."""
    return any(_STACKED.search(name) for name in checkpoint.names)


def drop_tied_head(checkpoint: Checkpoint) -> None:
    """With tied embeddings the head is the embedding: merged once, written once."""
    if not _config(checkpoint.folder).get("tie_word_embeddings", False) or _HEAD not in checkpoint:
        return
    embedding = next((name for name in checkpoint.names if name.endswith(_EMBEDDING)), None)
    if embedding is None:
        return
    if checkpoint[embedding].shape != checkpoint[_HEAD].shape or not _equal(checkpoint, embedding, _HEAD):
        raise InputError(
            f"{checkpoint.folder}: config.json ties the embeddings, but {_HEAD} differs from {embedding}. "
            "Save the model again with one of them."
        )
    checkpoint.forget(_HEAD)


def _equal(checkpoint: Checkpoint, first: str, second: str) -> bool:
    """Whether two tensors of one shape hold the same values; a block at a time."""
    count = checkpoint[first].count
    blocks = (slice(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK))
    return all(torch.equal(checkpoint.read(first, block), checkpoint.read(second, block)) for block in blocks)


def _config(folder: Path) -> dict[str, Any]:
    value = read_json(folder / "config.json")
    if not isinstance(value, dict):
        raise InputError(f"{folder / 'config.json'} is no JSON object.")
    return value


def check_config(base_dir: Path, expert_dir: Path) -> None:
    """Equal architecture (config.json)."""
    base, expert = _config(base_dir), _config(expert_dir)
    keys = sorted(key for key in (base.keys() | expert.keys()) - _IGNORED_CONFIG if base.get(key) != expert.get(key))
    if keys:
        shown = ", ".join(f"{key} {expert.get(key)!r} instead of {base.get(key)!r}" for key in keys[:5])
        raise InputError(f"{expert_dir / 'config.json'} describes another model than {base_dir}: {shown}.")


def check_tokenizer(base_dir: Path, expert_dir: Path) -> None:
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
