"""Enforces an upstream's deadlines. The attempt polls this; the call's own time-outs are longer, as a fallback."""

from __future__ import annotations

import time

from lib.engine.reader import Reader
from lib.runtime.catalog import Deadlines
from lib.upstream.fault import UpstreamFault

SECOND_LOOK_SECONDS = 0.5


class Watch:
    """The deadlines of one call, on the monotonic clock.

    Silence must be confirmed by a second check: after the whole process was paused, received bytes are still unread.
    """

    def __init__(self, deadlines: Deadlines, reader: Reader):
        self._deadlines = deadlines
        self._reader = reader
        self._total = time.monotonic() + deadlines.total
        self._suspected: float | None = None  # the last activity that was found to be too long ago
        self._second_look = 0.0

    def next(self) -> float:
        """When to check again."""
        silence = self._second_look if self._reader.last_activity == self._suspected else self._silence()
        return min(self._total, silence)

    def passed(self) -> UpstreamFault | None:
        """The fault for a deadline that has passed, or None."""
        now = time.monotonic()
        if now >= self._total:
            return UpstreamFault("deadline", "The answer took longer than it may.", status=504)
        if now < self._silence():
            return None
        if self._suspected != self._reader.last_activity:
            self._suspected, self._second_look = self._reader.last_activity, now + SECOND_LOOK_SECONDS
        if now < self._second_look:
            return None
        if self._reader.answered:
            return UpstreamFault("upstream_idle", "The upstream fell silent in the middle of its answer.", passing=True)
        return UpstreamFault(
            "upstream_timeout", "The upstream did not begin to answer in time.", passing=True, status=504
        )

    def _silence(self) -> float:
        patience = self._deadlines.idle if self._reader.answered else self._deadlines.first_byte
        return self._reader.last_activity + patience
