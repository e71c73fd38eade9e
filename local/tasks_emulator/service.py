"""The service: the v2 API over gRPC, and the dispatching of what is due."""

from __future__ import annotations

import re
import secrets
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Self

import grpc
import urllib3
from google.cloud import tasks_v2 as v2
from google.protobuf.empty_pb2 import Empty
from google.protobuf.field_mask_pb2 import FieldMask
from grpc import StatusCode

from local.tasks_emulator.delivery import deliver, headers_of
from local.tasks_emulator.entry import Entry
from local.tasks_emulator.faults import Faults
from local.tasks_emulator.issuer import Issuer
from local.tasks_emulator.line import Line
from local.tasks_emulator.message import Refusal, filled, invalid, is_url, page, view_of
from local.tasks_emulator.side_port import SideRequest, SideServer

QUEUE_NAME = re.compile(r"projects/[A-Za-z0-9.:-]+/locations/[A-Za-z0-9-]+/queues/[A-Za-z0-9-]{1,100}")
TASK_ID = re.compile(r"[A-Za-z0-9_-]{1,500}")
MAX_TASK_BYTES = 1 << 20  # https://cloud.google.com/tasks/docs/quotas
MAX_AHEAD = timedelta(days=30)  # the same page
MAX_DEADLINE = timedelta(minutes=30)
WITH_BODY = (v2.HttpMethod.POST, v2.HttpMethod.PUT, v2.HttpMethod.PATCH)


