"""What becomes of a task that can't be worked now: a successor, which the queue delivers later.

A 429 or 503 would slow the whole queue down, so the worker does not refuse such a task. It schedules another one with
the same body, and is done with this one. What bounds the chain that this makes:

- A task has one successor, however often it is delivered, since the successor's name is made from its own. So
  duplicates do not multiply. Cloud Tasks keeps a name for up to a day after its task is done; a successor that comes
  twice all the same does no harm.
- A task of a generation that has ended, or was deleted, has no successor.
- While another worker holds the lease, a chain has one task in each lease's time.
- Attempts are counted by claims, and not here. A released attempt adds one task, so there are at most `MAX_ATTEMPTS`.
- While another generation of the chat has the turn, a chain has one task in `seconds_behind` it. It is what makes sure
  that a waiting generation is begun, whoever is lost; the worker that ends the one before adds another task, at once.
- A chain ends after `MOST_WAITS` in any case. Whoever reads the generation then queues it again or ends it.
"""

from __future__ import annotations

import logging
import math
import random
import re

from flask import Response, jsonify

from lib.cloud.task_queue import TaskQueue
from lib.domain.errors import Unavailable
from lib.domain.generation import Generation
from lib.domain.task import Task
from lib.journal.turns import seconds_behind

SHORTEST_WAIT_SECONDS = 1.0  # the queue's clock may be ahead of this one
OUTAGE_SECONDS = (1.0, 30.0)  # the shortest and the longest back-off while Firestore can't be reached
MOST_WAITS = 1000  # far more than there are leases in the longest answer

_SUCCESSOR = re.compile(r"(?P<root>.+)-w(?P<waits>[0-9]{1,4})", re.ASCII)

log = logging.getLogger(__name__)


class Waiting:
    """The next delivery of a task. `name` is the task's in the queue, from the header `X-CloudTasks-TaskName`."""

    def __init__(self, queue: TaskQueue, task: Task, name: str | None):
        self._queue = queue
        self._task = task
        successor = _SUCCESSOR.fullmatch(name or "")
        self._root = successor["root"] if successor else name
        self._waits = int(successor["waits"]) if successor else 0

    def attempt(self, seconds: float) -> Response:
        """The response to a task whose attempt was released, and is to be followed by another after `seconds`."""
        return self._scheduled(seconds, None)

    def lease(self, seconds: float) -> Response:
        """The response to a task whose generation another worker holds for so many seconds more."""
        return self._follow(max(seconds, SHORTEST_WAIT_SECONDS))

    def turn(self, first: Generation) -> Response:
        """The response to a task whose generation waits for the turn of another one to end."""
        return self._follow(seconds_behind(first))

    def outage(self) -> Response:
        """The response to a task that can't be worked while Firestore can't be reached."""
        shortest, longest = OUTAGE_SECONDS
        back_off = min(shortest * 2.0 ** min(self._waits, 10), longest)
        return self._follow(back_off * random.uniform(0.5, 1.0))  # noqa: S311

    def _follow(self, seconds: float) -> Response:
        if self._waits >= MOST_WAITS:
            log.error("task dropped after too many waits", extra={"generation": self._task.generation_id})
            return jsonify(state=None)
        return self._scheduled(seconds, f"{self._root}-w{self._waits + 1}" if self._root else None)

    def _scheduled(self, seconds: float, name: str | None) -> Response:
        """Schedules the successor. If the queue can't be reached either, it has to deliver the same task again."""
        generation_id, milliseconds = self._task.generation_id, round(1000 * seconds)
        response = jsonify(state=None)
        try:
            self._queue.schedule(self._task, seconds, name)
        except Unavailable:
            log.warning("task not scheduled again", extra={"generation": generation_id, "retryMs": milliseconds})
            response.status_code = Unavailable.status
            response.headers["Retry-After"] = str(math.ceil(max(seconds, SHORTEST_WAIT_SECONDS)))
        else:
            log.info("task scheduled again", extra={"generation": generation_id, "retryMs": milliseconds})
        return response
