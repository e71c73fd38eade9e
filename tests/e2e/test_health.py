"""Health and readiness of both functions, on real parts that freeze, end and come back."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import requests
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from lib.runtime.health import TIMEOUT_SECONDS
from local.ports import Ports
from local.stack import QUEUE, Stack

# Less than the reads that it asks with may take by themselves.
ANSWER_SECONDS = TIMEOUT_SECONDS + 5
PATIENCE = 60


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    environ = {name: value for name, value in os.environ.items() if not name.endswith("_PORT")}
    with Stack(Ports.free(), environ=environ) as stack:
        yield stack


def status(url: str) -> int:
    return requests.get(url, timeout=ANSWER_SECONDS).status_code


def until(url: str, wanted: int) -> requests.Response:
    """The answer, once it has this status."""
    deadline = time.monotonic() + PATIENCE
    while (answer := requests.get(url, timeout=ANSWER_SECONDS)).status_code != wanted:
        assert time.monotonic() < deadline, f"{url} still says {answer.status_code}"
        time.sleep(0.1)
    return answer


def test_both_functions_live_and_are_ready_and_want_no_token(stack: Stack) -> None:
    for url in (f"{stack.url}/", stack.worker_url):
        assert [status(f"{url}{path}") for path in ("healthz", "health")] == [200, 200]
        until(f"{url}ready", 200)


def test_a_frozen_firestore_makes_neither_ready_within_a_bound_and_both_again_when_it_continues(stack: Stack) -> None:
    stack.processes["firestore"].pause()
    try:
        for url in (f"{stack.url}/", stack.worker_url):
            error = until(f"{url}ready", 503).json()["error"]
            assert error["message"] == "Not ready: no answer from Firestore."
            assert error["code"] == "not_ready"
            assert status(f"{url}health") == 200
            with ThreadPoolExecutor(30) as many:
                assert set(many.map(status, [f"{url}ready"] * 60)) == {503}
    finally:
        stack.processes["firestore"].resume()
    for url in (f"{stack.url}/", stack.worker_url):
        until(f"{url}ready", 200)


def test_a_queue_that_is_not_there_makes_the_api_not_ready_and_so_does_cloud_tasks_being_away(stack: Stack) -> None:
    channel = grpc.insecure_channel(stack.tasks_host)
    client = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
    queue = client.get_queue(name=QUEUE)
    client.delete_queue(name=QUEUE)
    error = until(f"{stack.url}/ready", 503).json()["error"]
    assert error["message"] == "Not ready: no answer from Cloud Tasks."
    client.create_queue(parent=QUEUE.partition("/queues/")[0], queue=tasks_v2.Queue(name=queue.name))
    until(f"{stack.url}/ready", 200)
    channel.close()
    stack.processes["tasks"].pause()
    try:
        until(f"{stack.url}/ready", 503)
    finally:
        stack.processes["tasks"].resume()
    until(f"{stack.url}/ready", 200)
    stack.processes["tasks"].kill()
    until(f"{stack.url}/ready", 503)
    assert status(f"{stack.worker_url}ready") == 200
