"""The outbox: what is still to be delivered after a generation's end, and the tasks that deliver it.

A generation's `outbox` names its channels from the start, so the final commit is what makes it due: no other write is
needed, and nothing can come between. A channel leaves the outbox when its delivery is over. Tasks are added at least
once: the worker adds them before its own task counts as done, the api before it ends a generation that no worker runs,
and whoever reads an ended generation adds them again where they were lost.
"""

from __future__ import annotations

from collections.abc import Sequence

from lib.cloud.store import Store
from lib.cloud.task_queue import TaskQueue
from lib.domain.channel import Channel
from lib.domain.delivery import Delivery
from lib.domain.generation import Generation


class Outbox:
    """`channels` are those that this service has. Without any, nothing is read and nothing is added."""

    def __init__(self, store: Store, queue: TaskQueue, channels: Sequence[Channel]):
        self._store = store
        self._queue = queue
        self._channels = channels

    def flush(self, generation_id: str) -> None:
        """Adds the tasks of a generation that has ended. Errors: `Unreachable`; `Unavailable`, of the queue."""
        if not self._channels:
            return
        generation = self._store.generation(generation_id)
        if generation is not None and generation.state.terminal:
            self.enqueue(generation)

    def enqueue(self, generation: Generation, seconds: float = 0.0) -> None:
        """Adds the tasks of a generation that has ended, or will have in so many seconds. Errors: `Unavailable`.

        A task that comes before the end is tried again.
        """
        for channel in self._channels:
            if channel in generation.outbox:
                self._queue.deliver(Delivery.of(generation, channel), seconds)
