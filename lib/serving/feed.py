"""One generation's head as this process follows it, however many viewers watch: each event is decoded once.

Nothing here reads or writes Firestore: a feed is told of the head's versions, in whatever order, and holds the newest
events of it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

from lib.cloud.documents import Document
from lib.cloud.listen import Watch
from lib.domain.end import End
from lib.domain.errors import NotFound
from lib.domain.event import Event
from lib.domain.generation import Generation
from lib.domain.segment import Head
from lib.journal.codec import Decoder
from lib.runtime.metrics import Durations
from lib.serving.viewer_lease import ViewerLease

WINDOW_BYTES = 256 << 10  # of sealed events a feed still holds; a viewer that is further behind reads the journal
FIRST_READ_SECONDS = 2.0  # without a first word from the listener; nobody can be shown anything before it


@dataclass(frozen=True, slots=True)
class Piece:
    """Events in order, numbered up to `last`; and the end, if nothing comes after them."""

    events: list[Event]
    last: int
    end: End | None = None

    @property
    def first(self) -> int:
        """The number of the first event, where there is one."""
        return self.last - len(self.events) + 1


class Gone(NotFound):
    """The generation was deleted while it was watched."""

    code = "generation_deleted"


class Feed:
    """The newest events of a generation, for any number of viewers. `lease` tells its worker of them."""

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
        """Takes the head in as it is now, and says whether that is news: what is older changes nothing."""
        head = Head.from_fields(document.fields, document.version) if document else None
        with self._changed:
            self._last_activity = time.monotonic()
            news = self._take(head)
            self._changed.notify_all()
            return news

    def _take(self, head: Head | None) -> bool:
        if head is None or head.created_at > self.generation.created_at:
            self._gone = True  # in the second case another generation was started under the same id
            return True
        if head.created_at < self.generation.created_at or not _newer(head, self._head):
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
            # What the head holds is nowhere else yet, so only what is sealed may go.
            sealed = max(0, head.first - self._first)
            self._size -= data_bytes(self._events[:sealed])
            del self._events[:sealed]
            self._first += sealed
        self._head = head
        return True

    def wait(self, cursor: int, seconds: float) -> None:
        """Waits until there is something after `cursor`, or a viewer's lease to write, or the time is over.

        Errors: `Gone`.
        """
        deadline = time.monotonic() + seconds
        with self._changed:
            while not self._gone:
                head, now = self._head, time.monotonic()
                if head is not None and (head.last > cursor or head.end is not None or self.lease.due(now)):
                    return
                if now >= deadline:
                    return
                self._changed.wait(deadline - now)
        raise Gone("The generation was deleted.")

    def after(self, cursor: int) -> Piece | None:
        """What is held after `cursor`, or None where older events are needed first."""
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
        """Whether it is time to read the head without the listener's help; says so once an interval, in seconds."""
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
        """Whether the head has been seen, and has no end."""
        with self._changed:
            return not self._gone and self._head is not None and self._head.end is None

    @property
    def live(self) -> bool:
        """Whether nothing says that the generation has ended."""
        with self._changed:
            return not self._gone and (self._head is None or self._head.end is None)


def data_bytes(events: Iterable[Event]) -> int:
    """How many bytes of data the events have."""
    return sum([len(event.data) for event in events])


def _newer(head: Head, known: Head | None) -> bool:
    if known is None:
        return True
    return (head.version.seconds, head.version.nanos) > (known.version.seconds, known.version.nanos)
