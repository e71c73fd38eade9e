"""The queue of the local stack, with the settings of the deployed one."""

from __future__ import annotations

import grpc
from google.api_core.exceptions import AlreadyExists
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport
from google.protobuf.duration_pb2 import Duration


def create(host: str, name: str, seconds: float) -> None:
    """Creates the queue `name` in the Cloud Tasks emulator at `host`, unless it exists. Waits for the emulator."""
    channel = grpc.insecure_channel(host)
    client = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
    queue = tasks_v2.Queue(
        name=name,
        rate_limits=tasks_v2.RateLimits(max_dispatches_per_second=500, max_concurrent_dispatches=480),
        retry_config=tasks_v2.RetryConfig(
            max_attempts=100,
            min_backoff=Duration(seconds=1),
            max_backoff=Duration(seconds=5),
            max_doublings=4,
        ),
    )
    try:
        client.create_queue(parent=name.partition("/queues/")[0], queue=queue, timeout=seconds)
    except AlreadyExists:
        pass
    finally:
        channel.close()
