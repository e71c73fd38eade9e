"""Claiming a generation for an attempt.

The head of the journal is the lease. A claim is an attempt's first commit, a compare-and-set on the head that it read.
So of two simultaneous claims one fails, and the previous holder can't write any more. The task of a new generation says
what was created, so that it can be claimed without reading it first.

A lease may expire while its worker is alive: Firestore accepted no commits for a while, and the worker has buffered
what it read meanwhile. Taking over at once would lose that. So before claiming an expired lease, this first checks that
commits work again, and gives the worker time to make one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from lib.cloud.documents import Patch, Stale, Version, version_at
from lib.cloud.store import Request, Store
from lib.domain import message
from lib.domain.end import State
from lib.domain.generation import Generation
from lib.domain.segment import Head, empty_head
from lib.domain.task import Created, Task
from lib.journal.ending import may_be_ended
from lib.journal.turns import ahead_of
from lib.journal.writer import RETRY_SECONDS, Clock, Fenced, Journal

TRIES = 5
TAKEOVER_SECONDS = RETRY_SECONDS[1] + 1.0  # longer than a live worker's longest back-off


class Held(Exception):
    """Another worker holds the lease, `until` it runs out. The task should be retried then."""

    def __init__(self, until: datetime):
        super().__init__("another worker holds the lease")
        self.until = until


class RanOut(Exception):
    """The lease has expired, but its worker may be alive. Claim again after `TAKEOVER_SECONDS`, with this `version`."""

    def __init__(self, version: Version):
        super().__init__("a lease ran out")
        self.version = version


@dataclass(frozen=True, slots=True)
class Claim:
    """A successful claim: the updated generation, the head that was found, and the journal to write to.

    `request` waits for the request, which may be read while the claim is made. Errors: `RequestLost`, `Unreachable`.
    """

    generation: Generation
    found: Head
    journal: Journal
    request: Callable[[], Request]


@dataclass(frozen=True, slots=True)
class AwaitsTurn:
    """It is the turn of another generation in the chat, `first`."""

    generation: Generation
    first: Generation


@dataclass(frozen=True, slots=True)
class Exhausted:
    """The generation must be ended: all attempts are used up and the last one's lease has expired.

    Or it was stopped while it waited for its turn, or has waited too long.
    """

    generation: Generation
    found: Head


def claim(
    store: Store,
    task: Task,
    lease: timedelta,
    clock: Clock,
    most: Callable[[Generation], int],
    given_time: Version = None,
) -> Claim | Exhausted | AwaitsTurn | None:
    """Claims a task's generation. Returns None if it has ended or was deleted.

    `most` says how often a generation may be claimed. `given_time` is the `version` of an earlier `RanOut`, whose
    worker has had `TAKEOVER_SECONDS` to write the head.
    Errors: `Held`; `RanOut`; `Unreachable`, after which the claim may have taken effect and cost one attempt.
    """
    if task.created is not None and given_time is None:
        claimed = _claim_created(store, task.created, lease, clock)
        if claimed is not None:
            return claimed
    for _ in range(TRIES):
        generation, head = store.generation_and_head(task.generation_id, task.message_path)
        if generation is None or head is None or generation.state.terminal:
            return None
        now = clock()
        if head.leased(now):
            raise Held(head.lease_until)
        if head.claims and not head.released and head.version != given_time:
            _show_that_commits_work(store, generation, now)
            raise RanOut(head.version)
        if generation.ahead and not head.claims and (first := ahead_of(store, generation)) is not None:
            if generation.stop_requested_at is not None or may_be_ended(head, now):
                return Exhausted(generation, head)
            return AwaitsTurn(generation, first)
        if head.claims >= most(generation):
            return Exhausted(generation, head)
        try:
            return _claim(store, generation, head, lease, clock, partial(_requested, store, generation))
        except Fenced:
            continue
    raise Held(clock())  # others are claiming it


def _requested(store: Store, generation: Generation) -> Request:
    return Request(store.request(generation), generation.stop_requested_at)


def _claim_created(store: Store, created: Created, lease: timedelta, clock: Clock) -> Claim | None:
    """Claims a generation that is as it was created. Returns None if it is not. Errors: `Unreachable`."""
    generation = created.generation
    at = generation.created_at
    head = replace(empty_head(at, at), version=version_at(created.version))
    try:
        return _claim(store, generation, head, lease, clock, store.reading_request(generation))
    except Fenced:
        return None


def _claim(
    store: Store, generation: Generation, head: Head, lease: timedelta, clock: Clock, request: Callable[[], Request]
) -> Claim:
    """Errors: `Fenced` if the head has changed, `Unreachable`."""
    now = clock()
    claimed = replace(
        generation,
        state=State.STREAMING,
        attempt=head.claims + 1,
        started_at=generation.started_at or now,
    )
    journal = Journal(store, claimed, head, claims=claimed.attempt, lease=lease, clock=clock)
    changed = {"state": str(claimed.state), "attempt": claimed.attempt, "startedAt": claimed.started_at}
    journal.claim(Patch(claimed.path, changed), Patch(claimed.message_path, message.started(now)))
    if head.claims:
        # What an attempt that was lost wrote of a large event. It can't write any more of it.
        store.discard_after(claimed, head.last)
    return Claim(claimed, head, journal, request)


def _show_that_commits_work(store: Store, generation: Generation, now: datetime) -> None:
    try:
        store.patch(generation, {"takeoverAt": now})
    except Stale:
        pass  # it was deleted, which the next read shows
