"""The task that deploy.sh sends in the end, as a real worker and the local queue take it."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator

import grpc
import pytest
from google.api_core.exceptions import NotFound
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from local.stack import INVOKER, QUEUE, Stack
from tests.deploy.cloud import Cloud

PATIENCE = 30.0  # seconds that a failing test waits


@pytest.fixture
def tasks(stack: Stack) -> Iterator[tasks_v2.CloudTasksClient]:
    with grpc.insecure_channel(stack.tasks_host) as channel:
        yield tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))


@pytest.fixture
def body(cloud: Cloud) -> bytes:
    """What a dry run says is sent."""
    done = cloud.run("--dry-run")
    (line,) = [line for line in done.out.splitlines() if "gcloud tasks create-http-task" in line]
    (content,) = [word for word in shlex.split(line) if word.startswith("--body-content=")]
    return content.partition("=")[2].encode()


def task(stack: Stack, body: bytes, audience: str) -> tasks_v2.Task:
    token = tasks_v2.OidcToken(service_account_email=INVOKER, audience=audience)
    return tasks_v2.Task(http_request=tasks_v2.HttpRequest(url=stack.worker_url, body=body, oidc_token=token))


def there(tasks: tasks_v2.CloudTasksClient, name: str) -> tasks_v2.Task | None:
    try:
        return tasks.get_task(name=name)
    except NotFound:
        return None


def test_the_worker_accepts_it_and_it_is_gone(stack: Stack, tasks: tasks_v2.CloudTasksClient, body: bytes) -> None:
    sent = tasks.create_task(parent=QUEUE, task=task(stack, body, stack.worker_url))
    deadline = time.monotonic() + PATIENCE
    while (left := there(tasks, sent.name)) is not None:
        assert not left.last_attempt.response_status.code
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_with_another_audience_it_stays_with_what_the_worker_answered(
    stack: Stack, tasks: tasks_v2.CloudTasksClient, body: bytes
) -> None:
    sent = tasks.create_task(parent=QUEUE, task=task(stack, body, "https://another.example"))
    deadline = time.monotonic() + PATIENCE
    while not (status := tasks.get_task(name=sent.name).last_attempt.response_status).code:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "401" in status.message
    tasks.delete_task(name=sent.name)
