"""Reads the journal for viewers: the events after a cursor, as they are committed.

A process listens to a generation's head once, however many viewers watch it, and decodes each event once. A viewer that
lacks older events reads the sealed segments. The only thing written here is the viewer's lease. Nothing here may be
able to call the upstream.

Every wait has a time limit. A listener may fail silently or miss a version, so after some silence the head is read
directly.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from lib.cloud.listen import Listener
from lib.cloud.store import Store
from lib.domain.errors import ClientLeft, Unavailable
from lib.domain.event import Event
from lib.domain.generation import Generation
from lib.domain.segment import Head
from lib.journal.codec import decoded
from lib.journal.writer import Clock
from lib.serving.feed import Feed, Gone, Piece, data_bytes
from lib.serving.viewer_lease import ViewerLease

REREAD_SECONDS = 7.0  # of silence; a live worker writes the head at least every third of its lease
WATCH_LEASE = timedelta(seconds=30)
BACKLOG_BYTES = 256 << 10  # of older events in memory per viewer
_LONGEST_WAIT_SECONDS = 1.0  # between two calls of `keep`

Departure = Callable[[], Callable[[], bool]]
Heal = Callable[[Generation, Head], object]

log = logging.getLogger(__name__)


class Tail:
    """One viewer's position in a generation. Close it, or use it as a context manager."""

    def __init__(
        self,
        tails: Tails,
        feed: Feed,
        cursor: int,
        every: float,
        left: Callable[[], bool],
        leave: Callable[[], object],
    ):
        self._tails = tails
        self._every = every
        self._due = float("-inf")  # when the viewer wants to see more, on the monotonic clock
        self._left = left
        self._leave = leave
        self._feed = feed
        self.cursor = cursor
        self._older: Iterator[Piece] | None = None
        self._older_until = 0
        self._closed = False

    def next(self, seconds: float) -> Piece:
        """Waits up to `seconds` for what comes after the cursor, and advances it. On time-out the piece is empty.

        Pieces are `every` seconds apart, except for older events and for the end, which come at once.
        Errors: `Gone`, `Unreachable`, `ClientLeft` within about a second.
        """
        return self._next(seconds, self._left)

    def _next(self, seconds: float, left_already: Callable[[], bool]) -> Piece:
        deadline = time.monotonic() + seconds
        self._tails.keep(self._feed)
        while True:
            if self._older is not None:
                older, self._older = self._older, None
                piece = next(older, None)
                if piece is not None:
                    self._older = older
                    self.cursor = piece.last
                    return piece
                if self.cursor + 1 < self._older_until:
                    raise Gone("A part of this generation's journal no longer exists.")
            if left_already():
                raise ClientLeft("The client has left. Its answer goes on.")
            now = time.monotonic()
            left, until_due = deadline - now, self._due - now
            if until_due > 0:
                self._feed.wait_for_end(max(0.0, min(left, until_due, _LONGEST_WAIT_SECONDS)))
            else:
                self._feed.wait(self.cursor, max(0.0, min(left, _LONGEST_WAIT_SECONDS)))
            held = self._feed.after(self.cursor)
            if held is None:
                self._older_until = self._feed.first
                self._older = self._tails.older(self._feed, self.cursor)
            elif held.end or (held.events and time.monotonic() >= self._due):
                self.cursor = max(self.cursor, held.last)
                self._due = time.monotonic() + self._every
                return held
            elif left <= 0 or self._tails.closing:
                return Piece([], self.cursor)
            else:
                self._tails.keep(self._feed)

    def follow(self, piece: Piece, *, keepalive: float, seconds: float) -> Iterator[Piece]:
        """Yields the contents of one response: `piece`, what follows it, and an empty piece every `keepalive` seconds.

        Stops after the piece that has the end, after `seconds`, or at shutdown. Closes the tail. Errors: as `next`.
        """
        deadline = time.monotonic() + seconds
        try:
            while True:
                yield piece
                left = deadline - time.monotonic()
                if piece.end is not None or left <= 0 or self.closing:
                    return
                piece = self.next(min(keepalive, left))
        finally:
            self.close()

    def wait_for_end(self, seconds: float) -> None:
        """Waits up to `seconds` until the generation has ended or was deleted, whether the client is there or not."""
        deadline = time.monotonic() + seconds
        try:
            while self._next(max(0.0, deadline - time.monotonic()), _never).end is None:
                if time.monotonic() >= deadline or self.closing:
                    return
        except Gone:
            return

    @property
    def closing(self) -> bool:
        """Whether this process is about to end, so that the viewer should reconnect."""
        return self._tails.closing

    @property
    def generation_id(self) -> str:
        return self._feed.generation.id

    def close(self) -> None:
        """Stops watching. Safe to call twice."""
        if not self._closed:
            self._closed = True
            self._leave()
            self._tails.leave(self._feed, self._every)

    def __enter__(self) -> Tail:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Tails:
    """The tails of all generations that this process follows.

    `viewer` identifies the process in the viewer's lease. `heal` is called with the head of a generation that has been
    silent for a while, and may end it. `departure` returns, for the current request, a function that tells whether its
    client has left.
    """

    def __init__(
        self,
        store: Store,
        listener: Listener,
        *,
        viewer: str,
        clock: Clock,
        heal: Heal = lambda _generation, _head: None,
        departure: Departure = lambda: _never,
        reread_seconds: float = REREAD_SECONDS,
        watch_lease: timedelta = WATCH_LEASE,
    ):
        self._store = store
        self._listener = listener
        self._viewer = viewer
        self._clock = clock
        self._heal = heal
        self._departure = departure
        self._reread_seconds = reread_seconds
        self._watch_lease = watch_lease
        self._lock = threading.Lock()
        self._feeds: dict[str, Feed] = {}
        self._leases: dict[str, ViewerLease] = {}  # by generation id
        self.closing = False

    def close(self) -> None:
        """For shutdown: ends all waits."""
        self.closing = True

    def first_lease(self) -> dict[str, datetime]:
        """The viewer's lease to create a generation with. Its first tail must be opened with `created`."""
        return {self._viewer: self._clock() + self._watch_lease}

    def open(
        self,
        generation: Generation,
        cursor: int,
        *,
        every: float = 0.0,
        created: bool = False,
        leave: Callable[[], object] = lambda: None,
    ) -> Tail:
        """A tail for a viewer that has all events up to `cursor`, and wants a piece at most `every` seconds.

        `created`: the generation was created just now, with `first_lease`. `leave` is called when the tail is closed.
        """
        left = self._departure()
        with self._lock:
            lease = self._leases.get(generation.id)
            if lease is None:
                lease = ViewerLease(
                    self._store, generation, viewer=self._viewer, length=self._watch_lease, clock=self._clock
                )
                self._leases[generation.id] = lease
            if created:
                lease.created(every)
            feed = self._feeds.get(generation.id)
            if feed is None or feed.gone or feed.generation.created_at != generation.created_at:
                feed = self._feeds[generation.id] = Feed(generation, lease)
                feed.watch = self._listener.watch(generation.head_path, feed.on_change)
            feed.viewers += 1
            lease.enter(every)
        return Tail(self, feed, cursor, every, left, leave)

    def leave(self, feed: Feed, every: float) -> None:
        with self._lock:
            feed.viewers -= 1
            last = not feed.viewers
            if last and self._feeds.get(feed.generation.id) is feed:
                del self._feeds[feed.generation.id]
        if last and feed.watch is not None:
            feed.watch()
        try:
            feed.lease.leave(every, live=feed.live)
        finally:
            with self._lock:
                if feed.lease.idle and self._leases.get(feed.generation.id) is feed.lease:
                    del self._leases[feed.generation.id]
        if last:
            log.info(
                "last viewer left",
                extra={
                    "generation": feed.generation.id,
                    "changes": feed.lags.count,
                    "lagMs": feed.lags.average_ms,
                    "lagMaxMs": feed.lags.longest_ms,
                },
            )

    def keep(self, feed: Feed) -> None:
        """Periodic work for a watched feed, done by whichever viewer calls first: renew the lease, reread the head."""
        now = time.monotonic()
        if feed.known_live and feed.lease.due(now):
            feed.lease.keep()
        if feed.silent(now, self._reread_seconds):
            try:
                document = self._store.head_document(feed.generation)
                if feed.on_change(document) and feed.watch is not None:
                    feed.watch.restart()
                if document is not None:
                    self._heal(feed.generation, Head.from_fields(document.fields, document.version))
            except Unavailable:
                log.warning("the head could not be read again", extra={"generation": feed.generation.id})

    def older(self, feed: Feed, cursor: int) -> Iterator[Piece]:
        """Yields the sealed events between `cursor` and the first event in memory, in pieces of limited size."""
        events: list[Event] = []
        size = 0
        for first, segment in decoded(self._store.segments(feed.generation, cursor, feed.first)):
            if first + len(segment) <= cursor + 1:
                continue
            if first > cursor + 1:
                break  # the segment before it has expired
            fresh = segment[cursor + 1 - first :]
            events += fresh
            size += data_bytes(fresh)
            cursor = first + len(segment) - 1
            if size > BACKLOG_BYTES:
                yield Piece(events, cursor)
                events, size = [], 0
        if events:
            yield Piece(events, cursor)


def _never() -> bool:
    return False
