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
        "UPSTREAM_CONTINUE": "prefill",
        "WEBHOOK_URL": receiver.url,
        "WEBHOOK_SECRETS": f"whsec_{base64.b64encode(uuid.uuid4().bytes * 2).decode()}",
    }


@pytest.fixture(scope="module")
def stack(settings: dict[str, str]) -> Iterator[Stack]:
    with Stack(Ports.free(), settings, strict=STRICT) as running:
        yield running


@pytest.fixture(scope="module")
def tasks(stack: Stack) -> Iterator[Any]:
    with grpc.insecure_channel(stack.tasks_host) as channel:
        yield tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))


def waiting(tasks: Any, queue: str) -> set[str]:
    """The generations whose tasks are in a queue."""
    listed = tasks.list_tasks(request={"parent": queue, "response_view": tasks_v2.Task.View.FULL})
    return {json.loads(task.http_request.body)["generation"] for task in listed}


def asked(number: int, **demo: Any) -> list[dict[str, Any]]:
    return [question(f"{number} {uuid.uuid4().hex}", 60, **demo) for number in range(number)]


def said(stream: Stream) -> str:
    """The whole text of an answer, which must have its end mark."""
    *frames, last = stream.frames()
    assert last.data == "[DONE]"
    return "".join(frame.text for frame in frames)


def test_each_answer_goes_through_the_queue_that_its_id_says_and_all_are_used(client: Client, tasks: Any) -> None:
    known = Settings.from_env(NEEDED | {"UPSTREAM_BASE_URL": "http://127.0.0.1:9/v1", "TASKS_QUEUES": "3"})
    questions = asked(24, rate=0)
    with ExitStack() as open_streams:
        for name in NAMES:
            tasks.pause_queue(name=name)
        streams = [open_streams.enter_context(client.stream(each)) for each in questions]
        found = {name: waiting(tasks, name) for name in NAMES}
        assert all(found.values())
        for stream in streams:
            assert [name for name in NAMES if stream.generation in found[name]] == [
                known.queue_path_of(stream.generation)
            ]
        for name in NAMES:
            tasks.resume_queue(name=name)
        for each, stream in zip(questions, streams, strict=True):
            assert said(stream) == text(seed_of(each["messages"]), 60)


def test_a_queue_that_is_paused_holds_up_its_own_answers_alone(client: Client, tasks: Any) -> None:
    paused = NAMES[0]
    questions = asked(12, rate=0)
    tasks.pause_queue(name=paused)
    with ExitStack() as open_streams:
        streams = [open_streams.enter_context(client.stream(each)) for each in questions]
        behind = waiting(tasks, paused)
        assert 0 < len(behind) < len(streams)
        for stream in streams:
            if stream.generation not in behind:
                client.wait_until_ended(stream.generation)
        assert {client.show(each)["state"] for each in behind} == {"queued"}
        tasks.resume_queue(name=paused)
        for each, stream in zip(questions, streams, strict=True):
            assert said(stream) == text(seed_of(each["messages"]), 60)


def test_a_killed_worker_s_answers_go_on_in_each_queue_and_their_ends_are_told(
    client: Client, stack: Stack, receiver: Receiver, tasks: Any
) -> None:
    known = Settings.from_env(NEEDED | {"UPSTREAM_BASE_URL": "http://127.0.0.1:9/v1", "TASKS_QUEUES": "3"})
    questions = asked(12, rate=10)
    with ExitStack() as open_streams:
        streams = [open_streams.enter_context(client.stream(each)) for each in questions]
        assert {known.queue_path_of(stream.generation) for stream in streams} == set(NAMES)
        frames = [stream.frames() for stream in streams]
        began = [next(each).text for each in frames]
        stack.processes["worker"].kill()
        stack.restart("worker")
        for each, first, rest in zip(questions, began, frames, strict=True):
            *others, last = rest
            assert last.data == "[DONE]"
            assert first + "".join(frame.text for frame in others) == text(seed_of(each["messages"]), 60)
    ids = {stream.generation for stream in streams}
    shown = [client.show(each) for each in ids]
    assert {each["state"] for each in shown} == {"completed"}
    # Some may have ended before, on a busy machine.
    assert {known.queue_path_of(each["id"]) for each in shown if each["attempt"] > 1} == set(NAMES)
    told = receiver.until(lambda got: {each.json["data"]["generationId"] for each in got} >= ids)
    assert {each.json["data"]["state"] for each in told} == {"completed"}
