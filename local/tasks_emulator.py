"""An emulator of Cloud Tasks, for the local stack and the tests.

It exists because every generation goes through Cloud Tasks, and no published emulator implements OIDC tokens, back-off,
dispatch deadlines and names that can be used only once. It speaks gRPC to the unmodified `CloudTasksClient` and HTTP to
the worker; a side port serves the public keys of its tokens. It must not be more lenient than Cloud Tasks, or a service
could work here and fail there. It must not poll, because that would delay the first token. It must not import anything
of the service. All state is in memory.

The rules are those of the v2 reference (https://cloud.google.com/tasks/docs/reference/rpc/google.cloud.tasks.v2) unless
a docstring names another page. Known differences: a name stays used for the queue's whole life (really an hour to a
day); back-offs are kept to the microsecond (the reference truncates to seconds, though the default is 0.1 s); redirects
fail an attempt (they "may be followed"); nothing is throttled or ramped up; zero in a queue's settings means the
default; queue-level targets, OAuth tokens and list filters are refused as unimplemented.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import itertools
import json
import re
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import urlsplit

import grpc
import jwt
import urllib3
from cryptography.hazmat.primitives.asymmetric import rsa
from google.api_core.exceptions import from_http_status
from google.cloud import tasks_v2 as v2
from google.protobuf.empty_pb2 import Empty
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc.status_pb2 import Status
from grpc import StatusCode

T = TypeVar("T")

QUEUE_NAME = re.compile(r"projects/[A-Za-z0-9.:-]+/locations/[A-Za-z0-9-]+/queues/[A-Za-z0-9-]{1,100}")
TASK_ID = re.compile(r"[A-Za-z0-9_-]{1,500}")
MAX_TASK_BYTES = 1 << 20  # https://cloud.google.com/tasks/docs/quotas
MAX_AHEAD = timedelta(days=30)  # the same page
MAX_DEADLINE = timedelta(minutes=30)
MAX_LATE_SECONDS = 3600.0
TOKENS_KEPT = 64
WITH_BODY = (v2.HttpMethod.POST, v2.HttpMethod.PUT, v2.HttpMethod.PATCH)
REPLACED_HEADERS = re.compile(
    r"(connection|host|content-length|user-agent)$|x-(google|appengine|cloudtasks)-", re.IGNORECASE
)
SETTINGS = ("rate_limits", "retry_config")
# What `gcloud tasks queues describe` shows of a queue created without options.
RATE_LIMITS = v2.RateLimits(max_dispatches_per_second=500, max_concurrent_dispatches=1000)
RETRY_CONFIG = v2.RetryConfig(max_attempts=100, min_backoff="0.1s", max_backoff="3600s", max_doublings=16)


class Refusal(Exception):
    """A call that fails with a gRPC status and changes nothing."""

    def __init__(self, code: StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class Outcome(NamedTuple):
    """The result of a delivery: the response's status, or 0 if there was none. `retry_after` is in seconds."""

    status: int
    code: StatusCode
    reason: str
    retry_after: int = 0


@dataclass(eq=False)
class Entry:
    """A task and its internal state. `ticket` identifies its one valid entry in the schedule."""

    task: v2.Task
    ticket: int = 0
    in_flight: int = 0
    executions: int = 0
    last: Outcome | None = None


@dataclass(frozen=True)
class Faults:
    """Faults on demand. Cloud Tasks has all of them."""

    duplicate: int = 1
    late: float = 0.0
    unavailable: bool = False

    def __post_init__(self) -> None:
        if type(self.duplicate) is not int or self.duplicate < 1 or type(self.unavailable) is not bool:
            raise ValueError("duplicate is a whole number of at least 1, unavailable is true or false")
        if type(self.late) not in (int, float) or not 0 <= self.late <= MAX_LATE_SECONDS:
            raise ValueError(f"late is a number of seconds from 0 to {MAX_LATE_SECONDS:g}")


def backoff(retry: v2.RetryConfig, failures: int) -> float:
    """Seconds to wait after the `failures`-th failure in a row.

    Doubles `max_doublings` times, then grows by the last step, up to `max_backoff`. RetryConfig's own example: from
    10 s to 300 s with 3 doublings is 10, 20, 40, 80, 160, 240, 300, 300.
    """
    factor = 2 ** min(failures - 1, retry.max_doublings) * max(failures - retry.max_doublings, 1)
    return float(min(retry.min_backoff.total_seconds() * factor, retry.max_backoff.total_seconds()))


