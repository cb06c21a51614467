"""Where things run and are recorded: the only module that touches the process environment.

Nothing here changes results, so nothing here is in params.yaml: addresses, folders and switches never make a stage
dirty. Everything that a run leaves beside DVC's outputs lies in `.state/`, which git ignores.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from infra.errors import InfraError

# Every tool has its own switch, and MLflow takes DO_NOT_TRACK only as "true".
TELEMETRY_OFF = {
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
# These stages may load a model from the network; every other one reads files of earlier stages only.
STAGES_WITH_NETWORK = frozenset({"base_model"})


class Settings(BaseModel):
    """Settings of one process, read once.

    parent_run: MLflow run of the pipeline run that this stage process belongs to, if any.
    run_process: pid of the process that drives the pipeline run, if any; the stage dies with it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    root: Path
    mlflow_tracking_uri: str
    prefect_api_url: str | None = None
    parent_run: str | None = None
    run_process: int | None = None
    plain_output: bool = False

    @property
    def state_dir(self) -> Path:
        return self.root / ".state"

    @property
    def mlflow_dir(self) -> Path:
        return self.state_dir / "mlflow"

    @property
    def prefect_dir(self) -> Path:
        return self.state_dir / "prefect"

    @property
    def log_dir(self) -> Path:
        return self.state_dir / "logs"

    @property
    def owns_mlflow_store(self) -> bool:
        """True if metrics go to the sqlite file under `.state/`, not to an address that the user gave."""
        return self.mlflow_tracking_uri == default_tracking_uri(self.root)


def find_root(start: Path | None = None) -> Path:
    """The nearest folder at or above `start` (default: the current one) that holds dvc.yaml.

    Raises InfraError outside a project.
    """
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file():
            return folder
    raise InfraError(f"no dvc.yaml in {here} or above it: change into a clone of the project and try again.")


def default_tracking_uri(root: Path) -> str:
    """An absolute sqlite address: MLflow's own default would depend on the current folder."""
    return f"sqlite:///{root / '.state' / 'mlflow' / 'mlflow.db'}"


def load_settings(root: Path, environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from the environment (or from `environ`, for tests). Raises InfraError for a malformed variable."""
    env = os.environ if environ is None else environ
    root = root.resolve()
    return Settings(
        root=root,
        mlflow_tracking_uri=env.get("MLFLOW_TRACKING_URI") or default_tracking_uri(root),
        prefect_api_url=env.get("PREFECT_API_URL") or None,
        parent_run=env.get("LONGFUSE_PARENT_RUN") or None,
        run_process=_integer(env, "LONGFUSE_RUN_PROCESS"),
        plain_output=bool(env.get("CI") or env.get("NO_COLOR") or env.get("TERM") == "dumb"),
    )


def _integer(env: Mapping[str, str], name: str) -> int | None:
    text = env.get(name)
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise InfraError(f"the environment variable {name} is {text!r}, a whole number is needed: unset it.") from None


def child_environment(
    settings: Settings, *, stage: str | None = None, environ: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The environment of a stage's process (or, with `stage=None`, of a tool).

    This interpreter's programs come first on PATH, since dvc.yaml says just `python`. Telemetry is off. Stages other
    than base_model may not reach the model hub: what they read is on disk, and a missing file must fail at once.
    """
    env = dict(os.environ if environ is None else environ)
    programs = str(Path(sys.executable).parent)
    env["PATH"] = os.pathsep.join(
        [programs, *(p for p in env.get("PATH", "").split(os.pathsep) if p and p != programs)]
    )
    env.update(TELEMETRY_OFF)
    env["PYTHONUNBUFFERED"] = "1"
    env["MLFLOW_TRACKING_URI"] = settings.mlflow_tracking_uri
    if settings.prefect_api_url:
        env["PREFECT_API_URL"] = settings.prefect_api_url
    if stage is not None:
        env["LONGFUSE_RUN_PROCESS"] = str(os.getpid())
        if settings.parent_run:
            env["LONGFUSE_PARENT_RUN"] = settings.parent_run
        if stage not in STAGES_WITH_NETWORK:
            env["HF_HUB_OFFLINE"] = "1"
    return env


def prefect_environment(settings: Settings, api_url: str | None) -> dict[str, str]:
    """Variables that tie Prefect to `api_url`; `None` describes the server's own process.

    With a server of ours its home (profiles, database, storage) lies under `.state/prefect`, never in the user's home.
    """
    env = {
        **TELEMETRY_OFF,
        "PREFECT_HOME": str(settings.prefect_dir),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{settings.prefect_dir / 'prefect.db'}",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    }
    if api_url is not None:
        env["PREFECT_API_URL"] = api_url
    else:
        # Its page asks the server that it came from. By default it asks port 4200, which may be another project's.
        env["PREFECT_SERVER_UI_API_URL"] = "/api"
    return env


def environment_values(names: Iterable[str]) -> dict[str, str]:
    """The named variables that are set and not empty: keys, which stand in no file of ours."""
    return {name: value for name in names if (value := os.environ.get(name, "").strip())}


def export(variables: Mapping[str, str]) -> None:
    """Set variables of this process, before the tool that reads them is imported."""
    os.environ.update(variables)
