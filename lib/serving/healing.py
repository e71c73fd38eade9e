"""What becomes of a generation that nobody works: first another task, and an end once no worker can still hold it.

Whoever reads a generation calls this with what was read. The task queue delivers late, or a worker waits for Firestore
with events that nobody else has: so an end is never early, and a second task is the first remedy.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from datetime import timedelta

from lib.cloud.documents import Stale
from lib.cloud.store import Store
from lib.cloud.task_queue import TaskQueue
from lib.dialects.protocol import Dialect, Malformed
from lib.domain.end import End, State
from lib.domain.errors import Unavailable, Unreachable
from lib.domain.generation import Generation
from lib.domain.message import Said
from lib.domain.segment import Head
from lib.journal import ending
from lib.journal.codec import replay, saved_text
from lib.journal.writer import Clock, Fenced

REQUEUE_AFTER = timedelta(seconds=15)  # queued, or after a lease's end, without a worker
REQUEUE_EVERY = timedelta(seconds=60)  # for one generation
INSIST_SECONDS = 2.0  # on a stop, where Firestore fails: somebody waits for it
PAUSE_SECONDS = 5.0  # after Firestore could not be written to: whoever reads must not wait for it each time

Dialects = Mapping[str, Dialect]

log = logging.getLogger(__name__)


class Healer:
    """Queues or ends what nobody works."""

    def __init__(self, store: Store, queue: TaskQueue, dialects: Dialects, clock: Clock):
        self._store = store
        self._queue = queue
        self._dialects = dialects
        self._clock = clock
        self._paused_until = float("-inf")

    def heal(self, generation: Generation, head: Head) -> bool:
        """Sees to a generation as it was read; says whether there is news to read. Where Firestore fails: later."""
        if head.end is not None or time.monotonic() < self._paused_until:
            return False
        try:
            if ending.may_be_ended(head, self._clock()):
                return self._end_lost(generation, head)
            self.requeue(generation, head)
        except Unreachable as error:
            self._paused_until = time.monotonic() + PAUSE_SECONDS
            log.warning("a generation could not be healed", extra={"generation": generation.id, "cause": error.cause})
        return False

    def requeue(self, generation: Generation, head: Head) -> None:
        """Another task for a generation that waits for a worker: its own may be lost. Two do no harm.

        The time is committed first, so that no tasks pile up where Firestore takes no commits. Errors: `Unreachable`.
        """
        now = self._clock()
        waiting_since = head.lease_until if head.claims else generation.created_at
        if head.end is not None or now < waiting_since + REQUEUE_AFTER:
            return
        known = self._store.generation(generation.id)  # whoever asks may have read it long ago
        if known is None or known.state.terminal:
            return
        if known.requeued_at is not None and now < known.requeued_at + REQUEUE_EVERY:
            return
        try:
            self._store.patch(known, {"requeuedAt": now})
        except Stale:
            return  # it was deleted just now
        try:
            self._queue.enqueue(known)
        except Unavailable:
            log.warning("no second task could be made", extra={"generation": known.id})
        else:
            log.warning("generation queued again", extra={"generation": known.id})

    def _end_lost(self, generation: Generation, head: Head) -> bool:
        known = self._store.generation(generation.id)  # whoever asks may have read it long ago
        if known is None or known.created_at != head.created_at or known.state.terminal:
            return True
        said, silent = self.saved(known, head)
        self._end(known, head, ending.lost(known, silent=silent), said, patience=0.0)
        return True

    def stop(self, generation: Generation, head: Head) -> None:
        """Ends a generation that no worker holds as its user asked. Errors: `Unreachable`."""
        said, _ = self.saved(generation, head)
        self._end(generation, head, ending.stopped(), said, patience=INSIST_SECONDS)

    def saved(self, generation: Generation, head: Head) -> tuple[Said, bool]:
        """What the journal adds up to, and whether that is nothing. Errors: `Unreachable`.

        In a dialect that this version does not know, it is the visible text alone.
        """
        dialect = self._dialects.get(generation.dialect)
        if dialect is None:
            return Said(fields={"content": saved_text(self._store, generation, head)}), head.last == 0
        answer = dialect.answer()
        for event in replay(self._store, generation, head):
            try:
                answer.add(dialect.read(event))
            except Malformed:
                log.warning("an event of a journal can't be read", extra={"generation": generation.id})
        return answer.said(), answer.silent

    def _end(self, generation: Generation, head: Head, end: End, said: Said, *, patience: float) -> None:
        """Ends it with what is saved, unless somebody else is faster."""
        try:
            ended, journal = ending.end_unworked(
                self._store, generation, head, end, said, self._clock, patience=patience
            )
        except Fenced:
            return
        stopped = ended.state is State.STOPPED
        log.log(
            logging.INFO if stopped else logging.WARNING,
            "generation ended" if stopped else "generation healed",
            extra={
                "generation": ended.id,
                "attempt": ended.attempt,
                "upstream": ended.upstream,
                "state": str(ended.state),
                "reason": ended.reason,
                "events": ended.last_seq,
                "durationMs": round(1000 * (self._clock() - ended.created_at).total_seconds()),
                **journal.metrics.fields(),
            },
        )
