"""The viewer's lease: what tells the worker, in a generation's document, that somebody is watching, and how closely.

Each api process has its own two fields, and no other process writes them. So this process relies on what it has
written, never on what it has read, which may be stale.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from lib.cloud.documents import Stale
from lib.cloud.store import Store
from lib.domain.errors import Unreachable
from lib.domain.generation import Generation
from lib.journal.writer import Clock

RETRY_SECONDS = 5.0  # after a write that failed

log = logging.getLogger(__name__)


class ViewerLease:
    """This process's lease on one generation, shared by all viewers here.

    The fields exist while somebody watches, and are removed when the last viewer leaves. Only one write is in flight,
    and after it the writing thread checks what is wanted now. So a removal can't overwrite the lease of a viewer who
    arrived in the meantime, and that viewer's lease is written right after the removal.

    Of the viewers, the one that wants to see the most decides how often the worker commits. A lease that asks for too
    little is written again at once, and one that asks for too much when it is renewed.
    """

    def __init__(
        self,
        store: Store,
        generation: Generation,
        *,
        viewer: str,
        length: timedelta,
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
    ):
        self._store = store
        self._generation = generation
        self._fields = f"watchers.{viewer}", f"every.{viewer}"
        self._clock = clock
        self._monotonic = monotonic
        self._length = length
        self._lock = threading.Lock()
        self._every: list[float] = []  # of each viewer: the seconds between two commits that are often enough for it
        self._written_every = 0.0
        self._until = float("-inf")  # when the last written lease expires, on the monotonic clock
        self._there = False  # whether the document may have the field
        self._writing = False
        self._not_before = float("-inf")

    def created(self, every: float = 0.0) -> None:
        """Records that the generation's document was just created with a full lease, for a viewer that enters now."""
        with self._lock:
            self._until, self._there = self._monotonic() + self._length.total_seconds(), True
            self._written_every = every

    def enter(self, every: float = 0.0) -> None:
        """Adds a viewer. `keep` writes the lease, once the generation is known to be live."""
        with self._lock:
            self._every.append(every)

    def leave(self, every: float = 0.0, *, live: bool) -> None:
        """Removes a viewer, and with the last one the lease, unless the generation has ended."""
        with self._lock:
            self._every.remove(every)
            last = not self._every
        if last and live:
            self.keep()

    def due(self, now: float) -> bool:
        """Whether the lease must be written. `now` is on the monotonic clock."""
        with self._lock:
            return not self._writing and self._lease_wanted(now)

    @property
    def idle(self) -> bool:
        """Whether nobody watches and nothing is being written."""
        with self._lock:
            return not self._every and not self._writing

    def keep(self) -> None:
        """Writes or removes the lease as needed. Does nothing if another thread is writing, which will check again."""
        while (wanted := self._begin()) is not None:
            began = self._monotonic()
            until = not_before = float("-inf")
            try:
                if wanted:
                    lease = self._clock() + self._length, self._written_every
                    self._store.patch(self._generation, dict(zip(self._fields, lease, strict=True)))
                    until = began + self._length.total_seconds()
                else:
                    self._store.patch(self._generation, {}, remove=self._fields)
            except (Stale, Unreachable):
                not_before = self._monotonic() + RETRY_SECONDS if wanted else not_before
                log.info("the viewer's lease could not be written", extra={"generation": self._generation.id})
            finally:
                with self._lock:
                    self._until, self._not_before, self._writing = until, not_before, False

    def _begin(self) -> bool | None:
        """Whether this thread must write the lease (True) or remove it (False), or None if there is nothing to do.

        A write whose response is lost may have taken effect, so from here on the field counts as present.
        """
        with self._lock:
            if self._writing:
                return None
            if self._lease_wanted(self._monotonic()):
                self._writing = self._there = True
                self._written_every = min(self._every)
                return True
            if not self._every and self._there:
                self._writing, self._there = True, False
                return False
            return None

    def _lease_wanted(self, now: float) -> bool:
        if not self._every or now < self._not_before:
            return False
        return self._until - now <= self._length.total_seconds() / 2 or min(self._every) < self._written_every
