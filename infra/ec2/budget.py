"""What a run may cost: the worst case is reserved before a launch, and what it did cost settled after it.

An instance never outlives its hard cap (dead-man timer, agent, controller, reaper), so no attempt costs more than was reserved.
"""

from __future__ import annotations

from infra.ec2.spec import Candidate, RunSpec, Stopping

HOUR_SECONDS = 3600.0


def attempt_usd(candidate: Candidate, nodes: int, stopping: Stopping) -> float:
    """The price of the longest attempt."""
    return candidate.hourly_usd * nodes * stopping.hard_cap_seconds / HOUR_SECONDS


def worst_case_usd(spec: RunSpec, candidate: Candidate) -> float:
    """What one attempt costs at most."""
    return attempt_usd(candidate, spec.nodes, spec.stopping)


def cost_usd(spec: RunSpec, candidate: Candidate, seconds: float) -> float:
    """What an attempt of this length cost; at most the worst case."""
    return candidate.hourly_usd * spec.nodes * min(max(0.0, seconds), spec.stopping.hard_cap_seconds) / HOUR_SECONDS


def affordable(spec: RunSpec, spent_usd: float) -> list[int]:
    """Places of the candidates whose worst case fits into what is left."""
    left = spec.budget_usd - spent_usd
    return [place for place, item in enumerate(spec.candidates) if worst_case_usd(spec, item) <= left]
