"""Makes constraints-vllm.txt: the exact versions of a node's environment with vLLM, as pip's resolver finds them.

    make lock-vllm

Nothing is installed and no wheel of CUDA is fetched: `pip install --dry-run --report` reads the metadata. Versions are those of
constraints.txt wherever vLLM lets them be, so that a stage computes with the same torch and transformers on either environment.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

from infra.ec2.environments import TRAIN, VLLM, package_of
from infra.errors import InfraError

ASKED = re.compile(r"The user requested \(constraint\) (\S+?)==")
TRIES = 30  # each lets go of at least one version of constraints.txt
SERIES = "vllm==0.28.*"  # the newest that the adapter was tried with: pip would rather go back to 0.25 than let go of a version
SAME = frozenset({"torch", "transformers"})  # a stage computes with them: a lock with others would be no answer
HEAD = """\
# Exact versions of a node's environment for stages with engine.kind vllm (infra/ec2/environments.py), Python 3.11, Linux, CUDA 13.
# Written by `make lock-vllm`, never by hand. As constraints.txt has them, but for what vLLM or torch's CUDA build refuses:
"""


def resolve(root: Path, folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """(pip's report of what would be installed, lines of constraints.txt that had to go). Raises InfraError."""
    python = _recent_pip(folder)
    wanted, constraints, report = folder / "requirements.txt", folder / "constraints.txt", folder / "report.json"
    wanted.write_text("\n".join([*VLLM.requirements(root), SERIES]) + "\n", encoding="utf-8")
    kept = [line for line in (root / TRAIN.lock).read_text(encoding="utf-8").splitlines() if "==" in line]
    kept = [line for line in kept if not line.startswith("#")]
    # These are free from the start: vLLM's FastAPI is another, and the rest is not there.
    gone = [line for line in kept if package_of(line) in VLLM.without]
    for _ in range(TRIES):
        constraints.write_text("\n".join(line for line in kept if line not in gone) + "\n", encoding="utf-8")
        words = ["install", "--dry-run", "--ignore-installed", "--report", str(report), "-c", str(constraints)]
        done = _pip(python, *words, "-r", str(wanted))
        if done.returncode == 0:
            return json.loads(report.read_text(encoding="utf-8"))["install"], gone
        refused = {package_of(name) for name in ASKED.findall(done.stdout + done.stderr)}
        more = [line for line in kept if package_of(line) in refused - SAME and line not in gone]
        if not more:
            break
        gone += more
    raise InfraError(f"pip finds no versions for {VLLM.lock}: {done.stderr.strip()[-1500:]}")


def _recent_pip(folder: Path) -> Path:
    """A new one: pip 23 would fetch gigabytes of wheels to read their metadata."""
    venv.create(folder / "resolver", with_pip=True)
    python = folder / "resolver" / "bin" / "python"
    done = _pip(python, "install", "--quiet", "--upgrade", "pip>=25")
    if done.returncode != 0:
        raise InfraError(f"no pip that resolves without downloads: {done.stderr.strip()[-500:]}")
    return python


def _pip(python: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(python), "-m", "pip", "--disable-pip-version-check", *words],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )


def lock_text(install: list[dict[str, Any]], gone: list[str]) -> str:
    """The file. Raises InfraError for a torch that is no CUDA build: the lock would miss what it brings."""
    versions = {package_of(item["metadata"]["name"]): item["metadata"]["version"] for item in install}
    if "+" in versions["torch"]:
        raise InfraError(
            f"pip took torch {versions['torch']}, a build for this machine: say where the CUDA build is "
            "(PIP_CONFIG_FILE=/dev/null PIP_FIND_LINKS= make lock-vllm, where these name the other one)."
        )
    others = [f"{package_of(line)} {line.partition('==')[2]}" for line in gone if package_of(line) in versions]
    lines = [f"{name}=={version}" for name, version in sorted(versions.items())]
    return f"{HEAD}# {', '.join(sorted(others))} there.\n" + "\n".join(lines) + "\n"


def main(root: Path) -> None:
    """Write the lock of this project."""
    with tempfile.TemporaryDirectory(prefix="lock-") as temporary:
        text = lock_text(*resolve(root, Path(temporary)))
    (root / VLLM.lock).write_text(text, encoding="utf-8")
    sys.stdout.write(f"{VLLM.lock}: {sum('==' in line for line in text.splitlines())} packages\n")


if __name__ == "__main__":
    try:
        main(Path(__file__).parents[2])
    except InfraError as error:
        sys.exit(str(error))
