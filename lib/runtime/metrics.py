"""What is counted for the log: how often something was done, how long it took, and what an attempt's commits were."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime


@dataclass(slots=True)
class Durations:
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
class CommitMetrics:
    """An attempt's commits, the documents they wrote, and how many tries failed.

    `first_saved` is when its first event was saved.
    """

    commits: Durations = field(default_factory=Durations)
    writes: int = 0
    errors: int = 0
    first_saved: datetime | None = None

    def add(self, seconds: float, writes: int, first_saved: datetime | None) -> None:
        """Counts a commit that took effect; `first_saved` where it is the first with an event."""
        self.commits.add(seconds)
        self.writes += writes
        self.first_saved = self.first_saved or first_saved

    def fields(self) -> dict[str, int | None]:
        """As the log has it."""
        return {
            "commits": self.commits.count,
            "writes": self.writes,
            "commitErrors": self.errors,
            "flushMs": self.commits.average_ms,
            "flushMaxMs": self.commits.longest_ms,
        }
