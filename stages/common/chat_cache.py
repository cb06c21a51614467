"""Replies on disk by content, so that no call is ever paid twice: not after a kill, not in another run.

The key is the sha256 of everything that decides a reply: address, model, messages, sampling, schema. One small file per
reply, written beside its name and renamed, so processes may share a folder. A damaged file counts as absent.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.common.chat import ChatReply, FinishReason, Message, Usage

logger = logging.getLogger(__name__)

_VERSION = 1
_MAX_FILE_BYTES = 32 << 20


def call_key(
    base_url: str,
    model: str,
    messages: Sequence[Message],
    *,
    max_tokens: int,
    temperature: float,
    seed: int,
    response_schema: Mapping[str, Any] | None,
    top_p: float | None = None,
) -> str:
    """The sha256 (hex) of a call's content."""
    content = {
        "version": _VERSION,
        "base_url": base_url.rstrip("/"),
        "model": model,
        "messages": [[message["role"], message["content"]] for message in messages],
        "max_tokens": max_tokens,
        "temperature": float(temperature),
        "seed": seed,
        "schema": response_schema,
    }
    if top_p is not None:  # absent otherwise, so that replies kept before it could be given still count
        content["top_p"] = float(top_p)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class ChatCache:
    """Replies by key in one folder, which is made when the first reply comes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: str) -> ChatReply | None:
        """The reply of a call that was made before, marked as cached."""
        path = self._path(key)
        try:
            return _reply(key, path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("cached reply %s is not used: %s", path.name, error)
            return None

    def put(self, key: str, reply: ChatReply) -> None:
        """Keep a reply; an older one of the same key is replaced."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        value = {
            "key": key,
            "text": reply.text,
            "finish_reason": reply.finish_reason,
            "prompt_tokens": reply.usage.prompt_tokens,
            "completion_tokens": reply.usage.completion_tokens,
        }
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f"{key[:16]}.", suffix=".partial")
        partial = Path(name)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(value, file, ensure_ascii=False)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"


def _reply(key: str, path: Path) -> ChatReply:
    """The reply in a file. ValueError, KeyError or TypeError if it is not this call's or damaged."""
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise ValueError("the file is too large")
    value = json.loads(path.read_text(encoding="utf-8"))
    if value["key"] != key:
        raise ValueError("it belongs to another call")
    finish: FinishReason = "length" if value["finish_reason"] == "length" else "stop"
    usage = Usage(int(value["prompt_tokens"]), int(value["completion_tokens"]))
    return ChatReply(str(value["text"]), finish, usage, cached=True)
