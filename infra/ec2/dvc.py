"""DVC on the launching side, by its command line: inputs to the bucket, the lock entry of a job into dvc.lock, data back."""

from __future__ import annotations

import fcntl
import re
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from infra.errors import InfraError, StageStoppedError

REMOTE = "longfuse-jobs"
ON_NODE = ["dvc", "--wait-for-lock"]
LOOK_UP_SECONDS = 0.5
LOCK_SECONDS = 300.0
LOCK_PAUSE_SECONDS = 0.1
MISSING = object()
EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


class LockMismatchError(InfraError):
    """A job returned a lock entry for another stage than was sent."""


def dvc(root: Path, environment: Mapping[str, str], *words: str, stop: threading.Event | None = None) -> str:
    """Run DVC. Raises InfraError with its last lines, StageStoppedError (DVC has ended then) once `stop` is set."""
    with subprocess.Popen(
        [sys.executable, "-m", "dvc", "--wait-for-lock", *words],
        cwd=root,
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while True:
            try:
                said, errors = process.communicate(timeout=LOOK_UP_SECONDS if stop is not None else None)
                break
            except subprocess.TimeoutExpired:
                if stop is not None and stop.is_set():
                    process.kill()
            except BaseException:
                process.kill()
                raise
    if stop is not None and stop.is_set():
        raise StageStoppedError(f"dvc {words[0]} was stopped")
    if process.returncode != 0:
        raise InfraError(f"dvc {' '.join(words)}: {(errors or said).strip()[-1500:]}")
    return said


def remote_url(bucket: str) -> str:
    """Where a project's data lies in the bucket."""
    return f"s3://{bucket}/dvc"


def node_config(bucket: str) -> str:
    """.dvc/config.local of a node: what `dvc remote add --local --default` writes, without the second that DVC takes to start."""
    return f"[core]\n    remote = {REMOTE}\n    analytics = false\n['remote \"{REMOTE}\"']\n    url = {remote_url(bucket)}\n"


def push_inputs(root: Path, environment: Mapping[str, str], bucket: str, targets: Sequence[str]) -> None:
    """Upload what a stage reads; what is there already is not sent again. The remote stands in .dvc/config.local."""
    if targets:
        _mean_bucket(root, environment, bucket)
        dvc(root, environment, "push", "--quiet", "--remote", REMOTE, *targets)


def pull(
    root: Path,
    environment: Mapping[str, str],
    bucket: str,
    targets: Sequence[str],
    stop: threading.Event | None = None,
) -> None:
    """Bring outputs, or files and folders inside them, into the working tree. See `dvc`."""
    _mean_bucket(root, environment, bucket)
    dvc(root, environment, "pull", "--quiet", "--remote", REMOTE, "--force", *targets, stop=stop)


def _mean_bucket(root: Path, environment: Mapping[str, str], bucket: str) -> None:
    dvc(root, environment, "remote", "add", "--quiet", "--local", "--force", REMOTE, remote_url(bucket))


def lock_without(root: Path, stage: str) -> dict[str, str]:
    """dvc.lock as a node gets it: without its stage's own entry. Empty if there is no dvc.lock.

    On a node inputs are absent at first, and `repro --pull -s` takes an absent input for an unchanged one: with an entry it
    would pull the outputs of other inputs, or fail over outputs that are gone, instead of running the stage.
    """
    with repository_lock(root):
        path = root / "dvc.lock"
        lock: dict[str, Any] = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.is_file() else {}
    if not lock:
        return {}
    lock.get("stages", {}).pop(stage, None)
    return {"dvc.lock": yaml.safe_dump(lock, sort_keys=False)}


def stage_work(stage: str, bucket: str, threads: int | None = None) -> dict[str, Any]:
    """The part of boot.json that does a DVC stage: never with the run cache, of the code and inputs that were sent."""
    environment = {"DVC_SITE_CACHE_DIR": "{node}/dvc", "DVC_NO_ANALYTICS": "1", "HF_HUB_OFFLINE": "1"}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    return {
        "files": {".dvc/config.local": node_config(bucket)},
        "command": [*ON_NODE, "repro", "--pull", "--no-run-cache", "-s", stage],
        "push": [*ON_NODE, "push", stage],
        "environment": environment,
        "result_files": ["dvc.lock"],
    }


@contextmanager
def repository_lock(root: Path) -> Iterator[None]:
    """DVC's own lock of a project (`.dvc/tmp/lock`): a local stage that ends just now writes dvc.lock, too.

    Raises InfraError if somebody holds it for longer than any DVC command does.
    """
    folder = root / ".dvc" / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as file:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= deadline:
                    raise InfraError(
                        f"{folder / 'lock'} was held for {LOCK_SECONDS:g} s: end the dvc command that holds it."
                    ) from None
                time.sleep(LOCK_PAUSE_SECONDS)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


def merge_lock(
    root: Path,
    stage: str,
    text: str,
    *,
    inputs: Mapping[str, str | None],
    outputs: Collection[str],
    parameters: Mapping[str, Any],
    command: str,
) -> None:
    """Put a job's entry into dvc.lock, if it is about the very command, inputs and parameters that were sent.

    inputs: path -> md5 of the stage's dependencies here. outputs: its paths; what lies there is replaced afterwards, so a job
    names no others. parameters: dotted key of params.yaml -> value. Nothing else of dvc.lock changes, and nothing of it is lost
    that DVC writes meanwhile. Raises LockMismatchError.
    """
    entry = (yaml.safe_load(text) or {}).get("stages", {}).get(stage)
    if entry is None:
        raise LockMismatchError(f"the job of {stage} returned a dvc.lock without that stage.")
    if entry["cmd"] != command:
        raise LockMismatchError(f"the job of {stage} ran {entry['cmd']!r}, asked for was {command!r}.")
    theirs = {dep["path"]: dep.get("md5") for dep in entry.get("deps", [])}
    different = sorted(path for path in {*theirs, *inputs} if theirs.get(path) != inputs.get(path))
    if different:
        raise LockMismatchError(
            f"the job of {stage} read other inputs than there are here: {', '.join(different[:5])}."
        )
    written = {str(out.get("path")) for out in entry.get("outs", [])}
    if written != set(outputs):
        raise LockMismatchError(
            f"the job of {stage} wrote other outputs than the stage has: {', '.join(sorted(written ^ set(outputs))[:5])}."
        )
    used = {key: value for values in entry.get("params", {}).values() for key, value in values.items()}
    used, sent = _plain(used), _plain(dict(parameters))
    other = sorted(key for key in {*used, *sent} if used.get(key, MISSING) != sent.get(key, MISSING))
    if other:
        raise LockMismatchError(f"the job of {stage} had other parameters than were sent: {', '.join(other[:5])}.")
    with repository_lock(root):
        _put_entry(root / "dvc.lock", stage, entry)


def _plain(value: Any) -> Any:
    """DVC writes YAML 1.2, where 2e-05 is a number; for PyYAML it is a text, and stays as it was written when it is dumped."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return float(value) if isinstance(value, str) and EXPONENT.fullmatch(value) else value


def _put_entry(path: Path, stage: str, entry: Mapping[str, Any]) -> None:
    lock: dict[str, Any] = (
        yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {"schema": "2.0", "stages": {}}
    )
    lock["stages"][stage] = entry
    lock["stages"] = dict(sorted(lock["stages"].items()))
    partial = path.with_name("dvc.lock.partial")
    partial.write_text(yaml.safe_dump(lock, sort_keys=False), encoding="utf-8")
    partial.replace(path)
