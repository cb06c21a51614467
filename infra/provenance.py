"""What a run was made from: commit, uncommitted changes, installed packages."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

MAX_DIFF_BYTES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class SourceState:
    """The working tree in git's eyes. `commit` is "unknown" outside git; `diff` is cut at 1 MB."""

    commit: str
    dirty: bool
    diff: str


def source_state(root: Path) -> SourceState:
    """Commit, dirty flag and diff of tracked files. Never raises: a project without git is a project."""
    commit = _git(root, "rev-parse", "HEAD").strip()
    status = _git(root, "status", "--porcelain")
    diff = _git(root, "diff", "HEAD") if commit else ""
    if len(diff.encode()) > MAX_DIFF_BYTES:
        diff = diff.encode()[:MAX_DIFF_BYTES].decode(errors="ignore") + "\n(cut at 1 MB)\n"
    return SourceState(commit=commit or "unknown", dirty=bool(status.strip()), diff=diff)


def installed_packages() -> str:
    """What `pip freeze` would say, without starting a process: one `name==version` per line."""
    found = {f"{d.metadata['Name']}=={d.version}" for d in distributions() if d.metadata["Name"]}
    return "".join(line + "\n" for line in sorted(found, key=str.lower))


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, errors="replace", timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
