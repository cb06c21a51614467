"""infra/resources.yaml: what a stage asks for, by profile; and from it the candidates in the order in which they are tried."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import botocore.exceptions
import yaml
from pydantic import Field, ValidationError

from infra.ec2.aws import Clients, code_of
from infra.ec2.budget import HOUR_SECONDS
from infra.ec2.catalog import TYPES, hourly_usd, quota_code, types_for
from infra.ec2.spec import Candidate, Market, Spec, Stopping
from infra.errors import InfraError

VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
SecretName = Annotated[
    str, Field(pattern=r"^longfuse/[A-Za-z0-9/_+=.@-]+$")
]  # what policies/node.json lets a node read
RESOURCES = Path(__file__).parents[1] / "resources.yaml"


class Account(Spec):
    """What jobs use of your account."""

    bucket: str | None = Field(default=None, description="S3 bucket of runs and of the DVC remote.")
    bucket_region: str = Field(default="us-east-1", description="Its region.")
    instance_profile: str = Field(
        default="longfuse-node", description="Instance profile of nodes (policies/node.json)."
    )
    image_parameter: str = Field(description="SSM parameter that names the machine image.")
    wheelhouse: bool = Field(
        default=True, description="Send wheels of the locked environment; false: nodes install it from an index."
    )
    security_groups: dict[str, str] = Field(
        default_factory=dict, description="Region -> security group without inbound rules; others: the default group."
    )


class Reservation(Spec):
    """A capacity reservation of yours: it is for one zone, and is asked for nowhere else."""

    id: str = Field(pattern=r"^cr-[0-9a-zA-Z]+$", description="Its id.")
    zone: str = Field(pattern=r"^[a-z]+(-[a-z]+)+-\d[a-z]$", description="Its availability zone, as us-east-1a.")

    @property
    def region(self) -> str:
        """The region of its zone."""
        return self.zone[:-1]


class Request(Spec):
    """What one stage asks for."""

    accelerator: str = Field(description="GPU and count, for example H100:8, or cpu.")
    markets: tuple[Market, ...] = Field(default=("spot", "on-demand"), description="Tried in this order.")
    regions: tuple[str, ...] = Field(default=("us-east-1",), description="Tried in this order.")
    zones: tuple[str, ...] = Field(default=("a", "b", "c"), description="Letters of zones, tried in this order.")
    reservations: tuple[Reservation, ...] = Field(
        default=(), description="Capacity reservations, for market reservation; regions and zones do not concern them."
    )
    nodes: int = Field(default=1, ge=1, le=1, description="Instances; more than one is not built yet.")
    disk_gb: int = Field(default=200, ge=8, description="Size of the encrypted root volume.")
    runtime_hours: float = Field(default=24.0, gt=0, description="Longest run of one attempt.")
    budget_usd: float = Field(gt=0, description="What all attempts of one stage may cost.")
    secrets: dict[VariableName, SecretName] = Field(
        default_factory=dict, description="Variable -> name in Secrets Manager, read by the node with its own role."
    )

    @property
    def all_regions(self) -> set[str]:
        """Every region in which it may have instances."""
        return {*self.regions, *(item.region for item in self.reservations)}


class Profile(Spec):
    """Patterns of stage names -> requests; the first that fits."""

    stages: dict[str, Request] = Field(description="Glob over stage names -> what is asked for.")


class Resources(Spec):
    """The file."""

    account: Account = Field(description="What jobs use of your account.")
    profiles: dict[str, Profile] = Field(description="By the name of the profile in params.yaml.")

    def request(self, profile: str, stage: str) -> Request | None:
        """What a stage asks for; None: it runs on this machine."""
        if profile not in self.profiles:
            return None
        stages: Mapping[str, Request] = self.profiles[profile].stages
        return next((request for pattern, request in stages.items() if fnmatchcase(stage, pattern)), None)

    def regions(self) -> list[str]:
        """Every region that a stage of any profile may use."""
        requests = (request for profile in self.profiles.values() for request in profile.stages.values())
        return sorted({region for request in requests for region in request.all_regions})


def load_resources(path: Path = RESOURCES) -> Resources:
    """Raises InfraError naming the key that is wrong."""
    try:
        return Resources.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError) as error:
        raise InfraError(f"{path}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise InfraError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def candidates(request: Request) -> tuple[Candidate, ...]:
    """Market by market, then region, then type (cheapest first), then zone. Raises InfraError if there is none.

    A reservation is asked for in its own zone only, reservations in the order in which they are listed.
    """
    found = []
    for market in request.markets:
        for kind, zone, reservation in _places(request, market):
            found.append(
                Candidate(
                    market=market,
                    instance_type=kind,
                    region=zone[:-1],
                    zone=zone,
                    hourly_usd=hourly_usd(kind, market),
                    reservation_id=reservation,
                )
            )
    if not found:
        raise InfraError("market reservation alone needs ids in `reservations` of infra/resources.yaml.")
    return tuple(found)


def stopping(request: Request) -> Stopping:
    """The limits of an attempt; an instance may live an hour longer than its stage, for the set-up and the outputs."""
    runtime = request.runtime_hours * HOUR_SECONDS
    return Stopping(runtime_seconds=runtime, hard_cap_seconds=runtime + HOUR_SECONDS)


def _places(request: Request, market: Market) -> Iterator[tuple[str, str, str | None]]:
    """(instance type, zone, reservation) of a market, in order."""
    types = types_for(request.accelerator)
    if market == "reservation":
        yield from ((kind.name, item.zone, item.id) for item in request.reservations for kind in types)
        return
    for region in request.regions:
        yield from ((kind.name, f"{region}{letter}", None) for kind in types for letter in request.zones)


def missing_quotas(clients: Clients, wanted: tuple[Candidate, ...]) -> list[dict[str, Any]]:
    """Quotas that are smaller than one instance of a candidate needs: {code, region, needed, have}."""
    needed: dict[tuple[str, str], int] = {}
    for item in wanted:
        kind = TYPES[item.instance_type]
        code = quota_code(item.instance_type, item.market)
        needed[code, item.region] = max(needed.get((code, item.region), 0), kind.vcpus)
    found = []
    for (code, region), vcpus in needed.items():
        quota = clients.quick("service-quotas", region).get_service_quota(ServiceCode="ec2", QuotaCode=code)["Quota"]
        if quota["Value"] < vcpus:
            found.append(
                {"code": code, "name": quota["QuotaName"], "region": region, "needed": vcpus, "have": quota["Value"]}
            )
    return found


def within_quotas(
    clients: Clients, wanted: tuple[Candidate, ...]
) -> tuple[tuple[Candidate, ...], list[str], list[str]]:
    """(candidates whose quota holds one instance, a line on every quota that is too small, one on every quota that was not read).

    A quota that cannot be read (no permission, no answer) forbids nothing: EC2 itself has the last word. A region that does
    not answer is asked once, so nobody waits for each of its quotas.
    """
    have: dict[tuple[str, str], float] = {}
    silent: dict[str, str] = {}
    kept, short, unread = [], {}, {}
    for item in wanted:
        kind = TYPES[item.instance_type]
        code, region = quota_code(item.instance_type, item.market), item.region
        if (code, region) not in have:
            why = silent.get(region, "")
            if not why:
                have[code, region], why, answered = _quota(clients, code, region)
                if not answered:
                    silent[region] = why
            if why:
                have[code, region] = math.inf
                unread[code, region] = f"quota {code} in {region} was not read ({why}): EC2 decides"
        if have[code, region] >= kind.vcpus:
            kept.append(item)
        else:
            short[code, region, item.instance_type] = (
                f"quota {code} in {region} is {have[code, region]:g} vCPUs, "
                f"{item.instance_type} ({item.market}) needs {kind.vcpus}"
            )
    return tuple(kept), list(short.values()), list(unread.values())


def _quota(clients: Clients, code: str, region: str) -> tuple[float, str, bool]:
    """(vCPUs, why they are not known, whether the service answered)."""
    try:
        answer = clients.quick("service-quotas", region).get_service_quota(ServiceCode="ec2", QuotaCode=code)
    except botocore.exceptions.ClientError as error:
        return math.inf, code_of(error), True
    except botocore.exceptions.BotoCoreError as error:
        return math.inf, code_of(error), False
    return float(answer["Quota"]["Value"]), "", True
