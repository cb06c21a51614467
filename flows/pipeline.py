"""The Prefect flow: one task per DVC stage, wired as dvc.yaml says.

    base_model -> ingest -> synthesize@{multi_hop, numerical, reading_comprehension, dialogue_memory, multiple_choice}
        -> assemble -> verify -> stratify -> sft -> rl@stage1 -> rl@stage2 -> rl@stage3 -+-> memory_rl -+
                                                                                         +--------------+-> merge -> rl@stage4
        evaluate@{base, sft, stage1, stage2, stage3, memory, merge, stage4} follow their model -> report

Prefect gives triggering, order, parallelism, retries, logs and a page; DVC alone decides what a stage does (run,
restore, skip) and keeps the results, so the flow holds no cache and no second DAG: tasks and edges come from the plan.
If a stage fails, what depends on it is not run and everything else finishes.
"""

from __future__ import annotations

import threading
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.flows import Flow
from prefect.futures import PrefectFuture
from prefect.states import Completed, Failed

from flows.flow_page import announce_run, publish_end, publish_plan
from flows.journal import DONE
from flows.session import Request, Session
from flows.stage_task import is_transient, stage_work

FLOW_NAME = "longfuse"
RETRY_SECONDS = [2.0, 5.0, 10.0]
LOOK_UP_SECONDS = 0.5


def make_flow(session: Session) -> Flow[..., Any]:
    """The flow of one prepared run, for the command line; its parameters are for the page."""

    @flow(name=FLOW_NAME, description=__doc__, validate_parameters=False, persist_result=False)  # type: ignore[untyped-decorator]
    def longfuse_run(profile: str, set: list[str], only: str | None, from_stage: str | None, jobs: int) -> State[Any]:  # noqa: ARG001
        return drive(session)

    return longfuse_run


@flow(name=FLOW_NAME, description=__doc__, persist_result=False)  # type: ignore[untyped-decorator]
def longfuse(
    profile: str | None = None,
    set: list[str] | None = None,
    only: str | None = None,
    from_stage: str | None = None,
    corpus: str | None = None,
    jobs: int = 2,
    discard_edits: bool = False,
) -> State[Any]:
    """What `longfuse deploy --serve` offers: does what `longfuse run` does with the same flags."""
    from flows.launch import run_deployed
    from infra.errors import InfraError
    from stages.common.errors import LongfuseError

    request = Request.of_flags(
        profile=profile,
        sets=set or (),
        corpus=corpus,
        only=only,
        from_stage=from_stage,
        jobs=jobs,
        discard_edits=discard_edits,
    )
    try:
        return run_deployed(request, drive)
    except (LongfuseError, InfraError) as error:  # for the reader of the page, without a traceback
        get_run_logger().error(str(error))
        return Failed(message=str(error))


def drive(session: Session) -> State[Any]:
    """Do the plan inside a flow run; the state says how it went. However it ends, no stage is left running."""
    futures: dict[str, PrefectFuture[Any]] = {}
    try:
        announce_run(session)
        publish_plan(session)
        session.progress.expect(len(session.plan.to_do))
        wire(session, futures)
        for name, future in futures.items():
            _wait(future)
            _note_failure(session, name, future.state)
    except BaseException:  # KeyboardInterrupt and Prefect's TerminationSignal; nothing may be left running
        stop(session, futures)
        session.journal.end("stopped")
        publish_end(session)
        raise
    unfinished = [entry.stage for entry in session.journal.record.stages if entry.state not in DONE]
    session.journal.end("failed" if unfinished else "finished")
    publish_end(session)
    if unfinished:
        failed = [entry.stage for entry in session.journal.record.of_state("failed")]
        return Failed(message=f"failed: {', '.join(failed) or 'nothing'}; not done: {', '.join(unfinished)}")
    return Completed(message=f"up to date: {len(session.plan.stages)} of {len(session.plan.stages)} stages")


def wire(session: Session, futures: dict[str, PrefectFuture[Any]]) -> None:
    """Submit a task per stage, each waiting for the stages that it reads from; `futures` gets them by stage."""
    for position, planned in enumerate(session.plan.stages):
        stage_task = task(
            stage_work(session, planned, position),
            name=planned.stage,
            task_run_name=planned.stage,
            retries=len(RETRY_SECONDS),
            retry_delay_seconds=RETRY_SECONDS,
            retry_condition_fn=is_transient,
            cache_policy=NO_CACHE,
            persist_result=False,
        )
        upstream = [futures[name] for name in planned.upstream if name in futures]
        futures[planned.stage] = stage_task.submit(wait_for=upstream)


def _wait(future: PrefectFuture[Any]) -> None:
    """Wait for a task, and look up now and then: Polars' own handler of Ctrl-C (MLflow loads it) makes the kernel go on with
    a wait without an end as if nothing had happened, so Python would never come to raise KeyboardInterrupt.
    """
    ended = threading.Event()
    future.add_done_callback(lambda _: ended.set())
    while not ended.wait(LOOK_UP_SECONDS):
        pass
    future.wait()


def _note_failure(session: Session, stage: str, state: State[Any]) -> None:
    """Journal a task that failed in another way than its stage did: retries used up, or an error of ours."""
    if session.journal.entry(stage).state in ("waiting", "running") and (state.is_failed() or state.is_crashed()):
        session.journal.stage(stage, state="failed", message=state.message or str(state))
        session.progress.ended(stage, "failed", 0.0)


def stop(session: Session, futures: dict[str, PrefectFuture[Any]]) -> None:
    """End every stage by the ladder of signals and wait for the tasks to say so. A second interrupt kills at once.

    Never raises: the reason for stopping is on its way up already.
    """
    session.slots.close()
    session.progress.say("Stopping; stages get some seconds to save. Interrupt again to kill them at once.")
    ladder = threading.Thread(target=session.runner.cancel_all, name="stop", daemon=True)
    ladder.start()
    while ladder.is_alive():
        try:
            ladder.join(0.2)
        except BaseException:  # the second interrupt  # noqa: BLE001
            session.runner.cancel_all(at_once=True)
    for future in futures.values():
        try:
            future.wait(timeout=10)
        except BaseException:  # a third one, or a future that was cancelled  # noqa: BLE001
            return
