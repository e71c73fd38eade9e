"""Who holds a generation: claiming it for an attempt.

The head of the journal is the lease. A claim is the first commit of an attempt's journal, over the head as it was read,
so of two claims at the same instant one loses, and who held the generation before can write nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from lib.cloud.documents import Patch
from lib.cloud.store import Store
from lib.domain import message
from lib.domain.generation import Generation, Head, State
from lib.domain.task import Task
from lib.journal.journal import Clock, Fenced, Journal

TRIES = 5


class Held(Exception):
    """A live lease has the generation; the task is to be tried again later."""


@dataclass(frozen=True, slots=True)
class Claim:
    """An attempt's hold: the generation as it is now, the head it found, and the journal to go on with."""

    generation: Generation
    found: Head
    journal: Journal


def claim(store: Store, task: Task, lease: timedelta, clock: Clock) -> Claim | None:
    """Claims a task's generation, or gives None where it has ended or is gone. Errors: `Held`, `Unreachable`."""
    for _ in range(TRIES):
        generation, head = store.generation_and_head(task.generation_id, task.message_path)
        if generation is None or head is None or generation.state.terminal:
            return None
        now = clock()
        if head.leased(now):
            raise Held
        claimed = replace(
            generation,
            state=State.STREAMING,
            attempt=head.attempt + 1,
            started_at=generation.started_at or now,
        )
        journal = Journal(store, claimed, replace(head, attempt=claimed.attempt), lease, clock)
        changed = {"state": str(claimed.state), "attempt": claimed.attempt, "startedAt": claimed.started_at}
        try:
            journal.append((), also=(Patch(claimed.path, changed), Patch(claimed.message_path, message.started(now))))
        except Fenced:
            continue
        return Claim(claimed, head, journal)
    raise Held
