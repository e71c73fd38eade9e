"""The queue between the two functions: one task a generation, which carries only where the generation is.

The one module that imports Cloud Tasks. Tasks are not named: a name would be refused for a while after a deletion, and
what keeps a generation from being worked twice is its lease, not the queue.
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
    """Build it after a server's fork: gRPC does not survive one."""

    def __init__(self, settings: Settings, telemetry: Telemetry = OFF):
        self._settings = settings
        self._telemetry = telemetry
        if settings.tasks_emulator:
            channel = grpc.insecure_channel(settings.tasks_emulator)
            self._client = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
        else:
            self._client = tasks_v2.CloudTasksClient()

    def enqueue(self, generation: Generation) -> None:
        """Asks for the generation to be worked, in the trace at hand. Errors: `Unavailable`."""
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
        """Asks the queue how it is. Errors: the client library's own.

        Who may not ask (that takes `cloudtasks.queues.get`, which enqueuing does not) has still reached Cloud Tasks.
        """
        try:
            self._client.get_queue(name=self._settings.queue_path, retry=None, timeout=CHECK_SECONDS)
        except PermissionDenied:
            pass
