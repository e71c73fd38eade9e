"""The emulator keeps Cloud Tasks' promises, seen from where the service stands: Google's own client on one side and a
real HTTP server on the other.

Nothing here may depend on how fast the machine is: a test waits for what must happen, asserts exact times only where
the emulator states them (`schedule_time`), and otherwise only that something was not too early. That a delivery does
*not* happen is shown by a later one, to another queue, that did.
"""

from __future__ import annotations

import itertools
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import Message
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
from google.api_core import exceptions
from google.auth.transport.requests import Request
from google.cloud import tasks_v2 as v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport
from google.oauth2 import id_token
from google.protobuf.field_mask_pb2 import FieldMask
from jwt import InvalidAudienceError, PyJWKClientError

from local.tasks_emulator.retry import backoff, exhausted
from local.tasks_emulator.service import TasksEmulator
from local.tasks_emulator.throttle import LOWERED_SECONDS
from tests.started import started

LOCATION = "projects/demo/locations/europe-west1"
PATIENCE = 20.0  # seconds that a failing test waits; a passing one never does
SOON = timedelta(milliseconds=20)
NEVER = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
LENIENT = {
    "duplicate": 1,
    "late": 0.0,
    "unavailable": False,
    "throttle": 0.0,
    "ramp": 0.0,
    "delay": None,
    "speed": 1.0,
}
PROOF = "/proof"  # always answered with 200

NUMBERS = itertools.count()

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Arrival:
    method: str
    path: str
    headers: Message
    body: bytes
    sender: tuple[str, int]
    at: float = field(default_factory=time.monotonic)
    when: datetime = field(default_factory=lambda: datetime.now(UTC))


class Target:
    """Notes each request as it arrives, then answers with the next status or function it was given, or 200."""

    def __init__(self) -> None:
        self.answers: queue.SimpleQueue[int | Answer] = queue.SimpleQueue()
        self.arrivals: queue.SimpleQueue[Arrival] = queue.SimpleQueue()
        self._server = _Server(("127.0.0.1", 0), partial(_Handler, self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def will_answer(self, *answers: int | Answer) -> None:
        for answer in answers:
            self.answers.put(answer)

    def next_answer(self, path: str) -> int | Answer:
        try:
            return 200 if path == PROOF else self.answers.get_nowait()
        except queue.Empty:
            return 200

    def next(self) -> Arrival:
        return self.arrivals.get(timeout=PATIENCE)

    def waiting(self) -> list[Arrival]:
        return [self.arrivals.get() for _ in range(self.arrivals.qsize())]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that the deadline closed is no error of the worker."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, target: Target, *connection: Any) -> None:
        self._target = target
        super().__init__(*connection)

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = self._target.next_answer(self.path)
        self._target.arrivals.put(Arrival(self.command, self.path, self.headers, body, self.client_address))
        if callable(answer):
            answer(self)
        else:
            reply(self, answer)

    do_POST = do_PUT = do_GET = _handle

    def log_message(self, format: str, *args: Any) -> None:
        pass


def reply(request: BaseHTTPRequestHandler, status: int, **headers: str) -> None:
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.send_header("Content-Length", "0")
    request.end_headers()


def replying(status: int, **headers: str) -> Answer:
    return lambda request: reply(request, status, **headers)


def waiting_for(event: threading.Event, status: int = 200) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        event.wait(PATIENCE)
        reply(request, status)

    return answer


def staying(request: BaseHTTPRequestHandler) -> None:
    """Answers, and leaves the connection open although the request says that it ends with the answer."""
    reply(request, 200)
    request.close_connection = False


def all_together(parties: int, *statuses: int) -> list[Answer]:
    """Answers of which each waits until `parties` requests are there."""
    barrier = threading.Barrier(parties, timeout=PATIENCE)

    def meet(status: int, request: BaseHTTPRequestHandler) -> None:
        barrier.wait()
        reply(request, status)

    return [partial(meet, status) for status in statuses]


@dataclass
class Stack:
    """An emulator, Google's client of it and a worker, in one queue's name."""

    emulator: TasksEmulator
    client: v2.CloudTasksClient
    target: Target
    queue: str

    def configure(self, limits: Mapping[str, Any] | None = None, **retry: Any) -> v2.Queue:
        settings = v2.Queue(name=self.queue, rate_limits=limits or {}, retry_config=retry)
        return self.client.update_queue(queue=settings)

    def create(self, *, task: dict[str, Any] | None = None, parent: str = "", **request: Any) -> v2.Task:
        http = {"url": f"{self.target.url}/work"} | request
        return self.client.create_task(parent=parent or self.queue, task=v2.Task({"http_request": http} | (task or {})))

    def named(self, task_id: str) -> dict[str, str]:
        return {"name": f"{self.queue}/tasks/{task_id}"}

    def wait_until_gone(self, task: v2.Task) -> None:
        with pytest.raises(exceptions.NotFound):
            wait_for(lambda: not self.client.get_task(name=task.name))

    def wait_for_responses(self, task: v2.Task, count: int) -> v2.Task:
        wait_for(lambda: self.client.get_task(name=task.name).response_count == count)
        return self.client.get_task(name=task.name)

    def prove_a_dispatch(self) -> None:
        """Returns once a task of another queue, created now, has arrived: what could go before it has gone."""
        other = self.client.update_queue(queue=v2.Queue(name=f"{self.queue}-other"))
        self.create(parent=other.name, url=self.target.url + PROOF)
        seen: list[Arrival] = []
        while not seen or seen[-1].path != PROOF:
            seen.append(self.target.next())
        for arrival in seen[:-1]:
            self.target.arrivals.put(arrival)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def client_of(target: str) -> v2.CloudTasksClient:
    return v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=grpc.insecure_channel(target)))


