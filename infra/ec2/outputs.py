"""What a job made, seen from the launching side: in the bucket by md5, here only the small files of it.

DVC's remote keeps a file at `dvc/files/md5/<2 digits>/<the rest>`, a folder as a listing (`.dir`) of such files. The listing
is enough for DVC and the planner to know what lies in an output; weights stay where they are until somebody needs them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import botocore.exceptions
import yaml

from infra.bucket_outputs import BucketOutput, note
from infra.ec2.aws import code_of
from infra.ec2.dvc import dvc, pull
from infra.errors import InfraError

# What is read here of a stage's outputs (records, metrics, scores, tables, configurations, tokenizers) is smaller; weights
# of any model worth an instance are larger.
SMALL_FILE_BYTES = 50_000_000
GONE = frozenset({"404", "NoSuchKey", "NotFound", "NoSuchBucket"})
QUESTIONS = 10  # at a time; a client keeps that many connections
ClientOf = Callable[[str, str], Any]  # service and region -> client: `Clients()`, or `Clients().quick`


class OutputsGoneError(InfraError):
    """The bucket does not hold what a record or a lock entry names."""


def object_key(md5: str) -> str:
    """Where the remote of jobs keeps an object."""
    return f"dvc/files/md5/{md5[:2]}/{md5[2:]}"


def outputs_of(clients: ClientOf, bucket: str, region: str, stage: str, lock_text: str) -> list[BucketOutput]:
    """The outputs of a stage's lock entry, each file found in the bucket. Raises OutputsGoneError if one is not there, InfraError
    for a listing that is none.

    A listing that lost files is deleted, see `_drop_listing`.
    """
    entry = (yaml.safe_load(lock_text) or {}).get("stages", {}).get(stage) or {}
    found, gone = [], []
    for out in entry.get("outs", []):
        md5 = out["md5"]
        names = {"": md5}
        if md5.endswith(".dir"):
            try:
                listing = read_listing(clients, bucket, region, md5)
            except OutputsGoneError as error:
                gone.append(str(error))
                continue
            names = _names(listing, out["path"])
        sizes = dict(zip(names, _sizes(clients, bucket, region, names.values()), strict=True))
        missing = [name for name, size in sizes.items() if size is None]
        if missing:
            _drop_listing(clients, bucket, region, md5)
            gone.append(f"s3://{bucket}/dvc does not hold {out['path']}/{missing[0]} of {stage}.")
        files = {name: (names[name], int(size or 0)) for name, size in sizes.items()}
        found.append(BucketOutput(stage=stage, path=out["path"], md5=md5, bucket=bucket, region=region, files=files))
    if gone:
        raise OutputsGoneError(" ".join(gone))
    return found


def _names(listing: bytes, path: str) -> dict[str, str]:
    """Path below the output -> md5. DVC takes its paths from there, so one that leaves its output is refused: InfraError."""
    try:
        names = {str(item["relpath"]): str(item["md5"]) for item in json.loads(listing)}
    except (ValueError, TypeError, KeyError):
        raise InfraError(f"the listing of {path} in the bucket is not one of DVC's.") from None
    for name in names:
        if name.startswith("/") or ".." in name.split("/"):
            raise InfraError(
                f"the listing of {path} in the bucket names {name!r}, which lies outside of it: nothing is taken."
            )
    return names


def _drop_listing(clients: ClientOf, bucket: str, region: str, md5: str) -> None:
    """DVC sends a listing last, and takes the files of one that is there for sent: `dvc push` would never send lost ones again."""
    if md5.endswith(".dir"):
        clients("s3", region).delete_object(Bucket=bucket, Key=object_key(md5))


def read_listing(clients: ClientOf, bucket: str, region: str, md5: str) -> bytes:
    """The listing of a folder. Raises OutputsGoneError if it is not there, or is not what its name says."""
    try:
        data: bytes = clients("s3", region).get_object(Bucket=bucket, Key=object_key(md5))["Body"].read()
    except botocore.exceptions.ClientError as error:
        if code_of(error) in GONE:
            raise OutputsGoneError(f"s3://{bucket}/{object_key(md5)} is not there.") from None
        raise
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != md5.removesuffix(".dir"):
        raise OutputsGoneError(f"s3://{bucket}/{object_key(md5)} is damaged: its md5 is another one.")
    return data


def still_there(clients: ClientOf, output: BucketOutput, names: Sequence[str]) -> bool:
    """Whether the bucket holds these files of an output, and its listing. Raises what boto3 raises if nobody answers.

    A listing that lost files is deleted, see `_drop_listing`.
    """
    asked = {output.files[name][0] for name in names}
    if output.md5.endswith(".dir"):
        asked.add(output.md5)
    there = None not in _sizes(clients, output.bucket, output.region, asked)
    if not there:
        _drop_listing(clients, output.bucket, output.region, output.md5)
    return there


def _sizes(clients: ClientOf, bucket: str, region: str, md5s: Iterable[str]) -> list[int | None]:
    s3 = clients("s3", region)

    def size(md5: str) -> int | None:
        try:
            return int(s3.head_object(Bucket=bucket, Key=object_key(md5))["ContentLength"])
        except botocore.exceptions.ClientError as error:
            if code_of(error) in GONE:
                return None
            raise

    with ThreadPoolExecutor(QUESTIONS) as pool:
        return list(pool.map(size, md5s))


def take_outputs(
    clients: ClientOf,
    root: Path,
    environment: Mapping[str, str],
    outputs: Sequence[BucketOutput],
    small_file_bytes: float = SMALL_FILE_BYTES,
) -> list[BucketOutput]:
    """After the merge: records, listings and small files come here, older outputs go. Returns those of which something stays there.

    A file that DVC's cache has already is linked, whatever its size.
    """
    cache = Path(dvc(root, environment, "cache", "dir").strip())
    targets: list[str] = []
    away: list[BucketOutput] = []
    for output in outputs:
        ignore(root, output.path)
        _remove(root / output.path)  # as DVC does before a stage runs: what is there may be older, and is in the cache
        if output.md5.endswith(".dir"):
            _keep(cache, output.md5, read_listing(clients, output.bucket, output.region, output.md5))
        here = [
            name for name, (md5, size) in output.files.items() if size <= small_file_bytes or _cached(cache, md5, size)
        ]
        if len(here) == len(output.files):
            targets.append(output.path)
            continue
        note(root, output)
        away.append(output)
        targets += [output.place(name) for name in here]
    if targets:
        pull(root, environment, outputs[0].bucket, targets)
    return away


def _cache_file(cache: Path, md5: str) -> Path:
    return cache / "files" / "md5" / md5[:2] / md5[2:]


def _cached(cache: Path, md5: str, size: int) -> bool:
    file = _cache_file(cache, md5)
    return file.is_file() and file.stat().st_size == size


def _keep(cache: Path, md5: str, data: bytes) -> None:
    file = _cache_file(cache, md5)
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f"{file.name}.partial")
        partial.write_bytes(data)
        partial.replace(file)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def ignore(root: Path, path: str) -> None:
    """Git shall not see an output: the line that DVC writes when it runs a stage, if no other one covers it."""
    asked: list[Any] = ["git", "check-ignore", "--quiet", "--", path]
    if subprocess.run(asked, cwd=root, check=False, capture_output=True).returncode == 0:
        return
    file = (root / path).parent / ".gitignore"
    file.parent.mkdir(parents=True, exist_ok=True)
    before = file.read_text(encoding="utf-8") if file.is_file() else ""
    between = "" if not before or before.endswith("\n") else "\n"
    file.write_text(f"{before}{between}/{Path(path).name}\n", encoding="utf-8")
