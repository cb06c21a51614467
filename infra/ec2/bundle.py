"""The exact code of a working tree: the commit, what was changed since, and files that git does not know; under their hashes."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from infra.ec2.store import RunStore
from infra.errors import InfraError
from infra.provenance import source_state

LONGEST_UNTRACKED_BYTES = 50 << 20


def upload_code(store: RunStore, root: Path) -> dict[str, Any]:
    """Store the parts, shared by all runs with the same ones; the `code` of boot.json.

    Raises InfraError outside a git repository, or if untracked files are larger than code would be.
    """
    parts = {
        "bundle": _git(root, "bundle", "create", "--quiet", "-", "HEAD"),
        "diff": _git(root, "diff", "--binary", "HEAD"),
    }
    parts["untracked"] = untracked(root)
    blobs = {
        name: {"key": store.share("shared/code", data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in parts.items()
    }
    return {**blobs, "commit": _git(root, "rev-parse", "HEAD").decode().strip(), "dirty": source_state(root).dirty}


def untracked(root: Path) -> bytes:
    """A tar of files that git would add, and of dvc.lock, which this project ignores or not; equal files, equal bytes."""
    listed = _git(root, "ls-files", "-zo", "--exclude-standard").decode().split("\0")
    names = sorted({name for name in [*listed, "dvc.lock"] if name and (root / name).is_file()})
    size = sum((root / name).stat().st_size for name in names)
    if size > LONGEST_UNTRACKED_BYTES:
        raise InfraError(
            f"{size / 1e6:.0f} MB of files in {root} are unknown to git and not ignored; they would all be sent. "
            "Add them to .gitignore or commit them."
        )
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in names:
            data = (root / name).read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o755 if (root / name).stat().st_mode & 0o100 else 0o644
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _git(root: Path, *words: str) -> bytes:
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, check=False)
    if done.returncode != 0:
        raise InfraError(f"git {words[0]} in {root}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
