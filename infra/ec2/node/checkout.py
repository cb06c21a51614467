"""The exact code: a git bundle, the uncommitted diff, untracked files; each checked by its sha256."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

from .boot import Blob, Code
from .bucket import Bucket, file_digest


class SetupError(Exception):
    """The instance could not be made ready; not the stage's fault."""


def fetch(bucket: Bucket, blob: Blob, path: Path) -> Path:
    """Download and check. Raises SetupError for a wrong hash, GivenUpError."""
    for _ in range(3):
        bucket.get_file(f"/{blob.key}", path)
        found = file_digest(path)[0]
        if found == blob.sha256:
            return path
    raise SetupError(f"{blob.key}: sha256 is {found}, not {blob.sha256}")


def check_out(bucket: Bucket, code: Code, folder: Path, scratch: Path) -> None:
    """Make the working tree in `folder`."""
    bundle = fetch(bucket, code.bundle, scratch / "code.bundle")
    run(["git", "init", "--quiet", str(folder)], folder.parent)
    run(["git", "fetch", "--quiet", str(bundle), "+refs/*:refs/longfuse/*", "HEAD"], folder)
    run(["git", "checkout", "--quiet", "--detach", code.commit], folder)
    if code.diff is not None:
        diff = fetch(bucket, code.diff, scratch / "code.diff")
        if diff.stat().st_size:
            run(["git", "apply", "--binary", "--whitespace=nowarn", str(diff)], folder)
    if code.untracked is not None:
        with tarfile.open(fetch(bucket, code.untracked, scratch / "untracked.tar")) as tar:
            tar.extractall(folder, filter="data")


def run(words: list[str], folder: Path, environment: dict[str, str] | None = None) -> str:
    """Run a command to its end; its output. Raises SetupError with the last lines."""
    try:
        done = subprocess.run(
            words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
    except OSError as error:
        raise SetupError(f"{words[0]}: {error}") from None
    if done.returncode != 0:
        raise SetupError(f"{' '.join(words)}: exit code {done.returncode}: {done.stdout.strip()[-2000:]}")
    return done.stdout
