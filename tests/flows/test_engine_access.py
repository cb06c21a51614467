"""A remote engine's address comes from the environment of whoever starts the stage."""

from __future__ import annotations

import pytest

from flows.stage import give_access
from stages.common.config import Section
from stages.common.errors import ConfigError
from stages.engines.access import RemoteAccess, remote_engine, set_remote_engine


class Nothing(Section):
    """A stage without endpoints."""


def test_the_address_and_key_of_a_remote_engine_are_handed_over(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGFUSE_ENGINE_URL", "http://host:8000")
    monkeypatch.setenv("LONGFUSE_ENGINE_KEY", "secret")
    give_access(Nothing(), tmp_path)
    try:
        assert remote_engine() == RemoteAccess("http://host:8000", "secret")
        assert "secret" not in repr(remote_engine())
    finally:
        set_remote_engine(None)


def test_without_an_address_there_is_none(tmp_path, monkeypatch):
    monkeypatch.delenv("LONGFUSE_ENGINE_URL", raising=False)
    give_access(Nothing(), tmp_path)
    with pytest.raises(ConfigError, match="LONGFUSE_ENGINE_URL"):
        remote_engine()
