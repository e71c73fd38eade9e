"""How often one document may be written: past a budget, commits take longer, and at multiples of it some are ABORTED.

Google's guide is soft. It once named a sustained rate of one write a second to a document. Today it says that the rate
"depends highly on the workload" (https://cloud.google.com/firestore/docs/best-practices), and that "updating a single
document too frequently" is a cause of latency and contention
(https://cloud.google.com/firestore/docs/resolve-latency). No measurement of one sequential writer was found. So the
resistance here grows slowly with the multiple: at ten times the budget a commit takes some 18 ms longer and one in 500
is aborted.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable

WINDOW = 10.0  # seconds over which the rate is taken, so that a burst of ten times the budget is free
SLOWER = 0.002  # seconds on average, for each multiple above the budget
SLOWEST = 2.0
ABORTED = 0.0002  # of the commits, for each multiple above the budget
MOST_ABORTED = 0.2
CONTENTION = "Too much contention on these documents. Please try again."
_KEPT = 10_000  # documents


class Budget:
    """The recent writes to each document. Times are those of a monotonic clock, in seconds."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._written: dict[str, tuple[float, float]] = {}

    def write(self, document: str, allowed: float, now: float) -> float:
        """Counts a write. Returns what multiple of the `allowed` writes a second the document is written at."""
        if len(self._written) > _KEPT:
            self._written = {name: each for name, each in self._written.items() if now - each[1] < WINDOW}
        count, at = self._written.get(document, (0.0, now))
        count = count * math.exp((at - now) / WINDOW) + 1
        self._written[document] = count, now
        return count / (WINDOW * allowed)

    def wait(self, multiples: Iterable[float]) -> float:
        """Seconds that a commit takes longer, for its most written document."""
        above = max(0.0, max(multiples, default=0.0) - 1)
        return min(SLOWEST, above * SLOWER * self._chance.expovariate(1.0)) if above else 0.0

    def aborts(self, multiple: float) -> bool:
        return self._chance.random() < min(MOST_ABORTED, ABORTED * (multiple - 1))
