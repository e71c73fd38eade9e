"""A distribution of waits with a long tail, as networks have."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

_Z99 = 2.326  # a normal distribution has 99 % below so many standard deviations
_LONGEST = 10.0  # times the 99th percentile, so that every wait has a bound


@dataclass(frozen=True, slots=True)
class Distribution:
    """A log-normal distribution of seconds, given by its median and its 99th percentile."""

    p50: float
    p99: float

    def __post_init__(self) -> None:
        if not all(type(each) in (int, float) for each in (self.p50, self.p99)) or not 0 < self.p50 <= self.p99 <= 3600:
            raise ValueError("p50 and p99 are numbers of seconds above 0, p50 not above p99, and at most 3600")

    def draw(self, chance: random.Random) -> float:
        """A wait in seconds."""
        sigma = math.log(self.p99 / self.p50) / _Z99
        return min(self.p50 * math.exp(chance.gauss(0.0, sigma)), _LONGEST * self.p99)


def distribution(given: Any) -> Distribution | None:
    """What JSON says: `{"p50": seconds, "p99": seconds}`, or null for no wait. Errors: ValueError or TypeError."""
    return Distribution(**given) if isinstance(given, dict) else _checked(given)


def _checked(given: Any) -> Distribution | None:
    if given is not None and not isinstance(given, Distribution):
        raise ValueError('a distribution is {"p50": seconds, "p99": seconds} or null')
    return given
