"""Ending what nobody works: when that may be done, and what the end then is.

The engine ends a generation whose attempts are used up; the api ends one that no task will pick up again. Both write
through the journal, so whoever turns out to be alive after all is fenced, or fences them.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from lib.cloud.store import Store
from lib.domain.end import End, State
from lib.domain.generation import Generation
from lib.domain.message import Said
from lib.domain.segment import Head
from lib.journal.writer import LONGEST_OUTAGE_SECONDS, Clock, Journal

_MARGIN_SECONDS = 30.0  # for clocks that differ, and for a process that stood still
# After a lease's end a worker may still sit out an outage of Firestore, with events that nobody else has.
LOST_GRACE = timedelta(seconds=LONGEST_OUTAGE_SECONDS + _MARGIN_SECONDS)


def may_be_ended(head: Head, now: datetime) -> bool:
    """Whether no worker can hold the generation any more."""
    return head.end is None and now > head.lease_until + LOST_GRACE


def lost(generation: Generation, *, silent: bool) -> End:
    """How a generation ends that no worker goes on with. `silent`: no output of it is saved.

    A stop that no worker lived to see is a stop.
    """
    if generation.stop_requested_at is not None:
        return stopped()
    if not silent:
        state, what = State.INCOMPLETE, "The answer broke off: its worker was lost."
    elif generation.attempt:
        state, what = State.FAILED, "The answer could not be started: its worker was lost."
    else:
        state, what = State.FAILED, "The answer was not started."
    return End(state=state, reason="worker_lost", error={"message": what, "code": "worker_lost", "status": 503})


def stopped() -> End:
    """The end that a user asked for."""
    return End(state=State.STOPPED, reason="stopped")


def end_unworked(
    store: Store, generation: Generation, head: Head, end: End, said: Said, clock: Clock, *, patience: float
) -> tuple[Generation, Journal]:
    """Ends a generation over `head`, the version of the head that no worker holds, with what is saved.

    `patience` is for how many seconds Firestore may fail. Gives the generation as it is now, and the journal that wrote
    it. Errors: `Fenced` where somebody else was faster; `Unreachable`.
    """
    journal = Journal(
        store,
        generation,
        head,
        claims=head.claims,
        lease=timedelta(0),
        clock=clock,
        give_up_seconds=patience,
    )
    return journal.finish([], replace(end, usage=said.usage), said), journal
