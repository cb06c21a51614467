"""From a section of params.yaml to a chat client: keys and the shared cache come from the process, not from a stage.

A stage reads no environment variables. Whoever starts it (flows/stage.py) looks up the variables that its endpoints
name and calls `set_access`; a stage then calls `open_chat`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel

from stages.common.chat_budget import Budget
from stages.common.chat_cache import ChatCache
from stages.common.chat_client import USUAL_RETRIES, Endpoint, OpenAIChat, RetryPolicy
from stages.common.config import EndpointConfig
from stages.common.errors import ConfigError


@dataclass(frozen=True)
class _Access:
    """What this process was given."""

    api_keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    cache_dir: Path | None = None


_access = _Access()


def set_access(api_keys: Mapping[str, str], cache_dir: Path | None) -> None:
    """Hand this process the keys (by variable name) and the folder of replies that all stages share."""
    global _access
    _access = _Access(dict(api_keys), cache_dir)


def endpoints_in(config: BaseModel) -> Iterator[tuple[str, EndpointConfig]]:
    """(field name, endpoint) for every endpoint in use of a stage's configuration."""
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, EndpointConfig) and value.model is not None:
            yield name, value


def open_chat(
    endpoint: EndpointConfig,
    state_dir: Path,
    *,
    keep_account: bool = False,
    retry: RetryPolicy = USUAL_RETRIES,
    total_seconds: float | None = None,
) -> OpenAIChat | None:
    """The client of an endpoint, None if none is configured. Use it in `async with`, as often as needed.

    Each client has a budget of its own, and a budget belongs to a stage: a stage opens one client and hands it on.

    state_dir: the stage's own; replies are kept there unless the process has a shared folder.
    keep_account: the budget outlives a kill (for stages that go on without repeating their calls).
    Raises ConfigError if the key is missing.
    """
    if endpoint.model is None or endpoint.base_url is None:
        return None
    api_key = None
    if endpoint.api_key_env is not None:
        api_key = _access.api_keys.get(endpoint.api_key_env)
        if not api_key:
            raise missing_key(endpoint)
    return OpenAIChat(
        Endpoint(endpoint.base_url, endpoint.model, endpoint.timeout_seconds, api_key),
        ChatCache(_access.cache_dir or state_dir / "chat"),
        Budget.of(endpoint, state_dir / "chat_account.jsonl" if keep_account else None),
        retry=retry,
        total_seconds=total_seconds,
    )


def missing_key(endpoint: EndpointConfig) -> ConfigError:
    """The error for a key that the environment does not hold."""
    return ConfigError(
        f"the endpoint {endpoint.model!r} needs a key: set the environment variable {endpoint.api_key_env} "
        "(api_key_env in params.yaml), or set api_key_env to null if the endpoint takes none."
    )
