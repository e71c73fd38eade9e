"""The Cloud Tasks queue between the two functions. A task carries only a generation's id and its message's path.

The only module that imports Cloud Tasks. Tasks have no names: Cloud Tasks rejects a name for a while after its task was
deleted, and the lease, not the queue, prevents two workers from running the same generation.
"""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from google.api_core.exceptions import GoogleAPICallError, PermissionDenied, RetryError
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport
from google.protobuf.duration_pb2 import Duration

from lib.domain.errors import Unavailable
from lib.domain.generation import Generation
from lib.domain.task import Task
from lib.runtime.settings import Settings
from lib.runtime.telemetry import OFF, Telemetry

ENQUEUE_SECONDS = 10.0
CHECK_SECONDS = 5.0


class TaskQueue:
    """Construct it after the server has forked: gRPC does not work across a fork."""

    def __init__(self, settings: Settings, telemetry: Telemetry = OFF):
        self._settings = settings
        self._telemetry = telemetry
        if settings.tasks_emulator:
            channel = grpc.insecure_channel(settings.tasks_emulator)
            self._client = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
        else:
            self._client = tasks_v2.CloudTasksClient()

    def enqueue(self, generation: Generation) -> None:
        """Adds a task for the generation, as part of the current trace. Errors: `Unavailable`."""
        with self._telemetry.span("enqueue", "PRODUCER", generation=generation.id) as span:
            self._create(generation, {"traceparent": span.trace.traceparent} if span.trace else {})

    def _create(self, generation: Generation, headers: Mapping[str, str]) -> None:
        settings = self._settings
        task = tasks_v2.Task(
            http_request=tasks_v2.HttpRequest(
                http_method=tasks_v2.HttpMethod.POST,
                url=settings.worker_url,
                headers={"Content-Type": "application/json", **headers},
                body=Task(generation.id, generation.message_path).encode(),
                oidc_token=tasks_v2.OidcToken(service_account_email=settings.invoker, audience=settings.worker_url),
            ),
            dispatch_deadline=Duration(seconds=int(settings.dispatch_seconds)),
        )
        try:
            self._client.create_task(parent=settings.queue_path, task=task, timeout=ENQUEUE_SECONDS)
        except (GoogleAPICallError, RetryError) as error:
            raise Unavailable(
                "The task queue can't be reached, so the answer was not started. Try again.", code="queue_unavailable"
            ) from error

    def check(self) -> None:
        """Checks that Cloud Tasks can be reached. Errors: the client library's own.

        Missing permission counts as reached: the check takes `cloudtasks.queues.get`, which enqueuing does not need.
        """
        try:
            self._client.get_queue(name=self._settings.queue_path, retry=None, timeout=CHECK_SECONDS)
        except PermissionDenied:
            pass
