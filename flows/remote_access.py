"""The address of the remote engine, from the environment of a command to the engines, which read no variables."""

from __future__ import annotations

from infra.settings import environment_values
from stages.engines.access import KEY_VARIABLE, URL_VARIABLE, RemoteAccess, set_remote_engine


def hand_over_remote_engine() -> None:
    """Tell the engines which server LONGFUSE_ENGINE_URL names, and its key; none if it is not set."""
    found = environment_values({URL_VARIABLE, KEY_VARIABLE})
    set_remote_engine(RemoteAccess(found[URL_VARIABLE], found.get(KEY_VARIABLE)) if URL_VARIABLE in found else None)
