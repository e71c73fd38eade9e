"""A task in its queue, and what its last delivery came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from google.cloud import tasks_v2 as v2
from grpc import StatusCode


class Outcome(NamedTuple):
    """The result of a delivery: the response's status, or 0 if there was none. `retry_after` is in seconds."""

    status: int
    code: StatusCode
    reason: str
    retry_after: int = 0


@dataclass(eq=False)
class Entry:
    """A task and its internal state. `ticket` identifies its one valid entry in the schedule."""

    task: v2.Task
    ticket: int = 0
    in_flight: int = 0
    executions: int = 0
    last: Outcome | None = None
