"""What a run would do, stage by stage, and why: `run`, `restore` (made before, in DVC's run-cache) or `skip`.

`dvc repro --dry` misreports and `dvc status` fails during a run, so the DAG is walked here, with hashes that DVC keeps.
Hashes of restored outputs are handed on, so a change that was tried before is predicted down to the report. Below a stage
that really runs nothing can be known: those stages are `run` because of it, though equal bytes may still stop there.

No process is started, no lock of DVC's is taken, nothing is changed; prefect, mlflow and torch are not imported.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from flows.corpus import check_corpus, check_corpus_place
from flows.dvc_graph import Dag, DagDep, DagStage, Hash
from flows.fingerprint import fingerprint
from flows.reasons import Reason, changed_inputs, changed_outputs
from flows.schema import nearest
from flows.yaml_io import read_yaml
from infra.bucket_outputs import BucketOutput, recorded
from stages.common.errors import ConfigError, InputError

__all__ = ["Action", "Plan", "PlannedStage", "Reason", "make_plan", "select", "stage_fingerprint"]
Action = Literal["run", "skip", "restore"]


@dataclass(frozen=True)
class PlannedStage:
    """One stage of a plan. `reasons` is empty exactly for skip.

    fingerprint: None as long as an input is not known. outputs: path -> md5, for skip and restore. in_bucket: outputs of a
    skipped stage that a cloud job made and of which something lies only there.
    """

    stage: str
    action: Action
    reasons: tuple[Reason, ...]
    fingerprint: str | None
    upstream: tuple[str, ...] = ()
    outputs: Mapping[str, str] = field(default_factory=dict)
    in_bucket: tuple[BucketOutput, ...] = ()

    @property
    def edited(self) -> tuple[str, ...]:
        """Outputs that were edited by hand; DVC would delete the edits."""
        return tuple(r.name for r in self.reasons if r.kind == "output" and r.old is not None and r.new is not None)


@dataclass(frozen=True)
class Plan:
    """Stages in topological order, and warnings that change nothing."""

    stages: tuple[PlannedStage, ...]
    warnings: tuple[str, ...] = ()
    dag: Dag | None = field(default=None, repr=False, compare=False)

    @property
    def to_do(self) -> tuple[PlannedStage, ...]:
        """What does not stay as it is."""
        return tuple(stage for stage in self.stages if stage.action != "skip")

    def __getitem__(self, name: str) -> PlannedStage:
        return next(stage for stage in self.stages if stage.stage == name)

    def as_json(self) -> str:
        """The contract of `longfuse plan --json`: a list of {stage, action, reasons: [{kind, name, old, new}]}."""
        return json.dumps(
            [
                {
                    "stage": stage.stage,
                    "action": stage.action,
                    "reasons": [{"kind": r.kind, "name": r.name, "old": r.old, "new": r.new} for r in stage.reasons],
                }
                for stage in self.stages
            ],
            indent=1,
            ensure_ascii=False,
            default=str,
        )


def make_plan(
    root: Path, params: Mapping[str, Any] | None = None, *, only: str | None = None, from_: str | None = None
) -> Plan:
    """The plan of a project folder.

    params: plan as if params.yaml held these values; the file is read if None.
    only, from_: see `select`.

    Raises ConfigError (params.yaml, dvc.yaml, an unknown stage), InputError (the corpus or another source is missing) and
    EnvironmentFailureError (no DVC project, no git repository).
    """
    values = read_yaml(root / "params.yaml") if params is None else params
    if "ingest" in values:
        check_corpus_place(values, root)
    dag = Dag(root, values)
    chosen = _chosen(dag, only, from_)
    if "ingest" in chosen and "ingest" in values:
        check_corpus(values, root)
    return _evaluate(dag, chosen)


def select(plan: Plan, *, only: str | None = None, from_: str | None = None) -> Plan:
    """A part of a plan, judged anew: stages outside it do not run, so inputs count as they are on disk.

    only: that stage (or group: `rl` is all of rl@...) alone. from_: that stage and everything below it.
    Raises ConfigError for an unknown stage, InputError if the part needs an input that is not there.
    """
    if only is None and from_ is None:
        return plan
    assert plan.dag is not None
    return _evaluate(plan.dag, _chosen(plan.dag, only, from_))


def stage_fingerprint(root: Path, name: str, params: Mapping[str, Any]) -> tuple[str, dict[str, str | None]]:
    """Fingerprint and dependency md5s of a stage with its inputs as they are on disk (or in the bucket): what the stage itself is
    told.
    """
    dag = Dag(root, params, only=None if recorded(root) else name)
    stage = dag.stages[name]
    hashes = {dep.path: dag.hash_now(dep) for dep in stage.deps}
    md5s = {path: found.md5 if found else None for path, found in hashes.items()}
    return fingerprint(stage.command, md5s, stage.parameters), md5s


def _chosen(dag: Dag, only: str | None, from_: str | None) -> set[str]:
    if only is not None and from_ is not None:
        raise ConfigError("--only and --from exclude each other: give one.")
    if only is None and from_ is None:
        return set(dag.stages)
    asked = only if only is not None else from_
    assert asked is not None
    named = {name for name in dag.stages if name == asked or name.split("@")[0] == asked}
    if not named:
        near = nearest(asked, dag.stages)
        hint = f" Did you mean {near!r}?" if near else ""
        raise ConfigError(f"there is no stage {asked!r}.{hint} Stages: {', '.join(dag.stages)}.")
    if only is not None:
        return named
    for name, stage in dag.stages.items():  # topological, so one pass reaches all descendants
        if named.intersection(stage.upstream):
            named.add(name)
    return named


_UNKNOWN = Hash("", None)  # what a stage that will run makes


def _evaluate(dag: Dag, chosen: set[str]) -> Plan:
    planned: dict[str, PlannedStage] = {}
    warnings: list[str] = []
    for stage in dag.stages.values():
        if stage.name in chosen:
            planned[stage.name] = _plan_stage(dag, stage, planned)
            if planned[stage.name].action == "skip":
                warnings += _warnings(dag, stage, planned[stage.name])
    return Plan(tuple(planned.values()), tuple(warnings), dag)


def _plan_stage(dag: Dag, stage: DagStage, planned: Mapping[str, PlannedStage]) -> PlannedStage:
    inputs = {dep.path: _future_hash(dag, dep, planned) for dep in stage.deps}
    _require_inputs(dag, stage, inputs, planned)
    known = {path: found for path, found in inputs.items() if found is not None and found is not _UNKNOWN}
    complete = len(known) == len(stage.deps)
    waits = [Reason("upstream", name) for name in stage.upstream if name in planned and planned[name].action == "run"]

    changes = changed_inputs(stage, known)
    outputs = changed_outputs(dag, stage)
    reasons = (*changes, *outputs, *waits)
    identity = None
    if complete:
        identity = fingerprint(stage.command, {path: found.md5 for path, found in known.items()}, stage.parameters)

    def decided(action: Action, made: Mapping[str, str]) -> PlannedStage:
        return PlannedStage(stage.name, action, reasons, identity, stage.upstream, made)

    if not complete or waits:
        return decided("run", {})
    locked = {out.path: out.locked_md5 for out in stage.outs if out.locked_md5 is not None}
    if not reasons:
        away = tuple(found for found in map(dag.in_bucket, stage.outs) if found is not None)
        return replace(decided("skip", locked), in_bucket=away)
    if not changes and len(locked) == len(stage.outs) and all(map(dag.is_cached, locked.values())):
        return decided("restore", locked)
    before = dag.run_cache(stage, known)
    if before is not None and all(map(dag.is_cached, before.values())):
        return decided("restore", before)
    return decided("run", {})


def _future_hash(dag: Dag, dep: DagDep, planned: Mapping[str, PlannedStage]) -> Hash | None:
    """A dependency's hash once the stages before it are done: `_UNKNOWN` if its maker runs, None if it will be absent."""
    owner = dag.owner(dep.absolute)
    if owner is None or owner[0].name not in planned:
        return dag.hash_now(dep)
    maker, out = owner
    match planned[maker.name].action:
        case "run":
            return _UNKNOWN
        case "restore":
            return dag.hash_inside(planned[maker.name].outputs[out.path], out, dep.absolute)
        case "skip":
            return dag.hash_now(dep)


