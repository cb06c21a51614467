"""boot.json: all that an instance is told. No secret is in it; secrets are named and fetched with the node's own role."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Blob:
    """A file in the bucket (key from the bucket's root), and its hash."""

    key: str
    sha256: str


@dataclass(frozen=True)
class Code:
    """bundle: a git bundle that holds `commit`. diff: of tracked files since then. untracked: a tar of other files."""

    bundle: Blob
    commit: str
    diff: Blob | None = None
    untracked: Blob | None = None


@dataclass(frozen=True)
class Boot:
    """One attempt on one node. Times are seconds unless the name says otherwise; deadlines are seconds since the epoch."""

    run_id: str
    attempt: int
    epoch: int
    bucket: str
    region: str
    prefix: str  # of the run in the bucket
    command: list[str]  # the stage
    hard_cap: float  # when the instance ends in any case
    node: int = 0
    nodes: int = 1
    code: Code | None = None
    environment: dict[str, str] = field(default_factory=dict)  # of the command; {node} is the folder
    wheelhouse: Blob | None = None  # a tar of wheels with requirements.txt; unused where an environment is prebuilt
    install: list[str] = field(
        default_factory=list
    )  # words after `pip install`, in the code's folder, without a wheelhouse
    secrets: dict[str, str] = field(default_factory=dict)  # variable -> name in Secrets Manager
    state_folder: str | None = None  # the stage's checkpoints, below the code
    metrics_file: str = "metrics.spool.jsonl"  # inside the state folder
    push: list[str] | None = None  # uploads outputs after success; repeated until it is through
    result_files: list[str] = field(default_factory=list)  # small text files that go into result.json
    files: dict[str, str] = field(default_factory=dict)  # path below the code -> text, written before the stage
    setup: list[list[str]] = field(default_factory=list)  # commands before the stage, for example a download
    gpus: int = 0
    free_disk_gb: float = 0.0
    max_clock_skew_seconds: float = 60.0
    reserve_mb: int = 1024
    runtime_seconds: float = 86_400.0
    grace_seconds: float = 90.0  # SIGTERM to SIGKILL: time to write a checkpoint
    ttl_minutes: int = 60
    stall_seconds: float = 3600.0  # without progress for so long the dead-man timer is not armed again
    heartbeat_seconds: float = 10.0
    log_seconds: float = 5.0
    metadata_seconds: float = 2.0
    checkpoint_seconds: float = 10.0
    push_tries: int = 1000
    checkpoint_signal: str | None = None  # sent to the stage on a rebalance recommendation, if it knows one


def read_boot(path: Path) -> Boot:
    """Raises ValueError with the key that is unknown or missing."""
    return parse_boot(json.loads(path.read_text(encoding="utf-8")))


def parse_boot(raw: dict[str, Any]) -> Boot:
    """See read_boot."""
    known = {item.name for item in fields(Boot)}
    if unknown := sorted(set(raw) - known):
        raise ValueError(f"boot.json: unknown keys {', '.join(unknown)}")
    values = dict(raw)
    try:
        if (code := values.get("code")) is not None:
            blobs = {name: _blob(code.get(name)) for name in ("bundle", "diff", "untracked")}
            values["code"] = Code(commit=code["commit"], **blobs)
        values["wheelhouse"] = _blob(values.get("wheelhouse"))
        return Boot(**values)
    except (KeyError, TypeError) as error:
        raise ValueError(f"boot.json: {error}") from None


def _blob(raw: dict[str, str] | None) -> Any:
    return None if raw is None else Blob(raw["key"], raw["sha256"])
