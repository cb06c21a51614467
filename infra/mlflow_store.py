"""Opening MLflow's store: reachable before any work, made before its first use, mended after a crashed first use.

Measured: several processes that open a new sqlite file at once break its migrations (11 of 12 died), and a process
killed in the middle leaves a file that never opens again. Here one process makes the store, and one that holds no run
is moved aside.
"""

from __future__ import annotations

import logging
import sqlite3
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from infra.errors import InfraError
from infra.settings import TELEMETRY_OFF, Settings, export

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "longfuse"
logger = logging.getLogger(__name__)


def check_reachable(settings: Settings) -> None:
    """Raise InfraError unless the store answers (http) or can be written (file). Imports nothing heavy."""
    uri = settings.mlflow_tracking_uri
    if uri.startswith(("http://", "https://")):
        try:
            with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5):
                return
        except urllib.error.HTTPError as error:
            if error.code < 500:  # it answers; some hosted servers have no /health
                return
            raise InfraError(_unreachable(uri, str(error))) from None
        except OSError as error:
            raise InfraError(_unreachable(uri, str(error))) from None
    path = sqlite_path(uri)
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (path if path.exists() else path.with_suffix(".probe")).open("ab"):
            pass
        path.with_suffix(".probe").unlink(missing_ok=True)
    except OSError as error:
        raise InfraError(
            f"the MLflow store {path} cannot be written ({error.strerror}): free the disk or mend the folder's "
            "permissions, or set MLFLOW_TRACKING_URI to another store."
        ) from None


def _unreachable(uri: str, why: str) -> str:
    return (
        f"the MLflow server at {uri} (MLFLOW_TRACKING_URI) does not answer: {why}. Start it, mend the address, or unset "
        "MLFLOW_TRACKING_URI to record in .state/mlflow."
    )


def sqlite_path(uri: str) -> Path | None:
    """The file of a sqlite address, else None."""
    prefix = "sqlite:///"
    return Path(uri.removeprefix(prefix)) if uri.startswith(prefix) else None


def open_store(settings: Settings) -> tuple[MlflowClient, str]:
    """A client and the id of our experiment; the store is made if need be. Raises InfraError if it cannot be opened."""
    export(
        {
            **TELEMETRY_OFF,
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
            "MLFLOW_LOGGING_LEVEL": "WARNING",
        }
    )
    # Alembic reports each of its many migrations, and a first use has them all.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # A full disk fills the log with tracebacks of its own; what could not be sent is reported by us, in one line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    complete = settings.mlflow_dir / "complete"  # written after the first use that went through
    path = sqlite_path(settings.mlflow_tracking_uri)
    if (
        settings.owns_mlflow_store
        and path is not None
        and path.exists()
        and not complete.exists()
        and not has_runs(path)
    ):
        aside = _unused_name(path)
        path.rename(aside)
        logger.warning("the MLflow store was left half made by a process that died: moved to %s, made anew", aside)
    try:
        opened = _open(settings)
    except Exception as error:  # sqlalchemy, alembic, mlflow and requests errors have no common root
        raise InfraError(
            f"the MLflow store {settings.mlflow_tracking_uri} cannot be opened: {_first_line(error)}. If another "
            "version of MLflow made it, run `mlflow db upgrade` on it; or move it away and run again."
        ) from error
    if settings.owns_mlflow_store:
        complete.touch()
    return opened


def _open(settings: Settings) -> tuple[MlflowClient, str]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=settings.mlflow_tracking_uri)
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        location = (settings.mlflow_dir / "artifacts").as_uri() if settings.owns_mlflow_store else None
        return client, client.create_experiment(EXPERIMENT, artifact_location=location)
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return client, found.experiment_id


def has_runs(path: Path) -> bool:
    """True if a sqlite store holds at least one run: then it is never moved aside."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            return database.execute("select 1 from runs limit 1").fetchone() is not None
    except sqlite3.DatabaseError:  # no such table, or no database at all
        return False


def _unused_name(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.broken-{number}")).exists():
        number += 1
    return aside


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
