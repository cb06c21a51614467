"""`--on ec2`: binds stages of the catalog to the EC2 runner. Without the flag nothing here is loaded but this file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.plan import Plan, stage_fingerprint
from flows.session import Request
from flows.stage_state import state_folder
from infra.local import LocalRunner
from infra.runner import Runner
from infra.settings import Settings, environment_values, export
from stages.common.errors import ConfigError

if TYPE_CHECKING:
    from infra.ec2.reducer import State
    from infra.ec2.resources import Account
    from infra.ec2.runner import StageFacts
    from infra.ec2.spec import Candidate, RunSpec

logger = logging.getLogger(__name__)

BUCKET_VARIABLE = "LONGFUSE_BUCKET"
SIMULATED = "simulated"  # folder of the simulated cloud, below the state


def require_ec2(on: str) -> None:
    """Raises ConfigError for a place that there is not."""
    if on != "ec2":
        raise ConfigError(f"--on {on}: the only other place is ec2; without --on everything runs on this machine.")


@contextmanager
def open_runner(
    settings: Settings, request: Request, params: Mapping[str, Any], plan: Plan, say: Callable[[str], None]
) -> Iterator[Runner[Any]]:
    """The runner of one pipeline run; a simulated cloud lives as long as it. What the cache here has is restored here."""
    if request.simulate and request.on is None:
        raise ConfigError("--simulate goes with --on ec2.")
    if request.on is None:
        yield LocalRunner()
        return
    require_ec2(request.on)
    from infra.ec2.resources import load_resources
    from infra.ec2.runner import Ec2Runner, SplitRunner
    from infra.ec2.spec import Rhythm

    resources = load_resources()
    profile = str(params.get("profile", ""))
    with ExitStack() as stack:
        account, rhythm = account_of(resources.account), Rhythm(heartbeat_seconds=5.0)
        if request.simulate:
            account = stack.enter_context(_simulated(settings, account, say))
            rhythm = Rhythm(poll_seconds=1.0, heartbeat_seconds=2.0, log_seconds=1.0, checkpoint_seconds=1.0)
        metrics = Metrics(settings, params)
        there = Ec2Runner(
            account,
            lambda stage: _asked(resources.request(profile, stage)),
            lambda stage: stage_facts(settings.root, params, stage),
            metrics.take,
            rhythm,
            publish_job,
        )
        here = {planned.stage for planned in plan.stages if planned.action == "restore"}
        yield SplitRunner(
            LocalRunner(), there, lambda stage: stage not in here and resources.request(profile, stage) is not None
        )


def publish_job(run: RunSpec, state: State) -> None:
    """A run's account as an artifact of its stage's task. Without a page, or if it does not answer, only a warning."""
    from prefect.artifacts import create_markdown_artifact

    rows = [f"| {line.partition(': ')[0]} | {line.partition(': ')[2]} |" for line in state.history]
    text = [
        f"## {run.stage} on EC2",
        f"Run `{run.run_id}`: **{state.outcome}** {state.message}",
        f"About {state.spent_usd:.2f} of at most {run.budget_usd:g} USD; {len(run.candidates)} candidates.",
        "",
        "| attempt | candidate, instance, end |",
        "|---|---|",
        *rows,
        "",
        f"`longfuse jobs logs {run.run_id}` prints its lines; its records are in s3://{run.bucket}/{run.prefix}.",
    ]
    try:
        create_markdown_artifact(key=f"ec2-{run.run_id}", markdown="\n".join(text), description=f"{run.stage} on EC2")
    except Exception as error:  # the page is not the run: the result counts  # noqa: BLE001
        logger.warning("the page of run %s was not written: %s", run.run_id, error)


def _asked(request: Any) -> Any:
    assert request is not None  # SplitRunner asked first
    return request


def account_of(account: Account) -> Account:
    """The account of infra/resources.yaml, with the bucket that the environment names if it does."""
    named = environment_values({BUCKET_VARIABLE})
    return account.model_copy(update={"bucket": named[BUCKET_VARIABLE]}) if named else account


@contextmanager
def _simulated(settings: Settings, account: Account, say: Callable[[str], None]) -> Iterator[Account]:
    """A simulated cloud in a process of its own. Raises NoNamespacesError where instances cannot boot."""
    from infra.sim.account import IMAGE_PARAMETERS, NODE_PROFILE
    from infra.sim.cloud import SimulatedCloud

    folder = settings.state_dir / SIMULATED
    with SimulatedCloud(folder) as cloud:
        export(cloud.environment)
        say(
            f"Simulated EC2: {cloud.endpoint}; calls and consoles in {folder}. Instances use this project's environment, "
            "read-only; prices are estimates, nothing is charged."
        )
        yield account.model_copy(
            update={
                "bucket": cloud.bucket,
                "bucket_region": "us-east-1",
                "instance_profile": NODE_PROFILE,
                "image_parameter": IMAGE_PARAMETERS[0],
                "security_groups": {},
                "wheelhouse": False,  # instances use this project's environment
            }
        )


def stage_facts(root: Path, params: Mapping[str, Any], stage: str) -> StageFacts:
    """What a job needs to know of a stage, with its inputs as they are on disk."""
    from flows.dvc_graph import Dag
    from infra.ec2.runner import StageFacts

    fingerprint, md5s = stage_fingerprint(root, stage, params)
    found = Dag(root, params).stages[stage]
    return StageFacts(
        fingerprint=fingerprint,
        command=found.command,
        inputs=md5s,
        upstream=found.upstream,
        state_folder=state_folder(root, stage).relative_to(root).as_posix() + f"/{fingerprint}",
    )


class Metrics:
    """Metric lines of a job become those of the stage here: announced and spooled for the tracker as a local stage's are."""

    def __init__(self, settings: Settings, params: Mapping[str, Any]) -> None:
        self._settings = settings
        self._params = params
        self._begun: set[str] = set()

    def take(self, stage: str, facts: StageFacts, data: bytes) -> None:
        """Append spool lines; the first ones announce the stage."""
        from flows.catalog import stage_spec
        from flows.params import stage_config
        from infra.spool import SPOOL_NAME, start_stage_run

        root = self._settings.root
        folder = root / facts.state_folder
        if stage not in self._begun:
            self._begun.add(stage)
            spec = stage_spec(stage)
            spool = start_stage_run(
                self._settings,
                stage=stage,
                fingerprint=facts.fingerprint,
                params=stage_config(spec, self._params).model_dump(mode="json"),
                state_dir=folder,
                data_dir=root / spec.data_dir,
                record=root / spec.folder / "record.json",
            )
            spool.close()
        with (folder / SPOOL_NAME).open("ab") as file:
            file.write(data)


