"""What a job on EC2 tells the two pages: its measurements and tags go to MLflow, its account to Prefect.

Measurements of all attempts become those of the stage here, announced and spooled for the tracker as a local stage's are;
so one MLflow run has them, each once, also when another process had kept the run before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from infra.ec2.follower import MetricJoin
from infra.servers import prefect_spec, running_server
from infra.settings import Settings, export, prefect_environment

if TYPE_CHECKING:
    from infra.ec2.reducer import State
    from infra.ec2.runner import StageFacts
    from infra.ec2.spec import RunSpec

logger = logging.getLogger(__name__)

MAX_TAG_CHARACTERS = 5000  # MLflow's own limit


class JobTracking:
    """Jobs of one pipeline run. tag_stage: puts tags on a stage's MLflow run."""

    def __init__(
        self, settings: Settings, params: Mapping[str, Any], tag_stage: Callable[[str, Mapping[str, str]], None]
    ) -> None:
        self._settings = settings
        self._params = params
        self._tag_stage = tag_stage
        self._joins: dict[str, MetricJoin] = {}

    def take(self, stage: str, facts: StageFacts, data: bytes) -> None:
        """Append spool lines that were not had yet; the first ones announce the stage."""
        from infra.spool import SPOOL_NAME

        new = self._join(stage, facts.fingerprint, facts.state_folder).new(data)
        with (self._settings.root / facts.state_folder / SPOOL_NAME).open("ab") as file:
            file.write(new)

    def ended(self, run: RunSpec, state: State) -> None:
        """The run has come to its end, or we have lost it: tags and page. Called before the stage's MLflow run is ended."""
        self._join(run.stage, run.fingerprint, run.work["state_folder"])
        self._tag_stage(run.stage, tags_of(run, state))
        publish_job(run, state)

    def _join(self, stage: str, fingerprint: str, state_folder: str) -> MetricJoin:
        if stage in self._joins:
            return self._joins[stage]
        from flows.catalog import stage_spec
        from flows.params import stage_config
        from infra.spool import start_stage_run

        root = self._settings.root
        spec = stage_spec(stage)
        spool = start_stage_run(
            self._settings,
            stage=stage,
            fingerprint=fingerprint,
            params=stage_config(spec, self._params).model_dump(mode="json"),
            state_dir=root / state_folder,
            data_dir=root / spec.data_dir,
            record=root / spec.folder / "record.json",
        )
        spool.close()
        return self._joins.setdefault(stage, MetricJoin(spool.path))


def tags_of(run: RunSpec, state: State) -> dict[str, str]:
    """Where the stage ran, how often it was begun, and what it cost in all."""
    used = run.candidates[state.candidate]
    tags = {
        "ec2.run": run.run_id,
        "ec2.outcome": state.outcome or state.phase,
        "ec2.instance_type": used.instance_type,
        "ec2.market": used.market,
        "ec2.region": used.region,
        "ec2.zone": used.zone,
        "ec2.image": state.image,
        "ec2.attempt": str(state.attempt),
        "ec2.cost_usd": f"{state.spent_usd:.4f}",
        "ec2.commit": str(run.work.get("code", {}).get("commit", "")),  # that the node ran; ours may have gone on
        "ec2.history": "\n".join(state.history),
    }
    return {name: value[:MAX_TAG_CHARACTERS] for name, value in tags.items()}


def page_of(run: RunSpec, state: State) -> str:
    """A run's account, as Markdown."""
    rows = [f"| {line.partition(': ')[0]} | {line.partition(': ')[2]} |" for line in state.history]
    left_out = [f"- {line}" for line in (*run.not_tried, *state.passed_over)]
    text = [
        f"## {run.stage} on EC2",
        f"Run `{run.run_id}`: **{state.outcome or state.phase}** {state.message}",
        f"About {state.spent_usd:.2f} of at most {run.budget_usd:g} USD; {len(run.candidates)} candidates.",
        "",
        "| attempt | candidate, instance, end |",
        "|---|---|",
        *rows,
        *(["", "Not taken:", "", *left_out] if left_out else []),
        *(["", "Not known when it began:", "", *(f"- {line}" for line in run.unknown)] if run.unknown else []),
        "",
        f"`longfuse jobs logs {run.run_id}` prints its lines; its records are in s3://{run.bucket}/{run.prefix}.",
    ]
    if state.phase != "closed":
        text.append(f"It goes on without us: `longfuse jobs adopt {run.run_id}` keeps it again.")
    return "\n".join(text)


def publish_job(run: RunSpec, state: State) -> None:
    """A run's account as an artifact, of its stage's task if one keeps it. Without a page, or if it does not answer, only a warning."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import ArtifactCreate
    from prefect.runtime import flow_run, task_run

    try:
        account = ArtifactCreate(  # Prefect's own functions for artifacts will want a flow; an adopted run has none
            key=f"ec2-{run.run_id}",
            type="markdown",
            data=page_of(run, state),
            description=f"{run.stage} on EC2",
            flow_run_id=flow_run.id,
            task_run_id=task_run.id,
        )
        with get_client(sync_client=True) as client:
            client.create_artifact(account)
    except Exception as error:  # the page is not the run: the result counts  # noqa: BLE001
        logger.warning("the page of run %s was not written: %s", run.run_id, error)


def publish_adopted(settings: Settings, run: RunSpec, state: State) -> bool:
    """The same for a run that no flow keeps, if a Prefect server of this project is up; whether there was one."""
    server = running_server(prefect_spec(settings))
    address = settings.prefect_api_url or (f"{server.address}/api" if server is not None else None)
    if address is None:
        return False
    export(prefect_environment(settings, address))
    publish_job(run, state)
    return True
