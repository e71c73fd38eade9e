"""How often one document can be committed, and how soon a listener has each version.

It does to one document what a worker does to a journal's head: one writer, one commit at a time, each over the version
before it, of fields that no index covers. It writes to no other document than `path`, and removes it.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from lib.cloud.documents import Delete, Document, Documents, Put, Version
from lib.cloud.listen import Listener
from lib.domain.collections import JOURNAL, MEASURE
from lib.domain.errors import Unreachable
from lib.journal.writer import retried
from operations.latency import Latency

BYTES = 8 << 10  # of events, about what a head has on average
EXPIRY = timedelta(days=1)  # if this process is killed, the journals' TTL policy removes the document
PATIENCE = 30.0
ROUND_TRIPS = 5
TOLERATED = 0.01  # of the commits: with more contention, a rate is too high
LATEST = 1.0  # s from a commit's start to the listener, p95: with more, a rate is too high


@dataclass(frozen=True)
class Measured:
    """What came of commits at `rate` a second.

    `missed` is the number of commits of which the listener never heard, by a version of its own or a later one.
    """

    rate: float
    seconds: float
    commit: Latency
    delivery: Latency
    aborted: int = 0
    failed: int = 0
    missed: int = 0

    @property
    def reached(self) -> float:
        """Commits a second."""
        return len(self.commit.seconds) / self.seconds

    @property
    def keeps_up(self) -> bool:
        """Whether an interval of 1 / rate holds. A worker's own is never less than twice the time of a commit."""
        tried = len(self.commit.seconds) + self.aborted + self.failed
        return (
            self.aborted + self.failed <= TOLERATED * tried
            and not self.missed
            and self.commit.percentile(95) <= 0.5 / self.rate
            and self.delivery.percentile(95) <= LATEST
        )


def suggested(measured: Sequence[Measured]) -> float | None:
    """The shortest interval between commits that holds, and all longer ones with it, in seconds."""
    interval = None
    for each in sorted(measured, key=lambda each: each.rate):
        if not each.keeps_up:
            break
        interval = 1 / each.rate
    return interval


@dataclass
class MeasuredDocument:
    """The document. `remove` it in the end, whatever happened."""

    documents: Documents
    listener: Listener
    path: str = field(default_factory=lambda: f"{MEASURE}/{uuid.uuid4().hex}/{JOURNAL}/head")

    def __post_init__(self) -> None:
        self._number = 0
        self._version: Version = None
        self._heard = threading.Condition()
        self._listening = False
        self._waiting: dict[int, float] = {}  # number of a commit → when it was begun
        self._deliveries: list[float] = []

    def round_trip(self) -> float:
        """Seconds that a read takes from here, at best."""
        taken = []
        for _ in range(ROUND_TRIPS):
            begun = time.monotonic()
            self.documents.get(self.path)
            taken.append(time.monotonic() - begun)
        return min(taken)

    def measure(self, rate: float, seconds: float) -> Measured:
        """Commits at this rate for this long. Errors: `Unreachable` if no commit or no listener is ever answered."""
        retried(lambda: self._commit(time.monotonic()), PATIENCE)  # there is a document to listen to from the first on
        self._waiting, self._deliveries = {}, []
        unwatch = self.listener.watch(self.path, self._hear)
        try:
            self._wait(lambda: self._listening)
            if not self._listening:
                raise Unreachable("the listener was not answered")
            return self._measure(rate, seconds)
        finally:
            unwatch()
            self._listening = False

    def _measure(self, rate: float, seconds: float) -> Measured:
        taken: list[float] = []
        causes: list[str] = []
        begun = due = time.monotonic()
        while due < begun + seconds:
            time.sleep(max(0.0, due - time.monotonic()))
            started = time.monotonic()
            try:
                self._commit(started)
                taken.append(time.monotonic() - started)
            except Unreachable as error:
                causes.append(error.cause)
            due = max(due + 1 / rate, time.monotonic())
        elapsed = max(due, time.monotonic()) - begun
        self._wait(lambda: not self._waiting)
        with self._heard:
            missed, deliveries = len(self._waiting), self._deliveries
            self._waiting = {}
        aborted = causes.count("Aborted")
        return Measured(rate, elapsed, Latency(taken), Latency(deliveries), aborted, len(causes) - aborted, missed)

    def _commit(self, started: float) -> None:
        self._number += 1
        with self._heard:
            self._waiting[self._number] = started
        now = datetime.now(UTC)
        fields = {"first": 1, "last": self._number, "events": os.urandom(BYTES), "at": now, "expireAt": now + EXPIRY}
        version, self._version = self._version, None
        try:
            (self._version,) = self.documents.commit(Put(self.path, fields, version))
        except BaseException:
            with self._heard:
                self._waiting.pop(self._number, None)
            raise

    def _hear(self, document: Document | None) -> None:
        now = time.monotonic()
        with self._heard:
            self._listening = True
            last = document.fields["last"] if document else 0
            for number in [each for each in self._waiting if each <= last]:
                self._deliveries.append(now - self._waiting.pop(number))
            self._heard.notify_all()

    def _wait(self, ready: Callable[[], bool]) -> None:
        with self._heard:
            self._heard.wait_for(ready, PATIENCE)

    def remove(self) -> None:
        """Deletes the document, with retries. Errors: `Unreachable`."""
        retried(self._delete, PATIENCE)

    def _delete(self) -> None:
        self.documents.commit(Delete(self.path))