def _require_inputs(
    dag: Dag, stage: DagStage, inputs: Mapping[str, Hash | None], planned: Mapping[str, PlannedStage]
) -> None:
    for dep in stage.deps:
        if inputs[dep.path] is not None:
            continue
        owner = dag.owner(dep.absolute)
        if owner is None and dep.is_code:
            raise ConfigError(f"dvc.yaml: {dep.path}, code of stage {stage.name}, does not exist. Run `make dvc-deps`.")
        if owner is None:
            raise InputError(
                f"{dep.path}, which stage {stage.name} reads, does not exist. Restore it or change its path."
            )
        if owner[0].name in planned:
            continue  # a skipped or restored maker without this file: DVC will say so when the stage runs
        raise InputError(
            f"{dep.path}, which stage {stage.name} reads, does not exist, and {owner[0].name}, which makes it, is left out. "
            f"Run `longfuse run --from {owner[0].name}` or the whole DAG."
        )


def _warnings(dag: Dag, stage: DagStage, planned: PlannedStage) -> list[str]:
    """What a skipped stage keeps silent about: other library versions, outputs that no cache holds."""
    warnings = []
    away = {output.path for output in planned.in_bucket}
    if not all(dag.is_cached(md5) for path, md5 in planned.outputs.items() if path not in away):
        warnings.append(
            f"{stage.name}: its outputs are here, but not in DVC's cache; `dvc commit {stage.name}` saves them there."
        )
    record = dag.root / ".state" / Path(*stage.name.split("@")) / str(planned.fingerprint) / "run.json"
    try:
        versions = json.loads(record.read_text(encoding="utf-8"))["versions"]
    except (OSError, ValueError, KeyError, TypeError):
        return warnings  # made on another machine, or before this record existed
    for package in ("torch", "transformers"):
        then, now = versions.get(package), _installed(package)
        if then and now and then != now:
            warnings.append(f"{stage.name}: made with {package} {then}, {now} is installed; its results may differ.")
    return warnings


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def edited_files(plan: Plan) -> list[str]:
    """Files of outputs that someone changed by hand; a run would lose those changes."""
    assert plan.dag is not None
    files: list[str] = []
    for planned in plan.stages:
        outs = {out.path: out for out in plan.dag.stages[planned.stage].outs}
        for path in planned.edited:
            files += plan.dag.changed_files(outs[path])
    return files


