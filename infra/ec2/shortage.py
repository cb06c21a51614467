"""What a refusal for want of something says about the other candidates: nobody asks twice for what one answer settles.

A quota of vCPUs covers every type of its families in a region, zone by zone the same; a type that a zone does not have is
missing there in every market; a subnet without addresses is its zone's. Missing capacity says nothing about others.
"""

from __future__ import annotations

from collections.abc import Sequence

from infra.ec2.catalog import quota_code
from infra.ec2.spec import Candidate

QUOTA = frozenset({"VcpuLimitExceeded", "InstanceLimitExceeded", "MaxSpotInstanceCountExceeded"})
NOT_THERE = frozenset({"Unsupported"})
NO_ADDRESS = frozenset({"InsufficientFreeAddressesInSubnet"})


def also_hit(code: str, candidates: Sequence[Candidate], place: int) -> list[int]:
    """Places of other candidates that the answer `code` to the one at `place` rules out as well."""
    refused = candidates[place]

    def same(other: Candidate) -> bool:
        if code in QUOTA:
            return other.region == refused.region and _quota(other) == _quota(refused)
        if code in NOT_THERE:
            return (other.instance_type, other.zone) == (refused.instance_type, refused.zone)
        return code in NO_ADDRESS and other.zone == refused.zone

    return [number for number, other in enumerate(candidates) if number != place and same(other)]


def _quota(candidate: Candidate) -> str:
    return quota_code(candidate.instance_type, candidate.market)
