"""The instances of moto's backends, as the simulator changes them: states, reasons, what plain moto forgets.

moto starts an instance at once and ends it at once. Here it is pending for a while, shutting down for a while, and its
StateReason says who ended it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from moto.core import DEFAULT_ACCOUNT_ID
from moto.ec2.models import ec2_backends
from moto.ec2.models.instances import StateReason
from moto.ec2.utils import filter_dict_attribute_mapping

CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}
ALIVE = ("pending", "running", "shutting-down", "stopping", "stopped")
USER = ("Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: User initiated shutdown")
GUEST = ("Client.InstanceInitiatedShutdown", "Client.InstanceInitiatedShutdown: Instance initiated shutdown")
SPOT = ("Server.SpotInstanceTermination", "Server.SpotInstanceTermination: Spot instance termination")
BROKEN = ("Server.InternalError", "Server.InternalError: Internal error on launch")


def teach_moto_filters() -> None:
    """Filters of DescribeInstances that plain moto answers with HTTP 500."""
    filter_dict_attribute_mapping.update(
        {
            "client-token": "client_token",
            "instance-lifecycle": "lifecycle",
            "placement-group-name": "placement.group_name",
            "tenancy": "placement.tenancy",
            "reservation-id": "reservation_id",
            "iam-instance-profile.arn": "profile_arn",
        }
    )


def regions() -> list[str]:
    """Regions that something was asked of."""
    return list(ec2_backends[DEFAULT_ACCOUNT_ID])


def backend(region: str) -> Any:
    """Moto's EC2 of one region."""
    return ec2_backends[DEFAULT_ACCOUNT_ID][region]


def all_instances() -> Iterator[tuple[str, Any]]:
    """(region, instance) of every instance that was ever launched."""
    for region in regions():
        for reservation in list(backend(region).reservations.values()):
            for instance in list(reservation.instances):
                yield region, instance


def find(instance_id: str) -> tuple[str, Any] | None:
    """The region of an instance, and it."""
    return next((pair for pair in all_instances() if pair[1].id == instance_id), None)


def set_state(instance: Any, name: str, reason: tuple[str, str] | None = None) -> None:
    """Change what DescribeInstances says of an instance."""
    if not hasattr(instance, "timeline"):
        instance.timeline = []
    if not instance.timeline or instance.timeline[-1][1] != name:
        instance.timeline.append((time.time(), name))
    instance._state.name, instance._state.code = name, CODES[name]
    if reason is not None:
        code, message = reason
        instance.state_reason = StateReason(message, code)
        stamp = time.strftime("%Y-%m-%d %H:%M:%S GMT", time.gmtime())
        instance._reason = f"{message.partition(': ')[2]} ({stamp})"


def zone_of(region: str, params: dict[str, Any]) -> str:
    """The availability zone that a RunInstances asks for; moto's default if it asks for none."""
    if zone := params.get("Placement.AvailabilityZone"):
        return str(zone)
    subnet_id = params.get("SubnetId") or params.get("NetworkInterface.1.SubnetId")
    if subnet_id:
        for subnets in backend(region).subnets.values():
            if subnet_id in subnets:
                return str(subnets[subnet_id].availability_zone)
    return f"{region}a"


def market_of(params: dict[str, Any]) -> str:
    """on-demand, spot or capacity-block, as a RunInstances asks for it."""
    return str(params.get("InstanceMarketOptions.MarketType", "on-demand"))


def describe(instance: Any, region: str) -> dict[str, Any]:
    """What tests and the control address want to know of an instance."""
    return {
        "id": instance.id,
        "region": region,
        "state": instance.state,
        "reason": instance.state_reason.code,
        "zone": instance.availability_zone,
        "type": instance.instance_type,
        "lifecycle": instance.lifecycle or "on-demand",
        "client_token": instance.client_token,
        "tags": {tag["key"]: tag["value"] for tag in instance.get_tags()},
        "timeline": getattr(instance, "timeline", []),  # (seconds since the epoch, state)
    }
