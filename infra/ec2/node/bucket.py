"""The run's corner of the bucket: every write is retried for as long as the instance may live.

botocore gives up after three attempts, which loses a finished run to one throttled minute (measured). Here an upload is
repeated with growing pauses until it is through or the time is over; the file stays on disk meanwhile.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import boto3
import boto3.s3.transfer
import botocore.config
import botocore.exceptions

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 20.0
DAMAGED_READS = 3
# Answers that another attempt does not change.
FINAL_CODES = frozenset(
    {"AccessDenied", "NoSuchBucket", "InvalidAccessKeyId", "SignatureDoesNotMatch", "NoSuchKey", "404"}
)
CHUNK_BYTES = 1 << 20
# Checkpoints are gigabytes: in boto3's parts of 8 MB a hundred of them would be 12,800 requests.
PART_BYTES = 64 << 20
TRANSFER = boto3.s3.transfer.TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES)
T = TypeVar("T")


class GivenUpError(Exception):
    """The storage did not take or give a file in time, or refuses it."""


class ExistsError(Exception):
    """A key that is written once exists already."""


class Bucket:
    """Keys are given below `prefix`. until: seconds since the epoch after which nothing is tried again."""

    def __init__(self, name: str, prefix: str, region: str, until: float) -> None:
        config = botocore.config.Config(
            retries={"mode": "standard", "total_max_attempts": 3},
            connect_timeout=5,
            read_timeout=30,
            max_pool_connections=16,
        )
        self._client = boto3.client("s3", region_name=region, config=config)
        self.name = name
        self.prefix = prefix.rstrip("/")
        self.until = until

    def put(self, key: str, data: bytes) -> None:
        """Write, whatever is there. Raises GivenUpError."""
        digest = hashlib.md5(data, usedforsecurity=False).digest()
        self._retry(f"put {key}", lambda: self._put(key, data, digest, {}))

    def put_json(self, key: str, value: Any) -> None:
        """Write a JSON object."""
        self.put(key, json.dumps(value).encode())

    def put_once(self, key: str, value: Any) -> None:
        """Write a JSON object that nobody may write again.

        Raises ExistsError if there is another one. Our own, written by an attempt whose answer was lost, is fine.
        """
        data = json.dumps(value, sort_keys=True).encode()
        digest = hashlib.md5(data, usedforsecurity=False).digest()
        try:
            self._retry(f"put {key}", lambda: self._put(key, data, digest, {"IfNoneMatch": "*"}))
        except ExistsError:
            if self.get(key) != data:
                raise

    def put_file(self, key: str, path: Path) -> tuple[str, int]:
        """Upload a file; the client sends large ones in parts. Returns (sha256, bytes)."""

        def upload() -> tuple[str, int]:
            digest, size = file_digest(path)
            with path.open("rb") as file:
                self._client.upload_fileobj(file, self.name, self._key(key), Config=TRANSFER)
            return digest, size

        return self._retry(f"upload {key}", upload)

    def get(self, key: str) -> bytes | None:
        """Read an object whole; None if there is none."""

        def read() -> bytes | None:
            try:
                return bytes(self._client.get_object(Bucket=self.name, Key=self._key(key))["Body"].read())
            except botocore.exceptions.ClientError as error:
                if error.response["Error"]["Code"] in {"NoSuchKey", "404"}:
                    return None
                raise

        return self._retry(f"get {key}", read)

    def get_json(self, key: str) -> dict[str, Any] | None:
        """Read a JSON object; None if there is none or it is torn."""
        data = self.get(key)
        if data is None:
            return None
        try:
            value = json.loads(data)
        except ValueError:
            return None
        return value if isinstance(value, dict) else None

    def get_file(self, key: str, path: Path) -> None:
        """Download to a file. Raises GivenUpError."""

        def download() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                self._client.download_fileobj(self.name, self._key(key), file, Config=TRANSFER)

        self._retry(f"download {key}", download)

    def keys(self, prefix: str) -> list[str]:
        """Keys below `prefix`, without the run's own prefix."""

        def listed() -> list[str]:
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=self._key(prefix))
            cut = len(self.prefix) + 1 if self.prefix else 0
            return [item["Key"][cut:] for page in pages for item in page.get("Contents", [])]

        return self._retry(f"list {prefix}", listed)

    def delete(self, keys: list[str]) -> None:
        """Remove objects; what is not there is fine."""
        for first in range(0, len(keys), 1000):
            batch = [{"Key": self._key(key)} for key in keys[first : first + 1000]]
            self._retry("delete", partial(self._delete, batch))

    def _delete(self, batch: list[dict[str, str]]) -> None:
        self._client.delete_objects(Bucket=self.name, Delete={"Objects": batch})

    def _key(self, key: str) -> str:
        """A key that begins with a slash is the bucket's, not the run's."""
        if key.startswith("/"):
            return key[1:]
        return f"{self.prefix}/{key}" if self.prefix else key

    def _put(self, key: str, data: bytes, digest: bytes, condition: dict[str, str]) -> None:
        try:
            self._client.put_object(
                Bucket=self.name,
                Key=self._key(key),
                Body=data,
                ContentMD5=base64.b64encode(digest).decode(),
                **condition,
            )
        except botocore.exceptions.ClientError as error:
            if error.response["ResponseMetadata"].get("HTTPStatusCode") == 412:
                raise ExistsError(key) from None
            raise

    def _retry(self, what: str, action: Callable[[], T]) -> T:
        damaged = 0
        for pause in pauses():
            try:
                return action()
            except botocore.exceptions.FlexibleChecksumError as error:  # it was stored so, or spoilt on its way
                damaged += 1
                if damaged == DAMAGED_READS:
                    raise GivenUpError(f"{what}: {error}") from error
                reason = str(error)
            except botocore.exceptions.ClientError as error:
                code = error.response["Error"]["Code"]
                if code in FINAL_CODES:
                    raise GivenUpError(f"{what}: {code}: {error.response['Error'].get('Message', '')}") from error
                reason = code
            except (
                botocore.exceptions.BotoCoreError,
                boto3.exceptions.Boto3Error,
                ConnectionError,
                TimeoutError,
            ) as error:
                reason = f"{type(error).__name__}: {error}"
            if time.time() + pause >= self.until:
                raise GivenUpError(f"{what}: {reason}, and no time is left to try again")
            logger.warning("%s: %s; again in %.1f s", what, reason, pause)
            time.sleep(pause)
        raise AssertionError("pauses never end")


def pauses() -> Iterator[float]:
    """Growing pauses with a random part, without end."""
    pause = FIRST_PAUSE_SECONDS
    while True:
        yield pause * random.uniform(0.75, 1.25)
        pause = min(LONGEST_PAUSE_SECONDS, pause * 2)


def file_digest(path: Path) -> tuple[str, int]:
    """(sha256, bytes) of a file."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size
