"""Three queues: all of them are used, and what is promised of one holds for each.

Each answer's tasks go through one of them, which its id says.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from lib.runtime.settings import Settings
from local.client import Client, Stream, question
from local.demo_text import seed_of, text
from local.ports import Ports
from local.stack import QUEUE, Stack
from tests.conftest import STRICT
from tests.receiver import Receiver
from tests.unit.engine.memory import NEEDED

NAMES = [QUEUE, f"{QUEUE}-shard-1", f"{QUEUE}-shard-2"]
KNOWN = Settings.from_env(NEEDED | {"UPSTREAM_BASE_URL": "http://127.0.0.1:9/v1", "TASKS_QUEUES": "3"})


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.shutdown()
    receiver.server_close()


@pytest.fixture(scope="module")
def settings(receiver: Receiver) -> dict[str, str]:
    return {
        "TASKS_QUEUES": "3",
        "LEASE_SECONDS": "4",
        "STATUS_WAIT_SECONDS": "0.2",
        "MAX_LIVE_GENERATIONS": "60",
        "MAX_USER_STARTS": "60",
        "UPSTREAM_CONTINUE": "prefill",
        "WEBHOOK_URL": receiver.url,
        "WEBHOOK_SECRETS": f"whsec_{base64.b64encode(uuid.uuid4().bytes * 2).decode()}",
    }


@pytest.fixture(scope="module")
def stack(stack: Stack, settings: dict[str, str]) -> Iterator[Stack]:
    with Stack(Ports.free(), settings, strict=STRICT, beside=stack) as running:
        yield running


@pytest.fixture(scope="module")
def tasks(stack: Stack) -> Iterator[Any]:
    with grpc.insecure_channel(stack.tasks_host) as channel:
        yield tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))


def waiting(tasks: Any, queue: str) -> set[str]:
    """The generations whose tasks are in a queue."""
    listed = tasks.list_tasks(request={"parent": queue, "response_view": tasks_v2.Task.View.FULL})
    return {json.loads(task.http_request.body)["generation"] for task in listed}


def asked(client: Client, least: int, open_streams: ExitStack, **demo: Any) -> list[tuple[Stream, str]]:
    """Streams of at least as many answers as said, with the text that each must have: some go through each queue."""
    begun: list[tuple[Stream, str]] = []
    while len(begun) < least or {KNOWN.queue_path_of(stream.generation) for stream, _ in begun} != set(NAMES):
        body = question(f"{len(begun)} {uuid.uuid4().hex}", 60, **demo)
        begun.append((open_streams.enter_context(client.stream(body)), text(seed_of(body["messages"]), 60)))
    return begun


def said(stream: Stream) -> str:
    """The whole text of an answer, which must have its end mark."""
    *frames, last = stream.frames()
    assert last.data == "[DONE]"
    return "".join(frame.text for frame in frames)


def test_each_answer_goes_through_the_queue_that_its_id_says_and_all_are_used(client: Client, tasks: Any) -> None:
    with ExitStack() as open_streams:
        for name in NAMES:
            tasks.pause_queue(name=name)
        begun = asked(client, 24, open_streams, rate=0)
        found = {name: waiting(tasks, name) for name in NAMES}
        for stream, _ in begun:
            assert [name for name in NAMES if stream.generation in found[name]] == [
                KNOWN.queue_path_of(stream.generation)
            ]
        for name in NAMES:
            tasks.resume_queue(name=name)
        for stream, whole in begun:
            assert said(stream) == whole


def test_a_queue_that_is_paused_holds_up_its_own_answers_alone(client: Client, tasks: Any) -> None:
    paused = NAMES[0]
    tasks.pause_queue(name=paused)
    with ExitStack() as open_streams:
        begun = asked(client, 12, open_streams, rate=0)
        behind = waiting(tasks, paused)
        assert 0 < len(behind) < len(begun)
        for stream, _ in begun:
            if stream.generation not in behind:
                client.wait_until_ended(stream.generation)
        assert {client.show(each)["state"] for each in behind} == {"queued"}
        tasks.resume_queue(name=paused)
        for stream, whole in begun:
            assert said(stream) == whole


def test_a_killed_worker_s_answers_go_on_in_each_queue_and_their_ends_are_told(
    client: Client, stack: Stack, receiver: Receiver, tasks: Any
) -> None:
    with ExitStack() as open_streams:
        # The first call of each stops in the midst, so none can end before the worker is killed.
        begun = asked(client, 12, open_streams, rate=0, fault={"kind": "stall", "at": 20, "times": 1})
        frames = [stream.frames() for stream, _ in begun]
        firsts = [next(each).text for each in frames]
        stack.processes["worker"].kill()
        stack.restart("worker")
        for (_, whole), first, rest in zip(begun, firsts, frames, strict=True):
            *others, last = rest
            assert last.data == "[DONE]"
            assert first + "".join(frame.text for frame in others) == whole
    ids = {stream.generation for stream, _ in begun}
    shown = [client.show(each) for each in ids]
    assert {each["state"] for each in shown} == {"completed"}
    assert all(each["attempt"] > 1 for each in shown)
    told = receiver.until(lambda got: {each.json["data"]["generationId"] for each in got} >= ids)
    assert {each.json["data"]["state"] for each in told} == {"completed"}
