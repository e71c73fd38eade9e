"""Commits the events of all attempts in a process: each when it is due, and those due together in one call.

One scheduling thread tracks when commits are due, and takes from each attempt's buffer what fits into one commit. A
pool of threads makes the calls. A commit that only writes a head goes into a batch with others, in which each write
succeeds or fails independently. Larger commits and retries are sent alone. Each attempt has at most one commit in
flight.

An exception from an attempt's commit becomes that attempt's outcome. It must not affect or delay other attempts.
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

TICKS = 2  # per interval; with many attempts, commits are rounded to ticks so that several are due at once
MANY = 4  # live attempts from which on ticks are used
SLACK = 0.05  # of the interval, added when there are few attempts, to include an event that arrives just then
SHARE = 0.01  # of the interval, added for each attempt when there are many
WRITES_A_CALL = 16  # limits how many commits one slow document delays
CALLS_AT_ONCE = 64  # more than a process has attempts: where Firestore is slow, no try waits for another's
EARLY_SECONDS = 0.005  # how long before a commit is due the socket is read
IN_FLIGHT_SECONDS = 60.0  # how long `leave` waits for a commit; only a very large event can take longer

Batch = Callable[[Sequence[Put]], Sequence[Version | Exception]]

log = logging.getLogger(__name__)


class Commits:
    """The commits of one attempt, from `Committer.join` until `leave`. `interval` is the seconds between two of them.

    The committer's lock guards all state, except for reads of `due` and `idle`.
    """

    def __init__(self, committer: Committer, buffer: Buffer, journal: Journal, interval: Callable[[], float]):
        self.buffer = buffer
        self.journal = journal
        self.interval = interval
        self.due = 0.0  # on the monotonic clock
        self.spacing = 0.0  # the interval as it was when the last commit was begun, in seconds
        self.idle = True  # there was nothing to commit when last due
        self.began = float("-inf")  # when the last commit was started
        self.renewed = time.monotonic()  # when the head was last written
        self.pending: Prepared | None = None  # a failed commit to retry
        self.pause = RETRY_SECONDS[0]
        self.in_flight = False
        self.over = False  # no more commits are started
        self.error: Exception | None = None
        self._committer = committer

    def events_came(self) -> None:
        """The buffer has events. They are committed as soon as the interval allows."""
        if self.idle:
            self._committer.wake(self)

    def hurry(self) -> None:
        """The interval may have become shorter."""
        self._committer.wake(self)

    def until_due(self) -> float:
        """For how many seconds no commit can take more events; 0 if that is not known.

        With many attempts, a reader reads once before each tick: what arrives between that and the commit is left to
        the next one.
        """
        if self.idle:
            return 0.0
        left = self.due - self._committer.early - time.monotonic()
        return left if left > 0.0 or not self._committer.uses_ticks else left + self.spacing

    def leave(self) -> Prepared | None:
        """Stops committing, and waits for a commit in flight. Returns a failed commit that must be retried first.

        May be called again. Errors: the exception that ended the commits; `Unreachable` if one is in flight too long.
        """
        return self._committer.leave(self)


class Committer:
    """Commits for all attempts. `batch` is `Store.batch`. An idle head is rewritten after `renewal` seconds."""

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
        """Commits what is put into `buffer` from now on. `interval` is called before each commit, and gives seconds."""
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
    def uses_ticks(self) -> bool:
        """Whether there are so many attempts that their commits are rounded to ticks."""
        return len(self._live) >= MANY

    @property
    def early(self) -> float:
        """How many seconds before a commit is due readers should read: more if many attempts read at the same time."""
        return EARLY_SECONDS * (1 + len(self._live) / 64)

    def stretched(self, seconds: float) -> float:
        """The configured interval of `seconds`, extended according to the number of live attempts."""
        live = len(self._live)
        return seconds * (1 + (SHARE * live if self.uses_ticks else SLACK))

    @contextmanager
    def _own_fault(self, commits: Commits) -> Iterator[None]:
        """An exception inside ends these commits and becomes their attempt's outcome."""
        try:
            yield
        except Exception as error:
            with self._changed:
                commits.over, commits.in_flight, commits.error = True, False, error
                self._changed.notify_all()
            commits.buffer.close(error)

    # The scheduling thread

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
            log.exception("no thread could be started for a commit, which waits for a free one")

    def _prepared(self, commits: Commits) -> Prepared | None:
        """The next commit. If there is nothing to commit, reschedules and returns None."""
        now = time.monotonic()
        prepared = commits.pending
        if prepared is None:
            entries = commits.buffer.take()
            if not entries and now < commits.renewed + self._renewal:
                with self._changed:
                    commits.idle = True
                    self._land(commits, commits.renewed + self._renewal)
                if not commits.buffer.empty:
                    self.wake(commits)  # events that arrived in between did not wake it, since it was not idle yet
                return None
            prepared = commits.journal.prepare(entries)
        commits.began = now
        commits.spacing = commits.interval()
        commits.due = now + commits.spacing  # until it lands: its reader rests while it is in flight
        commits.idle = False
        return prepared

    # The pool's threads

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
        """Schedules a retry, which is sent alone and finds out why this try failed.

        Errors: `Unreachable`, once the journal gives up.
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
        """Records that no commit is in flight any more. The caller holds the lock."""
        commits.in_flight = False
        self._schedule(commits, due)
        self._changed.notify_all()

    def _next_due(self, commits: Commits, now: float) -> float:
        interval = commits.interval()
        due = commits.began + interval
        if interval and self.uses_ticks:
            tick = interval / TICKS
            due = round(due / tick) * tick
        return max(due, now)
