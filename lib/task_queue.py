"""The queue between the two functions: one task a generation, which carries only where the generation is.

The one module that imports Cloud Tasks. Tasks are not named: a name would be refused for a while after a deletion, and
what keeps a generation from being worked twice is its lease, not the queue.
"""

from __future__ import annotations

import grpc
from google.api_core.exceptions import GoogleAPICallError, RetryError
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport
from google.protobuf.duration_pb2 import Duration

from lib.errors import Unavailable
from lib.model import Generation
from lib.settings import Settings
from lib.task import Task

ENQUEUE_SECONDS = 10.0


class TaskQueue:
    """Build it after a server's fork: gRPC does not survive one."""

    def __init__(self, settings: Settings):
        self._settings = settings
        if settings.tasks_emulator:
            channel = grpc.insecure_channel(settings.tasks_emulator)
            self._client = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
        else:
            self._client = tasks_v2.CloudTasksClient()

    def enqueue(self, generation: Generation) -> None:
        """Asks for the generation to be worked. Errors: `Unavailable`."""
        settings = self._settings
        task = tasks_v2.Task(
            http_request=tasks_v2.HttpRequest(
                http_method=tasks_v2.HttpMethod.POST,
                url=settings.worker_url,
                headers={"Content-Type": "application/json"},
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
