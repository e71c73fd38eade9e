"""The journal's readers: the frames after a cursor, as they come, for any number of viewers.

A process follows a generation's head once, however many watch it: one listener, each frame decoded once. A viewer that
lacks older frames reads the sealed segments. Nothing here writes but the viewer's lease, which tells the worker that
somebody is watching; nothing here may call the upstream or know how to.

Every wait has a bound. A listener may die without a word, or miss a version, so a feed that has been silent reads the
head itself.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from lib.cloud.documents import Document, Stale, Unreachable
from lib.cloud.listen import Listener, Watch
from lib.cloud.store import Store
from lib.domain.errors import NotFound, Unavailable
from lib.domain.generation import End, Generation, Head
from lib.journal.journal import Decoder, decoded
from lib.runtime.tally import Times

WINDOW_BYTES = 256 << 10  # of sealed frames a feed still holds; a viewer that is further behind reads the journal
REREAD_SECONDS = 7.0  # of silence; a head that is worked is written at least every third of its lease
FIRST_READ_SECONDS = 2.0  # without a first word from the listener; nobody can be shown anything before it
WATCH_LEASE = timedelta(seconds=30)
BACKLOG_BYTES = 256 << 10  # of older frames a viewer holds at a time

Clock = Callable[[], datetime]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Piece:
    """Frames in order, the last of them numbered `last`; and the end, if nothing comes after them."""

    frames: list[bytes]
    last: int
    end: End | None = None


class Gone(NotFound):
    """The generation was deleted while it was watched."""

    code = "generation_deleted"


class Feed:
    """One generation's head as this process follows it."""

    def __init__(self, generation: Generation, leased: bool):
        self.generation = generation
        self.viewers = 0
        self.watch: Watch | None = None
        self._changed = threading.Condition()
        self._head: Head | None = None
        self._decoder = Decoder(0)
        self._first = 1  # the number of the first frame held
        self._frames: list[bytes] = []
        self._size = 0
        self._gone = False
        self.lags = Times()
        self._heard = time.monotonic()
        self._lease_renewed = time.monotonic() if leased else float("-inf")

    def on_change(self, document: Document | None) -> bool:
        """Takes the head in as it is now, and says whether that is news: what is older changes nothing."""
        head = Head.from_fields(document.fields, document.version) if document else None
        with self._changed:
            self._heard = time.monotonic()
            news = head is None or self._head is None or _newer(head, self._head)
            if head is None:
                self._gone = True
            elif news:
                if self._head is not None:
                    self.lags.add(max(0.0, time.time() - head.version.seconds - head.version.nanos / 1e9))
                self._take(head)
            self._changed.notify_all()
            return news

    def _take(self, head: Head) -> None:
        if head.first != self._decoder.first or self._head is None:
            self._decoder = Decoder(head.first)
        fresh = self._decoder.feed(head.frames)
        start = head.last - len(fresh) + 1
        if self._first + len(self._frames) != start:
            self._first, self._frames, self._size = start, [], 0
        self._frames += fresh
        self._size += sum(map(len, fresh))
        if self._size > WINDOW_BYTES:
            # What the head holds is nowhere else yet, so only what is sealed may go.
            sealed = max(0, head.first - self._first)
            self._size -= sum(map(len, self._frames[:sealed]))
            del self._frames[:sealed]
            self._first += sealed
        self._head = head

    def wait(self, cursor: int, seconds: float) -> Head | None:
        """The head once it has something after `cursor`, or as it is when the time is over. Errors: `Gone`."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while not self._gone:
                head = self._head
                if head is not None and (head.last > cursor or head.end is not None):
                    return head
                left = deadline - time.monotonic()
                if left <= 0:
                    return head
                self._changed.wait(left)
        raise Gone("The generation was deleted.")

    def after(self, cursor: int) -> Piece | None:
        """What is held after `cursor`, or None where older frames are needed first."""
        with self._changed:
            if self._head is None:
                return Piece([], cursor)
            if cursor + 1 < self._first:
                return None
            return Piece(self._frames[cursor + 1 - self._first :], self._head.last, self._head.end)

    @property
    def first(self) -> int:
        with self._changed:
            return self._first

    def silent(self, now: float, interval: float) -> bool:
        """Whether it is time to read the head without the listener's help; says so once an interval, in seconds."""
        with self._changed:
            if self._head is None:
                interval = min(interval, FIRST_READ_SECONDS)
            if now - self._heard < interval:
                return False
            self._heard = now
            return True

    def lease_due(self, now: float, interval: float) -> bool:
        """Whether it is time to renew the viewer's lease; says so once an interval, in seconds."""
        with self._changed:
            if self._gone or self._head is None or self._head.end is not None:
                return False
            if now - self._lease_renewed < interval:
                return False
            self._lease_renewed = now
            return True

    @property
    def gone(self) -> bool:
        with self._changed:
            return self._gone

    @property
    def live(self) -> bool:
        with self._changed:
            return not self._gone and (self._head is None or self._head.end is None)


