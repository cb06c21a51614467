"""The seam to the flow: a stage as a run on EC2, submitted or adopted, kept by a controller in this process.

The run's name comes from the stage and its fingerprint. So asking again for the same work finds the run that does it
already, or its result; nothing is launched twice for the same inputs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from queue import Empty, Queue
from typing import Any

from infra.bucket_outputs import BucketOutput, in_words
from infra.ec2 import dvc
from infra.ec2.aws import AwsError, Clients
from infra.ec2.bundle import upload_code
from infra.ec2.controller import Controller
from infra.ec2.environments import environment_of
from infra.ec2.follower import Follower
from infra.ec2.inputs import send_inputs
from infra.ec2.outputs import SMALL_FILE_BYTES, OutputsGoneError, outputs_of, take_outputs
from infra.ec2.reducer import State
from infra.ec2.resources import Account, Request, candidates, stopping, within_quotas
from infra.ec2.run_record import write_record
from infra.ec2.spec import Rhythm, RunSpec
from infra.ec2.store import LeaseLostError, RunStore
from infra.ec2.wheelhouse import share_wheelhouse
from infra.errors import InfraError, StageFailedError, StageStoppedError
from infra.jobs import JobResult, JobSpec, JobState, Outcome
from infra.runner import OnLine

logger = logging.getLogger(__name__)

TAIL_LINES = 40
FAILED_EXIT = 1


@dataclass(frozen=True, kw_only=True)
class StageFacts:
    """What the flow knows of a stage and a job needs: its identity, where its inputs come from, where it keeps its state."""

    fingerprint: str
    command: str
    inputs: Mapping[str, str | None]  # path -> md5, as they are here
    parameters: Mapping[str, Any]  # dotted key of params.yaml -> value
    upstream: tuple[str, ...]  # stages whose outputs it reads
    outputs: tuple[str, ...]  # paths that it writes
    state_folder: str  # below the project


@dataclass(eq=False)
class Ec2Job:
    """A run that this process keeps."""

    spec: JobSpec
    facts: StageFacts
    store: RunStore
    run: RunSpec
    controller: Controller
    started: float
    lines: Queue[str]
    state: JobState = JobState.RUNNING
    final: State | None = None
    error: BaseException | None = None
    ended: threading.Event = field(default_factory=threading.Event)


class Ec2Runner:
    """Does stages on EC2. describe: facts of a stage; request: what it asks for; on_metrics: spool lines of a job; on_end: in `wait`.

    small_file_bytes: files of outputs up to that size come here after a stage, larger ones stay in the bucket.
    """

    def __init__(
        self,
        account: Account,
        request: Callable[[str], Request],
        describe: Callable[[str], StageFacts],
        on_metrics: Callable[[str, StageFacts, bytes], None] = lambda _stage, _facts, _data: None,
        rhythm: Rhythm | None = None,
        on_end: Callable[[RunSpec, State], None] = lambda _run, _state: None,
        small_file_bytes: float = SMALL_FILE_BYTES,
    ) -> None:
        if account.bucket is None:
            raise InfraError(
                "no bucket for runs: set account.bucket in infra/resources.yaml or LONGFUSE_BUCKET, or try --simulate."
            )
        self._account, self._bucket = account, account.bucket
        self._request = request
        self._describe = describe
        self._on_metrics = on_metrics
        self._on_end = on_end
        self._small_file_bytes = small_file_bytes
        self._rhythm = rhythm or Rhythm(heartbeat_seconds=5.0)
        self._clients = Clients()
        self._jobs: set[Ec2Job] = set()
        self._closed = False
        self._guard = threading.Lock()

    def submit(self, spec: JobSpec) -> Ec2Job:
        """See Runner.submit. Raises InfraError before anything is launched if inputs or code cannot be sent."""
        facts = self._describe(spec.stage)
        with self._guard:
            if self._closed:
                raise StageStoppedError(f"{spec.stage} was not started: the run is being stopped")
        store, run = self._open(spec, facts)
        lines: Queue[str] = Queue()
        follower = Follower(lines.put, lambda data: _tell(self._on_metrics, spec.stage, facts, data))
        controller = Controller(self._clients, store, run, follower)
        job = Ec2Job(spec, facts, store, run, controller, time.monotonic(), lines)
        with self._guard:
            self._jobs.add(job)
        threading.Thread(target=self._keep, args=(job,), name=f"run {run.run_id}", daemon=True).start()
        return job

    def _open(self, spec: JobSpec, facts: StageFacts) -> tuple[RunStore, RunSpec]:
        """The run for these inputs: one that is under way or has succeeded, or a new one."""
        base = f"{spec.stage.replace('@', '-').replace('_', '-')}-{facts.fingerprint[:12]}"
        for number in range(1, 1000):
            run_id = base if number == 1 else f"{base}-{number}"
            store = RunStore(self._clients, self._bucket, self._account.bucket_region, run_id)
            known = store.read("spec.json")
            if known is None:
                run = self._new(spec, facts, store)
                store.begin(run)
                return store, run
            closed = store.read_json("closed.json")
            if closed is None or (closed["outcome"] == "succeeded" and self._has_outputs(store, spec.stage)):
                return store, RunSpec.model_validate_json(known)
        raise InfraError(f"{spec.stage} failed 999 times with the same inputs; change something first.")

    def _has_outputs(self, store: RunStore, stage: str) -> bool:
        """Whether the bucket still holds what a run made; what somebody removed is made again."""
        try:
            self._outputs(stage, (store.read_json("result.json") or {})["files"]["dvc.lock"])
        except (OutputsGoneError, KeyError) as error:
            logger.warning("run %s has succeeded, but its outputs are gone: %s", store.run_id, error)
            return False
        return True

    def _outputs(self, stage: str, lock_text: str) -> list[BucketOutput]:
        return outputs_of(self._clients, self._bucket, self._account.bucket_region, stage, lock_text)

    def _new(self, spec: JobSpec, facts: StageFacts, store: RunStore) -> RunSpec:
        request = self._request(spec.stage)
        possible, short, unread = within_quotas(self._clients, candidates(request))
        if not possible:
            raise InfraError(
                f"{spec.stage} was not started: {'; '.join(short)}. Ask for more (Service Quotas in the AWS console), or change "
                "infra/resources.yaml."
            )
        for line in short:
            logger.warning("%s: not tried: %s", spec.stage, line)
        for line in unread:
            logger.warning("%s: tried all the same: %s", spec.stage, line)
        send_inputs(self._clients, self._bucket, spec, facts.upstream)
        environment = environment_of(facts.parameters)
        work = dvc.stage_work(spec.stage, self._bucket)
        work["files"] |= dvc.lock_without(spec.root, spec.stage)
        gpus = 0 if request.accelerator == "cpu" else int(request.accelerator.partition(":")[2] or 1)
        work |= {
            "install": environment.install,
            "code": upload_code(store, spec.root),
            "state_folder": facts.state_folder,
            "secrets": request.secrets,
            "gpus": gpus,
        }
        if self._account.wheelhouse:
            work["wheelhouse"] = share_wheelhouse(store, spec.root, environment, spec.environment, gpus > 0)
        return RunSpec(
            run_id=store.run_id,
            stage=spec.stage,
            fingerprint=facts.fingerprint,
            bucket=self._bucket,
            bucket_region=self._account.bucket_region,
            candidates=possible,
            not_tried=tuple(short),
            unknown=tuple(unread),
            nodes=request.nodes,
            budget_usd=request.budget_usd,
            image_parameter=self._account.image_parameter,
            instance_profile=self._account.instance_profile,
            security_groups={
                region: group
                for region, group in self._account.security_groups.items()
                if region in {item.region for item in possible}
            },
            disk_gb=request.disk_gb,
            stopping=stopping(request),
            rhythm=self._rhythm,
            work=work,
        )

    def _keep(self, job: Ec2Job) -> None:
        """The controller's thread: takes over from a dead one if there was one."""
        try:
            job.controller.take(wait_seconds=job.run.rhythm.lease_seconds + 5.0)
            job.final = job.controller.run()
            job.controller.catch_up()
        except BaseException as error:  # handed to whoever waits  # noqa: BLE001
            job.error = error
        with self._guard:
            self._jobs.discard(job)
        job.ended.set()

    def wait(self, job: Ec2Job, on_line: OnLine) -> JobResult:
        """See Runner.wait. After success the lock entry is merged and the small files of the outputs are here."""
        tail: deque[str] = deque(maxlen=TAIL_LINES)
        on_line(f"run {job.run.run_id}: {len(job.run.candidates)} candidates, at most {job.run.budget_usd:g} USD")
        try:
            while not (job.ended.is_set() and job.lines.empty()):
                try:
                    line = job.lines.get(timeout=0.2)
                except Empty:
                    continue
                tail.append(line)
                on_line(line)
        except BaseException:
            self.cancel(job)
            raise
        if job.error is not None:  # the run goes on; its page says how it stood when we lost it
            _tell(self._on_end, job.run, replace(job.controller.state, message=str(job.error)))
        if isinstance(job.error, LeaseLostError | AwsError):
            raise InfraError(str(job.error)) from job.error
        if job.error is not None:
            raise job.error
        assert job.final is not None
        _tell(self._on_end, job.run, job.final)
        for line in job.final.history:
            on_line(line)
        on_line(f"run {job.run.run_id}: {job.final.outcome}, about {job.final.spent_usd:.2f} USD")
        if job.state is JobState.STOPPED or job.final.outcome == "cancelled":
            raise StageStoppedError(f"{job.spec.stage} was stopped")
        if job.final.outcome != "succeeded":
            tail.append(f"run {job.run.run_id}: {job.final.outcome}: {job.final.message}")
            raise StageFailedError(job.spec.stage, FAILED_EXIT, tuple(tail))
        self._take_result(job, on_line)
        job.state = JobState.SUCCEEDED
        return JobResult(outcome=Outcome.RAN, seconds=time.monotonic() - job.started)

    def _take_result(self, job: Ec2Job, on_line: OnLine) -> None:
        result = job.store.read_json("result.json")
        assert result is not None
        root, stage = job.spec.root, job.spec.stage
        facts = job.facts
        outputs = self._outputs(stage, result["files"]["dvc.lock"])  # before dvc.lock promises them
        dvc.merge_lock(
            root,
            stage,
            result["files"]["dvc.lock"],
            inputs=facts.inputs,
            outputs=facts.outputs,
            parameters=facts.parameters,
            command=facts.command,
        )
        for output in take_outputs(self._clients, root, job.spec.environment, outputs, self._small_file_bytes):
            size = in_words(output.bytes_of(output.absent(root)))
            on_line(f"{output.path}: {size} stay in s3://{output.bucket}; `longfuse jobs pull {stage}` fetches them")
        assert job.final is not None
        write_record(root / facts.state_folder / "run.json", job.run, job.final, result["seconds"])

    def cancel(self, job: Ec2Job) -> None:
        """See Runner.cancel: the run's instances are gone when it returns, or end by their own timers."""
        job.state = JobState.STOPPED
        try:
            job.store.write_json("cancel", {"by": "runner", "time": time.time()})
        except Exception as error:  # the cloud does not answer; the dead-man timers do  # noqa: BLE001
            logger.warning("run %s could not be cancelled: %s", job.run.run_id, error)
            return
        job.ended.wait(job.run.stopping.grace_seconds + 180.0)

    def cancel_all(self, *, at_once: bool = False) -> None:
        """See Runner.cancel_all. `at_once` does not wait for instances to end."""
        with self._guard:
            self._closed = True
            jobs = list(self._jobs)
        if at_once:
            for job in jobs:
                job.state = JobState.STOPPED
                job.ended.set()
        threads = [threading.Thread(target=self.cancel, args=(job,), daemon=True) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _tell(whom: Callable[..., None], *words: Any) -> None:
    """Tracking and pages: whatever is wrong with them, the run goes on and its result counts."""
    try:
        whom(*words)
    except Exception as error:  # a full disk, a store that does not answer  # noqa: BLE001
        logger.warning("a run on EC2 was not told of: %s: %s", type(error).__name__, error)
