"""The address and key of a remote engine: of the process, not of a stage's parameters.

The weights that a server holds are pushed to it or checked by whoever uses it; where it runs changes no result, so its
address is no parameter. Whoever starts a stage (flows/stage.py) reads LONGFUSE_ENGINE_URL and LONGFUSE_ENGINE_KEY and
calls `set_remote_engine`; a stage reads no environment variables.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from stages.common.errors import ConfigError

URL_VARIABLE = "LONGFUSE_ENGINE_URL"
KEY_VARIABLE = "LONGFUSE_ENGINE_KEY"


@dataclass(frozen=True)
class RemoteAccess:
    """Where a vLLM server listens, as `http://host:8000`; key: of its --api-key, if it was started with one."""

    url: str
    key: str | None = field(default=None, repr=False)


_access: RemoteAccess | None = None


def set_remote_engine(access: RemoteAccess | None) -> None:
    """Hand this process a server."""
    global _access
    _access = access


def remote_engine() -> RemoteAccess:
    """The server of this process. ConfigError if there is none."""
    if _access is None:
        raise ConfigError(
            f"train.engine.kind is remote, so {URL_VARIABLE} must hold the address of a vLLM server, such as "
            "http://host:8000 (and LONGFUSE_ENGINE_KEY its key, if it has one)."
        )
    return _access
