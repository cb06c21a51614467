"""Tests that boot instances need private namespaces: they are skipped, visibly, where there are none; in CI they fail."""

import os

import pytest

from infra.sim import namespaces


def need_namespaces(environ=os.environ, reason=None):
    """`.ci/run` sets LONGFUSE_REQUIRE_NAMESPACES=1 unless ALLOW_NO_NAMESPACES=1 was given to it."""
    reason = reason or namespaces.why_not()
    if reason is None:
        return
    if environ.get("LONGFUSE_REQUIRE_NAMESPACES") == "1":
        pytest.fail(f"simulated instances cannot boot: {reason}. ALLOW_NO_NAMESPACES=1 .ci/run goes on without them.")
    pytest.skip(f"simulated instances cannot boot: {reason}")