class TasksEmulator:
    """A Cloud Tasks service: `start()` and `stop()` it, or use it as a context manager.

    Ports of 0 are chosen at the start: see `target` (for `grpc.insecure_channel`) and `url` (the side port).
    `min_dispatch_deadline` (seconds) lets tests go below the 15 s that Cloud Tasks demands.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        http_port: int = 0,
        min_dispatch_deadline: float = 15.0,
        faults: Faults | None = None,
    ) -> None:
        self.target = self.url = ""
        self.faults, self.issuer = faults or Faults(), Issuer()
        self._host, self._port, self._http_port = host, port, http_port
        self._min_deadline = timedelta(seconds=min_dispatch_deadline)
        self._lines: dict[str, Line] = {}
        self._changed, self._stopping = threading.Condition(), False
        self._rpc_threads = ThreadPoolExecutor(8)

    def start(self) -> Self:
        """Serves both ports. Raises OSError if one is taken."""
        for port in filter(None, (self._port, self._http_port)):
            socket.create_server((self._host, port)).close()  # gRPC would log the failure too
        self._side = SideServer((self._host, self._http_port), partial(SideRequest, self))
        # With so_reuseport, gRPC's default, a second server on the port would start and take half of the calls.
        self._server = grpc.server(self._rpc_threads, options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((self._rpcs(),))
        self.target = f"{self._host}:{self._server.add_insecure_port(f'{self._host}:{self._port}')}"
        self.url = f"http://{self._host}:{self._side.server_address[1]}"
        self._server.start()
        self._dispatcher = threading.Thread(target=self._dispatch, daemon=True)
        self._dispatcher.start()
        threading.Thread(target=self._side.serve_forever, args=(0.2,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Closes both ports. Running deliveries are not awaited."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._dispatcher.join()
        self._server.stop(None).wait()
        self._rpc_threads.shutdown()
        self._side.shutdown()
        self._side.server_close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def certs_url(self) -> str:
        """For `id_token.verify_token(…, certs_url=…)`."""
        return f"{self.url}/certs"

    def fault(self, **changes: Any) -> Faults:
        """Sets faults, until they are changed again. Others stay as they are. Raises ValueError or TypeError."""
        self.faults = replace(self.faults, **changes)
        return self.faults

    def _rpcs(self) -> Any:
        calls: dict[str, Callable[[Any], Any]] = {
            "CreateQueue": self._create_queue,
            "GetQueue": lambda request: self._line(request.name).queue,
            "UpdateQueue": self._update_queue,
            "DeleteQueue": self._delete_queue,
            "PurgeQueue": self._purge_queue,
            "PauseQueue": partial(self._set_state, v2.Queue.State.PAUSED),
            "ResumeQueue": partial(self._set_state, v2.Queue.State.RUNNING),
            "ListQueues": self._list_queues,
            "CreateTask": self._create_task,
            "GetTask": lambda request: view_of(self._entry(request.name)[1].task, request.response_view),
            "ListTasks": self._list_tasks,
            "DeleteTask": self._delete_task,
            "RunTask": self._run_task,
        }
        handlers = {name: self._rpc(getattr(v2, f"{name}Request"), call) for name, call in calls.items()}
        return grpc.method_handlers_generic_handler("google.cloud.tasks.v2.CloudTasks", handlers)

    def _rpc(self, kind: Any, call: Callable[[Any], Any]) -> Any:
        def handle(request: Any, context: Any) -> Any:
            try:
                with self._changed:
                    answer = call(request)
                    if self._launch_due() is not None:
                        self._changed.notify()
                    return answer.SerializeToString() if isinstance(answer, Empty) else type(answer).serialize(answer)
            except Refusal as refusal:
                return context.abort(refusal.code, str(refusal))

        return grpc.unary_unary_rpc_method_handler(handle, request_deserializer=kind.deserialize)

    def _create_queue(self, request: v2.CreateQueueRequest) -> v2.Queue:
        if request.queue.name in self._lines:
            raise Refusal(StatusCode.ALREADY_EXISTS, "Queue already exists")
        if request.queue.name.partition("/queues/")[0] != request.parent:
            raise invalid("The queue's name must begin with the parent")
        return self._update_queue(v2.UpdateQueueRequest(queue=request.queue))

    def _update_queue(self, request: v2.UpdateQueueRequest) -> v2.Queue:
        given = request.queue
        if not QUEUE_NAME.fullmatch(given.name):
            raise invalid("A queue is named projects/PROJECT_ID/locations/LOCATION_ID/queues/QUEUE_ID")
        if "http_target" in given or "app_engine_routing_override" in given:
            raise Refusal(StatusCode.UNIMPLEMENTED, "Queue-level targets are not emulated")
        line = self._lines.setdefault(given.name, Line(given.name, lambda: self.faults))
        line.configure(given, request.update_mask or FieldMask())
        return line.queue

    def _delete_queue(self, request: v2.DeleteQueueRequest) -> Empty:
        self._line(request.name)
        del self._lines[request.name]
        return Empty()

    def _purge_queue(self, request: v2.PurgeQueueRequest) -> v2.Queue:
        line = self._line(request.name)
        line.tasks.clear()
        line.queue.purge_time = datetime.now(UTC)
        return line.queue

    def _set_state(self, state: int, request: Any) -> v2.Queue:
        queue = self._line(request.name).queue
        queue.state = v2.Queue.State(state)
        return queue

    def _list_queues(self, request: v2.ListQueuesRequest) -> v2.ListQueuesResponse:
        if request.filter:
            raise Refusal(StatusCode.UNIMPLEMENTED, "Filters are not emulated")
        names = sorted(name for name in self._lines if name.startswith(f"{request.parent}/queues/"))
        shown, token = page(names, request.page_size, request.page_token, 9800)
        return v2.ListQueuesResponse(queues=[self._lines[name].queue for name in shown], next_page_token=token)

    def _create_task(self, request: v2.CreateTaskRequest) -> v2.Task:
        if self.faults.unavailable:
            raise Refusal(StatusCode.UNAVAILABLE, "The service is currently unavailable.")
        name = f"{request.parent}/tasks/{secrets.randbits(63)}"
        task = filled(request.task, v2.Task(name=name, dispatch_deadline="600s"))
        task.http_request = filled(task.http_request, v2.HttpRequest(http_method=v2.HttpMethod.POST))
        line, now = self._line(request.parent), datetime.now(UTC)
        when = max(task.schedule_time or now, now)
        self._check(request, task, when - now)
        if task.name in line.used:
            raise Refusal(StatusCode.ALREADY_EXISTS, "A task with this name exists or existed too recently")
        task.create_time = now.replace(microsecond=0)
        entry = line.tasks[task.name] = Entry(task)
        line.used.add(task.name)
        line.schedule(entry, when)
        return view_of(task, request.response_view)

    def _check(self, request: v2.CreateTaskRequest, task: v2.Task, ahead: timedelta) -> None:
        http = task.http_request
        parent, _, task_id = task.name.partition("/tasks/")
        if parent != request.parent or not TASK_ID.fullmatch(task_id):
            raise invalid("A task is named after its queue: …/queues/QUEUE_ID/tasks/TASK_ID")
        if not is_url(http.url):
            raise invalid("HttpRequest.url must be a URL that begins with http:// or https://")
        if http.body and http.http_method not in WITH_BODY:
            raise invalid("A body is allowed with POST, PUT and PATCH only")
        if len(v2.Task.serialize(request.task)) > MAX_TASK_BYTES:
            raise invalid("A task is at most 1 MB")
        if not self._min_deadline <= task.dispatch_deadline <= MAX_DEADLINE:
            raise invalid("Task.dispatch_deadline must be between 15s and 30m")
        if ahead > MAX_AHEAD:
            raise invalid("Task.schedule_time must be within 30 days")
        if "oauth_token" in http:
            raise Refusal(StatusCode.UNIMPLEMENTED, "OAuth tokens are not emulated")

    def _list_tasks(self, request: v2.ListTasksRequest) -> v2.ListTasksResponse:
        entries = list(self._line(request.parent).tasks.values())
        shown, token = page(entries, request.page_size, request.page_token, 1000)
        tasks = [view_of(entry.task, request.response_view) for entry in shown]
        return v2.ListTasksResponse(tasks=tasks, next_page_token=token)

    def _delete_task(self, request: v2.DeleteTaskRequest) -> Empty:
        line, entry = self._entry(request.name)
        del line.tasks[entry.task.name]
        return Empty()

    def _run_task(self, request: v2.RunTaskRequest) -> v2.Task:
        line, entry = self._entry(request.name)
        self._launch(line, entry)
        return view_of(entry.task, request.response_view)

    def _line(self, name: str) -> Line:
        if name not in self._lines:
            raise Refusal(StatusCode.NOT_FOUND, "Queue does not exist")
        return self._lines[name]

    def _entry(self, name: str) -> tuple[Line, Entry]:
        line = self._line(name.partition("/tasks/")[0])
        if name not in line.tasks:
            raise Refusal(StatusCode.NOT_FOUND, "The task does not exist, or it has ended")
        return line, line.tasks[name]

    def _dispatch(self) -> None:
        """Launches tasks that become due by time or by the end of a delivery. API calls launch theirs directly."""
        with self._changed:
            while not self._stopping:
                self._changed.wait(self._launch_due())

    def _launch_due(self) -> float | None:
        """As `Line.launch_due`, for all queues."""
        waits = [line.launch_due(self._launch) for line in self._lines.values()]
        return min((wait for wait in waits if wait is not None), default=None)

    def _launch(self, line: Line, entry: Entry) -> None:
        """Starts an attempt without checking the limits, which RunTask disregards."""
        task, now = entry.task, datetime.now(UTC)
        entry.ticket = 0
        task.dispatch_count += 1
        task.last_attempt = v2.Attempt(schedule_time=task.schedule_time, dispatch_time=now)
        if task.dispatch_count == 1:
            task.first_attempt = v2.Attempt(dispatch_time=now)
        headers = headers_of(entry, self.issuer)
        for _ in range(self.faults.duplicate):
            line.in_flight += 1
            entry.in_flight += 1
            threading.Thread(target=self._deliver, args=(line, entry, headers, self.faults.late), daemon=True).start()

    def _deliver(self, line: Line, entry: Entry, headers: urllib3.HTTPHeaderDict, late: float) -> None:
        time.sleep(late)
        outcome = deliver(entry.task.http_request, headers, entry.task.dispatch_deadline.total_seconds())
        with self._changed:
            line.settle(entry, outcome)
            self._changed.notify()
