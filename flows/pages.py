"""`longfuse ui` and `longfuse deploy --serve`: the pages of this tree, held until Ctrl-C."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

from infra.mlflow_store import check_reachable, open_store
from infra.servers import Server, check_prefect_reachable, hold, mlflow_spec, prefect_spec
from infra.settings import TELEMETRY_OFF, Settings, export, prefect_environment

Say = Callable[[str], None]


def show_pages(settings: Settings, say: Say) -> None:
    """Hold both servers until the reader interrupts; a server of the user's own is only named."""
    with ExitStack() as stack:
        servers: list[Server] = []
        if settings.prefect_api_url is None:
            servers.append(stack.enter_context(hold(prefect_spec(settings))))
        else:
            check_prefect_reachable(settings.prefect_api_url)
            say(f"Prefect: {settings.prefect_api_url.removesuffix('/api')} (PREFECT_API_URL)")
        check_reachable(settings)
        if settings.mlflow_tracking_uri.startswith("http"):
            say(f"MLflow:  {settings.mlflow_tracking_uri} (MLFLOW_TRACKING_URI)")
        else:
            open_store(settings)  # the server must not be the second process that makes the store
            servers.append(stack.enter_context(hold(mlflow_spec(settings))))
        try:
            for server in servers:
                server.wait_until_healthy()
                say(f"{server.spec.name + ':':<9}{server.address}")
            say("Ctrl-C stops them; runs that are going on are not touched.")
            while True:
                time.sleep(1.0)
        except KeyboardInterrupt:
            say("Stopped.")


def serve_deployment(settings: Settings, say: Say) -> None:
    """Register the flow with the Prefect server and run it here, one at a time, when the page asks for it."""
    with ExitStack() as stack:
        export(TELEMETRY_OFF)
        if settings.prefect_api_url is None:
            server = stack.enter_context(hold(prefect_spec(settings)))
            server.wait_until_healthy()
            export(prefect_environment(settings, f"{server.address}/api"))
            say(f"Prefect: {server.address}/deployments")
        else:
            check_prefect_reachable(settings.prefect_api_url)
        from flows.pipeline import longfuse

        longfuse.serve(name="local", limit=1, tags=["longfuse"], pause_on_shutdown=False)
