"""Writing and measuring model folders so that equal models are equal bytes."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from stages.common.errors import InputError
from stages.common.storage import read_json, write_json

# Written by transformers; they say where and by what a file was made, not what the model is.
_VOLATILE_KEYS = {
    "transformers_version",
    "_name_or_path",
    "_model_name_or_path",
    "name_or_path",
    "is_local",
    "local_files_only",
}
_MAX_SAFETENSORS_HEADER_BYTES = 100_000_000  # the format's own limit


def save_model(model: PreTrainedModel, tokenizer: Any, folder: Path) -> None:
    """Save weights (safetensors), config, generation config, tokenizer and chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(folder), max_shard_size="5GB")
    tokenizer.save_pretrained(str(folder))
    make_stable(folder)


def make_stable(folder: Path) -> None:
    """Remove versions and paths from a model folder's JSON files, and make every file readable for all.

    transformers saves weights with mode 600, which a shared DVC cache cannot serve to a team.
    """
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        path = folder / name
        if path.is_file():
            write_json(path, {key: value for key, value in read_json(path).items() if key not in _VOLATILE_KEYS})
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o644)


def count_parameters(folder: Path) -> int:
    """Parameters of a folder's safetensors files, read from their headers alone. InputError if one is damaged."""
    return sum(
        math.prod(entry["shape"])
        for path in sorted(folder.glob("*.safetensors"))
        for name, entry in _header(path).items()
        if name != "__metadata__"
    )


def _header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file: 8 bytes of length, then the object."""
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
        if not 0 < length <= min(_MAX_SAFETENSORS_HEADER_BYTES, path.stat().st_size - 8):
            raise InputError(f"{path} is not a safetensors file (bad header). Download or save it again.")
        try:
            header: dict[str, Any] = json.loads(file.read(length))
        except ValueError:
            raise InputError(f"{path} is not a safetensors file (bad header). Download or save it again.") from None
    return header
