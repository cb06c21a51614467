"""`longfuse doctor`: looks at the machine and the working tree, and says what to do about what is wrong."""

from __future__ import annotations

import importlib.metadata
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from flows.params import load_params
from flows.session import COMFORTABLE_FREE_GB, LEAST_FREE_GB, free_disk_gb
from infra.errors import InfraError
from infra.lock import current_holder
from infra.mlflow_store import check_reachable
from infra.servers import check_prefect_reachable, free_port
from infra.settings import Settings
from stages.common.errors import LongfuseError

Level = Literal["ok", "warn", "fail"]
PACKAGES = ("prefect", "fastapi", "dvc", "mlflow", "torch", "transformers", "duckdb", "tokenizers")
COMFORTABLE_MEMORY_GB = 6.0


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line: how it stands, and what to do unless it is ok."""

    level: Level
    what: str
    remedy: str = ""


def examine(settings: Settings) -> list[Finding]:
    """Every check, none of which raises."""
    return [
        _python(),
        *_packages(settings.root),
        _git(settings.root),
        _dvc(settings.root),
        _params(settings.root),
        _disk(settings.root),
        _memory(),
        _writable(settings.state_dir),
        _ports(),
        _mlflow(settings),
        _prefect(settings),
        _lock(settings.state_dir),
    ]


def _python() -> Finding:
    version = sys.version.split()[0]
    if sqlite3.sqlite_version_info < (3, 24):
        return Finding(
            level="fail",
            what=f"Python {version} with SQLite {sqlite3.sqlite_version}",
            remedy="Prefect needs SQLite 3.24 or newer: use another build of Python.",
        )
    return Finding(level="ok", what=f"Python {version}, SQLite {sqlite3.sqlite_version}")


def _packages(root: Path) -> list[Finding]:
    constraints = root / "constraints.txt"
    lines = constraints.read_text(encoding="utf-8").splitlines() if constraints.is_file() else []
    wanted = dict(line.split("==", 1) for line in lines if "==" in line and not line.startswith("#"))
    findings = []
    for name in PACKAGES:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            findings.append(Finding(level="fail", what=f"{name} is not installed", remedy="Run `make setup`."))
            continue
        pinned = wanted.get(name, version).strip()
        if version.partition("+")[0] != pinned.partition("+")[0]:
            what = f"{name} {version} (tested with {pinned})"
            findings.append(
                Finding(level="warn", what=what, remedy="`make setup` in a fresh clone installs the tested set.")
            )
        else:
            findings.append(Finding(level="ok", what=f"{name} {version}"))
    return findings


def _git(root: Path) -> Finding:
    program = shutil.which("git")
    if program is None:
        return Finding(level="fail", what="git is not on PATH", remedy="Install git; DVC works in a git repository.")
    done = subprocess.run([program, "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return Finding(
            level="fail",
            what=f"{root} is no git repository with a commit",
            remedy="Clone the project with git, or `git init && git add -A && git commit -m start`.",
        )
    return Finding(level="ok", what=f"git, commit {done.stdout.strip()[:12]}")


def _dvc(root: Path) -> Finding:
    if not (root / ".dvc" / "config").is_file():
        return Finding(
            level="fail", what=f"{root} has no .dvc/config", remedy="A copy of the project must include .dvc."
        )
    return Finding(level="ok", what="DVC repository")


def _params(root: Path) -> Finding:
    try:
        values = load_params(root / "params.yaml")
    except LongfuseError as error:
        return Finding(level="fail", what="params.yaml", remedy=str(error))
    return Finding(level="ok", what=f"params.yaml, profile {values['profile']}")


def _disk(root: Path) -> Finding:
    free_gb = free_disk_gb(root)
    remedy = (
        "" if free_gb >= COMFORTABLE_FREE_GB else "Make room: `dvc gc --workspace` drops results of earlier parameters."
    )
    level: Level = "fail" if free_gb < LEAST_FREE_GB else "warn" if remedy else "ok"
    return Finding(level=level, what=f"disk: {free_gb:.1f} GB free", remedy=remedy)


def _memory() -> Finding:
    free_gb = psutil.virtual_memory().available / 1e9
    if free_gb < COMFORTABLE_MEMORY_GB:
        return Finding(
            level="warn",
            what=f"memory: {free_gb:.1f} GB available",
            remedy=f"The default profile wants {COMFORTABLE_MEMORY_GB:.0f} GB; `--profile plumbing` needs far less.",
        )
    return Finding(level="ok", what=f"memory: {free_gb:.1f} GB available, {psutil.cpu_count()} CPUs")


def _writable(state_dir: Path) -> Finding:
    probe = state_dir / ".probe"
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        probe.write_text("", encoding="utf-8")
        probe.unlink()
    except OSError as error:
        return Finding(
            level="fail", what=f"{state_dir} cannot be written: {error.strerror}", remedy="Mend its permissions."
        )
    return Finding(level="ok", what=".state is writable")


def _ports() -> Finding:
    try:
        return Finding(level="ok", what=f"ports: pages would be at {free_port(4200)} and {free_port(5000)}")
    except InfraError as error:
        return Finding(level="fail", what="ports", remedy=str(error))


def _mlflow(settings: Settings) -> Finding:
    try:
        check_reachable(settings)
    except InfraError as error:
        return Finding(level="fail", what="MLflow", remedy=str(error))
    return Finding(level="ok", what=f"MLflow: {settings.mlflow_tracking_uri}")


def _prefect(settings: Settings) -> Finding:
    if settings.prefect_api_url is None:
        return Finding(level="ok", what="Prefect: a server of our own, started when needed")
    try:
        check_prefect_reachable(settings.prefect_api_url)
    except InfraError as error:
        return Finding(level="fail", what="Prefect", remedy=str(error))
    return Finding(level="ok", what=f"Prefect: {settings.prefect_api_url}")


def _lock(state_dir: Path) -> Finding:
    holder = current_holder(state_dir)
    if holder is None:
        return Finding(level="ok", what="no run is in progress")
    return Finding(level="ok", what=f"a run is in progress: `{holder.command}`, process {holder.pid}")