def render_costs(on: str, profile: str, plan: Plan) -> list[str]:
    """Where the stages to run would run, candidates in order, prices, and quotas that are too small if they can be asked."""
    require_ec2(on)
    from infra.ec2.aws import Clients
    from infra.ec2.catalog import PRICES_OF
    from infra.ec2.resources import candidates, load_resources, missing_quotas

    resources = load_resources()
    lines, total = ["", f"On EC2 (prices of {PRICES_OF}, estimates):"], 0.0
    wanted: list[Candidate] = []
    for planned in plan.stages:
        request = resources.request(profile, planned.stage)
        if planned.action != "run" or request is None:
            continue
        found = candidates(request)
        wanted += found
        total += request.budget_usd
        first = found[0]
        dearest = max(item.hourly_usd for item in found)
        lines.append(
            f"  {planned.stage:<18}{request.accelerator:<9}{len(found)} candidates, first {first.market} "
            f"{first.instance_type} in {first.zone} at {first.hourly_usd:.2f} USD/h (dearest {dearest:.2f}); "
            f"at most {request.budget_usd:g} USD"
        )
    if not wanted:
        return [*lines, "  nothing: no stage to run is named for this profile in infra/resources.yaml"]
    lines.append(f"  all together at most {total:g} USD")
    try:
        missing = missing_quotas(Clients(), tuple(wanted))
    except Exception as error:  # no credentials, no network: a plan needs neither  # noqa: BLE001
        return [*lines, f"  quotas were not checked: {error}"]
    for item in missing:
        lines.append(
            f"  quota {item['code']} ({item['name']}) in {item['region']} is {item['have']:g} vCPUs, {item['needed']} are needed"
        )
    return lines
