"""Data that lies in the bucket only, and somebody here who needs it: a local stage, a command that opens a model, a user.

`dvc repro --pull --allow-missing -s` would do for a stage, but with `-s` it takes an absent input for an unchanged one, also
when dvc.lock names another md5 for it by now: the stage would be skipped with old results. So what is missing is fetched
by name, and DVC then sees files.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.dvc_graph import Dag
from flows.plan import Plan, make_plan
from infra.bucket_outputs import FOLDER, BucketOutput, forget, in_words, is_current, recorded
from infra.errors import InfraError
from infra.jobs import JobResult, JobSpec, Outcome
from infra.runner import OnLine, Runner
from stages.common.errors import ConfigError, InputError
from stages.common.storage import read_json

Say = Callable[[str], None]


@dataclass(frozen=True)
class Missing:
    """Files of an output that are not here; target: what DVC is asked for, the output or a path in it."""

    output: BucketOutput
    target: str
    names: list[str]

    @property
    def size(self) -> str:
        return in_words(self.output.bytes_of(self.names))


def missing_inputs(root: Path, params: Mapping[str, Any], stage: str) -> list[Missing]:
    """What a stage reads and only the bucket has."""
    if not recorded(root):
        return []
    dag = Dag(root, params)
    found: dict[str, Missing] = {}
    for dep in dag.stages[stage].deps:
        owner = dag.owner(dep.absolute)
        output = dag.in_bucket(owner[1]) if owner is not None else None
        if output is None:
            continue
        names = output.absent(root, dep.path)
        if names:
            found[dep.path] = Missing(output, dep.path, names)
    return list(found.values())


def fetch(
    root: Path,
    environment: Mapping[str, str],
    missing: list[Missing],
    whose: str,
    say: Say,
    stop: threading.Event | None = None,
) -> None:
    """Bring files here, with a line for each. InfraError that names output, bucket and command if one does not come,
    StageStoppedError once `stop` is set.
    """
    from infra.ec2.dvc import pull

    for item in missing:
        output = item.output
        say(f"{whose} needs {item.target} of {output.stage}: fetching {item.size} from s3://{output.bucket}")
        try:
            pull(root, environment, output.bucket, [item.target], stop)
        except InfraError as error:
            raise InfraError(
                f"{whose} needs {item.target} of {output.stage}, which lies in s3://{output.bucket} only and did not come: "
                f"{error}\nSee to credentials and network, then `longfuse jobs pull {output.stage}` fetches it. If the bucket "
                f"was emptied, `longfuse run` notices and does {output.stage} again."
            ) from None


@dataclass(eq=False)
class LateJob:
    """A stage that waits for its inputs; `inner` is its job once it has started."""

    spec: JobSpec
    inner: Any = None


class FetchFirst:
    """A runner of stages here: what a stage reads and only the bucket has is fetched before it starts."""

    def __init__(self, inner: Runner[Any], params: Mapping[str, Any]) -> None:
        self._inner = inner
        self._params = params
        self._closed = threading.Event()

    def submit(self, spec: JobSpec) -> LateJob:
        """See Runner.submit."""
        job = LateJob(spec)
        if not missing_inputs(spec.root, self._params, spec.stage):
            job.inner = self._inner.submit(spec)
        return job

    def wait(self, job: LateJob, on_line: OnLine) -> JobResult:
        """See Runner.wait. A stage that is up to date after all fetches nothing."""
        spec = job.spec
        if job.inner is None:
            planned = make_plan(spec.root, self._params, only=spec.stage)[spec.stage]
            if planned.action == "skip":
                on_line(f"Stage '{spec.stage}' didn't change, skipping")
                return JobResult(outcome=Outcome.SKIPPED, seconds=0.0)
            missing = missing_inputs(spec.root, self._params, spec.stage)
            fetch(spec.root, spec.environment, missing, spec.stage, on_line, self._closed)
            job.inner = self._inner.submit(spec)
        return self._inner.wait(job.inner, on_line)

    def cancel(self, job: LateJob) -> None:
        """See Runner.cancel."""
        if job.inner is not None:
            self._inner.cancel(job.inner)

    def cancel_all(self, *, at_once: bool = False) -> None:
        """See Runner.cancel_all."""
        self._closed.set()
        self._inner.cancel_all(at_once=at_once)


def drop_what_is_gone(plan: Plan, root: Path, say: Say) -> bool:
    """Before a run: ask the buckets for what the plan relies on, forget what they lost; whether anything was forgotten.

    A bucket that does not answer changes nothing: the run goes on with what the records say.
    """
    relied_on = [output for planned in plan.stages for output in planned.in_bucket]
    if not relied_on:
        return False
    import boto3.exceptions
    import botocore.exceptions

    from infra.ec2.aws import Clients
    from infra.ec2.outputs import still_there

    clients, lost = Clients().quick, False  # nobody waits for minutes
    for output in relied_on:
        try:
            there = still_there(clients, output, output.absent(root))
        except (
            botocore.exceptions.BotoCoreError,
            botocore.exceptions.ClientError,
            boto3.exceptions.Boto3Error,
        ) as error:
            say(f"warning: s3://{output.bucket} does not say whether it still holds {output.path} ({error}).")
            return lost
        if not there:
            forget(root, output)
            lost = True
            say(f"warning: s3://{output.bucket} does not hold {output.path} any more: {output.stage} has to run again.")
    return lost


def pull_from_bucket(root: Path, asked: str, environment: Mapping[str, str], say: Say) -> None:
    """`longfuse jobs pull`: all outputs of a stage (or a group), or an output or a path in it. ConfigError for another name."""
    path = Path(asked).as_posix().rstrip("/")
    records = list(recorded(root).values())
    named = [item for item in records if asked in (item.stage, item.stage.split("@")[0]) or _overlap(item.path, path)]
    if not named:
        known = ", ".join(sorted({item.stage for item in records})) or "none"
        raise ConfigError(f"nothing of {asked!r} lies in a bucket. Stages of which something does: {known}.")
    for output in named:
        _require_current(root, output)
        below = path if path.startswith(f"{output.path}/") else None
        names = output.absent(root, below)
        if names:
            fetch(root, environment, [Missing(output, below or output.path, names)], "`longfuse jobs pull`", say)
        else:
            say(f"{below or output.path} is here")


def _overlap(output: str, path: str) -> bool:
    return output == path or output.startswith(f"{path}/") or path.startswith(f"{output}/")


def _require_current(root: Path, output: BucketOutput) -> None:
    if not is_current(root, output):
        raise InputError(
            f"dvc.lock names another result for {output.path} than the one in s3://{output.bucket}. `longfuse plan` says what it is."
        )


def require_here(path: Path) -> None:
    """For who opens a model. InputError, with the command that fetches it, if a part of that folder lies in a bucket only."""
    _require_folder(path)
    if (path / "model.json").is_file():  # a stage that changed nothing points at its parent's model
        _require_folder(path / read_json(path / "model.json")["path"])


def _require_folder(path: Path) -> None:
    folder = path.resolve()
    root = next((parent for parent in folder.parents if (parent / FOLDER).is_dir()), None)
    if root is None:
        return
    relative = folder.relative_to(root).as_posix()
    for output in recorded(root).values():
        if not _overlap(output.path, relative) or not is_current(root, output):
            continue
        names = output.absent(root, relative if relative.startswith(f"{output.path}/") else None)
        if names:
            raise InputError(
                f"{path}: {output.place(names[0])} is not here. It lies in s3://{output.bucket}; `longfuse jobs pull {output.stage}` "
                f"fetches {in_words(output.bytes_of(names))}."
            )
