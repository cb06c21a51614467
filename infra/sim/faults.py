"""Faults by rule: which calls go wrong, how, how often.

Rule(operation="RunInstances", match={"az": "us-east-1a"}, error="InsufficientInstanceCapacity", status=500)
Rule(operation="RunInstances", effect="lose_response", count=1)             executed, the answer never arrives
Rule(service="s3", operation="PutObject", match={"key": "runs/*"}, error="SlowDown", status=503, count=4)
Rule(service="s3", operation="PutObject", effect="corrupt")                 stored with its last byte changed
Rule(operation="RunInstances", effect="hide", seconds=2)                    InvalidInstanceID.NotFound for 2 s after it
"""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Effect = Literal["error", "lose_response", "lose_request", "corrupt", "truncate", "delay", "hide"]


class Rule(BaseModel):
    """One fault. Every glob of `match` must fit the call's fact of that name (a missing fact is the empty string)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    service: str = Field(default="ec2", description="Service as in a request's signature, or *.")
    operation: str = Field(default="*", description="Glob over the operation's name.")
    match: dict[str, str] = Field(
        default_factory=dict,
        description="Globs over facts: az, instance_type, market, region, bucket, key, caller, instance_id.",
    )
    effect: Effect = Field(default="error", description="What happens to the call.")
    error: str = Field(default="InternalError", description="Error code of the answer, for `error`.")
    status: int = Field(default=500, description="HTTP status of the answer, for `error`.")
    message: str = Field(default="injected by the simulator", description="Text of the error.")
    seconds: float = Field(default=0.0, description="Delay, or how long an instance stays hidden.")
    skip: int = Field(default=0, ge=0, description="So many fitting calls pass first.")
    count: int | None = Field(default=None, description="So many calls are hit; null: all of them.")
    probability: float = Field(default=1.0, ge=0, le=1, description="Share of fitting calls that are hit.")


class Faults:
    """The rules in force. The first rule that fits decides."""

    def __init__(self, seed: int = 0) -> None:
        self._guard = threading.Lock()
        self._random = random.Random(seed)
        self._rules: dict[int, Rule] = {}
        self._seen: dict[int, int] = {}
        self._hits: dict[int, int] = {}
        self._next = 0

    def add(self, rule: Rule) -> int:
        """Put a rule in force; its number is for `remove` and `hits`."""
        with self._guard:
            self._next += 1
            self._rules[self._next], self._seen[self._next], self._hits[self._next] = rule, 0, 0
            return self._next

    def remove(self, number: int | None = None) -> None:
        """Lift one rule, or all."""
        with self._guard:
            for known in [number] if number is not None else list(self._rules):
                self._rules.pop(known, None)

    def hits(self, number: int) -> int:
        """How many calls the rule has hit."""
        with self._guard:
            return self._hits.get(number, 0)

    def hit(self, facts: Mapping[str, Any]) -> Rule | None:
        """The rule that this call falls under, used up by one."""
        with self._guard:
            for number, rule in self._rules.items():
                if not _fits(rule, facts):
                    continue
                self._seen[number] += 1
                if self._seen[number] <= rule.skip:
                    continue
                if rule.count is not None and self._hits[number] >= rule.count:
                    continue
                if rule.probability < 1 and self._random.random() >= rule.probability:
                    continue
                self._hits[number] += 1
                return rule
        return None


# A launch that was executed already is answered from its token, whatever capacity is left.
CAPACITY_ERRORS = frozenset({"InsufficientInstanceCapacity", "InsufficientHostCapacity", "UnfulfillableCapacity"})


def _fits(rule: Rule, facts: Mapping[str, Any]) -> bool:
    if rule.error in CAPACITY_ERRORS and facts.get("executed"):
        return False
    globs = {"service": rule.service, "operation": rule.operation, **rule.match}
    return all(fnmatchcase(str(facts.get(name, "")), glob) for name, glob in globs.items())