def exhausted(retry: v2.RetryConfig, attempts: int, age: timedelta) -> bool:
    """Whether to give up a task: once every limit that is set is reached (-1 attempts and 0 s mean not set)."""
    reached = [attempts >= retry.max_attempts] if retry.max_attempts != -1 else []
    reached += [age >= retry.max_retry_duration] if retry.max_retry_duration else []
    return bool(reached) and all(reached)


class Issuer:
    """Signs ID tokens like Google's, with a key that lives as long as the process."""

    def __init__(self) -> None:
        self._key, self._key_id = rsa.generate_private_key(65537, 2048), secrets.token_hex(20)
        public = jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        self.keys = {"keys": [{**public, "kid": self._key_id, "use": "sig", "alg": "RS256"}]}
        self._signed = lru_cache(maxsize=TOKENS_KEPT)(self._sign)

    def token(self, email: str, audience: str) -> str:
        """A service account's token, valid for 1 h (https://cloud.google.com/docs/authentication/token-types#id).

        Tokens are reused for a minute: signing takes a millisecond, which would delay every first token.
        """
        return self._signed(email, audience, int(time.time()) // 60 * 60)

    def _sign(self, email: str, audience: str, now: int) -> str:
        subject = str(int(hashlib.sha256(email.encode()).hexdigest(), 16))[:21]
        claims: dict[str, Any] = {"iss": "https://accounts.google.com", "aud": audience, "azp": subject, "sub": subject}
        claims |= {"email": email, "email_verified": True, "iat": now, "exp": now + 3600}
        return jwt.encode(claims, self._key, "RS256", {"kid": self._key_id})


class Line:
    """One queue: its settings, its tasks, their schedule, and its rate limits."""

    def __init__(self, name: str) -> None:
        self.queue = v2.Queue(name=name, state=v2.Queue.State.RUNNING)
        self.tasks: dict[str, Entry] = {}
        self.used: set[str] = set()
        self.in_flight = 0
        self._schedule: list[tuple[float, int, Entry]] = []
        self._tickets = itertools.count(1)
        self._tokens, self._filled = float("inf"), 0.0

    def configure(self, given: v2.Queue, mask: FieldMask) -> None:
        """Applies the settings that the mask names, or all without a mask. Unset ones get their defaults."""
        paths = [path for path in mask.paths or SETTINGS if path.startswith(SETTINGS)]
        FieldMask(paths=paths).MergeMessage(v2.Queue.pb(given), v2.Queue.pb(self.queue), True, True)
        limits = _filled(self.queue.rate_limits, RATE_LIMITS)
        limits.max_burst_size = max(1, round(limits.max_dispatches_per_second))
        self.queue.rate_limits = limits
        self.queue.retry_config = _filled(self.queue.retry_config, RETRY_CONFIG)

    def schedule(self, entry: Entry, when: datetime) -> None:
        entry.task.schedule_time, entry.ticket = when, next(self._tickets)
        # The clock is read before the timer, so that a pause between the two makes a task late and never early.
        wait = (when - datetime.now(UTC)).total_seconds()
        heapq.heappush(self._schedule, (time.monotonic() + wait, entry.ticket, entry))

    def launch_due(self, launch: Callable[[Line, Entry], None]) -> float | None:
        """Launches all tasks that are due and within the limits. Returns the seconds until the next, or None."""
        limits = self.queue.rate_limits
        while self.queue.state == v2.Queue.State.RUNNING and self.in_flight < limits.max_concurrent_dispatches:
            if not self._schedule:
                return None
            due, ticket, entry = self._schedule[0]
            if ticket == entry.ticket and self.tasks.get(entry.task.name) is entry:
                now = time.monotonic()
                if (wait := max(due - now, self._token_wait(now))) > 0:
                    return wait
                self._tokens -= 1
                launch(self, entry)
            heapq.heappop(self._schedule)
        return None

    def settle(self, entry: Entry, outcome: Outcome) -> None:
        """Ends one delivery. A success ends the task. Of simultaneous failures, the last determines what follows."""
        self.in_flight -= 1
        entry.in_flight -= 1
        entry.last, task, now = outcome, entry.task, datetime.now(UTC)
        entry.executions += 0 < outcome.status < 500
        if outcome.status:
            task.response_count += 1
            task.last_attempt.response_time = now
        task.last_attempt.response_status = Status(code=outcome.code.value[0], message=outcome.reason)
        if self.tasks.get(task.name) is not entry:
            return
        if 200 <= outcome.status < 300:
            del self.tasks[task.name]
        elif not entry.in_flight:
            self._retry(entry, now, outcome.retry_after)

    def _retry(self, entry: Entry, now: datetime, retry_after: float) -> None:
        task = entry.task
        retry = _filled(task.retry_config, self.queue.retry_config)
        if exhausted(retry, task.dispatch_count, now - task.first_attempt.dispatch_time):
            del self.tasks[task.name]
        else:
            self.schedule(entry, now + timedelta(seconds=max(backoff(retry, task.dispatch_count), retry_after)))

    def _token_wait(self, now: float) -> float:
        """Seconds until the token bucket that RateLimits.max_burst_size describes has a token."""
        limits = self.queue.rate_limits
        gained = (now - self._filled) * limits.max_dispatches_per_second
        self._tokens, self._filled = min(limits.max_burst_size, self._tokens + gained), now
        return float(max(0.0, (1 - self._tokens) / limits.max_dispatches_per_second))


class TasksEmulator:
    """A Cloud Tasks service: `start()` and `stop()` it, or use it as a context manager.

    Ports of 0 are chosen at the start: see `target` (for `grpc.insecure_channel`) and `url` (the side port).
    `min_dispatch_deadline` (seconds) lets tests go below the 15 s that Cloud Tasks demands.
    """

    def __init__(
        self, *, host: str = "127.0.0.1", port: int = 0, http_port: int = 0, min_dispatch_deadline: float = 15.0
    ) -> None:
        self.target = self.url = ""
        self.faults, self.issuer = Faults(), Issuer()
        self._host, self._port, self._http_port = host, port, http_port
        self._min_deadline = timedelta(seconds=min_dispatch_deadline)
        self._lines: dict[str, Line] = {}
        self._changed, self._stopping = threading.Condition(), False
        self._http = urllib3.PoolManager(maxsize=RATE_LIMITS.max_concurrent_dispatches, retries=False)
        self._rpc_threads = ThreadPoolExecutor(8)

    def start(self) -> Self:
        """Serves both ports. Raises OSError if one is taken."""
        for port in filter(None, (self._port, self._http_port)):
            socket.create_server((self._host, port)).close()  # gRPC would log the failure too
        self._side = _SideServer((self._host, self._http_port), partial(_SideRequest, self))
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
        self._http.clear()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def certs_url(self) -> str:
        """For `id_token.verify_token(…, certs_url=…)`."""
        return f"{self.url}/certs"

    def fault(self, **changes: float | bool) -> Faults:
        """Sets faults, until they are changed again. Others stay as they are. Raises ValueError or TypeError.

        `duplicate=N` delivers every attempt N times at once; `late=S` holds every delivery back for S seconds, after
        the queue has launched it; `unavailable=True` refuses CreateTask as UNAVAILABLE.
        """
        self.faults = replace(self.faults, **changes)  # type: ignore[arg-type]
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
            "GetTask": lambda request: _view(self._entry(request.name)[1].task, request.response_view),
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
            raise _invalid("The queue's name must begin with the parent")
        return self._update_queue(v2.UpdateQueueRequest(queue=request.queue))

    def _update_queue(self, request: v2.UpdateQueueRequest) -> v2.Queue:
        given = request.queue
        if not QUEUE_NAME.fullmatch(given.name):
            raise _invalid("A queue is named projects/PROJECT_ID/locations/LOCATION_ID/queues/QUEUE_ID")
        if "http_target" in given or "app_engine_routing_override" in given:
            raise Refusal(StatusCode.UNIMPLEMENTED, "Queue-level targets are not emulated")
        line = self._lines.setdefault(given.name, Line(given.name))
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
        page, token = _page(names, request.page_size, request.page_token, 9800)
        return v2.ListQueuesResponse(queues=[self._lines[name].queue for name in page], next_page_token=token)

    def _create_task(self, request: v2.CreateTaskRequest) -> v2.Task:
        if self.faults.unavailable:
            raise Refusal(StatusCode.UNAVAILABLE, "The service is currently unavailable.")
        name = f"{request.parent}/tasks/{secrets.randbits(63)}"
        task = _filled(request.task, v2.Task(name=name, dispatch_deadline="600s"))
        task.http_request = _filled(task.http_request, v2.HttpRequest(http_method=v2.HttpMethod.POST))
        line, now = self._line(request.parent), datetime.now(UTC)
        when = max(task.schedule_time or now, now)
        self._check(request, task, when - now)
        if task.name in line.used:
            raise Refusal(StatusCode.ALREADY_EXISTS, "A task with this name exists or existed too recently")
        task.create_time = now.replace(microsecond=0)
        entry = line.tasks[task.name] = Entry(task)
        line.used.add(task.name)
        line.schedule(entry, when)
        return _view(task, request.response_view)

    def _check(self, request: v2.CreateTaskRequest, task: v2.Task, ahead: timedelta) -> None:
        http = task.http_request
        parent, _, task_id = task.name.partition("/tasks/")
        if parent != request.parent or not TASK_ID.fullmatch(task_id):
            raise _invalid("A task is named after its queue: …/queues/QUEUE_ID/tasks/TASK_ID")
        if not _is_url(http.url):
            raise _invalid("HttpRequest.url must be a URL that begins with http:// or https://")
        if http.body and http.http_method not in WITH_BODY:
            raise _invalid("A body is allowed with POST, PUT and PATCH only")
        if len(v2.Task.serialize(request.task)) > MAX_TASK_BYTES:
            raise _invalid("A task is at most 1 MB")
        if not self._min_deadline <= task.dispatch_deadline <= MAX_DEADLINE:
            raise _invalid("Task.dispatch_deadline must be between 15s and 30m")
        if ahead > MAX_AHEAD:
            raise _invalid("Task.schedule_time must be within 30 days")
        if "oauth_token" in http:
            raise Refusal(StatusCode.UNIMPLEMENTED, "OAuth tokens are not emulated")

    def _list_tasks(self, request: v2.ListTasksRequest) -> v2.ListTasksResponse:
        entries = list(self._line(request.parent).tasks.values())
        page, token = _page(entries, request.page_size, request.page_token, 1000)
        tasks = [_view(entry.task, request.response_view) for entry in page]
        return v2.ListTasksResponse(tasks=tasks, next_page_token=token)

    def _delete_task(self, request: v2.DeleteTaskRequest) -> Empty:
        line, entry = self._entry(request.name)
        del line.tasks[entry.task.name]
        return Empty()

    def _run_task(self, request: v2.RunTaskRequest) -> v2.Task:
        line, entry = self._entry(request.name)
        self._launch(line, entry)
        return _view(entry.task, request.response_view)

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
        headers = self._headers(entry)
        for _ in range(self.faults.duplicate):
            line.in_flight += 1
            entry.in_flight += 1
            threading.Thread(target=self._deliver, args=(line, entry, headers, self.faults.late), daemon=True).start()

    def _headers(self, entry: Entry) -> urllib3.HTTPHeaderDict:
        """A delivery's headers (https://cloud.google.com/tasks/docs/creating-http-target-tasks#handler).

        TaskRetryCount counts every attempt before this one. TaskExecutionCount counts the responses: "This number does
        not include failures due to 5XX error codes". TaskPreviousResponse and TaskRetryReason are on retries only; the
        page lists no reasons, so these are the emulator's own.
        """
        task, http = entry.task, entry.task.http_request
        queue, _, name = task.name.rpartition("/tasks/")
        headers = urllib3.HTTPHeaderDict({k: v for k, v in http.headers.items() if not REPLACED_HEADERS.match(k)})
        headers["User-Agent"] = "Google-Cloud-Tasks"
        headers["X-CloudTasks-QueueName"] = queue.rpartition("/")[2]
        headers["X-CloudTasks-TaskName"] = name
        headers["X-CloudTasks-TaskRetryCount"] = str(task.dispatch_count - 1)
        headers["X-CloudTasks-TaskExecutionCount"] = str(entry.executions)
        headers["X-CloudTasks-TaskETA"] = f"{task.schedule_time.timestamp():.6f}"
        if entry.last:
            headers["X-CloudTasks-TaskRetryReason"] = entry.last.reason
        # A reused connection that the worker closes at the same moment would count as a failed attempt.
        headers["Connection"] = "close"
        if entry.last and entry.last.status:
            headers["X-CloudTasks-TaskPreviousResponse"] = str(entry.last.status)
        if "oidc_token" in http:
            token = self.issuer.token(http.oidc_token.service_account_email, http.oidc_token.audience or http.url)
            headers["Authorization"] = f"Bearer {token}"
        return headers

    def _deliver(self, line: Line, entry: Entry, headers: urllib3.HTTPHeaderDict, late: float) -> None:
        time.sleep(late)
        outcome = self._request(entry.task.http_request, headers, entry.task.dispatch_deadline.total_seconds())
        with self._changed:
            line.settle(entry, outcome)
            self._changed.notify()

    def _request(self, http: v2.HttpRequest, headers: urllib3.HTTPHeaderDict, deadline: float) -> Outcome:
        end = time.monotonic() + deadline
        try:
            with self._http.request(
                http.http_method.name,
                http.url,
                body=http.body or None,
                headers=headers,
                timeout=urllib3.Timeout(total=deadline),
                redirect=False,
                preload_content=False,
            ) as response:
                while response.read1(65536, decode_content=False):
                    if time.monotonic() > end:  # a time-out limits a single read; a slow body takes many
                        raise urllib3.exceptions.TimeoutError
        except urllib3.exceptions.TimeoutError:
            return Outcome(0, StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
        except (urllib3.exceptions.HTTPError, OSError, ValueError):
            return Outcome(0, StatusCode.UNAVAILABLE, "UNAVAILABLE")
        retry_after = response.headers.get("Retry-After", "") if response.status in (429, 503) else ""
        code = from_http_status(response.status, "").grpc_status_code or StatusCode.UNKNOWN
        reason = f"HTTP status code {response.status}"
        return Outcome(response.status, code, reason, int(retry_after) if retry_after.isdecimal() else 0)


class _SideServer(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


class _SideRequest(BaseHTTPRequestHandler):
    """The side port: `GET /certs`, and `GET` or `POST /faults` with the arguments of `TasksEmulator.fault` as JSON."""

    def __init__(self, emulator: TasksEmulator, *connection: Any) -> None:
        self._emulator = emulator
        super().__init__(*connection)

    def do_GET(self) -> None:
        pages = {"/certs": self._emulator.issuer.keys, "/faults": asdict(self._emulator.faults)}
        self._answer(200 if self.path in pages else 404, pages.get(self.path, {}))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            if self.path == "/faults":
                self._answer(200, asdict(self._emulator.fault(**json.loads(body))))
            else:
                self._answer(404, {})
        except (TypeError, ValueError) as error:
            self._answer(400, {"error": str(error)})

    def _answer(self, status: int, page: dict[str, Any]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(page).encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _invalid(message: str) -> Refusal:
    return Refusal(StatusCode.INVALID_ARGUMENT, message)


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and len(url) <= 2083
    except ValueError:
        return False


def _filled(given: Any, defaults: Any) -> Any:
    """A copy of a proto-plus message whose unset fields have their defaults. (MergeFrom would mix up two durations.)"""
    filled = type(given)(given)
    target, source = type(given).pb(filled), type(given).pb(defaults)
    known = {field.name for field, _ in target.ListFields()}
    unset = FieldMask(paths=[field.name for field, _ in source.ListFields() if field.name not in known])
    unset.MergeMessage(source, target)
    return filled


def _view(task: v2.Task, view: v2.Task.View) -> v2.Task:
    """A copy for the caller. The body is included only in the FULL view."""
    shown = v2.Task(task)
    shown.view = v2.Task.View(view or v2.Task.View.BASIC)
    if shown.view != v2.Task.View.FULL:
        shown.http_request.body = b""
    return shown


def _page(items: Sequence[T], size: int, token: str, most: int) -> tuple[Sequence[T], str]:
    start = int(token or 0)
    end = start + min(size or most, most)
    return items[start:end], str(end) if end < len(items) else ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="tasks_emulator", description="Cloud Tasks on one machine.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8086, help="gRPC; 0 takes a free one")
    parser.add_argument("--http-port", type=int, default=0, help="keys and faults; 0 takes a free one")
    parser.add_argument("--min-dispatch-deadline", type=float, default=15.0, metavar="SECONDS")
    # Blocked before any thread starts, so that every thread inherits it and sigwait below is what gets the signal.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    emulator = TasksEmulator(**vars(parser.parse_args()))
    try:
        emulator.start()
    except OSError as error:
        print(f"tasks_emulator: {error.strerror}", file=sys.stderr)
        return 1
    print(f"ready grpc={emulator.target} http={emulator.url}", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    emulator.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
