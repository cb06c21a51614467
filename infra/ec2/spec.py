"""What a run on EC2 is: written once to the bucket before anything is launched, and never changed."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Market = Literal["reservation", "spot", "on-demand"]


class Spec(BaseModel):
    """Frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Candidate(Spec):
    """One way to get the instances: what RunInstances is asked for, and what an hour of one node costs at most."""

    market: Market = Field(description="How it is paid: a reservation of yours, spot, or on demand.")
    instance_type: str = Field(description="EC2 instance type.")
    region: str = Field(description="AWS region.")
    zone: str = Field(description="Availability zone.")
    hourly_usd: float = Field(ge=0, description="Price of one node and hour that the budget reckons with.")
    reservation_id: str | None = Field(default=None, description="Capacity reservation, for market reservation.")

    @property
    def key(self) -> str:
        """Short name, part of tokens."""
        name = f"{self.market}-{self.instance_type}-{self.zone}"
        return name if self.reservation_id is None else f"{name}-{self.reservation_id}"


class Stopping(Spec):
    """When things are ended. Times in seconds unless the name says otherwise."""

    pending_seconds: float = Field(default=1800.0, gt=0, description="Longest search for capacity of one attempt.")
    runtime_seconds: float = Field(default=86_400.0, gt=0, description="Longest run of the stage in one attempt.")
    hard_cap_seconds: float = Field(
        default=90_000.0, gt=0, description="Longest life of an instance, whatever happens."
    )
    ttl_minutes: int = Field(default=60, ge=1, description="Dead-man timer; set anew while there is progress.")
    stall_seconds: float = Field(
        default=3600.0, gt=0, description="Without progress for so long the timer is not set anew."
    )
    grace_seconds: float = Field(default=90.0, gt=0, description="From SIGTERM to SIGKILL: time for a checkpoint.")
    boot_seconds: float = Field(default=900.0, gt=0, description="Until the first heartbeat.")
    silence_seconds: float = Field(
        default=90.0, gt=0, description="Without a heartbeat for so long an instance is lost."
    )
    max_attempts: int = Field(default=20, ge=1, description="Attempts in all.")
    max_infra_failures: int = Field(default=2, ge=1, description="Equal failures of the set-up after which it ends.")


class Rhythm(Spec):
    """How often things are looked at, in seconds."""

    poll_seconds: float = Field(default=5.0, gt=0, description="Controller: state, heartbeat, log chunks.")
    heartbeat_seconds: float = Field(default=10.0, gt=0, description="Node: heartbeat and orders.")
    log_seconds: float = Field(default=5.0, gt=0, description="Node: log and metric chunks.")
    metadata_seconds: float = Field(default=2.0, gt=0, description="Node: spot notices.")
    checkpoint_seconds: float = Field(default=10.0, gt=0, description="Node: looks for a new checkpoint.")
    retry_seconds: float = Field(
        default=0.5, gt=0, description="Launcher: before a call without an answer is repeated; doubled each time."
    )
    lease_seconds: float = Field(default=60.0, gt=0, description="A controller that is silent for so long is replaced.")


class RunSpec(Spec):
    """One run: a stage with exact inputs, on one set of instances at a time. `work` is what boot.json gets besides."""

    run_id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{3,40}$", description="Name of the run.")
    stage: str = Field(description="The DVC stage.")
    fingerprint: str = Field(default="", description="Of the stage's command, inputs and parameters.")
    bucket: str = Field(description="S3 bucket of runs.")
    bucket_region: str = Field(description="Its region.")
    candidates: tuple[Candidate, ...] = Field(min_length=1, description="Tried in this order.")
    not_tried: tuple[str, ...] = Field(default=(), description="Why others that were asked for are none, in words.")
    unknown: tuple[str, ...] = Field(default=(), description="Quotas that could not be read before, and why.")
    nodes: int = Field(default=1, ge=1, le=1, description="Instances; more than one is not built yet.")
    budget_usd: float = Field(gt=0, description="What all attempts together may cost.")
    image_parameter: str = Field(description="SSM parameter that names the machine image.")
    instance_profile: str = Field(description="IAM instance profile of the node.")
    disk_gb: int = Field(default=200, ge=8, description="Size of the encrypted root volume.")
    security_groups: dict[str, str] = Field(
        default_factory=dict, description="Region -> security group id; a region without one: its default group."
    )
    stopping: Stopping = Field(default=Stopping(), description="Limits.")
    rhythm: Rhythm = Field(default=Rhythm(), description="Periods.")
    work: dict[str, Any] = Field(default_factory=dict, description="Command, code, environment and so on of boot.json.")

    @property
    def prefix(self) -> str:
        """Where the run lies in the bucket."""
        return f"runs/{self.run_id}"

    def canonical(self) -> str:
        """The one text of this spec."""
        return canonical(self.model_dump(mode="json"))


def canonical(value: Any) -> str:
    """Equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: Any) -> str:
    """sha256 of the canonical text."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()
