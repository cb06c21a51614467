"""Where an output came from: the stages above it with parameters, md5s, commit and MLflow runs (`longfuse lineage`).

Read from dvc.lock, which DVC keeps for exactly this, and from the records under .state; nothing is imported that is slow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from flows.fingerprint import fingerprint
from flows.stage_state import RUN_FILE, state_folder
from flows.yaml_io import read_yaml
from stages.common.errors import InputError


@dataclass(frozen=True)
class Dependency:
    """A file or folder that a stage read. `made_by`: the stage that wrote it, None for what lies in the project."""

    path: str
    md5: str
    made_by: str | None


@dataclass(frozen=True)
class StageLineage:
    """One stage as dvc.lock has it, and the record of the run that made its outputs (None where none is in this tree)."""

    stage: str
    command: str
    fingerprint: str
    params: Mapping[str, Any]
    dependencies: tuple[Dependency, ...]
    code_files: int
    outputs: Mapping[str, str]  # path -> md5
    run: Mapping[str, Any] | None  # run.json: commit, seconds, machine, versions, mlflow_run


def lineage(root: Path, target: str) -> list[StageLineage]:
    """The stage that made `target` (a stage's name, or a path in an output) after everything that it was made from.

    Raises InputError if nothing was made yet, or no stage made it.
    """
    lock, made_by = _locked(root)
    return _in_order(root, [_stage_of(root, target, lock, made_by)], lock, made_by)


def whole_lineage(root: Path) -> list[StageLineage]:
    """Every stage that dvc.lock knows, each after those that it was made from. InputError if nothing was made yet."""
    lock, made_by = _locked(root)
    return _in_order(root, list(lock), lock, made_by)


def _in_order(root: Path, wanted: list[str], lock: Mapping[str, Any], made_by: Mapping[str, str]) -> list[StageLineage]:
    order: list[str] = []

    def visit(name: str) -> None:
        if name in order:
            return
        for dependency in _dependencies(lock[name], made_by):
            if dependency.made_by is not None:
                visit(dependency.made_by)
        order.append(name)

    for name in wanted:
        visit(name)
    return [_entry(root, name, lock[name], made_by) for name in order]


def _locked(root: Path) -> tuple[Mapping[str, Any], dict[str, str]]:
    """dvc.lock's stages, and which of them made which output."""
    path = root / "dvc.lock"
    if not path.is_file():
        raise InputError(f"{path} does not exist: nothing was made in this tree yet. `longfuse run` makes it.")
    try:
        stages = read_yaml(path).get("stages")
    except (yaml.YAMLError, AttributeError) as error:
        raise InputError(f"{path} cannot be read ({error}). Restore it from git, or run again.") from None
    lock = stages if isinstance(stages, dict) else {}
    return lock, {out["path"]: name for name, entry in lock.items() for out in entry.get("outs", [])}


def _stage_of(root: Path, target: str, lock: Mapping[str, Any], made_by: Mapping[str, str]) -> str:
    if target in lock:
        return target
    path = Path(target)
    if path.is_absolute() or (Path.cwd() / path).exists():
        resolved = (Path.cwd() / path).absolute()
        path = resolved.relative_to(root) if resolved.is_relative_to(root) else path
    wanted = PurePosixPath(path.as_posix())
    for out, stage in made_by.items():
        if wanted == PurePosixPath(out) or PurePosixPath(out) in wanted.parents:
            return stage
    for stage in lock:  # `rl` or `outputs/sft`
        if stage.split("@")[0] == target or wanted == PurePosixPath("outputs", *stage.split("@")):
            return stage
    raise InputError(
        f"no stage made {target!r}, as far as dvc.lock says. Give a stage ({', '.join(lock) or 'none ran yet'}) or a path in "
        "outputs/."
    )


def _maker(path: str, made_by: Mapping[str, str]) -> str | None:
    """The stage whose output this is or lies in."""
    place = PurePosixPath(path)
    return next((made_by[str(p)] for p in (place, *place.parents) if str(p) in made_by), None)


def _dependencies(entry: Mapping[str, Any], made_by: Mapping[str, str]) -> list[Dependency]:
    return [
        Dependency(dep["path"], dep.get("md5", ""), _maker(dep["path"], made_by))
        for dep in entry.get("deps", [])
        if not dep["path"].startswith("stages/")
    ]


def _entry(root: Path, name: str, entry: Mapping[str, Any], made_by: Mapping[str, str]) -> StageLineage:
    params = {key: value for values in (entry.get("params") or {}).values() for key, value in values.items()}
    deps = {dep["path"]: dep.get("md5") for dep in entry.get("deps", [])}
    known_as = fingerprint(entry["cmd"], deps, params)
    return StageLineage(
        stage=name,
        command=entry["cmd"],
        fingerprint=known_as,
        params=params,
        dependencies=tuple(_dependencies(entry, made_by)),
        code_files=sum(path.startswith("stages/") for path in deps),
        outputs={out["path"]: out.get("md5", "") for out in entry.get("outs", [])},
        run=run_record(root, name, known_as),
    )


def run_record(root: Path, stage: str, known_as: str) -> dict[str, Any] | None:
    """run.json of one fingerprint: commit, seconds, machine, MLflow run; None if this tree did not run it."""
    path = state_folder(root, stage) / known_as / RUN_FILE
    if not path.is_file():
        return None
    value = json.loads(path.read_text(encoding="utf-8"))
    return value if isinstance(value, dict) else None


def as_json(entries: list[StageLineage]) -> str:
    """For programs."""
    return json.dumps([asdict(entry) for entry in entries], indent=1, ensure_ascii=False)


def lineage_lines(entries: list[StageLineage]) -> list[str]:
    """For people: the last stage first, then what it was made from, down to the documents."""
    lines: list[str] = []
    for entry in reversed(entries):
        run = entry.run or {}
        lines.append(f"{entry.stage}  ({entry.command})")
        for path, md5 in entry.outputs.items():
            lines.append(f"  made      {path}  {md5}")
        if entry.run is None:
            lines.append("  run       not in this tree: restored from a cache, or its record was removed")
        else:
            dirty = " with uncommitted changes" if run.get("dirty") else ""
            lines.append(
                f"  run       {run.get('started')}, {run.get('seconds', 0):.1f} s, commit {run.get('commit')}{dirty}"
            )
            lines.append(f"  MLflow    {run.get('mlflow_run') or '-'}")
        lines += [f"  param     {key} = {_short(value)}" for key, value in _flat(entry.params)]
        for dep in entry.dependencies:
            lines.append(f"  from      {dep.path}  {dep.md5}" + (f"  ({dep.made_by})" if dep.made_by else ""))
        lines.append(f"  code      {entry.code_files} files")
        lines.append("")
    return lines[:-1]


def _flat(params: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in params.items():
        if isinstance(value, Mapping) and value:
            flat += _flat(value, f"{prefix}{key}.")
        else:
            flat.append((prefix + key, value))
    return flat


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else text[:99] + "…"