def discard_hand_edits(plan: Plan) -> list[str]:
    """Make hand-edited files harmless, return them.

    The cached copy of a file is often the same file (a hard link): if the edit went through to it, the damaged copy is
    taken out of the cache, for DVC trusts what is there and would restore the edit. Make a new plan afterwards.
    """
    assert plan.dag is not None
    files: list[str] = []
    for planned in plan.stages:
        outs = {out.path: out for out in plan.dag.stages[planned.stage].outs}
        for path in planned.edited:
            for name, locked_md5 in plan.dag.changed_files(outs[path]).items():
                files.append(name)
                file = plan.dag.root / name
                if locked_md5 is None or locked_md5.endswith(".dir") or not file.is_file():
                    continue
                cached = plan.dag.cache_file(locked_md5)
                if cached.exists() and cached.samefile(file):
                    cached.unlink()
    return files


def require_unedited(plan: Plan) -> None:
    """InputError that lists hand-edited outputs, unless there are none."""
    files = edited_files(plan)
    if not files:
        return
    listed = "".join(f"\n  {name}" for name in files[:20]) + ("\n  ..." if len(files) > 20 else "")
    raise InputError(
        f"outputs of the pipeline were edited by hand, and a run would lose that:{listed}\n"
        "Copy what you want to keep to another place, then add --discard-edits: they are restored as they were made."
    )
