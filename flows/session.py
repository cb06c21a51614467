"""Everything about one pipeline run that is settled before its first stage starts.

A request (flags) becomes parameters, a plan and checks of the machine; only when all of it holds is params.yaml written.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.bucket_data import drop_what_is_gone
from flows.catalog import CATALOG
from flows.journal import Journal
from flows.params import apply_sets, load_params, profile_params, switch_profile, write_params
from flows.plan import Plan, discard_hand_edits, make_plan, require_unedited
from flows.progress import Progress
from flows.slots import Slots
from infra.errors import InfraError
from infra.mlflow_store import check_reachable
from infra.runner import Runner
from infra.servers import check_prefect_reachable
from infra.settings import Settings
from infra.tracking import PipelineTracker
from stages.common.errors import ConfigError

logger = logging.getLogger(__name__)

LEAST_FREE_GB = 1.0
COMFORTABLE_FREE_GB = 2.0
ReadParams = Callable[[Path], Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asks for; the flags of `longfuse run`."""

    profile: str | None = None
    sets: tuple[str, ...] = ()
    corpus: Path | None = None
    only: str | None = None
    from_stage: str | None = None
    jobs: int = 2
    discard_edits: bool = False
    on: str | None = None  # ec2: stages that infra/resources.yaml names run there
    simulate: bool = False

    @classmethod
    def of_flags(
        cls,
        *,
        profile: str | None,
        sets: Sequence[str],
        corpus: str | Path | None,
        only: str | None,
        from_stage: str | None,
        jobs: int,
        discard_edits: bool,
        on: str | None = None,
        simulate: bool = False,
    ) -> Request:
        """A request from the flags of the command line or of the page, where an empty field means not given."""
        return cls(
            profile=profile or None,
            sets=tuple(sets),
            corpus=Path(corpus) if corpus else None,
            only=only or None,
            from_stage=from_stage or None,
            jobs=jobs,
            discard_edits=discard_edits,
            on=on or None,
            simulate=simulate,
        )

    @property
    def changes_params(self) -> bool:
        return self.profile is not None or bool(self.sets) or self.corpus is not None


@dataclass(frozen=True, kw_only=True)
class Session:
    """One pipeline run: what to do, and the things that it is done with."""

    settings: Settings
    request: Request
    params: Mapping[str, Any]
    plan: Plan
    runner: Runner[Any]
    tracker: PipelineTracker
    journal: Journal
    progress: Progress
    slots: Slots

    @property
    def root(self) -> Path:
        return self.settings.root

    @property
    def profile(self) -> str:
        return str(self.params.get("profile", ""))


def wanted_params(root: Path, request: Request, read: ReadParams = load_params) -> Mapping[str, Any]:
    """The parameters that a request asks for, checked; nothing is written. Raises ConfigError."""
    values = read(root / "params.yaml") if request.profile is None else profile_params(request.profile)
    if not request.sets and request.corpus is None:
        return values
    return apply_sets(values, request.sets, corpus=request.corpus, root=root)


def plan_request(root: Path, request: Request, read: ReadParams = load_params) -> Plan:
    """The plan of a request, in memory."""
    return make_plan(root, wanted_params(root, request, read), only=request.only, from_=request.from_stage)


def prepare(
    settings: Settings, request: Request, read: ReadParams = load_params, say: Callable[[str], None] = logger.warning
) -> tuple[Mapping[str, Any], Plan]:
    """Parameters and plan of a run; params.yaml is written last, if the request changes it. Hold the run lock.

    Raises UserError for whatever the user can mend (flags, parameters, corpus, hand-edited outputs).
    """
    if request.jobs < 1:
        raise ConfigError(f"--jobs {request.jobs}: at least 1 is needed.")
    path = settings.root / "params.yaml"
    wanted = wanted_params(settings.root, request, read)

    def planned() -> Plan:
        return make_plan(settings.root, wanted, only=request.only, from_=request.from_stage)

    plan = planned()
    if not request.discard_edits:
        require_unedited(plan)
    if request.profile is not None:
        switch_profile(path, request.profile, discard_edits=request.discard_edits)
    if request.changes_params:
        write_params(path, wanted)
    if request.discard_edits and discard_hand_edits(plan):
        plan = planned()
    if drop_what_is_gone(plan, settings.root, say):
        plan = planned()
    return wanted, plan


def check_before_work(settings: Settings) -> list[str]:
    """Disk space, MLflow and a Prefect server of the user's. Returns warnings; raises InfraError if work is in vain."""
    free_gb = free_disk_gb(settings.root)
    if free_gb < LEAST_FREE_GB:
        raise InfraError(
            f"only {free_gb:.1f} GB are free on the disk of {settings.root}; a run needs at least {LEAST_FREE_GB:.0f} GB. "
            "Make room: `dvc gc --workspace` removes cached results of earlier parameters."
        )
    check_reachable(settings)
    if settings.prefect_api_url is not None:
        check_prefect_reachable(settings.prefect_api_url)
    if free_gb < COMFORTABLE_FREE_GB:
        return [
            f"only {free_gb:.1f} GB are free on the disk of {settings.root}; a run of the default profile needs more."
        ]
    return []


def free_disk_gb(folder: Path) -> float:
    """Free space of the disk that holds a folder, in 10^9 bytes."""
    return shutil.disk_usage(folder).free / 1e9


def uses_model(stage: str) -> bool:
    """Whether a stage runs a model; a stage that the catalog does not know does not."""
    return stage in CATALOG and CATALOG[stage].uses_model
