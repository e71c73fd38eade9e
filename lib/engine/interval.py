"""The interval between two commits of an attempt: how far viewers are behind, and what Firestore bills.

It is short while an answer begins, when its reader waits for each word, and longer once there is more text than anybody
has read. An answer that another attempt began is as old as it is, so the interval does not start over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from lib.domain.generation import Generation
from lib.domain.segment import Head
from lib.journal.writer import Clock, Journal
from lib.runtime.settings import Settings

EASES_AFTER = timedelta(seconds=10)  # from the first saved event on
LATENCIES = 2  # of a commit, which the interval is at least: half of the time is left for others


class Interval:
    """The seconds that an attempt leaves between two commits, as of each call. May be called from any thread.

    `stretched` extends an interval according to how many attempts run in this process. `found` is the head that the
    attempt claimed.
    """

    def __init__(
        self,
        settings: Settings,
        generation: Generation,
        found: Head,
        journal: Journal,
        *,
        stretched: Callable[[float], float],
        clock: Clock,
    ):
        self._settings = settings
        self._journal = journal
        self._stretched = stretched
        self._clock = clock
        self._began = generation.started_at if found.last else None  # None: with this attempt's first event
        self.watched_by(generation.watchers, generation.every)

    def watched_by(self, watchers: Mapping[str, datetime], every: Mapping[str, float]) -> None:
        """Takes the viewers' leases, as the generation has them now."""
        self._leases = [(until, every.get(viewer, 0.0)) for viewer, until in watchers.items()]

    def __call__(self) -> float:
        now, seconds = self._clock(), self._settings.unwatched_flush_seconds
        wanted = min((every for until, every in self._leases if until > now), default=None)
        if wanted is not None:
            # However little they ask for, it is saved as often as an answer that nobody watches.
            seconds = max(self._stretched(self._watched(now)), min(wanted, seconds))
        return max(seconds, LATENCIES * self._journal.commit_seconds) if seconds else 0.0

    def _watched(self, now: datetime) -> float:
        seconds = self._settings.flush_seconds
        began = self._began or self._journal.metrics.first_saved
        if not seconds or began is None or now - began < EASES_AFTER:
            return seconds
        return max(seconds, self._settings.eased_flush_seconds)
