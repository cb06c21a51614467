"""How long a context shall be: log-normal between a shortest and a longest length, with a given mean.

The paper's samples have 34,231 tokens on average and 119,932 at most; it does not say more. A log-normal of spread 0.9
that is cut off at both ends has about its shape: many of 10 to 40 thousand tokens, some near the limit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from stages.common.errors import ConfigError

_SPREAD = 0.9  # standard deviation of the logarithm before it is cut off
_NORMAL = NormalDist()


@dataclass(frozen=True)
class LengthDistribution:
    """exp of a normal variable of mean `location` and deviation `_SPREAD`, given that it lies in [shortest, longest]."""

    shortest: int
    longest: int
    location: float

    @classmethod
    def with_mean(cls, shortest: int, mean: int, longest: int) -> LengthDistribution:
        """ConfigError unless shortest <= mean <= longest. The location is found by bisection."""
        if shortest > longest:
            raise ConfigError(
                f"assemble.min_context_tokens ({shortest}) is above assemble.max_context_tokens ({longest}). "
                "Lower the first or raise the second."
            )
        if not shortest <= mean <= longest:
            raise ConfigError(
                f"assemble.mean_context_tokens ({mean}) must lie between assemble.min_context_tokens ({shortest}) and "
                f"assemble.max_context_tokens ({longest})."
            )
        low, high = math.log(shortest) - 25.0, math.log(longest) + 25.0
        for _ in range(60):
            middle = (low + high) / 2
            if cls(shortest, longest, middle).mean() < mean:
                low = middle
            else:
                high = middle
        return cls(shortest, longest, (low + high) / 2)

    def mean(self) -> float:
        """The mean, as the average over 400 equally likely lengths."""
        return sum(self.length_at((step + 0.5) / 400) for step in range(400)) / 400

    def length_at(self, share: float) -> float:
        """The length that a share of all lengths (0 to 1) does not exceed."""
        if self.shortest == self.longest:
            return float(self.shortest)
        # Work in the tail that holds more of the probability: far out, differences to 1 are lost.
        a = (math.log(self.shortest) - self.location) / _SPREAD
        b = (math.log(self.longest) - self.location) / _SPREAD
        if a > 0:
            low, high = _below(-b), _below(-a)
            z = -_inverse(high - share * (high - low))
        else:
            low, high = _below(a), _below(b)
            z = _inverse(low + share * (high - low))
        return min(float(self.longest), max(float(self.shortest), math.exp(self.location + _SPREAD * z)))


def _below(z: float) -> float:
    """The share of a standard normal variable below z; exact far out, too."""
    return 0.5 * math.erfc(-z / math.sqrt(2))


def _inverse(probability: float) -> float:
    return _NORMAL.inv_cdf(min(1 - 1e-15, max(1e-300, probability)))
