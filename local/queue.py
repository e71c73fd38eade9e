"""The queues of the local stack, with the settings of the deployed ones."""

from __future__ import annotations

import grpc
from google.api_core.exceptions import AlreadyExists
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport
from google.protobuf.duration_pb2 import Duration

ANSWERS = tasks_v2.RetryConfig(
    max_attempts=100,
    max_retry_duration=Duration(seconds=3600),
    min_backoff=Duration(seconds=1),
    max_backoff=Duration(seconds=5),
    max_doublings=4,
)
DELIVERIES = tasks_v2.RetryConfig(
    max_attempts=100,
    max_retry_duration=Duration(seconds=93600),
    min_backoff=Duration(seconds=5),
    max_backoff=Duration(seconds=900),
    max_doublings=8,
)


def create(host: str, name: str, seconds: float, shards: int = 1) -> None:
    """Creates the queue `name`, its other shards, and that of its deliveries, in the Cloud Tasks emulator at `host`.

    Those that exist stay as they are. Waits for the emulator.
    """
    channel = grpc.insecure_channel(host)
    client = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
    names = [name, *(f"{name}-shard-{shard}" for shard in range(1, shards))]
    concurrent = max(1, 480 // shards)
    queues = [
        *(_queue(each, ANSWERS, max_dispatches_per_second=500, max_concurrent_dispatches=concurrent) for each in names),
        _queue(f"{name}-deliveries", DELIVERIES, max_dispatches_per_second=100, max_concurrent_dispatches=20),
    ]
    try:
        for queue in queues:
            try:
                client.create_queue(parent=name.partition("/queues/")[0], queue=queue, timeout=seconds)
            except AlreadyExists:
                pass
    finally:
        channel.close()


def _queue(name: str, retry: tasks_v2.RetryConfig, **limits: int) -> tasks_v2.Queue:
    return tasks_v2.Queue(name=name, rate_limits=tasks_v2.RateLimits(**limits), retry_config=retry)
