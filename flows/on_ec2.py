"""`--on ec2`: binds stages of the catalog to the EC2 runner. Without the flag nothing here is loaded but this file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.bucket_data import FetchFirst
from flows.plan import Plan, stage_fingerprint
from flows.session import Request
from flows.stage_state import state_folder
from infra.local import LocalRunner
from infra.runner import Runner
from infra.settings import Settings, environment_values, export
from stages.common.errors import ConfigError

if TYPE_CHECKING:
    from infra.ec2.resources import Account
    from infra.ec2.runner import StageFacts


BUCKET_VARIABLE = "LONGFUSE_BUCKET"
SIMULATED = "simulated"  # folder of the simulated cloud, below the state


def require_ec2(on: str) -> None:
    """Raises ConfigError for a place that there is not."""
    if on != "ec2":
        raise ConfigError(f"--on {on}: the only other place is ec2; without --on everything runs on this machine.")


@contextmanager
def open_runner(
    settings: Settings,
    request: Request,
    params: Mapping[str, Any],
    plan: Plan,
    say: Callable[[str], None],
    tag_stage: Callable[[str, Mapping[str, str]], None] = lambda _stage, _tags: None,
) -> Iterator[Runner[Any]]:
    """The runner of one pipeline run; tag_stage: puts tags on a stage's MLflow run. A simulated cloud lives as long as it. What the cache here has is restored here."""
    if request.simulate and request.on is None:
        raise ConfigError("--simulate goes with --on ec2.")
    if request.on is None:
        yield FetchFirst(LocalRunner(), params)
        return
    require_ec2(request.on)
    from flows.job_tracking import JobTracking
    from infra.ec2.resources import load_resources
    from infra.ec2.runner import Ec2Runner
    from infra.ec2.spec import Rhythm
    from infra.split_runner import SplitRunner

    resources = load_resources()
    profile = str(params.get("profile", ""))
    with ExitStack() as stack:
        account, rhythm = account_of(resources.account), Rhythm(heartbeat_seconds=5.0)
        if request.simulate:
            account = stack.enter_context(_simulated(settings, account, say))
            rhythm = Rhythm(
                heartbeat_seconds=2.0, checkpoint_seconds=1.0
            )  # of the node: the controller's are the real ones
        told = JobTracking(settings, params, tag_stage)
        there = Ec2Runner(
            account,
            lambda stage: _asked(resources.request(profile, stage)),
            lambda stage: stage_facts(settings.root, params, stage),
            told.take,
            rhythm,
            told.ended,
            # A simulated bucket ends with its run, so everything comes here.
            **({"small_file_bytes": math.inf} if request.simulate else {}),
        )
        here = {planned.stage for planned in plan.stages if planned.action == "restore"}
        yield SplitRunner(
            FetchFirst(LocalRunner(), params),
            there,
            lambda stage: stage not in here and resources.request(profile, stage) is not None,
        )


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
        parameters=found.parameters,
        upstream=found.upstream,
        outputs=tuple(out.path for out in found.outs),
        state_folder=state_folder(root, stage).relative_to(root).as_posix() + f"/{fingerprint}",
    )
