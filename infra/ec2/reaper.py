"""Ends instances whose deadline tag has passed, from anywhere: the last of four ways, for when a kernel hangs and its controller died.

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
    """An instance that was ended, and why."""

    instance_id: str
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
    """Terminate instances of ours that are past their deadline, or whose run is closed. Returns them. `now`: another time.

    A region that refuses (throttled, no permission) costs that region alone: ReapError tells of it after the last one.
    """
    now = time.time() if now is None else now
    found: list[Reaped] = []
    refused = []
    for region in regions:
        try:
            late = _overdue(clients, bucket, bucket_region, region, now)
            if late and not dry_run:
                clients("ec2", region).terminate_instances(InstanceIds=[item.instance_id for item in late])
        except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
            refused.append(f"{region}: {error} ({what_to_do(error)})")
        else:
            found += late
    if refused:
        raise ReapError("not swept, so instances may still cost money there: " + "; ".join(refused), found)
    return found


def _overdue(clients: Clients, bucket: str, bucket_region: str, region: str, now: float) -> list[Reaped]:
    """Instances of one region that should have ended."""
    found = []
    for item in describe(clients, region, "tag-key", f"{TAG}run"):
        tags = {tag["Key"]: tag["Value"] for tag in item.get("Tags", [])}
        if not is_alive(item) or item["State"]["Name"] == "shutting-down" or tags.get(f"{TAG}bucket") != bucket:
            continue
        run_id = tags[f"{TAG}run"]
        late = now - float(tags.get(f"{TAG}deadline", "inf"))
        if late > 0:
            found.append(Reaped(item["InstanceId"], region, run_id, f"{late:.0f} s past its deadline"))
        elif RunStore(clients, bucket, bucket_region, run_id).read("closed.json") is not None:
            found.append(Reaped(item["InstanceId"], region, run_id, "its run is closed"))
    return found
