"""Passing a chat's turn on, and looking after those that wait for it.

The order is its own outbox: once the generation before it has left, the first one that is still queued is due, and
whoever comes by adds its task. That is whoever ended the one before, at once; the task that each waiting generation has
from its start, once in `TURN_SECONDS`; and every reader of it. The task has a name, so that the queue has it once.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

from lib.cloud.documents import Stale
from lib.cloud.store import Store
from lib.cloud.task_queue import TaskQueue
from lib.cloud.turns import Order
from lib.domain.end import State
from lib.domain.errors import Unreachable
from lib.domain.generation import Generation
from lib.domain.task import Task
from lib.domain.turn import TurnMode

TURN_SECONDS = 30.0  # between two looks at a waiting generation, in case that nobody passed the turn on
BESIDE_SECONDS = 2.0  # where it waits for one that takes no turn, which passes none on
_TRIES = 200  # each takes one generation out of an order, or lost a race


def ahead_of(store: Store, generation: Generation) -> Generation | None:
    """The generation whose turn it is before it is this one's. Errors: `Unreachable`."""
    order, first = _first(store, generation.message_path)
    return first if first is not None and generation.id in order.ids[1:] else None


def _first(store: Store, message_path: str) -> tuple[Order, Generation | None]:
    """The order of a chat, and the generation whose turn it is. Errors: `Unreachable`.

    Takes out those that are no more: a generation that has expired could not leave by itself.
    """
    for _ in range(_TRIES):
        order = store.turns.order(message_path)
        live = store.turns.live(order.ids[:1])
        if live or not order.ids:
            return order, live[0] if live else None
        with suppress(Stale):
            store.commit(store.turns.changed(order, order.ids[1:], datetime.now(UTC)))
    raise Unreachable("the chat is changing")


def seconds_behind(first: Generation | None) -> float:
    """How long one that waits for the first one may go without a look at it."""
    return TURN_SECONDS if first is None or first.turn is not None else BESIDE_SECONDS


class Turns:
    """Adds the tasks of generations whose turn has come."""

    def __init__(self, store: Store, queue: TaskQueue):
        self._store = store
        self._queue = queue

    def wait(self, generation: Generation, first: Generation | None) -> None:
        """Adds the task that looks after a generation while it waits for the first one. Errors: `Unavailable`."""
        self._queue.schedule(Task.of(generation), seconds_behind(first))

    def advance(self, message_path: str) -> None:
        """Adds the task of the chat's first generation, if no worker has claimed it yet.

        Errors: `Unreachable`; `Unavailable`, of the queue.
        """
        _, first = _first(self._store, message_path)
        if first is not None:
            self.begin(first)

    def begin(self, first: Generation) -> None:
        """Adds the task of a generation whose turn it is, if no worker has claimed it yet. Errors: `Unavailable`."""
        if first.state is State.QUEUED:
            milliseconds = int(first.created_at.timestamp() * 1000)
            self._queue.schedule(Task.of(first), 0.0, f"{first.id}-{milliseconds}-turn")

    def interrupt(self, waiting: Generation, first: Generation, now: datetime) -> None:
        """Asks for the stop of what runs, if one that waits is to interrupt it. Errors: `Unreachable`.

        A user stops only answers of its own: those of others in a shared chat are waited for.
        """
        if waiting.turn is not TurnMode.INTERRUPT or first.owner != waiting.owner or first.stop_requested_at:
            return
        with suppress(Stale):  # it was deleted just now
            self._store.patch(first, {"stopRequestedAt": now})
