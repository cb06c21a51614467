"""What a pipeline run puts on its Prefect page and into its MLflow parent besides the stages: tags, plan, report, lineage."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
from prefect.runtime import flow_run
from prefect.states import Crashed
from prefect.utilities.urls import url_for

from flows.final_model import final_model
from flows.plan_table import explain, summary
from flows.run_report import write_run_report
from flows.session import Session
from stages.common.storage import write_text

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

REPORT = Path("outputs/report/data/report.md")
UNFINISHED = {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}


def announce_run(session: Session) -> None:
    """Tag this flow run with tree and process, mark those that died in this tree, and say where the page is."""
    own = str(flow_run.get_id())
    tree = tree_tag(session.settings.state_dir)
    with get_client(sync_client=True) as client:
        dead = mark_dead_runs(client, tree, own)
        client.update_flow_run(own, tags=[tree, *_process_tags(), *([session.profile] if session.profile else [])])
    for name in dead:
        get_run_logger().warning("run %s of this tree had died: marked as crashed", name)
    page = url_for("flow-run", obj_id=own)
    session.journal.update(page=page)
    session.tracker.tag({"prefect.flow_run": own, **({"prefect.page": page} if page else {})})
    if page:
        session.progress.say(f"Page of this run: {page}")


def tree_tag(state_dir: Path) -> str:
    """A name for this working tree that moves with it."""
    path = state_dir / "tree_id"
    if not path.is_file():
        write_text(path, uuid.uuid4().hex[:12])
    return f"tree:{path.read_text(encoding='utf-8').strip()}"


def _process_tags() -> list[str]:
    boot = Path("/proc/sys/kernel/random/boot_id")
    name = boot.read_text(encoding="ascii").strip() if boot.is_file() else f"{psutil.boot_time():.0f}"
    return [f"pid:{os.getpid()}", f"boot:{name}"]


def mark_dead_runs(client: SyncPrefectClient, tree: str, own: str) -> list[str]:
    """Mark unfinished runs of this tree as crashed, and return their names. Prefect itself never does.

    Whoever calls holds the tree's run lock, so the process of every other run in this tree is gone.
    """
    wanted = FlowRunFilter.model_validate({"tags": {"all_": [tree]}, "state": UNFINISHED})
    dead = [run for run in client.read_flow_runs(flow_run_filter=wanted) if str(run.id) != own]
    for run in dead:
        state = Crashed(message=f"its process ({', '.join(t for t in run.tags if t.startswith('pid:'))}) died")
        only = FlowRunFilter.model_validate({"id": {"any_": [run.id]}})
        tasks = TaskRunFilter.model_validate({"state": UNFINISHED})
        for task_run in client.read_task_runs(flow_run_filter=only, task_run_filter=tasks):
            client.set_task_run_state(task_run.id, state, force=True)
        client.set_flow_run_state(run.id, state, force=True)
    return [run.name for run in dead]


def publish_plan(session: Session) -> None:
    """The plan as a table."""
    rows = [
        {"stage": planned.stage, "action": planned.action, "why": "; ".join(explain(planned)) or "unchanged"}
        for planned in session.plan.stages
    ]
    create_table_artifact(key="plan", table=rows, description=summary(session.plan))


def publish_end(session: Session) -> None:
    """Times and lineage, and the report, as artifacts of the flow run and of the MLflow parent.

    Runs after an interrupt too; a page that does not answer must not hide how the run went.
    """
    session.tracker.flush(timeout_seconds=30)
    record = session.journal.record
    report = session.root / REPORT
    try:
        written = write_run_report(session.root, session.settings.state_dir, record)
        for file in (*written, session.root / "dvc.lock", report, report.with_suffix(".html")):
            session.tracker.log_file(file)
        if record.state == "finished":
            model = final_model(session.root, record)
            if model is not None:
                session.tracker.register(model)
        markdown = written[0].read_text(encoding="utf-8")
        create_markdown_artifact(key="run", markdown=markdown, description="Time, cost and lineage")
        if report.is_file():
            create_markdown_artifact(
                key="report", markdown=report.read_text(encoding="utf-8"), description="The report"
            )
    except Exception as error:  # OSError, httpx and Prefect errors have no common root  # noqa: BLE001
        get_run_logger().warning("the report of the run could not be published: %s", error)
