"""The environments of nodes: which one a stage gets; made once per lock, found by its hash, installed by a node without an index."""

import subprocess
import time
import uuid
import zipfile
from pathlib import Path

import pytest

from flows.params import profile_params
from infra.ec2.aws import Clients
from infra.ec2.environments import TRAIN, VLLM, environment_of, package_of
from infra.ec2.node.boot import Blob
from infra.ec2.node.bucket import Bucket
from infra.ec2.node.prepare import install
from infra.ec2.node_lock import lock_text
from infra.ec2.store import RunStore
from infra.ec2.wheelhouse import lock_hash, share_wheelhouse
from infra.errors import InfraError

ROOT = Path(__file__).parents[3]


def make_wheel(folder, version, name="lockdemo"):
    """A package without a build: three files in a zip."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", f"version = {version!r}\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


@pytest.fixture
def project(tmp_path):
    root = tmp_path / "p"
    root.mkdir()
    (root / "pyproject.toml").write_text(
        '[project]\nname = "p"\ndependencies = ["lockdemo>=1"]\n[project.optional-dependencies]\ntrain = []\ndev = ["nobody-has-this"]\n'
        'gpu = ["torch>=2"]\n'
    )
    for lock in ("constraints.txt", "constraints-vllm.txt"):
        (root / lock).write_text("lockdemo==1.0\ntorch==2.13.0\n")
    return root


def test_the_lock_is_the_versions_the_requirements_and_the_python(project):
    assert TRAIN.requirements(project) == ["lockdemo>=1"]
    before = [lock_hash(project, environment, gpus=False) for environment in (TRAIN, VLLM)]
    assert lock_hash(project, TRAIN, gpus=True) not in before
    (project / "constraints.txt").write_text("lockdemo==1.1\n")
    after = [lock_hash(project, environment, gpus=False) for environment in (TRAIN, VLLM)]
    assert after[0] not in before
    assert after[1] == before[1] != before[0]


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"train": {"engine": {"kind": "vllm"}}}, "vllm"),
        ({"train.engine.kind": "vllm", "seed": 1}, "vllm"),
        ({"train.engine": {"kind": "vllm", "tensor_parallel_size": 4}}, "vllm"),
        ({"train": {"engine": {"kind": "transformers"}}}, "train"),
        ({"train": {"engine": {"kind": "remote"}}, "note": "vllm"}, "train"),
        ({}, "train"),
    ],
)
def test_the_engine_of_a_stage_decides_its_environment(parameters, name):
    assert environment_of(parameters).name == name


@pytest.mark.parametrize(("profile", "name"), [("paper_4b", "vllm"), ("paper_30b", "vllm"), ("smol", "train")])
def test_profiles_get_the_environment_of_their_engine(profile, name):
    assert environment_of({"train": profile_params(profile)["train"]}).name == name


def test_the_environment_with_vllm_is_locked_whole_and_has_nothing_of_the_launching_side():
    lines = [line for line in (ROOT / VLLM.lock).read_text().splitlines() if not line.startswith("#")]
    locked = dict(line.split("==") for line in lines)
    ours = dict(line.split("==") for line in (ROOT / TRAIN.lock).read_text().splitlines() if line[0] != "#")
    asked = {package_of(line) for line in VLLM.requirements(ROOT)}
    assert asked <= set(locked)
    assert {"vllm", "torch", "dvc", "dvc-s3", "boto3", "deepspeed"} <= asked
    assert not {"prefect", "mlflow", "moto"} & set(locked)
    # what a stage computes with is the same on either environment
    assert [locked[name] for name in ("torch", "transformers")] == [ours[name] for name in ("torch", "transformers")]
    assert any(name.startswith("nvidia-cublas") for name in locked)  # of torch's CUDA build


def test_a_lock_of_this_machines_torch_is_refused():
    found = [{"metadata": {"name": name, "version": version}} for name, version in (("torch", "2.13.0"), ("A.b", "1"))]
    assert lock_text(found, ["a_b==2", "other==3"]).splitlines()[-3:] == ["# a-b 2 there.", "a-b==1", "torch==2.13.0"]
    found[0]["metadata"]["version"] += "+cpu"
    with pytest.raises(InfraError, match="a build for this machine"):
        lock_text(found, [])


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
    made = share_wheelhouse(store, project, TRAIN, here, gpus=False)
    assert share_wheelhouse(store, project, TRAIN, {"PIP_NO_INDEX": "1"}, gpus=False) == made  # pip would find nothing
    bucket = Bucket(simulated.bucket, "runs/wheelhouse", "us-east-1", time.time() + 60)
    (tmp_path / "node").mkdir()
    programs = install(bucket, Blob(**made), tmp_path / "node")
    told = subprocess.run([programs / "python", "-c", "import lockdemo; print(lockdemo.version)"], capture_output=True)
    assert told.stdout == b"1.0\n"

    (project / "constraints.txt").write_text("lockdemo==9\n")
    with pytest.raises(InfraError, match="could not be made"):
        share_wheelhouse(store, project, TRAIN, here, gpus=False)
    make_wheel(tmp_path / "index", "2.13.0+cpu", "torch")
    with pytest.raises(InfraError, match="vLLM on a node wants torch for CUDA"):
        share_wheelhouse(store, project, VLLM, here, gpus=False)
    (project / "constraints.txt").write_text("lockdemo==1.0\ntorch==2.13.0\n")
    (project / "pyproject.toml").write_text('[project]\nname = "p"\ndependencies = ["lockdemo>=1", "torch>=2"]\n')
    with pytest.raises(InfraError, match="a node with GPUs wants torch for CUDA"):
        share_wheelhouse(store, project, TRAIN, here, gpus=True)
