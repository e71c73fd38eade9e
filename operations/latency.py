"""Latencies, as they are told: by percentiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Latency:
    """Durations, in seconds."""

    seconds: Sequence[float]

    def percentile(self, percent: float) -> float:
        """The smallest that is not below this share of all; infinite if there is none."""
        ordered = sorted(self.seconds)
        rank = -(-len(ordered) * percent // 100)
        return ordered[max(int(rank) - 1, 0)] if ordered else float("inf")

    def __str__(self) -> str:
        """The median, the 95th percentile and the longest, in milliseconds."""
        shown = [f"{self.percentile(percent) * 1000:,.0f}" if self.seconds else "-" for percent in (50, 95, 100)]
        return "".join(f"{each:>9}" for each in shown)