@pytest.fixture(scope="module")
def emulator() -> Iterator[TasksEmulator]:
    with TasksEmulator(min_dispatch_deadline=0.05) as emulator:
        yield emulator


@pytest.fixture(scope="module")
def client(emulator: TasksEmulator) -> Iterator[v2.CloudTasksClient]:
    with client_of(emulator.target) as client:
        yield client


@pytest.fixture
def stack(emulator: TasksEmulator, client: v2.CloudTasksClient) -> Iterator[Stack]:
    name = f"{LOCATION}/queues/queue-{next(NUMBERS)}"
    target = Target()
    stack = Stack(emulator, client, target, name)
    stack.configure(min_backoff=SOON, max_backoff=SOON)
    yield stack
    emulator.fault(**LENIENT)
    client.delete_queue(name=name)
    target.close()


# What arrives


def test_a_task_arrives_with_its_own_method_path_headers_and_body(stack: Stack) -> None:
    stack.create(
        url=f"{stack.target.url}/a/path?q=1", http_method="PUT", headers={"X-Own": "mine"}, body=b"\x00bytes\xff"
    )
    arrival = stack.target.next()
    assert (arrival.method, arrival.path, arrival.body) == ("PUT", "/a/path?q=1", b"\x00bytes\xff")
    assert arrival.headers["X-Own"] == "mine"


def test_a_first_delivery_names_its_queue_its_task_and_when_it_was_due(stack: Stack) -> None:
    task = stack.create(task=stack.named("my-task"))
    arrival = stack.target.next()
    said = {name: value for name, value in arrival.headers.items() if name.startswith("X-CloudTasks-")}
    assert said == {
        "X-CloudTasks-QueueName": stack.queue.rpartition("/")[2],
        "X-CloudTasks-TaskName": "my-task",
        "X-CloudTasks-TaskRetryCount": "0",
        "X-CloudTasks-TaskExecutionCount": "0",
        "X-CloudTasks-TaskETA": f"{task.schedule_time.timestamp():.6f}",
    }
    assert (arrival.method, arrival.headers["User-Agent"]) == ("POST", "Google-Cloud-Tasks")


def test_each_delivery_has_a_connection_of_its_own(stack: Stack) -> None:
    stack.target.will_answer(staying, staying)
    for _ in range(2):
        stack.wait_until_gone(stack.create())
    first, second = stack.target.waiting()
    assert first.sender != second.sender


def test_a_retry_says_what_the_last_attempt_came_to_and_counts_5xx_as_no_execution(stack: Stack) -> None:
    stack.target.will_answer(404, 503, 400)
    stack.create()
    told = [
        [
            arrival.headers.get(f"X-CloudTasks-Task{name}")
            for name in ("RetryCount", "ExecutionCount", "PreviousResponse", "RetryReason")
        ]
        for arrival in (stack.target.next() for _ in range(4))
    ]
    assert told == [
        ["0", "0", None, None],
        ["1", "1", "404", "HTTP status code 404"],
        ["2", "1", "503", "HTTP status code 503"],
        ["3", "2", "400", "HTTP status code 400"],
    ]


def test_headers_that_belong_to_cloud_tasks_cannot_be_set_by_a_task(stack: Stack) -> None:
    own = {
        "user-agent": "me",
        "x-cloudtasks-taskretrycount": "7",
        "X-Google-Own": "1",
        "host": "elsewhere",
        "Hosts": "1",
    }
    stack.create(headers=own)
    headers = stack.target.next().headers
    assert [headers[name] for name in ("User-Agent", "X-CloudTasks-TaskRetryCount")] == ["Google-Cloud-Tasks", "0"]
    assert headers["Host"] == stack.target.url.removeprefix("http://")
    assert (headers.get("X-Google-Own"), headers["Hosts"]) == (None, "1")


# Success and failure


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_any_2xx_ends_a_task(stack: Stack, status: int) -> None:
    stack.target.will_answer(status)
    stack.wait_until_gone(stack.create())
    assert len(stack.target.waiting()) == 1


@pytest.mark.parametrize("status", [302, 400, 404, 409, 429, 500, 503])
def test_any_other_status_is_tried_again(stack: Stack, status: int) -> None:
    stack.target.will_answer(replying(status, Location=f"{stack.target.url}/elsewhere"))
    stack.wait_until_gone(stack.create())
    assert [arrival.path for arrival in stack.target.waiting()] == ["/work", "/work"]


