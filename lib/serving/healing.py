"""Recovers generations that no worker runs: first with a second task, and later by ending them.

Every read of a generation calls this with what it read. A generation must not be ended early, because the task queue
may deliver late, and a worker may be waiting for Firestore with events that are saved nowhere.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta

from lib.cloud.accounts import settling
from lib.cloud.documents import Stale
from lib.cloud.store import Store
from lib.cloud.task_queue import TaskQueue
from lib.dialects.protocol import Dialect
from lib.dialects.salvage import salvaged
from lib.domain.end import State
from lib.domain.errors import Unavailable, Unreachable
from lib.domain.generation import Generation
from lib.domain.message import Said
from lib.domain.segment import Head
from lib.domain.usage import charged
from lib.journal import ending
from lib.journal.codec import replay_attempts, saved_text
from lib.journal.outbox import Outbox
from lib.journal.turns import Turns, ahead_of
from lib.journal.writer import Clock
from lib.runtime.logs import labelled

REQUEUE_AFTER = timedelta(seconds=15)  # queued, or with an expired lease
REQUEUE_EVERY = timedelta(seconds=60)  # per generation
INSIST_SECONDS = 2.0  # of retries for a user's request
_DELETE_TRIES = 5
PAUSE_SECONDS = 5.0  # after a failed write, so that not every read waits for Firestore

Dialects = Mapping[str, Dialect]

log = logging.getLogger(__name__)


class Healer:
    """Requeues or ends generations that no worker runs, and queues lost deliveries of their ends again."""

    def __init__(self, store: Store, queue: TaskQueue, dialects: Dialects, clock: Clock, outbox: Outbox):
        self._store = store
        self._queue = queue
        self._dialects = dialects
        self._clock = clock
        self._outbox = outbox
        self._turns = Turns(store, queue)
        self._paused_until = float("-inf")

    def heal(self, generation: Generation, head: Head) -> bool:
        """Recovers a lost generation. Returns whether it must be read again. Does nothing if Firestore fails."""
        if time.monotonic() < self._paused_until:
            return False
        try:
            if head.end is not None:
                self._deliver_again(generation)
                return False
            if ending.may_be_ended(head, self._clock()):
                return self._end_lost(generation, head)
            if not self._awaits_turn(generation, head):
                self.requeue(generation, head)
        except Unreachable as error:
            self._paused_until = time.monotonic() + PAUSE_SECONDS
            log.warning("generation not healed", extra={"generation": generation.id, "cause": error.cause})
        return False

    def requeue(self, generation: Generation, head: Head) -> None:
        """Adds a second task for a generation that waits for a worker, in case its first was lost. Duplicates are safe.

        The time is committed first, so that tasks do not pile up while Firestore accepts no commits.
        Errors: `Unreachable`.
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
            log.warning("generation not queued again", extra={"generation": known.id})
        else:
            log.warning("generation queued again", extra={"generation": known.id})

    def _awaits_turn(self, generation: Generation, head: Head) -> bool:
        """Whether it is another one's turn in the chat. Then that one is recovered, if it is lost.

        Errors: `Unreachable`.
        """
        if not generation.ahead or head.claims or self._clock() < generation.created_at + REQUEUE_AFTER:
            return False
        first = ahead_of(self._store, generation)
        if first is None:
            return False
        self._turns.interrupt(generation, first, self._clock())
        its_head = self._store.read_head(first)
        if its_head is not None:
            self.heal(first, its_head)
        return True

    def pass_turn(self, generation: Generation) -> None:
        """Begins the next one's turn, after a generation that took one has ended or was deleted.

        Where the queue or Firestore is away, that is left to the task that the next one has, and to its readers.
        """
        if generation.turn is not None:
            try:
                self._turns.advance(generation.message_path)
            except Unavailable:
                log.warning("turn not passed on", extra={"generation": generation.id})

    def _deliver_again(self, generation: Generation) -> None:
        """Adds the deliveries of an ended generation again, in case their tasks were lost. The queue knows duplicates.

        Errors: `Unreachable`.
        """
        now, since = self._clock(), generation.requeued_at or generation.created_at
        if not generation.outbox or not generation.state.terminal:
            return
        if now < max(since, generation.finished_at or since) + REQUEUE_EVERY:
            return
        try:
            self._store.patch(generation, {"requeuedAt": now})
        except Stale:
            return  # it was deleted just now
        self._announce(generation)

    def _announce(self, generation: Generation) -> None:
        """Adds the deliveries of a generation that has ended, or is about to be ended here.

        They are added before the end is committed, and wait for it, since nobody may come back after it. Where the
        queue is away, they are left to the next reader.
        """
        try:
            self._outbox.enqueue(generation, 0.0 if generation.state.terminal else INSIST_SECONDS)
        except Unavailable:
            log.warning("delivery not queued", extra={"generation": generation.id})

    def _end_lost(self, generation: Generation, head: Head) -> bool:
        known = self._store.generation(generation.id)  # whoever asks may have read it long ago
        if known is None or known.created_at != head.created_at or known.state.terminal:
            return True
        said, silent = self.saved(known, head)
        end = ending.lost(known, silent=silent)
        healed = end.state is not State.STOPPED
        self._announce(known)
        ending.end_unworked(self._store, known, head, end, said, self._clock, patience=0.0, healed=healed)
        self.pass_turn(known)
        return True

    def stop(self, generation: Generation, head: Head) -> None:
        """Ends a generation that no worker runs, with the outcome of a user's stop. Errors: `Unreachable`."""
        said, _ = self.saved(generation, head)
        self._announce(generation)
        ending.end_unworked(self._store, generation, head, ending.stopped(), said, self._clock, patience=INSIST_SECONDS)
        self.pass_turn(generation)

    def delete(self, generation: Generation) -> None:
        """Deletes a generation and all that was written for it. If it is counted and has not ended, settles it first.

        What it took until then is what is saved of it. Its end can't come between, nor can another deletion: each
        changes the generation's document. Errors: `Unreachable`.
        """
        for _ in range(_DELETE_TRIES):
            live = self._store.live(generation) if generation.booked and not generation.state.terminal else None
            if live is None or not live.generation.booked:
                return self._store.delete(generation)
            said, _ = self.saved(live.generation, live.head)
            with suppress(Stale):
                self._store.delete_live(live, settling(live.generation.booked, charged(live.generation, said.calls)))
                return self._store.delete(generation)
        raise Unreachable("the generation is changing")

    def saved(self, generation: Generation, head: Head) -> tuple[Said, bool]:
        """What is saved of the answer, and whether that is nothing. Errors: `Unreachable`."""
        with labelled(generation=generation.id):
            return salvaged(
                self._dialects.get(generation.dialect),
                replay_attempts(self._store, generation, head),
                lambda: saved_text(self._store, generation, head),
            )
