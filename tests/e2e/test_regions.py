"""Two regions over one database: each has functions and a queue of its own, and one goes on where the other is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from local.client import Client, Frame, Stream, question
from local.demo_text import seed_of, text
from local.ports import Ports
from local.stack import QUEUE, Stack
from tests.conftest import STRICT, calls_of

EAST = "us-east4"
PATIENCE = 60.0
SETTINGS = {"LEASE_SECONDS": "4", "STATUS_WAIT_SECONDS": "0.2", "UPSTREAM_CONTINUE": "prefill"}


@pytest.fixture(scope="module")
def stack(stack: Stack) -> Iterator[Stack]:
    """The stack's own functions are the first region's; `east-api` and `east-worker` are the other's."""
    with Stack(Ports.free(), SETTINGS, strict=STRICT, beside=stack) as running:
        running.add_functions("east", {"TASKS_LOCATION": EAST})
        yield running


@pytest.fixture
def there(stack: Stack, client: Client) -> Iterator[Client]:
    """The same user in the other region."""
    client = Client(stack.url_of("east-api"), client.user)
    yield client
    client.session.close()


@pytest.fixture(scope="module")
def tasks(stack: Stack) -> Iterator[Any]:
    with grpc.insecure_channel(stack.tasks_host) as channel:
        yield tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))


@contextmanager
def lost(stack: Stack, tasks: Any) -> Iterator[None]:
    """The first region is gone at once, functions and queue, and comes back at the end."""
    tasks.pause_queue(name=QUEUE)
    for name in ("api", "worker"):
        stack.processes[name].kill()
    try:
        yield
    finally:
        for name in ("api", "worker"):
            stack.restart(name)
            stack.wait_for(name)
        tasks.resume_queue(name=QUEUE)


def waiting(tasks: Any) -> int:
    return len(list(tasks.list_tasks(parent=QUEUE)))


def whole(body: dict[str, Any]) -> str:
    return text(seed_of(body["messages"]), body["max_tokens"])


def rest(stream: Stream) -> list[Frame]:
    """What a stream says before its end mark, which it must have."""
    with stream:
        *frames, last = stream.frames()
    assert last.data == "[DONE]"
    return frames


def test_an_answer_under_way_goes_on_in_the_other_region(
    stack: Stack, client: Client, there: Client, tasks: Any
) -> None:
    # The first call stops in the midst, so the answer can't end before the region is lost.
    asked = question("under way", 200, rate=0, fault={"kind": "stall", "at": 100, "times": 1})
    with client.stream(asked) as stream:
        frames = stream.frames()
        seen = [next(frames) for _ in range(60)]
    with lost(stack, tasks):
        seen += rest(there.resume(stream.generation, seen[-1].id or 0))
        assert "".join(frame.text for frame in seen) == whole(asked)
        assert [frame.id for frame in seen] == list(range(1, len(seen) + 1))
        assert there.show(stream.generation)["attempt"] == 2
        assert len(calls_of(stack, "under way")) == 2

        asked = question("new there", 50, rate=0)
        assert "".join(frame.text for frame in rest(there.stream(asked))) == whole(asked)


def test_an_answer_whose_task_is_held_in_the_lost_region_runs_in_the_other_and_once(
    stack: Stack, client: Client, there: Client, tasks: Any
) -> None:
    tasks.pause_queue(name=QUEUE)
    asked = question("held", 50, rate=0)
    with client.stream(asked) as stream:
        assert waiting(tasks) == 1
    with lost(stack, tasks):
        seen = rest(there.resume(stream.generation, 0))
        assert "".join(frame.text for frame in seen) == whole(asked)
        ended = there.show(stream.generation)
        assert waiting(tasks) == 1
    # The region is back: its task finds nothing to do.
    stack.processes["tasks"].wait_until(lambda: waiting(tasks) == 0, PATIENCE)
    assert client.show(stream.generation) == ended
    assert len(calls_of(stack, "held")) == 1


def test_a_stop_in_one_region_ends_what_the_other_runs(client: Client, there: Client) -> None:
    with client.stream(question("stopped", 4_000, rate=40)) as stream:
        frames = stream.frames()
        next(frames)
        assert there.request("POST", f"/v1/generations/{stream.generation}/stop").status_code == 200
        assert [frame.data for frame in frames][-1] == "[DONE]"
    assert there.show(stream.generation)["state"] == "stopped"
