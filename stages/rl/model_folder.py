"""Opening and writing model folders: float32 safetensors, config and tokenizer, as transformers reads them.

Equal weights give equal bytes: what names a library's version is left out of the config files.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from stages.common.errors import InputError
from stages.common.storage import read_json, write_json
from stages.common.tokens import ChatTokenizer


def open_model(folder: Path) -> Any:
    """The causal language model of a folder, float32, on the CPU.

    Raises InputError if transformers cannot open it.
    """
    transformers_logging.disable_progress_bar()  # stages log, they do not draw
    try:
        return AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=torch.float32,
            attn_implementation="sdpa",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} holds no model that transformers can open: {error}") from None


def write_model(model: Any, tokenizer: ChatTokenizer, folder: Path) -> None:
    """Write a model folder. The folder must not hold another model's shards."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(folder))
    _write_rest(tokenizer, folder)


def write_config(model: Any, tokenizer: ChatTokenizer, folder: Path) -> None:
    """Write what stands beside float32 weights that were written otherwise: the bytes that `write_model` writes."""
    config = copy.deepcopy(model.config)
    config.dtype = "float32"
    config.architectures = [type(model).__name__]
    config.save_pretrained(str(folder))
    if model.can_generate():
        model.generation_config.save_pretrained(str(folder))
    _write_rest(tokenizer, folder)


def _write_rest(tokenizer: ChatTokenizer, folder: Path) -> None:
    tokenizer.save(folder)
    for name in ("config.json", "generation_config.json"):
        if (folder / name).exists():
            write_json(folder / name, _without_version(read_json(folder / name)))


def _without_version(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "transformers_version"}
