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
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count

from lib.cloud.documents import Put, Version
from lib.domain.errors import Unreachable
from lib.engine.buffer import Buffer
from lib.journal.writer import RETRY_SECONDS, Journal, Prepared

TICKS = 2  # in an interval, to which the commits of many attempts are rounded, so that several are due at once
MANY = 4  # attempts, from which on that is done
SLACK = 0.05  # of the interval, by which few attempts wait longer: an event that comes just then is taken along
SHARE = 0.01  # of the interval, by which each of many attempts makes it longer
WRITES_A_CALL = 16  # a document that is slow to write holds up no more of them
CALLS_AT_ONCE = 16
EARLY_SECONDS = 0.005  # before a commit is due, for what waits in the socket to be read
IN_FLIGHT_SECONDS = 60.0  # after which a commit in flight is given up: the calls it makes are bounded by less

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
        self.left = False
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
        """Ends the commits, once none is in flight. Gives what is to be committed before anything else."""
        return self._committer.leave(self)


class Committer:
    """`batch` is `Store.batch`; `renewal` is how long a head may stay unwritten, in seconds: a part of the lease."""

    def __init__(self, batch: Batch, renewal: float):
        self._batch = batch
        self._renewal = renewal
        self._changed = threading.Condition()
        self._heap: list[tuple[float, int, Commits]] = []
        self._order = count()
        self._live: set[Commits] = set()
        self._running = False
        self._calls = ThreadPoolExecutor(CALLS_AT_ONCE, thread_name_prefix="commit")

    def join(self, buffer: Buffer, journal: Journal, interval: Callable[[], float]) -> Commits:
        """Commits what comes into `buffer` from now on. The interval is asked for before each commit."""
        commits = Commits(self, buffer, journal, interval)
        with self._changed:
            self._live.add(commits)
            self._schedule(commits, commits.renewed + self._renewal)
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="committer", daemon=True).start()
        return commits

    def leave(self, commits: Commits) -> Prepared | None:
        with self._changed:
            commits.left = True
            self._changed.wait_for(lambda: not commits.in_flight, IN_FLIGHT_SECONDS)
            self._live.discard(commits)
            pending, commits.pending = commits.pending, None
            return pending

    def wake(self, commits: Commits) -> None:
        with self._changed:
            due = max(time.monotonic(), commits.began + commits.interval())
            if not commits.in_flight and commits.pending is None and due < commits.due:
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
            if due == commits.due and not commits.left and not commits.in_flight:
                commits.in_flight = True
                ready.append(commits)
        return ready

    def _begin_all(self, ready: Sequence[Commits]) -> None:
        batch: list[tuple[Commits, Prepared, Put]] = []
        for commits in ready:
            try:
                prepared = self._prepared(commits)
                if prepared is None:
                    continue
                put = None if commits.pending is not None else commits.journal.plain(prepared)
            except Exception as error:
                self._settle(commits, None, error)
                continue
            if put is None:
                self._calls.submit(self._commit_alone, commits, prepared)
            else:
                batch.append((commits, prepared, put))
            if len(batch) == WRITES_A_CALL:
                self._calls.submit(self._commit_together, batch)
                batch = []
        if batch:
            self._calls.submit(self._commit_together, batch)

    def _prepared(self, commits: Commits) -> Prepared | None:
        """What is to be committed now; None where there is nothing, and the commits are put off."""
        now = time.monotonic()
        prepared = commits.pending
        if prepared is None:
            entries = commits.buffer.take()
            if not entries and now < commits.renewed + self._renewal:
                with self._changed:
                    commits.in_flight, commits.idle = False, True
                    self._schedule(commits, commits.renewed + self._renewal)
                    self._changed.notify_all()
                if not commits.buffer.empty:
                    self.wake(commits)  # something came just now, and was told that it need not wake anybody
                return None
            prepared = commits.journal.prepare(entries)
        commits.began = now
        commits.idle = False
        return prepared

    # The threads that make the calls

    def _commit_together(self, batch: Sequence[tuple[Commits, Prepared, Put]]) -> None:
        outcomes: Sequence[Version | Exception]
        try:
            outcomes = self._batch([put for _, _, put in batch])
        except Exception as error:
            outcomes = [error] * len(batch)
        now = time.monotonic()
        for (commits, prepared, _), outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Exception):
                # Alone, the next try finds out what it was: a lost answer, a rival, a document that can't be written.
                self._settle(commits, prepared, outcome, again_at=now)
            else:
                commits.journal.committed(prepared, outcome, now - commits.began)
                self._settle(commits, None)

    def _commit_alone(self, commits: Commits, prepared: Prepared) -> None:
        try:
            commits.journal.attempt_commit(prepared)
        except Exception as error:
            self._settle(commits, prepared, error)
        else:
            self._settle(commits, None)

    def _settle(
        self,
        commits: Commits,
        pending: Prepared | None,
        error: Exception | None = None,
        again_at: float | None = None,
    ) -> None:
        """A commit has ended. `pending` is to be tried again, at `again_at` where it is known to make sense then."""
        now = time.monotonic()
        fatal = error
        if isinstance(error, Unreachable):
            try:
                commits.journal.failed(error)
                fatal, again_at = None, None
            except Unreachable as patience_over:
                fatal = patience_over
        elif again_at is not None:
            fatal = None
        with self._changed:
            commits.in_flight = False
            commits.pending = pending
            if error is None:
                commits.renewed, commits.pause = now, RETRY_SECONDS[0]
                due = self._next_due(commits, now)
            elif again_at is not None:
                due = again_at
            else:
                due = now + commits.pause * random.uniform(0.5, 1.0)  # noqa: S311
                commits.pause = min(2 * commits.pause, RETRY_SECONDS[1])
            if not commits.left and fatal is None:
                self._schedule(commits, due)
            self._changed.notify_all()
        if fatal is not None:
            commits.buffer.close(fatal)

    def _next_due(self, commits: Commits, now: float) -> float:
        interval = commits.interval()
        due = commits.began + interval
        if interval and len(self._live) >= MANY:
            tick = interval / TICKS
            due = round(due / tick) * tick
        return max(due, now)
