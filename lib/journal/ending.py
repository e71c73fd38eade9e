"""Ending a generation that no worker runs: when that is allowed, and with what outcome.

The worker ends generations that have used up their attempts. The api ends generations that no task will pick up again.
Both write through the journal, so if another writer turns out to be alive, one of the two is fenced.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime, timedelta

from lib.cloud.store import Store
from lib.domain.end import End, State
from lib.domain.generation import Generation
from lib.domain.message import Said
from lib.domain.segment import Head
from lib.journal.writer import LONGEST_OUTAGE_SECONDS, Clock, Fenced, Journal

_MARGIN_SECONDS = 30.0  # for clock differences and paused processes
# After its lease has expired, a worker may still be waiting for Firestore with events that are saved nowhere.
LOST_GRACE = timedelta(seconds=LONGEST_OUTAGE_SECONDS + _MARGIN_SECONDS)

log = logging.getLogger(__name__)


def may_be_ended(head: Head, now: datetime) -> bool:
    """Whether no worker can be running the generation any more."""
    return head.end is None and now > head.lease_until + LOST_GRACE


def lost(generation: Generation, *, silent: bool) -> End:
    """The outcome of a generation whose worker was lost. `silent`: no output is saved.

    If a stop was requested before, the outcome is that stop.
    """
    if generation.stop_requested_at is not None:
        return stopped()
    if not silent:
        state, what = State.INCOMPLETE, "The answer broke off: its worker was lost."
    elif generation.attempt:
        state, what = State.FAILED, "The answer could not be started: its worker was lost."
    else:
        state, what = State.FAILED, "The answer was not started."
    error = {"message": what, "code": "worker_lost", "status": 503, "retryable": True}
    return End(state=state, reason="worker_lost", error=error)


def stopped() -> End:
    """The outcome of a user's stop."""
    return End(state=State.STOPPED, reason="stopped")


def end_unworked(
    store: Store,
    generation: Generation,
    head: Head,
    end: End,
    said: Said,
    clock: Clock,
    *,
    patience: float,
    healed: bool = False,
) -> Generation | None:
    """Ends a generation with what is saved, by replacing `head`, whose lease no worker holds, and logs that.

    `patience` is how long to retry while Firestore fails, in seconds. `healed`: no worker could hold it any more.
    Returns the ended generation, or None if another writer was faster. Errors: `Unreachable`.
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
    try:
        ended = journal.finish([], replace(end, usage=said.usage), said)
    except Fenced:
        return None
    log.log(
        logging.INFO if ended.state is State.STOPPED else logging.WARNING,
        "generation healed" if healed else "generation ended",
        extra={
            "generation": ended.id,
            "attempt": ended.attempt,
            "upstream": ended.upstream,
            "state": str(ended.state),
            "reason": ended.reason,
            "events": ended.last_seq,
            "costMicros": ended.charge["cost"] if ended.charge else None,
            "durationMs": round(1000 * (clock() - ended.created_at).total_seconds()),
            **journal.metrics.fields(),
        },
    )
    return ended
