"""How late Cloud Tasks dispatches tasks, by its own clock.

Cloud Tasks keeps nothing of a task that was answered with success. Of one that is under way it says when it was
dispatched: `firstAttempt.dispatchTime`, to the microsecond
(https://cloud.google.com/tasks/docs/reference/rest/v2/projects.locations.queues.tasks). So the tasks here go to an
address that never answers, and are read while they wait. That is also what a queue sees of answers, which run for a
while: it speeds up by the tasks that have succeeded
(https://cloud.google.com/tasks/docs/common-pitfalls). They go through a queue of their own, new and idle, since errors
and tasks under way slow a queue down, and no answer may be late for this.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import grpc
from google.api_core.exceptions import FailedPrecondition, NotFound
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport
from google.protobuf.duration_pb2 import Duration

from operations.latency import Latency

SILENT = "http://192.0.2.1/"  # an address for documentation, which nothing has: https://www.rfc-editor.org/rfc/rfc5737
CALL_SECONDS = 10.0
USABLE_SECONDS = 60.0  # how long a new queue may refuse tasks
DISPATCH_SECONDS = 600  # a task is under way for this long, if it is not answered
_POLL_SECONDS = 0.5
_PAGE = 1000
# No task is tried twice while this runs: its first attempt is what is measured.
_RETRY = tasks_v2.RetryConfig(max_attempts=2, min_backoff=Duration(seconds=3600), max_backoff=Duration(seconds=3600))


@dataclass(frozen=True)
class Delays:
    """Of `sent` tasks, how late those were whose dispatch is known.

    `refused` were refused by the target, which slows a queue down. `gone` were accepted, so nothing is known of them.
    """

    sent: int
    late: Latency
    refused: int
    gone: int


class OwnQueue:
    """A queue of this run's own. `delete` it in the end, whatever happened."""

    def __init__(self, project: str, location: str, emulator: str | None = None):
        self._location = f"projects/{project}/locations/{location}"
        self.name = f"holdfast-measure-{uuid.uuid4().hex[:12]}"  # a deleted queue's name can't be used again for days
        self.path = f"{self._location}/queues/{self.name}"
        if emulator:
            transport = CloudTasksGrpcTransport(channel=grpc.insecure_channel(emulator))
            self._client = tasks_v2.CloudTasksClient(transport=transport)
        else:
            self._client = tasks_v2.CloudTasksClient()

    def limits_of(self, queue: str) -> Any:
        """The limits of another queue. Errors: the client library's own."""
        limits = self._client.get_queue(name=f"{self._location}/queues/{queue}", timeout=CALL_SECONDS).rate_limits
        limits.max_burst_size = 0  # Cloud Tasks sets it
        return limits

    def create(self, limits: Any) -> None:
        """Makes the queue. Errors: the client library's own."""
        queue = tasks_v2.Queue(name=self.path, rate_limits=limits, retry_config=_RETRY)
        self._client.create_queue(parent=self._location, queue=queue, timeout=CALL_SECONDS)

    def measure(self, tasks: int, target: str, patience: float) -> Delays:
        """Sends tasks one after another, and waits up to `patience` seconds until all are dispatched."""
        due: dict[str, datetime] = {}
        for _ in range(tasks):
            task = self._send(target)
            due[task.name] = task.schedule_time
        deadline = time.monotonic() + patience
        seen: dict[str, Any] = {}
        while True:
            there = {task.name: task for task in self._tasks()}
            seen |= {name: task for name, task in there.items() if task.first_attempt.dispatch_time}
            gone = due.keys() - there.keys() - seen.keys()
            if len(seen) + len(gone) == tasks or time.monotonic() > deadline:
                break
            time.sleep(_POLL_SECONDS)
        late = [(task.first_attempt.dispatch_time - due[name]).total_seconds() for name, task in seen.items()]
        refused = sum(bool(task.response_count) for task in seen.values())
        return Delays(tasks, Latency([max(0.0, each) for each in late]), refused, len(gone))

    def _send(self, target: str) -> Any:
        """Creates a task. A new queue may refuse it for a while."""
        request = tasks_v2.HttpRequest(http_method=tasks_v2.HttpMethod.POST, url=target)
        task = tasks_v2.Task(http_request=request, dispatch_deadline=Duration(seconds=DISPATCH_SECONDS))
        deadline = time.monotonic() + USABLE_SECONDS
        while True:
            try:
                return self._client.create_task(parent=self.path, task=task, timeout=CALL_SECONDS)
            except (NotFound, FailedPrecondition):
                if time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_SECONDS)

    def _tasks(self) -> Iterable[Any]:
        request = tasks_v2.ListTasksRequest(parent=self.path, page_size=_PAGE)
        return self._client.list_tasks(request=request, timeout=CALL_SECONDS)  # type: ignore[no-any-return]

    def delete(self) -> None:
        """Deletes the queue and its tasks, if it was made. Errors: the client library's own."""
        try:
            self._client.delete_queue(name=self.path, timeout=CALL_SECONDS)
        except NotFound:
            pass
