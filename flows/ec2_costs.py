"""`longfuse plan --on ec2`: where the stages to run would run, in which order it is tried, what that costs at most, which quotas lack."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from flows.on_ec2 import require_ec2
from flows.plan import Plan
from infra.ec2.aws import Clients
from infra.ec2.budget import HOUR_SECONDS, attempt_usd
from infra.ec2.catalog import PRICES_OF, TYPES, quota_code
from infra.ec2.environments import Environment, environment_of
from infra.ec2.resources import Request, candidates, load_resources, missing_quotas, stopping
from infra.ec2.spec import Candidate

WIDTH = 120  # the rows of candidates are as wide


def render_costs(on: str, profile: str, plan: Plan) -> list[str]:
    """A block of lines per request and environment, for all stages that have the same; quotas are told if they can be asked."""
    require_ec2(on)
    resources = load_resources()
    asked: dict[tuple[str, str], tuple[Request, Environment, list[str]]] = {}
    for planned in plan.stages:
        request = resources.request(profile, planned.stage)
        if planned.action == "run" and request is not None:
            environment = environment_of(plan.dag.stages[planned.stage].parameters if plan.dag is not None else {})
            same = request.model_dump_json(), environment.name
            asked.setdefault(same, (request, environment, []))[2].append(planned.stage)
    lines = ["", f"On EC2 (prices of {PRICES_OF}, estimates):"]
    if not asked:
        return [*lines, "  nothing: no stage to run is named for this profile in infra/resources.yaml"]
    wanted = tuple(item for request, _, _ in asked.values() for item in candidates(request))
    missing, trouble = _missing(wanted)
    for request, environment, stages in asked.values():
        lines += _block(request, environment, stages, missing)
    total = sum(request.budget_usd * len(stages) for request, _, stages in asked.values())
    lines.append(f"  all together at most {total:g} USD")
    for (code, region), item in missing.items():
        lines.append(
            f"  quota {code} ({item['name']}) in {region} is {item['have']:g} vCPUs, {item['needed']} are needed: ask for more "
            "in the Service Quotas console"
        )
    return [*lines, *trouble]


def _missing(wanted: tuple[Candidate, ...]) -> tuple[dict[tuple[str, str], dict[str, Any]], list[str]]:
    """Quotas that are too small, by code and region; a line instead if they cannot be asked."""
    try:
        return {(item["code"], item["region"]): item for item in missing_quotas(Clients(), wanted)}, []
    except Exception as error:  # no credentials, no network: a plan needs neither  # noqa: BLE001
        return {}, [f"  quotas were not checked: {error}"]


def _block(
    request: Request,
    environment: Environment,
    stages: Sequence[str],
    missing: Mapping[tuple[str, str], Mapping[str, Any]],
) -> list[str]:
    limits = stopping(request)
    lines = textwrap.wrap(
        f"{', '.join(stages)}: {request.accelerator}, an attempt ends after {limits.hard_cap_seconds / HOUR_SECONDS:g} h; "
        f"at most {request.budget_usd:g} USD for all attempts of a stage",
        WIDTH,
        initial_indent="  ",
        subsequent_indent="  ",
        break_on_hyphens=False,
    )
    lines.append(f"    environment {environment.name} ({environment.lock})")

    def same(item: Candidate) -> tuple[Any, ...]:
        return item.market, item.instance_type, item.region, item.hourly_usd, item.reservation_id

    number = 1
    for _, grouped in groupby(candidates(request), key=same):
        group = list(grouped)
        item, last = group[0], number + len(group) - 1
        place = f"{number}" if last == number else f"{number}-{last}"
        zones = ", ".join([item.zone, *(other.zone[-1] for other in group[1:])])
        worst = attempt_usd(item, request.nodes, limits)
        lack = missing.get((quota_code(item.instance_type, item.market), item.region))
        if lack is not None and lack["have"] >= TYPES[item.instance_type].vcpus:
            lack = None  # it is another type that the quota does not hold
        notes = [
            *([f"reservation {item.reservation_id}"] if item.reservation_id else []),
            *(["more than the budget: never tried"] if worst > request.budget_usd else []),
            *([f"quota {lack['code']} lacks: not tried"] if lack else []),
        ]
        lines.append(
            f"    {place:<6}{item.market:<12}{item.instance_type:<14}{zones:<20}{item.hourly_usd:>8.2f} USD/h, "
            f"an attempt at most {worst:.2f} USD{''.join(f'; {note}' for note in notes)}"
        )
        number = last + 1
    return lines