def test_a_connection_that_breaks_is_tried_again_and_counts_as_no_response(stack: Stack) -> None:
    def hang_up(request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True

    stack.configure(min_backoff=MINUTE)
    stack.target.will_answer(hang_up)
    task = stack.create()
    wait_for(lambda: bool(stack.client.get_task(name=task.name).last_attempt.response_status.code))
    broken = stack.client.get_task(name=task.name)
    assert (broken.dispatch_count, broken.response_count) == (1, 0)
    assert broken.schedule_time > task.schedule_time
    stack.target.next()
    stack.client.run_task(name=task.name)
    headers = stack.target.next().headers
    assert headers["X-CloudTasks-TaskRetryReason"] == "UNAVAILABLE"
    assert (headers["X-CloudTasks-TaskRetryCount"], headers["X-CloudTasks-TaskExecutionCount"]) == ("1", "0")
    assert "X-CloudTasks-TaskPreviousResponse" not in headers


def test_a_task_is_attempted_exactly_max_attempts_times_and_then_forgotten(stack: Stack) -> None:
    stack.configure(min_backoff=SOON, max_attempts=3)
    stack.target.will_answer(*[500] * 9)
    stack.wait_until_gone(stack.create())
    stack.prove_a_dispatch()
    assert len(stack.target.waiting()) == 3


def test_retries_continue_past_max_attempts_until_the_retry_duration_is_over_too(stack: Stack) -> None:
    stack.configure(min_backoff=SOON, max_backoff=SOON, max_attempts=2, max_retry_duration=NEVER)
    stack.target.will_answer(*[500] * 4)
    stack.wait_until_gone(stack.create())
    assert len(stack.target.waiting()) == 5


def test_retries_continue_past_the_retry_duration_until_max_attempts_are_made(stack: Stack) -> None:
    stack.configure(min_backoff=SOON, max_attempts=3, max_retry_duration=timedelta(milliseconds=1))
    stack.target.will_answer(*[500] * 9)
    stack.wait_until_gone(stack.create())
    assert len(stack.target.waiting()) == 3


def test_max_attempts_of_minus_one_is_no_limit(stack: Stack) -> None:
    stack.configure(min_backoff=SOON, max_backoff=SOON, max_attempts=-1)
    stack.target.will_answer(*[500] * 5)
    stack.wait_until_gone(stack.create())
    assert len(stack.target.waiting()) == 6
    assert not exhausted(v2.RetryConfig(max_attempts=-1), 10**6, timedelta(days=30))


def test_a_duration_alone_is_a_limit_where_attempts_are_not() -> None:
    retry = v2.RetryConfig(max_attempts=-1, max_retry_duration=MINUTE)
    assert not exhausted(retry, 99, timedelta(seconds=59))
    assert exhausted(retry, 1, MINUTE)


def test_a_task_may_bring_its_own_retry_settings(stack: Stack) -> None:
    stack.target.will_answer(*[500] * 9)
    stack.wait_until_gone(stack.create(task={"retry_config": {"max_attempts": 2}}))
    assert len(stack.target.waiting()) == 2


# Back-off


def test_the_back_off_is_the_one_that_the_reference_gives_as_its_example() -> None:
    retry = v2.RetryConfig(min_backoff="10s", max_backoff="300s", max_doublings=3)
    assert [backoff(retry, failures) for failures in range(1, 9)] == [10, 20, 40, 80, 160, 240, 300, 300]


def test_a_failed_task_is_scheduled_a_doubling_back_off_after_its_failure(stack: Stack) -> None:
    stack.configure(min_backoff=MINUTE, max_backoff=5 * MINUTE, max_doublings=16)
    stack.target.will_answer(*[500] * 4)
    task = stack.create()
    delays = []
    for attempt in range(1, 5):
        failed = stack.wait_for_responses(task, attempt)
        delays.append((failed.schedule_time - failed.last_attempt.response_time) / MINUTE)
        stack.client.run_task(name=task.name)
    assert delays == [1, 2, 4, 5]


def test_no_retry_comes_before_its_back_off_is_over(stack: Stack) -> None:
    stack.configure(min_backoff=timedelta(milliseconds=50), max_backoff=timedelta(milliseconds=150))
    stack.target.will_answer(*[500] * 4)
    stack.create()
    times = [stack.target.next().at for _ in range(5)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert all(gap >= least for gap, least in zip(gaps, [0.05, 0.1, 0.15, 0.15], strict=True)), gaps


@pytest.mark.parametrize(("status", "seconds"), [(429, 90), (503, 90), (500, 1)])
def test_retry_after_delays_the_retry_where_the_worker_is_overloaded(stack: Stack, status: int, seconds: int) -> None:
    stack.configure(min_backoff=timedelta(seconds=1), max_backoff=timedelta(seconds=2))
    stack.target.will_answer(replying(status, Retry_After="90"))
    failed = stack.wait_for_responses(stack.create(), 1)
    assert failed.schedule_time - failed.last_attempt.response_time == timedelta(seconds=seconds)


def test_retry_after_never_shortens_the_back_off(stack: Stack) -> None:
    stack.configure(min_backoff=MINUTE)
    stack.target.will_answer(replying(503, Retry_After="1"))
    failed = stack.wait_for_responses(stack.create(), 1)
    assert failed.schedule_time - failed.last_attempt.response_time == MINUTE


# The dispatch deadline


def test_the_deadline_closes_the_connection_but_does_not_stop_the_worker(stack: Stack) -> None:
    events: queue.SimpleQueue[str] = queue.SimpleQueue()

    def outlive_the_connection(request: BaseHTTPRequestHandler) -> None:
        events.put("closed" if request.connection.recv(1) == b"" else "still open")
        events.put("worked on")

    stack.target.will_answer(outlive_the_connection)
    started = time.monotonic()
    stack.create(task={"dispatch_deadline": timedelta(milliseconds=100)})
    stack.target.next()
    retry = stack.target.next()
    assert [events.get(timeout=PATIENCE) for _ in range(2)] == ["closed", "worked on"]
    assert retry.at - started >= 0.1
    assert retry.headers["X-CloudTasks-TaskRetryReason"] == "DEADLINE_EXCEEDED"
    assert "X-CloudTasks-TaskPreviousResponse" not in retry.headers
    assert (retry.headers["X-CloudTasks-TaskRetryCount"], retry.headers["X-CloudTasks-TaskExecutionCount"]) == (
        "1",
        "0",
    )


def test_a_response_that_trickles_does_not_outwit_the_deadline(stack: Stack) -> None:
    def trickle(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        for _ in range(int(PATIENCE / 0.02)):
            request.wfile.write(b".")
            time.sleep(0.02)

    stack.target.will_answer(trickle)
    stack.create(task={"dispatch_deadline": timedelta(milliseconds=100)})
    stack.target.next()
    assert stack.target.next().headers["X-CloudTasks-TaskRetryReason"] == "DEADLINE_EXCEEDED"


def test_a_deadline_is_10_minutes_by_default_and_must_be_between_15_seconds_and_30_minutes() -> None:
    with TasksEmulator() as emulator, client_of(emulator.target) as client:
        stack = Stack(emulator, client, Target(), f"{LOCATION}/queues/strict")
        stack.configure()
        client.pause_queue(name=stack.queue)
        assert stack.create().dispatch_deadline == timedelta(minutes=10)
        for seconds in (15, 1800):
            stack.create(task={"dispatch_deadline": timedelta(seconds=seconds)})
        for refused in (timedelta(seconds=14.9), timedelta(seconds=1800.1)):
            with pytest.raises(exceptions.InvalidArgument, match="dispatch_deadline"):
                stack.create(task={"dispatch_deadline": refused})
        stack.target.close()


# Names


def test_a_used_task_name_is_refused_while_the_task_lives(stack: Stack) -> None:
    stack.client.pause_queue(name=stack.queue)
    stack.create(task=stack.named("once"))
    with pytest.raises(exceptions.AlreadyExists) as refused:
        stack.create(task=stack.named("once"))
    assert refused.value.code == 409


def test_a_used_task_name_is_refused_even_after_the_task_has_finished(stack: Stack) -> None:
    stack.wait_until_gone(stack.create(task=stack.named("once")))
    with pytest.raises(exceptions.AlreadyExists):
        stack.create(task=stack.named("once"))
    stack.prove_a_dispatch()
    assert len(stack.target.waiting()) == 1


@pytest.mark.parametrize("end", ["delete", "purge"])
def test_a_used_task_name_is_refused_even_after_the_task_was_removed(stack: Stack, end: str) -> None:
    stack.client.pause_queue(name=stack.queue)
    task = stack.create(task=stack.named("once"))
    if end == "delete":
        stack.client.delete_task(name=task.name)
    else:
        stack.client.purge_queue(name=stack.queue)
    with pytest.raises(exceptions.AlreadyExists):
        stack.create(task=stack.named("once"))


def test_a_task_without_a_name_gets_one_of_its_own(stack: Stack) -> None:
    names = {stack.create().name for _ in range(3)}
    assert len(names) == 3
    assert all(name.startswith(f"{stack.queue}/tasks/") for name in names)


# When and how many


def test_a_task_waits_for_its_schedule_time(stack: Stack) -> None:
    due = datetime.now(UTC) + timedelta(milliseconds=300)
    stack.create(task={"schedule_time": due})
    arrival = stack.target.next()
    assert arrival.when >= due
    assert arrival.headers["X-CloudTasks-TaskETA"] == f"{due.timestamp():.6f}"


def test_a_task_that_is_due_overtakes_one_that_was_created_earlier(stack: Stack) -> None:
    stack.create(task={"schedule_time": datetime.now(UTC) + timedelta(hours=1)})
    stack.create(body=b"now")
    assert stack.target.next().body == b"now"


def test_a_schedule_time_in_the_past_means_now_and_one_beyond_30_days_is_refused(stack: Stack) -> None:
    before = datetime.now(UTC)
    assert stack.create(task={"schedule_time": before - timedelta(days=1)}).schedule_time >= before
    with pytest.raises(exceptions.InvalidArgument, match="schedule_time"):
        stack.create(task={"schedule_time": before + timedelta(days=31)})


def test_tasks_of_one_queue_run_in_parallel(stack: Stack) -> None:
    stack.target.will_answer(*all_together(8, *[200] * 8))
    for task in [stack.create() for _ in range(8)]:
        stack.wait_until_gone(task)
    assert len(stack.target.waiting()) == 8


def test_no_more_than_max_concurrent_dispatches_run_at_once(stack: Stack) -> None:
    stack.configure({"max_concurrent_dispatches": 2})
    done = [threading.Event(), threading.Event()]
    stack.target.will_answer(*[waiting_for(event) for event in done])
    for _ in done:
        stack.create()
        stack.target.next()
    stack.create(body=b"third")
    stack.prove_a_dispatch()
    assert not stack.target.waiting(), "a third ran beside the two"
    done[0].set()
    assert stack.target.next().body == b"third"
    done[1].set()


def test_a_queue_is_no_faster_than_max_dispatches_per_second(stack: Stack) -> None:
    assert stack.configure({"max_dispatches_per_second": 20}).rate_limits.max_burst_size == 20
    started = time.monotonic()
    for _ in range(26):
        stack.create()
    times = [stack.target.next().at for _ in range(26)]
    # 20 may go at once, as the bucket is full; the other 6 wait for a token each.
    assert max(times) - started >= 6 / 20


def test_a_paused_queue_keeps_its_tasks_until_it_is_resumed(stack: Stack) -> None:
    assert stack.client.pause_queue(name=stack.queue).state == v2.Queue.State.PAUSED
    stack.create()
    stack.prove_a_dispatch()
    assert not stack.target.waiting()
    assert stack.client.resume_queue(name=stack.queue).state == v2.Queue.State.RUNNING
    assert stack.target.next().path == "/work"


def test_a_task_can_be_run_at_once_though_its_queue_is_paused_and_its_time_has_not_come(stack: Stack) -> None:
    stack.client.pause_queue(name=stack.queue)
    task = stack.create(task={"schedule_time": datetime.now(UTC) + NEVER})
    assert stack.client.run_task(name=task.name).dispatch_count == 1
    assert stack.target.next().path == "/work"
    stack.wait_until_gone(task)


def test_a_task_that_was_run_at_once_does_not_run_at_its_old_time_too(stack: Stack) -> None:
    stack.configure(min_backoff=MINUTE)
    stack.client.pause_queue(name=stack.queue)
    failing, running = stack.create(), stack.create()
    done = threading.Event()
    stack.target.will_answer(500, waiting_for(done))
    stack.client.run_task(name=failing.name)
    stack.wait_for_responses(failing, 1)
    stack.client.run_task(name=running.name)
    assert [stack.target.next().path for _ in (failing, running)] == ["/work"] * 2  # before another can take its answer
    stack.client.resume_queue(name=stack.queue)
    stack.wait_until_gone(stack.create())
    assert [stack.client.get_task(name=task.name).dispatch_count for task in (failing, running)] == [1, 1]
    done.set()
    stack.wait_until_gone(running)


@pytest.mark.parametrize("removal", ["delete_task", "purge_queue", "delete_queue"])
def test_what_was_removed_is_never_delivered(stack: Stack, removal: str) -> None:
    stack.client.pause_queue(name=stack.queue)
    task = stack.create(body=b"removed")
    getattr(stack.client, removal)(name=task.name if removal == "delete_task" else stack.queue)
    stack.configure()
    stack.client.resume_queue(name=stack.queue)
    stack.create(body=b"kept")
    assert stack.target.next().body == b"kept"
    with pytest.raises(exceptions.NotFound):
        stack.client.get_task(name=task.name)


def test_a_task_deleted_under_way_is_not_tried_again(stack: Stack) -> None:
    deleted = threading.Event()
    stack.configure({"max_concurrent_dispatches": 1}, min_backoff=SOON, max_backoff=SOON)
    stack.target.will_answer(waiting_for(deleted, 500))
    task = stack.create()
    stack.target.next()
    stack.client.delete_task(name=task.name)
    stack.create(body=b"next", task={"schedule_time": datetime.now(UTC) + 3 * SOON})
    deleted.set()
    assert stack.target.next().body == b"next"


# Tokens


def test_the_token_is_one_that_google_auth_accepts_with_the_claims_asked_for(stack: Stack) -> None:
    account = "invoker@demo.iam.gserviceaccount.com"
    stack.create(oidc_token={"service_account_email": account, "audience": "https://worker.example"})
    scheme, _, token = stack.target.next().headers["Authorization"].partition(" ")
    assert scheme == "Bearer"
    verify = partial(id_token.verify_token, token, Request(), certs_url=stack.emulator.certs_url)
    claims = verify(audience="https://worker.example")
    assert (claims["iss"], claims["email"]) == ("https://accounts.google.com", account)
    assert claims["email_verified"] is True
    assert claims["exp"] - claims["iat"] == 3600
    assert claims["sub"].isdecimal()
    with pytest.raises(InvalidAudienceError):
        verify(audience="https://other.example")


def test_a_token_of_another_emulator_is_not_accepted(stack: Stack) -> None:
    stack.create(oidc_token={"service_account_email": "a@b.example"})
    token = stack.target.next().headers["Authorization"].removeprefix("Bearer ")
    with TasksEmulator() as other, pytest.raises(PyJWKClientError):
        id_token.verify_token(token, Request(), certs_url=other.certs_url)


def test_a_token_replaces_the_tasks_own_and_is_meant_for_the_url_unless_told_otherwise(stack: Stack) -> None:
    stack.create(oidc_token={"service_account_email": "a@b.example"}, headers={"authorization": "Basic own"})
    authorization = stack.target.next().headers.get_all("Authorization", [])
    assert len(authorization) == 1
    token = authorization[0].removeprefix("Bearer ")
    id_token.verify_token(token, Request(), f"{stack.target.url}/work", certs_url=stack.emulator.certs_url)


# What is refused


@pytest.mark.parametrize(
    "call",
    [
        lambda stack, name: stack.client.get_queue(name=name),
        lambda stack, name: stack.client.delete_queue(name=name),
        lambda stack, name: stack.client.purge_queue(name=name),
        lambda stack, name: stack.client.pause_queue(name=name),
        lambda stack, name: stack.client.resume_queue(name=name),
        lambda stack, name: list(stack.client.list_tasks(parent=name)),
        lambda stack, name: stack.create(parent=name),
        lambda stack, name: stack.client.get_task(name=f"{name}/tasks/t"),
        lambda stack, name: stack.client.delete_task(name=f"{name}/tasks/t"),
        lambda stack, name: stack.client.run_task(name=f"{name}/tasks/t"),
    ],
)
def test_a_queue_that_does_not_exist_is_not_found(stack: Stack, call: Callable[[Stack, str], Any]) -> None:
    with pytest.raises(exceptions.NotFound, match="Queue"):
        call(stack, f"{LOCATION}/queues/missing")


def test_a_task_that_has_ended_is_not_found(stack: Stack) -> None:
    task = stack.create()
    stack.wait_until_gone(task)
    for call in (stack.client.get_task, stack.client.delete_task, stack.client.run_task):
        with pytest.raises(exceptions.NotFound, match="task"):
            call(name=task.name)


@pytest.mark.parametrize(
    "url", ["", "/work", "ftp://a.example/", "http://", "http://a.example:x/", "http://a.example/" + "u" * 2083]
)
def test_a_task_with_a_bad_url_is_invalid(stack: Stack, url: str) -> None:
    with pytest.raises(exceptions.InvalidArgument, match="url"):
        stack.create(url=url)


def test_a_task_without_an_http_request_is_invalid(stack: Stack) -> None:
    with pytest.raises(exceptions.InvalidArgument, match="url"):
        stack.client.create_task(parent=stack.queue, task=v2.Task())


def test_a_task_over_1_mb_is_invalid(stack: Stack) -> None:
    stack.create(body=b"x" * 1_000_000)
    assert len(stack.target.next().body) == 1_000_000
    with pytest.raises(exceptions.InvalidArgument, match="1 MB"):
        stack.create(body=b"x" * (1 << 20))


def test_a_body_is_invalid_with_a_method_that_has_none(stack: Stack) -> None:
    with pytest.raises(exceptions.InvalidArgument, match="body"):
        stack.create(http_method="GET", body=b"x")
    stack.create(http_method="GET")
    assert stack.target.next().method == "GET"


@pytest.mark.parametrize("name", [f"{LOCATION}/queues/another/tasks/t", "t", "{queue}/tasks/", "{queue}/tasks/a b"])
def test_a_task_name_that_is_not_of_its_queue_is_invalid(stack: Stack, name: str) -> None:
    with pytest.raises(exceptions.InvalidArgument, match="named"):
        stack.create(task={"name": name.replace("{queue}", stack.queue)})


# Queues


def test_a_queue_is_created_once_with_the_defaults_of_cloud_tasks(stack: Stack) -> None:
    name = f"{stack.queue}-new"
    created = stack.client.create_queue(parent=LOCATION, queue=v2.Queue(name=name, retry_config={"max_attempts": 7}))
    assert created == stack.client.get_queue(name=name)
    assert (created.rate_limits.max_dispatches_per_second, created.rate_limits.max_concurrent_dispatches) == (500, 1000)
    assert (created.retry_config.max_attempts, created.retry_config.max_doublings) == (7, 16)
    assert created.retry_config.min_backoff == timedelta(milliseconds=100)
    assert created.retry_config.max_backoff == timedelta(hours=1)
    with pytest.raises(exceptions.AlreadyExists):
        stack.client.create_queue(parent=LOCATION, queue=v2.Queue(name=name))
    stack.client.delete_queue(name=name)


def test_a_queue_must_be_named_in_full_and_in_its_location(stack: Stack) -> None:
    for name in ("q", f"{LOCATION}/queues/", f"{LOCATION}/queues/a_b", "projects/demo/locations/elsewhere/queues/q"):
        with pytest.raises(exceptions.InvalidArgument):
            stack.client.create_queue(parent=LOCATION, queue=v2.Queue(name=name))


def test_an_update_changes_what_its_mask_names_and_nothing_else(stack: Stack) -> None:
    stack.configure({"max_concurrent_dispatches": 5}, max_attempts=5, min_backoff=MINUTE)
    stack.client.pause_queue(name=stack.queue)
    change = v2.Queue(name=stack.queue, retry_config={"max_attempts": 9}, rate_limits={"max_concurrent_dispatches": 9})
    updated = stack.client.update_queue(
        queue=change, update_mask=FieldMask(paths=["retry_config.max_attempts", "state"])
    )
    assert (updated.retry_config.max_attempts, updated.retry_config.min_backoff) == (9, MINUTE)
    assert updated.rate_limits.max_concurrent_dispatches == 5
    assert updated.state == v2.Queue.State.PAUSED
    replaced = stack.client.update_queue(queue=change)
    assert (replaced.retry_config.max_attempts, replaced.retry_config.min_backoff) == (9, timedelta(milliseconds=100))
    assert replaced.rate_limits.max_concurrent_dispatches == 9


def test_queues_are_listed_by_location_in_order_and_page_by_page(stack: Stack) -> None:
    location = f"{LOCATION}-{stack.queue.rpartition('/')[2]}"
    names = [f"{location}/queues/{letter}" for letter in "cab"]
    for name in names:
        stack.client.create_queue(parent=location, queue=v2.Queue(name=name))
    pages = stack.client.list_queues(request={"parent": location, "page_size": 2}).pages
    assert [[queue.name for queue in page.queues] for page in pages] == [sorted(names)[:2], sorted(names)[2:]]


def test_tasks_are_listed_and_shown_without_their_bodies_unless_asked(stack: Stack) -> None:
    stack.client.pause_queue(name=stack.queue)
    tasks = [stack.create(body=b"secret") for _ in range(3)]
    assert {task.name for task in stack.client.list_tasks(parent=stack.queue)} == {task.name for task in tasks}
    full = v2.Task.View.FULL
    assert [task.http_request.body for task in [*tasks, stack.client.get_task(name=tasks[0].name)]] == [b""] * 4
    assert stack.client.get_task(request={"name": tasks[0].name, "response_view": full}).http_request.body == b"secret"


def test_a_task_shows_how_its_attempts_went(stack: Stack) -> None:
    stack.configure(min_backoff=MINUTE)
    stack.target.will_answer(503)
    task = stack.create()
    failed = stack.wait_for_responses(task, 1)
    assert failed.dispatch_count == 1
    assert failed.last_attempt.response_status.code == grpc.StatusCode.UNAVAILABLE.value[0]
    assert task.schedule_time == failed.last_attempt.schedule_time <= failed.last_attempt.dispatch_time
    assert failed.first_attempt.dispatch_time == failed.last_attempt.dispatch_time <= failed.last_attempt.response_time


# Faults on demand


def by_method(stack: Stack, faults: dict[str, Any]) -> None:
    stack.emulator.fault(**faults)


def by_http(stack: Stack, faults: dict[str, Any]) -> None:
    requests.post(f"{stack.emulator.url}/faults", json=faults, timeout=PATIENCE).raise_for_status()


@pytest.mark.parametrize("ask", [by_method, by_http])
def test_a_fault_delivers_every_attempt_several_times_at_once(stack: Stack, ask: Callable[..., None]) -> None:
    ask(stack, {"duplicate": 3})
    stack.configure(min_backoff=SOON, max_attempts=2)
    stack.target.will_answer(*all_together(3, *[500] * 6))
    stack.wait_until_gone(stack.create())
    counts = [arrival.headers["X-CloudTasks-TaskRetryCount"] for arrival in stack.target.waiting()]
    assert sorted(counts) == ["0", "0", "0", "1", "1", "1"]


@pytest.mark.parametrize("statuses", [(200, 500), (200, 200)])
def test_of_duplicates_one_success_is_enough(stack: Stack, statuses: tuple[int, int]) -> None:
    stack.emulator.fault(duplicate=2)
    stack.target.will_answer(*all_together(2, *statuses))
    stack.wait_until_gone(stack.create())
    assert len(stack.target.waiting()) == 2


def test_a_duplicate_that_fails_waits_for_the_other_before_a_retry(stack: Stack) -> None:
    stack.emulator.fault(duplicate=2)
    done = threading.Event()
    stack.target.will_answer(500, waiting_for(done))
    task = stack.create()
    assert stack.wait_for_responses(task, 1).schedule_time == task.schedule_time
    done.set()
    stack.wait_until_gone(task)
    assert len(stack.target.waiting()) == 2


@pytest.mark.parametrize("ask", [by_method, by_http])
def test_a_fault_holds_every_delivery_back(stack: Stack, ask: Callable[..., None]) -> None:
    ask(stack, {"late": 0.3})
    began = time.monotonic()
    stack.target.will_answer(500, 200)
    stack.wait_until_gone(stack.create())
    first, second = stack.target.waiting()
    assert first.at - began >= 0.3
    assert second.at - first.at >= 0.3


def test_a_fault_that_is_taken_back_holds_no_further_delivery_back(stack: Stack) -> None:
    stack.emulator.fault(late=3600)
    held = stack.create(url=f"{stack.target.url}/held")
    wait_for(lambda: stack.client.get_task(name=held.name).dispatch_count == 1)
    stack.emulator.fault(late=0)
    stack.create(url=f"{stack.target.url}/after")
    assert stack.target.next().path == "/after"


@pytest.mark.parametrize("ask", [by_method, by_http])
def test_a_fault_refuses_new_tasks_as_unavailable_until_it_is_taken_back(
    stack: Stack, ask: Callable[..., None]
) -> None:
    ask(stack, {"unavailable": True})
    with pytest.raises(exceptions.ServiceUnavailable):
        stack.create(task=stack.named("refused"))
    ask(stack, {"unavailable": False})
    stack.create(task=stack.named("refused"))
    assert stack.target.next().path == "/work"


@pytest.mark.parametrize(
    "faults",
    [
        {"duplicate": 0},
        {"duplicate": "2"},
        {"late": -1},
        {"late": True},
        {"unavailable": 1},
        {"throttle": -1},
        {"ramp": 501},
        {"delay": 3},
        {"delay": {"p50": 2, "p99": 1}},
        {"unknown": 1},
        ["list"],
    ],
)
def test_a_fault_that_is_misspelt_is_refused_and_changes_nothing(stack: Stack, faults: Any) -> None:
    answer = requests.post(f"{stack.emulator.url}/faults", json=faults, timeout=PATIENCE)
    assert (answer.status_code, list(answer.json())) == (400, ["error"])
    now = requests.get(f"{stack.emulator.url}/faults", timeout=PATIENCE).json()
    assert now == LENIENT


# Throttling, ramping up and delays, which are on by setting alone


def test_responses_that_say_overloaded_slow_the_whole_queue_down_until_it_recovers(stack: Stack) -> None:
    stack.configure({"max_dispatches_per_second": 8}, max_attempts=1)
    stack.emulator.fault(throttle=3600)
    stack.target.will_answer(*[503] * 3)
    for _ in range(3):
        stack.wait_until_gone(stack.create())
        stack.target.next()
        time.sleep(LOWERED_SECONDS)
    stack.client.pause_queue(name=stack.queue)
    waiting = [stack.create() for _ in range(8)]  # a second's worth of the queue's own rate, and eight of what is left
    stack.client.resume_queue(name=stack.queue)
    stack.prove_a_dispatch()
    assert len(stack.target.waiting()) < len(waiting)
    shown = stack.client.get_queue(name=stack.queue).rate_limits
    assert (shown.max_dispatches_per_second, shown.max_burst_size) == (8, 8)
    stack.emulator.fault(throttle=0)
    stack.create()  # what is changed on the side port takes effect with the next call
    stack.wait_until_gone(waiting[-1])


def test_a_queue_that_was_idle_ramps_up(stack: Stack) -> None:
    stack.emulator.fault(ramp=0.5)
    tasks = [stack.create() for _ in range(8)]
    stack.target.next()
    stack.prove_a_dispatch()
    assert stack.client.get_task(name=tasks[-1].name).dispatch_count == 0
    stack.emulator.fault(ramp=0)
    stack.create()
    stack.wait_until_gone(tasks[-1])


def test_a_delayed_task_comes_later_than_it_says(stack: Stack) -> None:
    stack.emulator.fault(delay={"p50": 0.3, "p99": 0.3})
    task = stack.create()
    arrival = stack.target.next()
    assert arrival.when - task.schedule_time >= timedelta(seconds=0.3)
    assert arrival.headers["X-CloudTasks-TaskETA"] == f"{task.schedule_time.timestamp():.6f}"


def test_a_task_may_be_delayed_by_minutes(stack: Stack) -> None:
    stack.emulator.fault(delay={"p50": 300, "p99": 300})
    task = stack.create()
    stack.emulator.fault(delay=None)
    stack.prove_a_dispatch()
    assert stack.client.get_task(name=task.name).dispatch_count == 0


# As a process of its own


def start_process(*flags: str) -> AbstractContextManager[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "local.tasks_emulator", *flags]
    return started(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_says_when_it_is_ready_and_ends_in_order_on_a_signal(stack: Stack, number: signal.Signals) -> None:
    ended = threading.Event()
    with start_process("--port=0", "--http-port=0") as process:
        assert process.stdout
        ready, target, url = process.stdout.readline().split()
        assert ready == "ready"
        with client_of(target.removeprefix("grpc=")) as client:
            own = Stack(stack.emulator, client, stack.target, f"{LOCATION}/queues/process")
            own.configure()
            own.create(oidc_token={"service_account_email": "a@b.example"})
            token = stack.target.next().headers["Authorization"].removeprefix("Bearer ")
            certs_url = f"{url.removeprefix('http=')}/certs"
            assert id_token.verify_token(token, Request(), f"{stack.target.url}/work", certs_url=certs_url)
            stack.target.will_answer(waiting_for(ended))
            own.create(body=b"still under way when the signal comes")
            stack.target.next()
        process.send_signal(number)
        rest, errors = process.communicate(timeout=PATIENCE)
        ended.set()
        assert (process.returncode, rest, errors) == (0, "", "")


def test_a_process_can_begin_with_faults() -> None:
    with start_process("--port=0", "--faults", '{"ramp": 20}') as process:
        assert process.stdout
        url = process.stdout.readline().split()[2].removeprefix("http=")
        assert requests.get(f"{url}/faults", timeout=PATIENCE).json() == LENIENT | {"ramp": 20}
        process.terminate()
        process.communicate(timeout=PATIENCE)


def test_a_taken_port_is_one_clear_line_and_exit_status_1(emulator: TasksEmulator) -> None:
    port = emulator.target.rpartition(":")[2]
    with start_process(f"--port={port}") as process:
        output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output, errors.count("\n")) == (1, "", 1)
    assert "in use" in errors
    assert port in errors


def test_a_taken_side_port_is_an_error_that_names_it(emulator: TasksEmulator) -> None:
    port = int(emulator.url.rpartition(":")[2])
    with pytest.raises(OSError, match=str(port)):
        TasksEmulator(http_port=port).start()


def test_no_second_server_can_share_the_port(emulator: TasksEmulator) -> None:
    host, _, port = emulator.target.partition(":")
    with pytest.raises(OSError, match="in use"):
        socket.create_server((host, int(port)), reuse_port=True)


def test_a_port_is_free_again_once_the_emulator_has_stopped() -> None:
    with TasksEmulator() as emulator:
        port = int(emulator.target.rpartition(":")[2])
    with TasksEmulator(port=port) as emulator, socket.create_connection(("127.0.0.1", port), PATIENCE):
        assert emulator.target == f"127.0.0.1:{port}"
