"""Ends instances whose deadline tag has passed, from anywhere: the last of four ways, for when a kernel hangs and its controller died.

It goes by the tag and by nothing that looks idle: what is being retried must not be reaped.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from infra.ec2.aws import Clients
from infra.ec2.launch import TAG, describe, is_alive
from infra.ec2.store import RunStore


@dataclass(frozen=True)
class Reaped:
    """An instance that was ended, and why."""

    instance_id: str
    region: str
    run_id: str
    why: str


def reap(
    clients: Clients,
    bucket: str,
    bucket_region: str,
    regions: list[str],
    *,
    dry_run: bool = False,
    now: float | None = None,
) -> list[Reaped]:
    """Terminate instances of ours that are past their deadline, or whose run is closed. Returns them. `now`: another time."""
    now = time.time() if now is None else now
    found = []
    for region in regions:
        names = []
        for item in describe(clients, region, "tag-key", f"{TAG}run"):
            tags = {tag["Key"]: tag["Value"] for tag in item.get("Tags", [])}
            if not is_alive(item) or item["State"]["Name"] == "shutting-down" or tags.get(f"{TAG}bucket") != bucket:
                continue
            run_id = tags[f"{TAG}run"]
            late = now - float(tags.get(f"{TAG}deadline", "inf"))
            if late > 0:
                why = f"{late:.0f} s past its deadline"
            elif RunStore(clients, bucket, bucket_region, run_id).read("closed.json") is not None:
                why = "its run is closed"
            else:
                continue
            names.append(item["InstanceId"])
            found.append(Reaped(item["InstanceId"], region, run_id, why))
        if names and not dry_run:
            clients("ec2", region).terminate_instances(InstanceIds=names)
    return found
