"""What every test needs."""

from __future__ import annotations

import logging

import pytest

from stages.common.chat_access import set_access
from tests.infra.sim.permission import need_namespaces


@pytest.fixture(scope="session")
def simulated(tmp_path_factory):
    """A simulated cloud for all tests of a worker; where instances cannot boot, its tests are skipped, visibly."""
    need_namespaces()
    from infra.sim.cloud import SimulatedCloud

    folder = tmp_path_factory.mktemp("cloud")
    times = {"minute_seconds": 2.0, "pending_seconds": 0.1, "shutting_down_seconds": 0.1, "power_off_seconds": 0.5}
    with SimulatedCloud(folder, **times) as cloud:
        yield cloud


@pytest.fixture(autouse=True)
def loggers_are_on():
    """Libraries that configure logging (Alembic, Prefect) switch off the loggers that exist by then."""
    for name in list(logging.root.manager.loggerDict):
        if name.split(".")[0] in ("flows", "stages", "infra"):
            logging.getLogger(name).disabled = False
            logging.getLogger(name).propagate = True


@pytest.fixture(autouse=True)
def no_shared_chat_cache():
    """A stage that ran in this process before leaves its keys and its folder of replies, and a next test would be answered from there."""
    yield
    set_access({}, None)
