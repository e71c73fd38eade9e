"""The Cloud Tasks queues between the two functions. A task carries no words of the request.

The only module that imports Cloud Tasks. The lease, not the queue, prevents two workers from running the same
generation, so a task may come twice, and creating one may be retried.

A 429 or 503 from the worker, or many errors, slow the whole queue down:
https://cloud.google.com/tasks/docs/reference/rpc/google.cloud.tasks.v2#ratelimits. So a task that has to wait is not
refused: the worker schedules its successor, and is done with it. Deliveries, which are refused until their receiver
takes them, have a queue of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

import grpc
from google.api_core import exceptions
from google.api_core.gapic_v1 import routing_header
from google.cloud.tasks_v2.types import CreateTaskRequest, GetQueueRequest, HttpMethod, Queue
from google.cloud.tasks_v2.types import Task as CloudTask

from lib.cloud.channel import Channel, retried
from lib.cloud.documents import Version
from lib.domain.delivery import Delivery
from lib.domain.errors import Unavailable
from lib.domain.generation import Generation
from lib.domain.task import Created, Task
from lib.runtime.settings import Settings
from lib.runtime.telemetry import OFF, Telemetry

ENQUEUE_SECONDS = 10.0  # with retries
CHECK_SECONDS = 5.0
DELIVERY_SECONDS = 300  # for one try of a delivery, which may be to hundreds of devices

DELIVERIES = "/deliveries"  # the worker's route for them

_HOST = "cloudtasks.googleapis.com:443"
_SERVICE = "/google.cloud.tasks.v2.CloudTasks"
_CREATE = CreateTaskRequest.pb()
_CREATED = CloudTask.pb()
_GET = GetQueueRequest.pb()
_GOT = Queue.pb()
_PASSING = (
    exceptions.Cancelled,
    exceptions.DeadlineExceeded,
    exceptions.InternalServerError,
    exceptions.ServiceUnavailable,
    exceptions.Unknown,
)


class TaskQueue:
    """Construct it after the server has forked: gRPC does not work across a fork."""

    def __init__(self, settings: Settings, telemetry: Telemetry = OFF):
        self._settings = settings
        self._telemetry = telemetry
        self._channel = Channel(_HOST, settings.tasks_emulator)

    def enqueue(self, generation: Generation, version: Version = None) -> None:
        """Adds a task for the generation, as part of the current trace. Errors: `Unavailable`.

        `version` is that of the journal's head, if the generation is as it was created.
        """
        created = Created(generation, version.ToNanoseconds()) if version is not None else None
        self.schedule(Task.of(generation, created), 0.0)

    def schedule(self, task: Task, seconds: float, name: str | None = None) -> None:
        """Adds a task that is delivered after so many seconds, as part of the current trace. Errors: `Unavailable`.

        If one with this `name` exists, or existed lately, it is added no second time.
        """
        with self._telemetry.span("enqueue", "PRODUCER", generation=task.generation_id) as span:
            headers = {"traceparent": span.trace.traceparent} if span.trace else {}
            queue = self._settings.queue_path_of(task.generation_id)
            request = self._request(queue, name, seconds, int(self._settings.dispatch_seconds))
            self._address(request.task.http_request, "", task.encode(), headers)
            self._create(request)

    def deliver(self, delivery: Delivery, seconds: float = 0.0) -> None:
        """Adds a delivery's task, to be made after so many seconds, unless it exists, or existed lately.

        Errors: `Unavailable`.
        """
        request = self._request(self._settings.delivery_queue_path, delivery.name, seconds, DELIVERY_SECONDS)
        self._address(request.task.http_request, DELIVERIES, delivery.encode())
        self._create(request)

    @staticmethod
    def _request(queue: str, name: str | None, seconds: float, dispatch_seconds: int) -> Any:
        """The request to add a task that is delivered after so many seconds, without the task's own HTTP request.

        Made as a protobuf message: the library's wrappers around one take nearly as long as the call.
        """
        request = _CREATE(parent=queue)
        task = request.task
        task.dispatch_deadline.seconds = dispatch_seconds
        if name:
            task.name = f"{queue}/tasks/{name}"
        if seconds > 0:
            task.schedule_time.FromDatetime(datetime.now(UTC) + timedelta(seconds=seconds))
        return request

    def _address(self, into: Any, path: str, body: bytes, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        """Writes a request to the worker. Its token's audience is the worker's URL, whatever the path."""
        worker = self._settings.worker_url
        into.http_method = HttpMethod.POST
        into.url = f"{worker.rstrip('/')}{path}" if path else worker
        into.headers.update({"Content-Type": "application/json", **headers})
        into.body = body
        into.oidc_token.service_account_email = self._settings.invoker
        into.oidc_token.audience = worker

    def _create(self, request: Any) -> None:
        def create(timeout: float) -> None:
            self._call("CreateTask", request, _CREATED, timeout, parent=request.parent)

        try:
            retried(create, ENQUEUE_SECONDS, _PASSING)
        except exceptions.AlreadyExists:
            pass
        except exceptions.GoogleAPICallError as error:
            raise Unavailable(
                "The task queue can't be reached, so the answer was not started. Try again.", code="queue_unavailable"
            ) from error

    def check(self) -> None:
        """Checks that Cloud Tasks can be reached. Errors: the client library's own.

        Missing permission counts as reached: the check takes `cloudtasks.queues.get`, which enqueuing does not need.
        """
        queue = self._settings.queue_path
        try:
            self._call("GetQueue", _GET(name=queue), _GOT, CHECK_SECONDS, name=queue)
        except exceptions.PermissionDenied:
            pass

    def _call(self, method: str, request: Any, answer: Any, timeout: float, **resource: str) -> None:
        metadata = [routing_header.to_grpc_metadata(resource)]
        try:
            self._channel.unary(f"{_SERVICE}/{method}", request, answer, timeout, metadata)
        except grpc.RpcError as error:
            raise exceptions.from_grpc_error(error) from error
