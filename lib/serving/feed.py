"""The newest events of one followed generation, shared by all viewers in this process. Each event is decoded once.

Nothing here may read or write Firestore: a feed receives versions of the head, in any order.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

from lib.cloud.documents import Document, newer
from lib.cloud.listen import Watch
from lib.domain.end import End
from lib.domain.errors import NotFound
from lib.domain.event import Event
from lib.domain.generation import Generation
from lib.domain.segment import Head
from lib.journal.codec import Decoder
from lib.runtime.metrics import Durations
from lib.serving.viewer_lease import ViewerLease

WINDOW_BYTES = 256 << 10  # of sealed events in memory; a viewer that is further behind reads the journal
FIRST_READ_SECONDS = 2.0  # without a first state from the listener, before the head is read directly


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive events, of which `last` is the number of the last one. `end` is set if no more follow."""

    events: list[Event]
    last: int
    end: End | None = None

    @property
    def first(self) -> int:
        """The number of the first event, if there is one."""
        return self.last - len(self.events) + 1


class Gone(NotFound):
    """The generation was deleted while it was watched."""

    code = "generation_deleted"


class Feed:
    """The newest events of a generation, for any number of viewers. `lease` tells the worker that there are any."""

    def __init__(self, generation: Generation, lease: ViewerLease):
        self.generation = generation
        self.lease = lease
        self.viewers = 0
        self.watch: Watch | None = None
        self.lags = Durations()
        self._changed = threading.Condition()
        self._head: Head | None = None
        self._decoder = Decoder(0)
        self._first = 1  # the number of the first event held
        self._events: list[Event] = []
        self._size = 0
        self._gone = False
        self._last_activity = time.monotonic()

    def on_change(self, document: Document | None) -> bool:
        """Applies a version of the head. Returns whether it was news; older versions are ignored."""
        head = Head.from_fields(document.fields, document.version) if document else None
        with self._changed:
            now = self._last_activity = time.monotonic()
            last = self._head.last if self._head is not None else 0
            news = self._take(head)
            if self._gone or self._is_awaited(last, now):
                self._changed.notify_all()  # not for a claim or a renewal: nobody waits for those
            return news

    def _take(self, head: Head | None) -> bool:
        if head is None or head.created_at > self.generation.created_at:
            self._gone = True  # in the second case another generation was started under the same id
            return True
        if head.created_at < self.generation.created_at or not newer(head.version, self._head and self._head.version):
            return False
        if self._head is not None:
            self.lags.add(max(0.0, time.time() - head.version.seconds - head.version.nanos / 1e9))
        if self._head is None or head.first != self._decoder.first:
            self._decoder = Decoder(head.first)
        fresh = self._decoder.feed(head.events)
        start = head.last - len(fresh) + 1
        if self._first + len(self._events) != start:
            self._first, self._events, self._size = start, [], 0
        self._events += fresh
        self._size += data_bytes(fresh)
        if self._size > WINDOW_BYTES:
            # The head's events are in no sealed segment yet, so only sealed events may be dropped.
            sealed = max(0, head.first - self._first)
            self._size -= data_bytes(self._events[:sealed])
            del self._events[:sealed]
            self._first += sealed
        self._head = head
        return True

    def wait(self, cursor: int, seconds: float) -> None:
        """Waits up to `seconds` for something after `cursor`, or for the viewer's lease to be due.

        Errors: `Gone`.
        """
        deadline = time.monotonic() + seconds
        with self._changed:
            while not self._gone:
                now = time.monotonic()
                if now >= deadline or self._is_awaited(cursor, now):
                    return
                self._changed.wait(deadline - now)
        raise Gone("The generation was deleted.")

    def _is_awaited(self, cursor: int, now: float) -> bool:
        """Whether there is what a viewer at `cursor` waits for."""
        head = self._head
        return head is not None and (head.last > cursor or head.end is not None or self.lease.due(now))

    def wait_for_end(self, seconds: float) -> None:
        """The same for a viewer that wants to see nothing yet but the end. Errors: `Gone`."""
        self.wait(sys.maxsize, seconds)

    def after(self, cursor: int) -> Piece | None:
        """The events in memory after `cursor`, or None if older events must be read first."""
        with self._changed:
            if self._head is None:
                return Piece([], cursor)
            if cursor + 1 < self._first:
                return None
            return Piece(self._events[cursor + 1 - self._first :], self._head.last, self._head.end)

    @property
    def first(self) -> int:
        with self._changed:
            return self._first

    def silent(self, now: float, interval: float) -> bool:
        """Whether the head must be read directly, after `interval` seconds without a change. True once per interval."""
        with self._changed:
            if self._head is None:
                interval = min(interval, FIRST_READ_SECONDS)
            if now - self._last_activity < interval:
                return False
            self._last_activity = now
            return True

    @property
    def gone(self) -> bool:
        with self._changed:
            return self._gone

    @property
    def known_live(self) -> bool:
        """Whether the head has been seen and the generation has not ended."""
        with self._changed:
            return not self._gone and self._head is not None and self._head.end is None

    @property
    def live(self) -> bool:
        """Whether the generation is not known to have ended."""
        with self._changed:
            return not self._gone and (self._head is None or self._head.end is None)


def data_bytes(events: Iterable[Event]) -> int:
    """The total size of the events' data."""
    return sum([len(event.data) for event in events])
