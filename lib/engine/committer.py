"""The commits of a process's live attempts: each when it is due, and those that are due together in one call.

One thread keeps the due times, and takes from each attempt's buffer what a commit of it can hold; a few others make the
calls. A plain write of a head goes out with others in one batch, in which each write is done, or fails, by itself.
What is more than that, and what failed, goes out alone. An attempt has one commit in flight at a time.

Whatever an attempt's commit raises is that attempt's fault, and becomes its outcome. Nobody else's commits wait for it.
"""

from __future__ import annotations

import heapq
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from typing import Any

from lib.cloud.documents import Put, Version
from lib.domain.errors import Unreachable
from lib.engine.buffer import Buffer
from lib.journal.writer import RETRY_SECONDS, Journal, Prepared

TICKS = 2  # in an interval, to which the commits of many attempts are rounded, so that several are due at once
MANY = 4  # attempts, from which on that is done
SLACK = 0.05  # of the interval, by which few attempts wait longer: an event that comes just then is taken along
SHARE = 0.01  # of the interval, by which each of many attempts makes it longer
WRITES_A_CALL = 16  # a document that is slow to write holds up no more of them
CALLS_AT_ONCE = 64  # more than a process has attempts: where Firestore is slow, no try waits for another one's
EARLY_SECONDS = 0.005  # before a commit is due, for what waits in the socket to be read
IN_FLIGHT_SECONDS = 60.0  # after which who leaves waits no longer: only a very large event can take that long

Batch = Callable[[Sequence[Put]], Sequence[Version | Exception]]

log = logging.getLogger(__name__)


class Commits:
    """The commits of one attempt: what `Committer.join` gives. `interval` is the seconds between two of them.

    Lives until `leave`. All of its state is guarded by the committer's lock, but for reads of `due` and `idle`.
    """

    def __init__(self, committer: Committer, buffer: Buffer, journal: Journal, interval: Callable[[], float]):
        self.buffer = buffer
        self.journal = journal
        self.interval = interval
        self.due = 0.0  # the moment of the monotonic clock at which it is looked at next
        self.idle = True  # there was nothing to commit when it last was
        self.began = float("-inf")  # when its last commit was begun
        self.renewed = time.monotonic()  # when the head was last known to be written
        self.pending: Prepared | None = None  # what a failed commit left, to be tried again
        self.pause = RETRY_SECONDS[0]
        self.in_flight = False
        self.over = False  # nothing more is begun
        self.error: Exception | None = None  # what went wrong with them
        self._committer = committer

    def events_came(self) -> None:
        """The buffer has something. It is committed as soon as the interval allows."""
        if self.idle:
            self._committer.wake(self)

    def hurry(self) -> None:
        """The interval may have become shorter."""
        self._committer.wake(self)

    def until_due(self) -> float:
        """For how many seconds no commit can take what comes now; 0 where that is not known."""
        return 0.0 if self.idle else self.due - self._committer.early - time.monotonic()

    def leave(self) -> Prepared | None:
        """Ends the commits, once none is in flight. Gives what is to be committed before anything else.

        May be called again. Errors: what went wrong with the commits; `Unreachable` where one is in flight too long.
        """
        return self._committer.leave(self)