class Tail:
    """One viewer's place in a generation. Close it, or use it with `with`."""

    def __init__(self, tails: Tails, feed: Feed, cursor: int):
        self._tails = tails
        self._feed = feed
        self.cursor = cursor
        self._older: Iterator[Piece] | None = None
        self._older_until = 0
        self._closed = False

    def next(self, seconds: float) -> Piece:
        """What comes after the cursor, which moves on; without frames and end when there was nothing for `seconds`.

        Errors: `Gone`, `Unreachable`.
        """
        deadline = time.monotonic() + seconds
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
            left = deadline - time.monotonic()
            self._feed.wait(self.cursor, max(0.0, min(left, 1.0)))
            self._tails.keep(self._feed)
            held = self._feed.after(self.cursor)
            if held is None:
                self._older_until = self._feed.first
                self._older = self._tails.older(self._feed, self.cursor)
            elif held.frames or held.end:
                self.cursor = max(self.cursor, held.last)
                return held
            elif left <= 0 or self._tails.closing:
                return held

    def follow(self, piece: Piece, *, keepalive: float, seconds: float) -> Iterator[Piece]:
        """What one response is made from: `piece`, what comes after it, and an empty piece every `keepalive` seconds.

        Ends with the piece that has the end, or without one after `seconds`, or when the process is to end. Closes
        this. Errors: as `next`.
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
        """Waits until the generation has ended or is gone, or the time is over."""
        deadline = time.monotonic() + seconds
        try:
            while self.next(max(0.0, deadline - time.monotonic())).end is None:
                if time.monotonic() >= deadline or self.closing:
                    return
        except Gone:
            return

    @property
    def closing(self) -> bool:
        """Whether this process is about to end, so that the viewer should come back to another."""
        return self._tails.closing

    @property
    def generation_id(self) -> str:
        return self._feed.generation.id

    def close(self) -> None:
        """Leaves the generation; safe to call twice."""
        if not self._closed:
            self._closed = True
            self._tails.leave(self._feed)

    def __enter__(self) -> Tail:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Tails:
    """All that this process follows.

    `viewer` names the process in the viewer's lease. `heal` is called with the head of a generation that was silent for
    a while, and may end it.
    """

    def __init__(
        self,
        store: Store,
        listener: Listener,
        viewer: str,
        clock: Clock,
        *,
        reread_seconds: float = REREAD_SECONDS,
        watch_lease: timedelta = WATCH_LEASE,
    ):
        self._store = store
        self._listener = listener
        self._viewer = viewer
        self._clock = clock
        self._reread_seconds = reread_seconds
        self._watch_lease = watch_lease
        self._lock = threading.Lock()
        self._feeds: dict[str, Feed] = {}
        self.closing = False
        self.heal: Callable[[Generation, Head], object] = lambda _generation, _head: None

    def close(self) -> None:
        """The process is about to end: nobody need wait for more."""
        self.closing = True

    def open(self, generation: Generation, cursor: int) -> Tail:
        """A viewer that has everything up to `cursor`."""
        with self._lock:
            feed = self._feeds.get(generation.id)
            if feed is None or feed.gone:
                leased = generation.watchers.get(self._viewer, self._clock()) > self._clock()
                feed = self._feeds[generation.id] = Feed(generation, leased)
                feed.watch = self._listener.watch(generation.head_path, feed.on_change)
            feed.viewers += 1
        return Tail(self, feed, cursor)

    def leave(self, feed: Feed) -> None:
        with self._lock:
            feed.viewers -= 1
            if feed.viewers:
                return
            if self._feeds.get(feed.generation.id) is feed:
                del self._feeds[feed.generation.id]
        if feed.watch is not None:
            feed.watch()
        log.info(
            "generation followed",
            extra={
                "generation": feed.generation.id,
                "changes": feed.lags.count,
                "lagMs": feed.lags.average_ms,
                "lagMaxMs": feed.lags.longest_ms,
            },
        )
        if feed.live:
            self._lease(feed, held=False)

    def keep(self, feed: Feed) -> None:
        """What has to be done now and then while a feed is watched, by whichever viewer comes by first."""
        now = time.monotonic()
        if feed.lease_due(now, self._watch_lease.total_seconds() / 2):
            self._lease(feed, held=True)
        if feed.silent(now, self._reread_seconds):
            try:
                document = self._store.head_document(feed.generation)
                if feed.on_change(document) and feed.watch is not None:
                    feed.watch.restart()
                if document is not None:
                    self.heal(feed.generation, Head.from_fields(document.fields, document.version))
            except (Unreachable, Unavailable):
                log.warning("the head could not be read again", extra={"generation": feed.generation.id})

    def first_lease(self) -> dict[str, datetime]:
        """The viewer's lease that a generation is created with."""
        return {self._viewer: self._clock() + self._watch_lease}

    def _lease(self, feed: Feed, held: bool) -> None:
        field = f"watchers.{self._viewer}"
        try:
            if held:
                self._store.patch(feed.generation, {field: self._clock() + self._watch_lease})
            else:
                self._store.patch(feed.generation, {}, remove=[field])
        except (Stale, Unreachable):
            log.info("the viewer's lease could not be written", extra={"generation": feed.generation.id})

    def older(self, feed: Feed, cursor: int) -> Iterator[Piece]:
        """The sealed frames after `cursor` and before what the head holds, a bounded piece at a time."""
        frames: list[bytes] = []
        size = 0
        for first, segment in decoded(self._store.segments(feed.generation, cursor, feed.first)):
            if first + len(segment) <= cursor + 1:
                continue
            if first > cursor + 1:
                break  # the one before it is no longer there
            fresh = segment[cursor + 1 - first :]
            frames += fresh
            size += sum(map(len, fresh))
            cursor = first + len(segment) - 1
            if size > BACKLOG_BYTES:
                yield Piece(frames, cursor)
                frames, size = [], 0
        if frames:
            yield Piece(frames, cursor)


def _newer(head: Head, known: Head) -> bool:
    return (head.version.seconds, head.version.nanos) > (known.version.seconds, known.version.nanos)
