"""`--trace-mlflow`: the memory agent's turns in MLflow's Traces, from the process that answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.errors import InfraError
from infra.settings import Settings, find_root, load_settings
from infra.tracing import AgentTracer


@contextmanager
def open_tracer(name: str, model: str, tracking_uri: str | None) -> Iterator[AgentTracer]:
    """A tracer; in the end everything is sent. name: of the traces.

    tracking_uri: of MLflow; None: MLFLOW_TRACKING_URI, else the project's own store, which `longfuse ui` shows.
    Raises InfraError if the store cannot be reached.
    """
    tracer = AgentTracer(tracing_settings(tracking_uri), name, {"longfuse.model": model})
    try:
        yield tracer
    finally:
        tracer.close()


def tracing_settings(tracking_uri: str | None) -> Settings:
    """Settings with the store that was asked for. InfraError outside a project, unless a store was named."""
    try:
        root = find_root()
    except InfraError:
        if tracking_uri is None:
            raise
        root = Path.cwd()
    settings = load_settings(root)
    return settings if tracking_uri is None else settings.model_copy(update={"mlflow_tracking_uri": tracking_uri})
