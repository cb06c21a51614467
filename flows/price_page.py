"""The prices in docs/ec2.md, computed from the table and the requests that the code uses; written and checked by `flows.reference`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from infra.ec2.budget import HOUR_SECONDS, attempt_usd
from infra.ec2.catalog import PRICES_OF, TYPES, quota_code
from infra.ec2.resources import Request, candidates, load_resources, stopping

PAGE = Path(__file__).resolve().parent.parent / "docs" / "ec2.md"
BEGIN, END = "<!-- prices: written by `make docs` -->", "<!-- end of prices -->"


def with_prices(page: str) -> str:
    """The page with its part between the marks written anew. Raises ValueError if the marks are missing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE} has lost its marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n" + "\n".join(_lines()) + f"\n{END}{after}"


def _lines() -> Iterator[str]:
    yield f"Prices of {PRICES_OF}, us-east-1, per hour (`infra/ec2/catalog.py`):"
    yield ""
    yield "| type | accelerators | vCPUs | on demand, USD | spot then, USD | quota on demand / spot |"
    yield "|---|---|---|---|---|---|"
    for kind in TYPES.values():
        gpus = f"{kind.gpus} x {kind.gpu}, {kind.gpu_memory_gb} GB each" if kind.gpu else "-"
        codes = f"{quota_code(kind.name, 'on-demand')} / {quota_code(kind.name, 'spot')}"
        yield f"| {kind.name} | {gpus} | {kind.vcpus} | {_usd(kind.on_demand_usd)} | {_usd(kind.spot_usd)} | {codes} |"
    yield ""
    yield "What `infra/resources.yaml` asks for, and what it may cost at most:"
    yield ""
    yield "| profile | stages | asked for | an hour, cheapest and dearest candidate, USD | longest attempt | it costs at most, USD | budget of a stage, USD |"
    yield "|---|---|---|---|---|---|---|"
    for name, profile in load_resources().profiles.items():
        grouped: dict[str, tuple[Request, list[str]]] = {}
        for pattern, request in profile.stages.items():
            grouped.setdefault(request.model_dump_json(), (request, []))[1].append(f"`{pattern}`")
        for request, patterns in grouped.values():
            yield _row(name, patterns, request)


def _row(profile: str, patterns: list[str], request: Request) -> str:
    found, limits = candidates(request), stopping(request)
    hourly = [item.hourly_usd for item in found]
    worst = max(attempt_usd(item, request.nodes, limits) for item in found)
    cells = [
        profile,
        ", ".join(patterns),
        request.accelerator,
        f"{_usd(min(hourly))} to {_usd(max(hourly))}",
        f"{limits.hard_cap_seconds / HOUR_SECONDS:g} h",
        f"{worst:.2f}",
        f"{request.budget_usd:g}",
    ]
    return f"| {' | '.join(cells)} |"


def _usd(value: float) -> str:
    """With cents, or with what the table has below them."""
    return f"{value:.2f}" if round(value, 2) == value else f"{value:g}"
