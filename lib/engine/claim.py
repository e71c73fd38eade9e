"""Claiming a generation for an attempt.

The head of the journal is the lease. A claim is the first commit of an attempt's journal, over the head as it was read,
so of two claims at the same instant one loses, and who held the generation before can write nothing more.

A lease may run out while its worker is alive: Firestore has taken no commits for a while, and the worker holds what it
read meanwhile. To take it over then would lose that. So a claim over a lease that ran out first shows that commits work
again, and leaves the worker the time to make one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from lib.cloud.documents import Patch, Stale, Version
from lib.cloud.store import Store
from lib.domain import message
from lib.domain.end import State
from lib.domain.generation import Generation
from lib.domain.segment import Head
from lib.domain.task import Task
from lib.journal.writer import RETRY_SECONDS, Clock, Fenced, Journal

TRIES = 5
TAKEOVER_SECONDS = RETRY_SECONDS[1] + 1.0  # a live worker's next try comes before that


class Held(Exception):
    """A live lease has the generation; the task is to be tried again later."""


class RanOut(Exception):
    """The lease ran out, and its worker may be alive: claim again after `TAKEOVER_SECONDS`, with this `version`."""

    def __init__(self, version: Version):
        super().__init__("a lease ran out")
        self.version = version


@dataclass(frozen=True, slots=True)
class Claim:
    """An attempt's hold: the generation as it is now, the head it found, and the journal to go on with."""

    generation: Generation
    found: Head
    journal: Journal


@dataclass(frozen=True, slots=True)
class Exhausted:
    """A generation whose attempts are used up, and whose last one no longer holds it: it is to be ended."""

    generation: Generation
    found: Head


def claim(
    store: Store, task: Task, lease: timedelta, clock: Clock, max_attempts: int, given_time: Version = None
) -> Claim | Exhausted | None:
    """Claims a task's generation, or gives None where it has ended or is gone.

    `given_time` is the version of a head whose lease had run out, and whose worker was given the time to write it.
    Errors: `Held`; `RanOut`; `Unreachable`, also where a claim may have taken effect: only that attempt is lost by it.
    """
    for _ in range(TRIES):
        generation, head = store.generation_and_head(task.generation_id, task.message_path)
        if generation is None or head is None or generation.state.terminal:
            return None
        now = clock()
        if head.leased(now):
            raise Held
        if head.claims and not head.released and head.version != given_time:
            _show_that_commits_work(store, generation, now)
            raise RanOut(head.version)
        if head.claims >= max_attempts:
            return Exhausted(generation, head)
        claimed = replace(
            generation,
            state=State.STREAMING,
            attempt=head.claims + 1,
            started_at=generation.started_at or now,
        )
        journal = Journal(store, claimed, head, claims=claimed.attempt, lease=lease, clock=clock)
        changed = {"state": str(claimed.state), "attempt": claimed.attempt, "startedAt": claimed.started_at}
        try:
            journal.claim(Patch(claimed.path, changed), Patch(claimed.message_path, message.started(now)))
        except Fenced:
            continue
        return Claim(claimed, head, journal)
    raise Held


def _show_that_commits_work(store: Store, generation: Generation, now: datetime) -> None:
    try:
        store.patch(generation, {"takeoverAt": now})
    except Stale:
        pass  # it was deleted, as the next look will show
