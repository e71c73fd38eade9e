"""How often a user may do something in this process.

Work that is refused in the end must not cost more than what is accepted: a burst of starts beyond the limit of live
answers would have each of them created, counted and deleted again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Rate:
    """At most `limit` times within a second for each user, from the first of them on."""

    def __init__(self, limit: int, monotonic: Callable[[], float] = time.monotonic):
        self._limit = limit
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._seconds: dict[
            str, tuple[float, int]
        ] = {}  # when a user's second ends, and how often it was; oldest first

    def take(self, user: str) -> bool:
        """Whether the user may do it now, which then counts."""
        with self._lock:
            now = self._monotonic()
            while self._seconds and next(iter(self._seconds.values()))[0] <= now:
                del self._seconds[next(iter(self._seconds))]
            until, count = self._seconds.get(user, (now + 1.0, 0))
            if count >= self._limit:
                return False
            self._seconds[user] = until, count + 1
            return True
