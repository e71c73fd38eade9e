"""The queue's readiness check, the trace context of a task, and creating tasks while connections fail."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.api_core.exceptions import NotFound, ServiceUnavailable
from google.cloud import tasks_v2

from lib.cloud.task_queue import TaskQueue
from lib.domain.errors import Unavailable
from lib.domain.generation import Generation
from lib.domain.task import Task
from lib.runtime import trace
from lib.runtime.settings import Settings
from lib.runtime.trace import Trace
from tests.black_hole import BlackHole
from tests.unit.runtime.test_settings import NEEDED

PLACE = Trace("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", False)
NOW = datetime.now(UTC)
GENERATION = Generation(
    id="g1",
    owner="alice",
    message_path="users/alice/messages/g1",
    chat_id=None,
    message_id="g1",
    model="demo",
    upstream="default",
    request=b"{}",
    request_hash="hash",
    dialect="chat_completions",
    created_at=NOW,
    expire_at=NOW,
)


class Queue:
    """A Cloud Tasks service with one fixed response to GetQueue."""

    def __init__(self) -> None:
        self.answer: grpc.StatusCode | None = None
        self.asked: list[str] = []
        self.created: list[Any] = []
        self.faults: list[grpc.StatusCode] = []

    def get(self, asked: Any, context: grpc.ServicerContext) -> bytes:
        self.asked.append(asked.name)
        if self.answer is not None:
            context.abort(self.answer, "as the test wants it")
        return tasks_v2.Queue.serialize(tasks_v2.Queue(name=asked.name))

    def create(self, asked: Any, context: grpc.ServicerContext) -> bytes:
        self.created.append(asked.task)
        if self.faults:
            context.abort(self.faults.pop(0), "as the test wants it")
        return tasks_v2.Task.serialize(asked.task)


@pytest.fixture
def queue() -> Queue:
    return Queue()


def of(host: str) -> TaskQueue:
    return TaskQueue(replace(Settings.from_env(NEEDED), tasks_emulator=host))


@pytest.fixture
def tasks(host: str) -> TaskQueue:
    return of(host)


@pytest.fixture
def host(queue: Queue) -> Iterator[str]:
    def handler(answer: Any, kind: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(answer, request_deserializer=kind.deserialize)

    calls = {
        "GetQueue": handler(queue.get, tasks_v2.GetQueueRequest),
        "CreateTask": handler(queue.create, tasks_v2.CreateTaskRequest),
    }
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("google.cloud.tasks.v2.CloudTasks", calls),)
        )
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


def test_a_queue_that_answers_is_there(tasks: TaskQueue, queue: Queue) -> None:
    tasks.check()
    assert queue.asked == ["projects/demo-holdfast/locations/us-central1/queues/holdfast"]


def test_who_may_enqueue_and_not_ask_has_reached_cloud_tasks(tasks: TaskQueue, queue: Queue) -> None:
    queue.answer = grpc.StatusCode.PERMISSION_DENIED
    tasks.check()


@pytest.mark.parametrize(
    ("answer", "error"),
    [(grpc.StatusCode.NOT_FOUND, NotFound), (grpc.StatusCode.UNAVAILABLE, ServiceUnavailable)],
)
def test_a_queue_that_is_not_there_or_can_not_be_asked_is_asked_once(
    tasks: TaskQueue, queue: Queue, answer: grpc.StatusCode, error: type[Exception]
) -> None:
    queue.answer = answer
    with pytest.raises(error):
        tasks.check()
    assert len(queue.asked) == 1


def test_a_task_is_of_the_trace_it_is_made_in_also_where_no_spans_are_made(tasks: TaskQueue, queue: Queue) -> None:
    before = trace.current.set(PLACE)
    tasks.enqueue(GENERATION)
    trace.current.reset(before)
    tasks.enqueue(GENERATION)
    traced, untraced = (dict(created.http_request.headers) for created in queue.created)
    assert traced == {"Content-Type": "application/json", "traceparent": PLACE.traceparent}
    assert untraced == {"Content-Type": "application/json"}


TASK = Task("g1", "users/alice/messages/g1")


def test_a_task_that_is_scheduled_has_its_time_its_name_and_the_same_body(tasks: TaskQueue, queue: Queue) -> None:
    tasks.schedule(TASK, 30.0, "7-w1")
    tasks.schedule(TASK, 0.0)
    later, at_once = queue.created
    assert later.name == "projects/demo-holdfast/locations/us-central1/queues/holdfast/tasks/7-w1"
    assert 25 < (later.schedule_time - datetime.now(UTC)).total_seconds() <= 30
    assert (at_once.name, at_once.schedule_time) == ("", None)
    assert Task.decode(later.http_request.body) == Task.decode(at_once.http_request.body) == TASK


def test_a_task_that_is_there_already_is_as_good_as_new(tasks: TaskQueue, queue: Queue) -> None:
    queue.faults = [grpc.StatusCode.ALREADY_EXISTS]
    tasks.schedule(TASK, 30.0, "7-w1")
    assert len(queue.created) == 1


@pytest.mark.parametrize("code", ["UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN"])
def test_a_task_that_a_broken_connection_refused_is_tried_again(tasks: TaskQueue, queue: Queue, code: str) -> None:
    queue.faults = [grpc.StatusCode[code]] * 2
    tasks.enqueue(GENERATION)
    assert len(queue.created) == 3


@pytest.mark.parametrize(("code", "tries"), [("UNAVAILABLE", range(3, 50)), ("PERMISSION_DENIED", range(1, 2))])
def test_a_queue_that_takes_no_task_is_unavailable_in_the_end(
    tasks: TaskQueue, queue: Queue, code: str, tries: range
) -> None:
    queue.faults = [grpc.StatusCode[code]] * 100
    with pytest.raises(Unavailable) as refused:
        tasks.enqueue(GENERATION)
    assert refused.value.code == "queue_unavailable"
    assert len(queue.created) in tries


def test_a_task_whose_connection_died_silently_is_created_on_another(
    host: str, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.cloud.channel.TRY_SECONDS", 0.5)
    with BlackHole(host) as hole:
        tasks = of(hole.host)
        tasks.enqueue(GENERATION)
        hole.forget()
        tasks.enqueue(GENERATION)
        assert (len(queue.created), hole.connections) == (2, 2)