class Committer:
    """`batch` is `Store.batch`; `renewal` is how long a head may stay unwritten, in seconds: a part of the lease."""

    def __init__(
        self,
        batch: Batch,
        renewal: float,
        *,
        calls: Executor | None = None,
        in_flight_seconds: float = IN_FLIGHT_SECONDS,
    ):
        self._batch = batch
        self._renewal = renewal
        self._calls = calls or ThreadPoolExecutor(CALLS_AT_ONCE, thread_name_prefix="commit")
        self._in_flight_seconds = in_flight_seconds
        self._changed = threading.Condition()
        self._heap: list[tuple[float, int, Commits]] = []
        self._order = count()
        self._live: set[Commits] = set()
        self._running = False

    def join(self, buffer: Buffer, journal: Journal, interval: Callable[[], float]) -> Commits:
        """Commits what comes into `buffer` from now on. The interval is asked for before each commit."""
        commits = Commits(self, buffer, journal, interval)
        with self._changed:
            if not self._running:
                threading.Thread(target=self._run, name="committer", daemon=True).start()
                self._running = True
            self._live.add(commits)
            self._schedule(commits, commits.renewed + self._renewal)
        return commits

    def leave(self, commits: Commits) -> Prepared | None:
        with self._changed:
            if commits not in self._live:
                return None
            commits.over = True
            landed = self._changed.wait_for(lambda: not commits.in_flight, self._in_flight_seconds)
            self._live.discard(commits)
            if not self._live:
                self._changed.notify_all()
            if commits.error is not None:
                raise commits.error
            if not landed:
                raise Unreachable("a commit is in flight for too long")
            return commits.pending

    def wake(self, commits: Commits) -> None:
        with self._changed, self._own_fault(commits):
            if commits.in_flight or commits.pending is not None:
                return
            due = max(time.monotonic(), commits.began + commits.interval())
            if due < commits.due:
                commits.idle = False
                self._schedule(commits, due)

    @property
    def early(self) -> float:
        """How many seconds before a commit is due its reader is to read: the more read at once, the longer it takes."""
        return EARLY_SECONDS * (1 + len(self._live) / 16)

    def stretched(self, seconds: float) -> float:
        """The interval between two commits of an attempt, where `seconds` is what was set."""
        live = len(self._live)
        return seconds * (1 + (SHARE * live if live >= MANY else SLACK))

    @contextmanager
    def _own_fault(self, commits: Commits) -> Iterator[None]:
        """Whatever is raised inside ends these commits, and becomes the outcome of their attempt."""
        try:
            yield
        except Exception as error:
            with self._changed:
                commits.over, commits.in_flight, commits.error = True, False, error
                self._changed.notify_all()
            commits.buffer.close(error)

    # The thread that keeps the due times

    def _schedule(self, commits: Commits, due: float) -> None:
        commits.due = due
        heapq.heappush(self._heap, (due, next(self._order), commits))
        if self._heap[0][2] is commits:
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                ready = self._ready()
                while not ready:
                    if not self._live:
                        self._running = False
                        self._heap.clear()
                        return
                    self._changed.wait(max(0.0, self._heap[0][0] - time.monotonic()) if self._heap else None)
                    ready = self._ready()
            self._begin_all(ready)

    def _ready(self) -> list[Commits]:
        now = time.monotonic()
        ready = []
        while self._heap and self._heap[0][0] <= now:
            due, _, commits = heapq.heappop(self._heap)
            if due == commits.due and not commits.over and not commits.in_flight:
                commits.in_flight = True
                ready.append(commits)
        return ready

    def _begin_all(self, ready: Sequence[Commits]) -> None:
        batch: list[tuple[Commits, Prepared, Put]] = []
        for commits in ready:
            with self._own_fault(commits):
                prepared = self._prepared(commits)
                if prepared is None:
                    continue
                put = None if commits.pending is not None else commits.journal.plain(prepared)
                if put is None:
                    self._call(self._commit_alone, commits, prepared)
                else:
                    batch.append((commits, prepared, put))
            if len(batch) == WRITES_A_CALL:
                self._call(self._commit_together, batch)
                batch = []
        if batch:
            self._call(self._commit_together, batch)

    def _call(self, work: Callable[..., None], *args: Any) -> None:
        try:
            self._calls.submit(work, *args)
        except RuntimeError:
            log.exception("no thread could be started for a commit, which waits for another")

    def _prepared(self, commits: Commits) -> Prepared | None:
        """What is to be committed now; None where there is nothing, and the commits are put off."""
        now = time.monotonic()
        prepared = commits.pending
        if prepared is None:
            entries = commits.buffer.take()
            if not entries and now < commits.renewed + self._renewal:
                with self._changed:
                    commits.idle = True
                    self._land(commits, commits.renewed + self._renewal)
                if not commits.buffer.empty:
                    self.wake(commits)  # something came just now, and was told that it need not wake anybody
                return None
            prepared = commits.journal.prepare(entries)
        commits.began = now
        commits.idle = False
        return prepared

    # The threads that make the calls

    def _commit_together(self, batch: Sequence[tuple[Commits, Prepared, Put]]) -> None:
        outcomes: Sequence[tuple[tuple[Commits, Prepared, Put], Version | Exception]]
        try:
            outcomes = list(zip(batch, self._batch([put for _, _, put in batch]), strict=True))
        except Exception as error:
            outcomes = [(each, error) for each in batch]
        now = time.monotonic()
        for (commits, prepared, _), outcome in outcomes:
            with self._own_fault(commits):
                if isinstance(outcome, Exception):
                    self._failed(commits, prepared, outcome)
                else:
                    commits.journal.committed(prepared, outcome, now - commits.began)
                    self._done(commits)

    def _commit_alone(self, commits: Commits, prepared: Prepared) -> None:
        with self._own_fault(commits):
            try:
                commits.journal.attempt_commit(prepared)
            except Unreachable as error:
                self._failed(commits, prepared, error)
            else:
                self._done(commits)

    def _done(self, commits: Commits) -> None:
        now = time.monotonic()
        with self._changed:
            commits.pending, commits.pause, commits.renewed = None, RETRY_SECONDS[0], now
            self._land(commits, min(self._next_due(commits, now), now + self._renewal))

    def _failed(self, commits: Commits, prepared: Prepared, error: Exception) -> None:
        """The next try is made alone, and finds out what it was: a lost answer, a rival, what can't be written.

        Errors: `Unreachable`, where the journal's patience is over.
        """
        due = time.monotonic()
        if isinstance(error, Unreachable):
            commits.journal.failed(error)
            due += commits.pause * random.uniform(0.5, 1.0)  # noqa: S311
            commits.pause = min(2 * commits.pause, RETRY_SECONDS[1])
        with self._changed:
            commits.pending = prepared
            self._land(commits, due)

    def _land(self, commits: Commits, due: float) -> None:
        """Nothing of these commits is in flight any more. The lock is held."""
        commits.in_flight = False
        self._schedule(commits, due)
        self._changed.notify_all()

    def _next_due(self, commits: Commits, now: float) -> float:
        interval = commits.interval()
        due = commits.began + interval
        if interval and len(self._live) >= MANY:
            tick = interval / TICKS
            due = round(due / tick) * tick
        return max(due, now)
