"""Instance types that are asked for, with prices of a day: an estimate for plans and budgets, never a bill.

on_demand_usd: us-east-1, Linux, per hour, as published; spot_usd: a typical price then. Prices move; `longfuse plan --on ec2` says
how old they are. Quotas: Service Quotas codes by family and market, counted in vCPUs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from infra.errors import InfraError

PRICES_OF = "2026-08-01"


@dataclass(frozen=True)
class InstanceType:
    """One type. memory_gb: of the machine; gpu_memory_gb: of each GPU."""

    name: str
    family: Literal["P5", "P4", "G", "Standard"]
    vcpus: int
    memory_gb: int
    gpu: str | None
    gpus: int
    gpu_memory_gb: int
    on_demand_usd: float
    spot_usd: float


_TYPES = (
    InstanceType("p5.48xlarge", "P5", 192, 2048, "H100", 8, 80, 55.04, 33.02),
    InstanceType("p5.4xlarge", "P5", 16, 256, "H100", 1, 80, 6.88, 4.13),
    InstanceType("p5e.48xlarge", "P5", 192, 2048, "H200", 8, 141, 63.30, 37.98),
    InstanceType("p4d.24xlarge", "P4", 96, 1152, "A100", 8, 40, 21.96, 13.18),
    InstanceType("p4de.24xlarge", "P4", 96, 1152, "A100-80", 8, 80, 27.45, 16.47),
    InstanceType("g6e.xlarge", "G", 4, 32, "L40S", 1, 48, 1.86, 1.12),
    InstanceType("g6e.12xlarge", "G", 48, 384, "L40S", 4, 48, 10.49, 6.30),
    InstanceType("g5.xlarge", "G", 4, 16, "A10G", 1, 24, 1.01, 0.60),
    InstanceType("g5.48xlarge", "G", 192, 768, "A10G", 8, 24, 16.29, 9.77),
    InstanceType("c6i.2xlarge", "Standard", 8, 16, None, 0, 0, 0.34, 0.20),
    InstanceType("m6i.xlarge", "Standard", 4, 16, None, 0, 0, 0.192, 0.115),
)
TYPES = {item.name: item for item in _TYPES}
QUOTA_CODES = {
    ("P5", "on-demand"): "L-417A185B",  # on demand all P types share one
    ("P5", "spot"): "L-C4BD4855",
    ("P4", "on-demand"): "L-417A185B",
    ("P4", "spot"): "L-7212CCBC",
    ("G", "on-demand"): "L-DB2E81BA",
    ("G", "spot"): "L-3819A6DF",
    ("Standard", "on-demand"): "L-1216C47A",
    ("Standard", "spot"): "L-34B43A08",
}


def types_for(accelerator: str) -> list[InstanceType]:
    """Types that have `H100:8` (that GPU, so many), or `cpu`; cheapest first. Raises InfraError naming what there is."""
    name, _, count = accelerator.partition(":")
    gpus = int(count or 1) if name.lower() != "cpu" else 0
    found = [t for t in TYPES.values() if (t.gpu is None if gpus == 0 else t.gpu == name and t.gpus == gpus)]
    if not found:
        known = [*sorted({f"{t.gpu}:{t.gpus}" for t in TYPES.values() if t.gpu}), "cpu"]
        raise InfraError(f"no instance type has {accelerator}; there are {', '.join(known)} (infra/ec2/catalog.py).")
    return sorted(found, key=lambda t: t.on_demand_usd)


def hourly_usd(name: str, market: str) -> float:
    """Price of an hour; an own reservation is paid already, and is reckoned as on demand all the same."""
    found = TYPES[name]
    return found.spot_usd if market == "spot" else found.on_demand_usd


def quota_code(name: str, market: str) -> str:
    """The Service Quotas code that bounds a type in a market; a reservation counts as on demand."""
    return QUOTA_CODES[TYPES[name].family, "spot" if market == "spot" else "on-demand"]
