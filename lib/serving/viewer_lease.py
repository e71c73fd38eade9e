"""The viewer's lease: a field of a generation's document that tells its worker that somebody is watching.

Each api process has a field of its own there and is the only one that writes it. So what this process has written is
the truth: what it once read of the field may be old.
"""

from __future__ import annotations

import logging
import threading
import time
from datetime import timedelta

from lib.cloud.documents import Stale
from lib.cloud.store import Store
from lib.domain.errors import Unreachable
from lib.domain.generation import Generation
from lib.journal.writer import Clock

RETRY_SECONDS = 5.0  # after a write that failed

log = logging.getLogger(__name__)


class ViewerLease:
    """This process's lease on one generation, for all of its viewers here.

    It is there while somebody watches, and removed when the last viewer leaves. One write is under way at a time, and
    whoever made it looks again what is wanted now. So a removal never lands after the lease of a viewer who came in the
    meantime, and that viewer has its lease as soon as the removal is through.
    """

    def __init__(self, store: Store, generation: Generation, viewer: str, clock: Clock, length: timedelta):
        self._store = store
        self._generation = generation
        self._field = f"watchers.{viewer}"
        self._clock = clock
        self._length = length
        self._lock = threading.Lock()
        self._viewers = 0
        self._until = float("-inf")  # on the monotonic clock; of the lease that was written last
        self._there = False  # whether the document may have the field
        self._writing = False
        self._not_before = float("-inf")

    def created(self) -> None:
        """The generation's document was created with a whole lease just now."""
        with self._lock:
            self._until, self._there = time.monotonic() + self._length.total_seconds(), True

    def enter(self) -> None:
        """A viewer has come. The lease is written by `keep`, once the generation is known to be live."""
        with self._lock:
            self._viewers += 1

    def leave(self, *, live: bool) -> None:
        """A viewer has left. The last one removes the lease, unless the generation has ended."""
        with self._lock:
            self._viewers -= 1
            last = not self._viewers
        if last and live:
            self.keep()

    def due(self, now: float) -> bool:
        """Whether the lease is to be written: `now` is on the monotonic clock."""
        with self._lock:
            return not self._writing and self._lease_wanted(now)

    @property
    def idle(self) -> bool:
        """Whether nobody watches and nothing is being written."""
        with self._lock:
            return not self._viewers and not self._writing

    def keep(self) -> None:
        """Writes or removes the lease, as is wanted now; nothing where another thread is at it, which looks again."""
        while (wanted := self._begin()) is not None:
            began = time.monotonic()
            until = not_before = float("-inf")
            try:
                if wanted:
                    self._store.patch(self._generation, {self._field: self._clock() + self._length})
                    until = began + self._length.total_seconds()
                else:
                    self._store.patch(self._generation, {}, remove=[self._field])
            except (Stale, Unreachable):
                not_before = time.monotonic() + RETRY_SECONDS if wanted else not_before
                log.info("the viewer's lease could not be written", extra={"generation": self._generation.id})
            finally:
                with self._lock:
                    self._until, self._not_before, self._writing = until, not_before, False

    def _begin(self) -> bool | None:
        """Whether this thread is to write the lease (True) or remove it (False); None where there is nothing to do.

        A write whose answer is lost may have taken effect, so the field counts as there from now on.
        """
        with self._lock:
            if self._writing:
                return None
            if self._lease_wanted(time.monotonic()):
                self._writing = self._there = True
                return True
            if not self._viewers and self._there:
                self._writing, self._there = True, False
                return False
            return None

    def _lease_wanted(self, now: float) -> bool:
        left = self._until - now
        return self._viewers > 0 and left <= self._length.total_seconds() / 2 and now >= self._not_before
