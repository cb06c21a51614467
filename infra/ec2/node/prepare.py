"""Before the stage: is this machine what was asked for, and the environment of the command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from email.utils import parsedate_to_datetime
from pathlib import Path

import boto3
import botocore.exceptions

from .boot import Blob, Boot
from .bucket import Bucket
from .checkout import SetupError, fetch, run

PREBUILT = "LONGFUSE_PREBUILT_ENVIRONMENT"


class PreflightError(Exception):
    """This machine is not what was asked for: another one is needed, the stage is not to blame."""


def preflight(boot: Boot, folder: Path) -> dict[str, float]:
    """GPUs, disk, clock. Raises PreflightError; returns what was measured."""
    measured = {"free_disk_gb": shutil.disk_usage(folder).free / 1e9, "gpus": 0.0, "clock_skew_seconds": 0.0}
    if measured["free_disk_gb"] < boot.free_disk_gb:
        raise PreflightError(f"{measured['free_disk_gb']:.1f} GB of disk are free, {boot.free_disk_gb:g} are needed")
    if boot.gpus:
        measured["gpus"] = count_gpus()
        if measured["gpus"] < boot.gpus:
            raise PreflightError(f"{measured['gpus']:g} GPUs are usable, {boot.gpus} are needed")
    skew = clock_skew(boot)
    measured["clock_skew_seconds"] = skew
    if abs(skew) > boot.max_clock_skew_seconds:
        raise PreflightError(f"the clock is {skew:.0f} s off")
    return measured


def count_gpus() -> int:
    """GPUs that the driver lists; 0 without a driver. Raises PreflightError if the driver hangs."""
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        return 0
    except subprocess.TimeoutExpired:
        raise PreflightError("nvidia-smi does not answer") from None
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines()) if done.returncode == 0 else 0


def clock_skew(boot: Boot) -> float:
    """Seconds that our clock is ahead of the storage's."""
    client = boto3.client("s3", region_name=boot.region)
    try:
        headers = client.list_objects_v2(Bucket=boot.bucket, Prefix=f"{boot.prefix}/", MaxKeys=1)["ResponseMetadata"][
            "HTTPHeaders"
        ]
    except botocore.exceptions.ClientError as error:
        if error.response["Error"]["Code"] == "RequestTimeTooSkewed":
            raise PreflightError("the clock is so far off that the storage refuses our requests") from None
        headers = error.response["ResponseMetadata"]["HTTPHeaders"]
    except botocore.exceptions.BotoCoreError:
        return 0.0  # the storage's trouble is not the clock's
    date = headers.get("date")
    return time.time() - parsedate_to_datetime(date).timestamp() if date else 0.0


def environment_programs(boot: Boot, bucket: Bucket, folder: Path) -> Path | None:
    """The `bin` of the environment that the command runs in; None for the system's.

    A prebuilt one (an image of ours, or the simulator's host) is used as it is; otherwise a wheelhouse is installed,
    without any package index; without one the project is, with its constraints, from the index that pip is set to.
    """
    if prebuilt := os.environ.get(PREBUILT):
        return Path(prebuilt) / "bin"
    if boot.wheelhouse is not None:
        return install(bucket, boot.wheelhouse, folder)
    if not boot.install:
        return None
    venv = folder / "environment"
    run([sys.executable, "-m", "venv", str(venv)], folder)
    run([str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", *boot.install], folder / "code")
    return venv / "bin"


def install(bucket: Bucket, wheelhouse: Blob, folder: Path) -> Path:
    """Make a virtual environment from a tar of wheels. Raises SetupError."""
    archive = fetch(bucket, wheelhouse, folder / "wheelhouse.tar")
    wheels = folder / "wheelhouse"
    with tarfile.open(archive) as tar:
        tar.extractall(wheels, filter="data")
    archive.unlink()
    venv = folder / "environment"
    run([sys.executable, "-m", "venv", str(venv)], folder)
    pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-index", "--find-links", str(wheels)]
    run([*pip, "-r", str(wheels / "requirements.txt")], folder)
    shutil.rmtree(wheels)
    return venv / "bin"


def command_environment(boot: Boot, programs: Path | None, home: Path) -> tuple[dict[str, str], list[str]]:
    """(variables of the command, secret values in them). Raises SetupError if a secret cannot be had."""
    given = {name: value.replace("{node}", str(home.parent)) for name, value in boot.environment.items()}
    environment = {**os.environ, **given, "HOME": str(home), "PYTHONUNBUFFERED": "1"}
    environment.setdefault("AWS_DEFAULT_REGION", boot.region)
    environment.update(
        LONGFUSE_RUN_ID=boot.run_id,
        LONGFUSE_ATTEMPT=str(boot.attempt),
        LONGFUSE_NODE=str(boot.node),
        LONGFUSE_NODES=str(boot.nodes),
    )
    if programs is not None:
        environment["PATH"] = f"{programs}:{environment.get('PATH', '')}"
        environment["VIRTUAL_ENV"] = str(programs.parent)
    secrets = {variable: read_secret(boot, name) for variable, name in boot.secrets.items()}
    environment.update(secrets)
    return environment, list(secrets.values())


def read_secret(boot: Boot, name: str) -> str:
    """A secret's text, by the node's own role."""
    client = boto3.client("secretsmanager", region_name=boot.region)
    try:
        text = str(client.get_secret_value(SecretId=name)["SecretString"])
    except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
        raise SetupError(f"secret {name}: {error}") from None
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return str(next(iter(value.values()))) if isinstance(value, dict) and len(value) == 1 else text
