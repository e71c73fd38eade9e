"""Counters and durations that are reported as fields of log lines. Nothing here may send or log them itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime


@dataclass(slots=True)
class Durations:
    """How often something was done and how long it took. Added in seconds, reported in milliseconds."""

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
    """An attempt's commits, the number of documents they wrote, and the number of failed tries.

    `first_saved` is when the attempt's first event was saved.
    """

    commits: Durations = field(default_factory=Durations)
    writes: int = 0
    errors: int = 0
    first_saved: datetime | None = None

    def add(self, seconds: float, writes: int, first_saved: datetime | None) -> None:
        """Counts a commit that took effect. `first_saved` is the current time if it was the first with an event."""
        self.commits.add(seconds)
        self.writes += writes
        self.first_saved = self.first_saved or first_saved

    def fields(self) -> dict[str, int | None]:
        """The fields of a log line."""
        return {
            "commits": self.commits.count,
            "writes": self.writes,
            "commitErrors": self.errors,
            "flushMs": self.commits.average_ms,
            "flushMaxMs": self.commits.longest_ms,
        }
