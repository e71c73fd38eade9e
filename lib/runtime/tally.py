"""What is counted for the log: how often something was done, how long it took, and what an attempt's commits were."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime


@dataclass(slots=True)
class Times:
    """How long something took, each time; in seconds, and shown in milliseconds."""

    count: int = 0
    total: float = 0.0
    longest: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)

    @property
    def average_ms(self) -> int | None:
        return round(1000 * self.total / self.count) if self.count else None

    @property
    def longest_ms(self) -> int | None:
        return round(1000 * self.longest) if self.count else None


@dataclass(slots=True)
class Tally:
    """An attempt's commits, the documents they wrote, and how many were tried again.

    `first` is when its first event was saved. Only the thread that commits changes it.
    """

    commits: Times = field(default_factory=Times)
    writes: int = 0
    errors: int = 0
    first: datetime | None = None

    def fields(self) -> dict[str, int | None]:
        """As the log has it."""
        return {
            "commits": self.commits.count,
            "writes": self.writes,
            "commitErrors": self.errors,
            "flushMs": self.commits.average_ms,
            "flushMaxMs": self.commits.longest_ms,
        }
