"""The environment of a lock: made once, found by its hash, installed by a node without an index."""

import subprocess
import time
import uuid
import zipfile

import pytest

from infra.ec2.aws import Clients
from infra.ec2.node.boot import Blob
from infra.ec2.node.bucket import Bucket
from infra.ec2.node.prepare import install
from infra.ec2.store import RunStore
from infra.ec2.wheelhouse import lock_hash, requirements, share_wheelhouse
from infra.errors import InfraError


def make_wheel(folder, version):
    """A package without a build: three files in a zip."""
    folder.mkdir(exist_ok=True)
    info = f"lockdemo-{version}.dist-info"
    with zipfile.ZipFile(folder / f"lockdemo-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("lockdemo.py", f"version = {version!r}\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: lockdemo\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", f"lockdemo.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


@pytest.fixture
def project(tmp_path):
    root = tmp_path / "p"
    root.mkdir()
    (root / "pyproject.toml").write_text(
        '[project]\nname = "p"\ndependencies = ["lockdemo>=1"]\n[project.optional-dependencies]\ntrain = []\ndev = ["nobody-has-this"]\n'
    )
    (root / "constraints.txt").write_text("lockdemo==1.0\n")
    return root


def test_the_lock_is_the_versions_the_requirements_and_the_python(project):
    assert requirements(project) == ["lockdemo>=1"]
    before = lock_hash(project)
    (project / "constraints.txt").write_text("lockdemo==1.1\n")
    assert lock_hash(project) != before


@pytest.mark.slow
def test_a_wheelhouse_is_made_once_per_lock_and_installed_without_an_index(simulated, project, tmp_path, monkeypatch):
    for name, value in simulated.environment.items():
        monkeypatch.setenv(name, value)
    simulated.clear()
    for version in ("1.0", "1.1"):
        make_wheel(tmp_path / "index", version)
    here = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "index"), "PATH": "/usr/bin:/bin"}
    (project / "constraints.txt").write_text(f"lockdemo==1.0\n# {uuid.uuid4().hex}\n")
    store = RunStore(Clients(), simulated.bucket, "us-east-1", "wheelhouse")
    made = share_wheelhouse(store, project, here)
    assert share_wheelhouse(store, project, {"PIP_NO_INDEX": "1"}) == made  # pip would find nothing
    bucket = Bucket(simulated.bucket, "runs/wheelhouse", "us-east-1", time.time() + 60)
    (tmp_path / "node").mkdir()
    programs = install(bucket, Blob(**made), tmp_path / "node")
    told = subprocess.run([programs / "python", "-c", "import lockdemo; print(lockdemo.version)"], capture_output=True)
    assert told.stdout == b"1.0\n"

    (project / "constraints.txt").write_text("lockdemo==9\n")
    with pytest.raises(InfraError, match="could not be made"):
        share_wheelhouse(store, project, here)
