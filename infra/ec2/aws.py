"""Clients, and what an error means for the launch that met it.

Missing capacity comes as HTTP 500, which botocore repeats in the same zone and which drains the quota of retries of its
client (measured: after some 17 of them nothing is retried any more). So launches have a client of their own with one
attempt; everything else has five.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import boto3
import botocore.config
import botocore.exceptions

from infra.errors import InfraError


class AwsError(InfraError):
    """AWS refuses, and trying again does not help."""


class ErrorClass(StrEnum):
    """What to do after a call failed."""

    NEXT = "next"  # this candidate has nothing: the next one
    AGAIN = "again"  # the same call, same token, after a pause
    RECONCILE = "reconcile"  # it may have been done: look, before anything else is launched
    STOP = "stop"  # somebody has to mend something


NO_CAPACITY = frozenset(
    {
        "InsufficientInstanceCapacity",
        "InsufficientHostCapacity",
        "InsufficientCapacity",
        "UnfulfillableCapacity",
        "ReservationCapacityExceeded",
        "InsufficientReservedInstanceCapacity",
        "SpotMaxPriceTooLow",
        "MaxSpotInstanceCountExceeded",
        "VcpuLimitExceeded",
        "InstanceLimitExceeded",
        "Unsupported",
        "InsufficientFreeAddressesInSubnet",
    }
)
THROTTLED = frozenset(
    {
        "RequestLimitExceeded",
        "Throttling",
        "ThrottlingException",
        "RequestThrottled",
        "InternalError",
        "InternalFailure",
        "ServiceUnavailable",
        "Unavailable",
    }
)
AMBIGUOUS = frozenset({"IdempotentParameterMismatch", "IdempotentInstanceTerminated"})
EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired"})


def code_of(error: BaseException) -> str:
    """The error code of AWS, or the name of the exception."""
    if isinstance(error, botocore.exceptions.ClientError):
        return str(error.response.get("Error", {}).get("Code", "Unknown"))
    return type(error).__name__


def classify(error: BaseException) -> ErrorClass:
    """Section by code; what nobody knows stops."""
    if isinstance(error, botocore.exceptions.HTTPClientError):  # sent, perhaps done, no answer
        return ErrorClass.RECONCILE
    code = code_of(error)
    if code in NO_CAPACITY:
        return ErrorClass.NEXT
    if code in AMBIGUOUS:
        return ErrorClass.RECONCILE
    if code in THROTTLED:
        return ErrorClass.AGAIN
    return ErrorClass.STOP


def what_to_do(error: BaseException) -> str:
    """Words for the user."""
    code = code_of(error)
    if code in EXPIRED or isinstance(error, botocore.exceptions.NoCredentialsError):
        return "the credentials are missing or have expired: log in again; `longfuse jobs adopt` goes on with the run"
    if code.startswith("Unauthorized") or code in {"AuthFailure", "AccessDenied", "AccessDeniedException"}:
        return "a permission is missing: compare infra/ec2/policies/launcher.json with what you may do"
    if code.startswith("InvalidAMI"):
        return "the machine image does not exist in this region: set image_parameter in infra/resources.yaml"
    return "see the message; nothing was launched"


class Clients:
    """Clients by service and region, made once. Endpoint and credentials are boto3's (AWS_ENDPOINT_URL, profiles, roles)."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, str, int], Any] = {}

    def launcher(self, region: str) -> Any:
        """EC2 with a single attempt per call."""
        return self._client("ec2", region, 1)

    def __call__(self, service: str, region: str) -> Any:
        """Any service, with five attempts."""
        return self._client(service, region, 5)

    def quick(self, service: str, region: str) -> Any:
        """For what a run can do without (quotas): two attempts and short timeouts, so that nobody waits for minutes."""
        return self._client(service, region, 2, connect_seconds=3, read_seconds=10)

    def _client(
        self, service: str, region: str, attempts: int, *, connect_seconds: int = 10, read_seconds: int = 60
    ) -> Any:
        key = (service, region, attempts)
        if key not in self._made:
            config = botocore.config.Config(
                retries={"mode": "standard", "total_max_attempts": attempts},
                connect_timeout=connect_seconds,
                read_timeout=read_seconds,
            )
            self._made[key] = boto3.Session().client(service, region_name=region, config=config)
        return self._made[key]
