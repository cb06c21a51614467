"""What every test needs."""

from __future__ import annotations

import logging

import pytest


@pytest.fixture(autouse=True)
def loggers_are_on():
    """Libraries that configure logging (Alembic, Prefect) switch off the loggers that exist by then."""
    for name in list(logging.root.manager.loggerDict):
        if name.split(".")[0] in ("flows", "stages", "infra"):
            logging.getLogger(name).disabled = False
            logging.getLogger(name).propagate = True
