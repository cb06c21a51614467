"""Ends instances and disks whose deadline tag has passed, from anywhere: the last of four ways, for when a kernel hangs and its controller died.

It goes by the tag and by nothing that looks idle: what is being retried must not be reaped.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import botocore.exceptions

from infra.ec2.aws import Clients, what_to_do
from infra.ec2.launch import TAG, describe, is_alive
from infra.ec2.store import RunStore
from infra.errors import InfraError


@dataclass(frozen=True)
class Reaped:
    """An instance or a disk that was ended, and why."""

    resource_id: str
    region: str
    run_id: str
    why: str


class ReapError(InfraError):
    """Some regions could not be swept; `found` is what was done in the others."""

    def __init__(self, message: str, found: list[Reaped]) -> None:
        super().__init__(message)
        self.found = found


def reap(
    clients: Clients,
    bucket: str,
    bucket_region: str,
    regions: list[str],
    *,
    dry_run: bool = False,
    now: float | None = None,
) -> list[Reaped]:
    """Terminate instances of ours that are past their deadline, or whose run is closed, and delete disks that such ones left.

    Returns them. `now`: another time.

    A region that refuses (throttled, no permission) costs that region alone: ReapError tells of it after the last one.
    """
    now = time.time() if now is None else now
    found: list[Reaped] = []
    refused = []
    for region in regions:
        try:
            late = _overdue(clients, bucket, bucket_region, region, now)
            if late and not dry_run:
                clients("ec2", region).terminate_instances(InstanceIds=[item.resource_id for item in late])
            disks = _orphans(clients, bucket, bucket_region, region, now)
            for item in disks if not dry_run else []:
                clients("ec2", region).delete_volume(VolumeId=item.resource_id)
        except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
            refused.append(f"{region}: {error} ({what_to_do(error)})")
        else:
            found += [*late, *disks]
    if refused:
        raise ReapError("not swept, so instances may still cost money there: " + "; ".join(refused), found)
    return found


def _overdue(clients: Clients, bucket: str, bucket_region: str, region: str, now: float) -> list[Reaped]:
    """Instances of one region that should have ended."""
    found = []
    for item in describe(clients, region, "tag-key", f"{TAG}run"):
        if not is_alive(item) or item["State"]["Name"] == "shutting-down":
            continue
        if reaped := _judge(clients, bucket, bucket_region, region, now, item["InstanceId"], item.get("Tags", [])):
            found.append(reaped)
    return found


def _orphans(clients: Clients, bucket: str, bucket_region: str, region: str, now: float) -> list[Reaped]:
    """Disks of one region that no instance has and that should have gone with theirs."""
    filters = [{"Name": "tag-key", "Values": [f"{TAG}run"]}, {"Name": "status", "Values": ["available"]}]
    pages = clients("ec2", region).get_paginator("describe_volumes").paginate(Filters=filters)
    judged = (
        _judge(clients, bucket, bucket_region, region, now, item["VolumeId"], item.get("Tags", []))
        for page in pages
        for item in page["Volumes"]
    )
    return [item for item in judged if item is not None]


def _judge(
    clients: Clients, bucket: str, bucket_region: str, region: str, now: float, name: str, listed: list[dict[str, str]]
) -> Reaped | None:
    """None: it is not ours, or may stay."""
    tags = {tag["Key"]: tag["Value"] for tag in listed}
    if tags.get(f"{TAG}bucket") != bucket:
        return None
    run_id = tags[f"{TAG}run"]
    late = now - float(tags.get(f"{TAG}deadline", "inf"))
    if late > 0:
        return Reaped(name, region, run_id, f"{late:.0f} s past its deadline")
    if RunStore(clients, bucket, bucket_region, run_id).read("closed.json") is not None:
        return Reaped(name, region, run_id, "its run is closed")
    return None
