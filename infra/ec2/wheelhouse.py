"""A locked environment as one file: wheels of what a stage needs at the versions of its lock, made once per lock.

    shared/wheelhouse/<lock>.json     {"key", "sha256"} of the tar; written last, so what it names is whole
    <lock>                            sha256 of the lock file, the requirements, Python's version, the platform, and whether it is for GPUs

A node installs it without any package index (`node/prepare.py`): equal locks give equal environments, also in a year.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from infra.ec2.environments import VLLM, Environment
from infra.ec2.node.bucket import file_digest
from infra.ec2.spec import digest
from infra.ec2.store import RunStore
from infra.errors import InfraError

FOLDER = "shared/wheelhouse"


def lock_hash(root: Path, environment: Environment, gpus: bool) -> str:
    """Equal for equal environments. gpus: for nodes that have some: the same lock may be met by a torch for CPUs."""
    versions = (root / environment.lock).read_text(encoding="utf-8")
    machine = [platform.system(), platform.machine(), platform.python_version_tuple()[:2]]
    return digest([versions, environment.requirements(root), machine, *(["gpus"] if gpus else [])])


def share_wheelhouse(
    store: RunStore, root: Path, environment: Environment, variables: Mapping[str, str], gpus: bool
) -> dict[str, str]:
    """The `wheelhouse` of boot.json; built and uploaded if there is none for this lock yet.

    Wheels come from where pip takes them here. variables: pip's. gpus: whether the node has any; torch must then be built for CUDA,
    as it must with vLLM. Raises InfraError where the wheels would not fit a node, or pip fails.
    """
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise InfraError(
            f"wheels made on {platform.system()} {platform.machine()} do not run on the nodes: launch from Linux on x86-64, or set "
            "account.wheelhouse to false in infra/resources.yaml, so that nodes install the project from an index."
        )
    record = f"{FOLDER}/{lock_hash(root, environment, gpus)}.json"
    if (known := store.read_shared(record)) is not None:
        return dict(json.loads(known))
    with tempfile.TemporaryDirectory(prefix="wheelhouse-") as temporary:
        archive = _build(root, Path(temporary), environment, variables, gpus)
        sha256 = file_digest(archive)[0]
        made = {"key": f"{FOLDER}/{sha256}.tar", "sha256": sha256}
        store.share_file(made["key"], archive)
    store.write_shared(record, json.dumps(made).encode())
    return made


def _build(root: Path, folder: Path, environment: Environment, variables: Mapping[str, str], gpus: bool) -> Path:
    wheels, listed = folder / "wheels", folder / "requirements.txt"
    wheels.mkdir()
    listed.write_text("\n".join(environment.requirements(root)) + "\n", encoding="utf-8")
    words = ["--wheel-dir", str(wheels), "-c", str(root / environment.lock), "-r", str(listed)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", *words],
        env=dict(variables),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise InfraError(
            f"the wheelhouse for {root / environment.lock} could not be made: {done.stderr.strip()[-1500:]}"
        )
    if (gpus or environment is VLLM) and (built := [path.name for path in wheels.glob("torch-*+cpu*")]):
        wants = "vLLM on a node" if environment is VLLM else "a node with GPUs"
        raise InfraError(
            f"pip takes {built[0]} here, and {wants} wants torch for CUDA: launch from where pip takes that (PIP_INDEX_URL, "
            "PIP_FIND_LINKS), or set account.wheelhouse to false in infra/resources.yaml."
        )
    archive = folder / "wheelhouse.tar"
    with tarfile.open(archive, "w") as tar:
        for path in [listed, *sorted(wheels.iterdir())]:
            tar.add(path, path.name, filter=_bare)
    return archive


def _bare(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Equal wheels, equal bytes."""
    entry.mtime = entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry
