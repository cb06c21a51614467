"""A run's corner of the bucket, as the controlling side sees it. All truth about a run is here and in tags.

runs/<id>/spec.json                  written once         runs/<id>/lease        who controls it: owner, epoch, expiry
runs/<id>/state.json                 of the reducer       runs/<id>/cancel       somebody asks for its end
runs/<id>/intents/<a>-<n>.json       the exact request, before the call; <a>-<n>.outcome.json what came of it
runs/<id>/epoch                      the attempt that owns the run: nodes of older ones write nothing
runs/<id>/attempt-<a>/..             boot-<n>.json, poison, node-0/{hb, log/, metrics/, exit.json, boot.log}
runs/<id>/ckpt/, result.json         written by nodes     runs/<id>/closed.json  the end, once
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore.exceptions

from infra.ec2.aws import Clients, code_of
from infra.ec2.spec import RunSpec, canonical
from infra.errors import InfraError


class LeaseLostError(InfraError):
    """Another controller has this run now."""


@dataclass(frozen=True)
class Lease:
    """Control of a run. epoch grows with every change of owner; etag is for the next renewal."""

    owner: str
    epoch: int
    etag: str


class RunStore:
    """One run's objects. Raises botocore's errors where the storage does not answer. `clock`: seconds since the epoch."""

    def __init__(
        self, clients: Clients, bucket: str, region: str, run_id: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._s3 = clients("s3", region)
        self.bucket = bucket
        self.run_id = run_id
        self.prefix = f"runs/{run_id}"
        self.clock = clock

    # --- plain objects

    def read(self, key: str) -> bytes | None:
        """An object, None if there is none."""
        return self._read(key)[0]

    def read_json(self, key: str) -> dict[str, Any] | None:
        """A JSON object, None if there is none."""
        data = self.read(key)
        return None if data is None else json.loads(data)

    def write(self, key: str, data: bytes) -> None:
        """Write, whatever is there."""
        self._s3.put_object(Bucket=self.bucket, Key=f"{self.prefix}/{key}", Body=data)

    def write_json(self, key: str, value: Any) -> None:
        """Write a JSON object."""
        self.write(key, canonical(value).encode())

    def write_once(self, key: str, value: Any) -> bool:
        """Write a JSON object that nobody may write again; False if there is another one already."""
        data = canonical(value).encode()
        if self._put_if(key, data, IfNoneMatch="*") is not None:
            return True
        return self.read(key) == data  # our own, whose answer was lost

    def share(self, folder: str, data: bytes) -> str:
        """Store bytes under their hash, for all runs; the key from the bucket's root."""
        key = f"{folder}/{hashlib.sha256(data).hexdigest()}"
        try:
            self._s3.head_object(Bucket=self.bucket, Key=key)
        except botocore.exceptions.ClientError as error:
            if code_of(error) not in {"404", "NoSuchKey", "NotFound"}:
                raise
            self._s3.put_object(Bucket=self.bucket, Key=key, Body=data)
        return key

    def share_file(self, key: str, path: Path) -> None:
        """Store a large file for all runs; the key is from the bucket's root."""
        self._s3.upload_file(str(path), self.bucket, key)

    def write_shared(self, key: str, data: bytes) -> None:
        """Write for all runs; the key is from the bucket's root."""
        self._s3.put_object(Bucket=self.bucket, Key=key, Body=data)

    def read_shared(self, key: str) -> bytes | None:
        """An object by its key from the bucket's root, None if there is none."""
        return self._get(key)[0]

    def keys(self, prefix: str = "") -> list[str]:
        """Keys below the run's prefix."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"{self.prefix}/{prefix}")
        return [item["Key"][len(self.prefix) + 1 :] for page in pages for item in page.get("Contents", [])]

    # --- the run

    def spec(self) -> RunSpec:
        """What the run is. Raises InfraError if there is no such run."""
        data = self.read("spec.json")
        if data is None:
            raise InfraError(f"there is no run {self.run_id} in bucket {self.bucket}: `longfuse jobs list` names them.")
        return RunSpec.model_validate_json(data)

    def begin(self, spec: RunSpec) -> None:
        """Write the spec, once. Raises InfraError if the run exists with another one."""
        if not self.write_once("spec.json", spec.model_dump(mode="json")):
            raise InfraError(f"run {self.run_id} exists already with another spec.")

    def acquire(self, owner: str, seconds: float) -> Lease:
        """Take the lease if nobody holds it, it has expired, or it is ours. Raises LeaseLostError."""
        data, etag = self._read("lease")
        now = self.clock()
        if data is None:
            written = self._put_if("lease", _lease_text(owner, 1, now + seconds), IfNoneMatch="*")
            epoch = 1
        else:
            held = json.loads(data)
            if held["owner"] != owner and held["expires"] > now:
                raise LeaseLostError(
                    f"run {self.run_id} is controlled by {held['owner']} (for {held['expires'] - now:.0f} s more)."
                )
            epoch = held["epoch"] + (held["owner"] != owner)
            written = self._put_if("lease", _lease_text(owner, epoch, now + seconds), IfMatch=etag)
        if written is None:
            raise LeaseLostError(f"run {self.run_id} was taken by another controller just now.")
        return Lease(owner, epoch, written)

    def renew(self, lease: Lease, seconds: float) -> Lease:
        """Prolong it. Raises LeaseLostError if somebody took it."""
        text = _lease_text(lease.owner, lease.epoch, self.clock() + seconds)
        written = self._put_if("lease", text, IfMatch=lease.etag)
        if written is None:
            raise LeaseLostError(f"run {self.run_id} was taken by another controller.")
        return Lease(lease.owner, lease.epoch, written)

    def release(self, lease: Lease) -> None:
        """Let anybody take it at once."""
        self._put_if("lease", _lease_text(lease.owner, lease.epoch, 0.0), IfMatch=lease.etag)

    def read_state(self) -> tuple[dict[str, Any] | None, str]:
        """(state.json, its ETag), (None, "") before there is one."""
        data, etag = self._read("state.json")
        return (None if data is None else json.loads(data)), etag

    def write_state(self, state: dict[str, Any], etag: str) -> str:
        """Replace state.json as it was read; the new ETag. Raises LeaseLostError if another controller wrote it since.

        So a controller that slept through the end of its lease can do nothing: every launch needs a new state first.
        """
        condition = {"IfMatch": etag} if etag else {"IfNoneMatch": "*"}
        written = self._put_if("state.json", canonical(state).encode(), **condition)
        if written is None:
            raise LeaseLostError(f"run {self.run_id} is controlled by somebody else: its state has changed.")
        return written

    def _read(self, key: str) -> tuple[bytes | None, str]:
        return self._get(f"{self.prefix}/{key}")

    def _get(self, key: str) -> tuple[bytes | None, str]:
        try:
            answer = self._s3.get_object(Bucket=self.bucket, Key=key)
        except botocore.exceptions.ClientError as error:
            if code_of(error) in {"NoSuchKey", "404"}:
                return None, ""
            raise
        return answer["Body"].read(), answer["ETag"]

    def _put_if(self, key: str, data: bytes, **condition: str) -> str | None:
        """The new ETag, None if the condition does not hold (any more)."""
        try:
            answer = self._s3.put_object(Bucket=self.bucket, Key=f"{self.prefix}/{key}", Body=data, **condition)
        except botocore.exceptions.ClientError as error:
            if code_of(error) in {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "412"}:
                found, etag = self._read(key)
                return etag if found == data else None  # ours, if the answer of an earlier try was lost
            raise
        return str(answer["ETag"])


def _lease_text(owner: str, epoch: int, expires: float) -> bytes:
    return canonical({"owner": owner, "epoch": epoch, "expires": expires}).encode()


def list_runs(clients: Clients, bucket: str, region: str) -> list[str]:
    """Names of all runs in a bucket."""
    pages = (
        clients("s3", region).get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="runs/", Delimiter="/")
    )
    return [item["Prefix"].split("/")[1] for page in pages for item in page.get("CommonPrefixes", [])]
