"""What `longfuse eval` works on: a model folder or an endpoint, documents for generated benchmarks, and the settings."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.bucket_data import require_here
from flows.params import profile_params
from infra.settings import environment_values
from stages.common.chat_access import missing_key, open_chat, set_access
from stages.common.chat_client import OpenAIChat
from stages.common.config import NO_ENDPOINT, EndpointConfig, TrainConfig
from stages.common.errors import ConfigError, InputError
from stages.common.records import Category, Document
from stages.common.storage import DocumentStore, open_model_pointer, write_jsonl

logger = logging.getLogger(__name__)

DEFAULT_MODEL = Path("outputs/rl/stage4/data")  # the pipeline's final one
DEFAULT_DATA = Path("data/evaluation")
DEFAULT_CORPORA = (Path("outputs/assemble/data/documents.jsonl"), Path("data/starter_corpus"))
PAPER_WINDOW_TOKENS = 131_072

# The paper's agent at its window of 128K, in shares of the window, so that it fits smaller ones.
_PAPER_AGENT = {"chunk_tokens": 32_768, "memory_tokens": 15_360, "turn_tokens": 20_480, "answer_tokens": 15_360}
_SHARE = {"chunk_tokens": 4, "memory_tokens": 16, "turn_tokens": 10, "answer_tokens": 16}


@dataclass(frozen=True)
class ModelFolder:
    """A model on this machine. identity: changes when its files do; window_tokens: as its config says."""

    path: Path
    name: str
    identity: str
    window_tokens: int


def open_model_folder(path: Path) -> ModelFolder:
    """A folder of safetensors with its config, or a stage's data folder that points at one. ConfigError otherwise."""
    name = path.resolve().name
    require_here(path)
    if (path / "model.json").is_file():
        name = path.resolve().parent.name if name == "data" else name
        path = open_model_pointer(path)
    config = path / "config.json"
    if not config.is_file():
        raise ConfigError(
            f"{path} is no model folder: it has no config.json. Give a folder with config.json, safetensors and a "
            "tokenizer, or a stage's data folder such as outputs/rl/stage4/data."
        )
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
        window = int(values.get("text_config", values)["max_position_embeddings"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{config} names no max_position_embeddings ({error}). Is it a language model?") from None
    digest = hashlib.sha256()
    for file in sorted(entry for entry in path.iterdir() if entry.is_file()):
        status = file.stat()  # hashing weights of 60 GB would take minutes each time
        digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return ModelFolder(path, name if name != "model" else path.resolve().parent.name, digest.hexdigest(), window)


def train_config(engine: str, dtype: str, threads: int) -> TrainConfig:
    """The engine's part of the parameters, the rest as in the default profile. ConfigError for an unknown value."""
    values: dict[str, Any] = profile_params("tiny")["train"]
    if engine not in ("transformers", "vllm", "remote"):
        raise ConfigError(f"--engine {engine}: choose transformers, vllm or remote.")
    if dtype not in ("bfloat16", "float32"):
        raise ConfigError(f"--dtype {dtype}: choose bfloat16 or float32.")
    values["engine"]["kind"] = engine
    values["engine"]["gpu_memory_utilization"] = 0.9  # nothing trains beside it
    return TrainConfig.model_validate(values | {"compute_dtype": dtype, "cpu_threads": threads})


def agent_lengths(window: int, chunk_tokens: int | None, memory_tokens: int | None) -> dict[str, int]:
    """Lengths of the memory agent for a window: the paper's where it is large enough, else the same shares of it."""
    lengths = {name: max(16, min(paper, window // _SHARE[name])) for name, paper in _PAPER_AGENT.items()}
    if chunk_tokens is not None:
        lengths["chunk_tokens"] = chunk_tokens
    if memory_tokens is not None:
        lengths["memory_tokens"] = memory_tokens
    return lengths


def endpoint_config(
    url: str | None, model: str | None, key_env: str | None, budget_tokens: int | None, flag: str
) -> EndpointConfig:
    """The section of an endpoint from flags. ConfigError if only a part is given."""
    if url is None and model is None:
        if key_env is not None:
            raise ConfigError(f"--{flag}-key-env is given without --{flag} URL.")
        return NO_ENDPOINT
    if url is None or model is None:
        raise ConfigError(f"--{flag} URL and the model's name (--{flag}-model NAME) belong together: give both.")
    values = NO_ENDPOINT.model_dump() | {
        "model": model,
        "base_url": url,
        "api_key_env": key_env,
        "budget_tokens": budget_tokens,
        "timeout_seconds": 600,
    }
    try:
        return EndpointConfig.model_validate(values)
    except ValueError as error:
        said = str(error).split("Value error, ")[-1].split(" [type")[0]
        raise ConfigError(f"--{flag}: {said}.") from None


def open_endpoints(endpoints: list[EndpointConfig], state_dir: Path) -> list[OpenAIChat | None]:
    """Clients of the endpoints (None for one that is not configured), with their keys from the environment.

    Replies are kept in `state_dir`. ConfigError for a key that is not set.
    """
    names = {endpoint.api_key_env for endpoint in endpoints if endpoint.api_key_env is not None}
    keys = environment_values(names)
    for endpoint in endpoints:
        if endpoint.api_key_env is not None and endpoint.api_key_env not in keys:
            raise missing_key(endpoint)
    set_access(keys, state_dir / "chat")
    return [open_chat(endpoint, state_dir) for endpoint in endpoints]


def open_documents(corpus: Path | None, state_dir: Path) -> DocumentStore | None:
    """Documents for generated benchmarks: a documents.jsonl, a folder that holds one, or a corpus of text files.

    None: the user named none, and there is none in the usual places. InputError if a named one cannot be used.
    """
    path = corpus or next((path for path in DEFAULT_CORPORA if path.exists()), None)
    if path is None:
        return None
    if path.is_dir() and (path / "documents.jsonl").is_file():
        path = path / "documents.jsonl"
    if path.is_dir():
        made = state_dir / "documents.jsonl"
        if not write_jsonl(made, _text_documents(path)):
            raise InputError(
                f"{path} holds no text: put .txt or .md files into folders named {', '.join(Category)}, or give a "
                "documents.jsonl of the pipeline (outputs/assemble/data)."
            )
        path = made
    return DocumentStore([path])


def _text_documents(folder: Path) -> Iterator[Document]:
    """Plain text and Markdown as it is; a corpus in other formats goes through the pipeline's `ingest`."""
    for category in Category:
        for path in sorted((folder / category.value).rglob("*")):
            if path.suffix not in (".txt", ".md") or not path.is_file():
                continue
            text = path.read_text(encoding="utf-8", errors="replace")
            name = path.relative_to(folder / category.value).with_suffix("").as_posix()
            yield Document(
                id=f"{category.value}/{name}",
                category=category,
                title=path.stem,
                text=text,
                source=path.relative_to(folder).as_posix(),
                format="markdown" if path.suffix == ".md" else "text",
                tokens=0,
            )
