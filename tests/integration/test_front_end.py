"""The front end limits what Cloud Run's does, and lets everything else through: at once, and as it is."""

from __future__ import annotations

import json
import queue
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from local.front_end.gate import REMOVED
from local.front_end.limits import Limits
from local.ports import HOST, free_port
from local.tasks_emulator.service import TasksEmulator

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0
INVOKER, AUDIENCE = "invoker@demo.iam.gserviceaccount.com", "https://worker.example/"
EVENT_STREAM = "text/event-stream"

Answer = Callable[[BaseHTTPRequestHandler], None]


class Function:
    """A function that answers with what a test gives it, and keeps what it was asked."""

    def __init__(self, port: int = 0) -> None:
        self.asked: queue.SimpleQueue[tuple[str, str, dict[str, str], bytes]] = queue.SimpleQueue()
        self.answer: Answer = plain
        self.left = threading.Event()
        self.connections = 0
        self._server = _Server((HOST, port), partial(_Handler, self))
        self.url = f"http://{HOST}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def next(self) -> tuple[str, str, dict[str, str], bytes]:
        return self.asked.get(timeout=PATIENCE)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that the front end closed is no error here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, function: Function, *connection: Any) -> None:
        self.function = function
        function.connections += 1
        super().__init__(*connection)

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        while "chunked" in self.headers.get("Transfer-Encoding", ""):
            size = int(self.rfile.readline(), 16)
            body += self.rfile.read(size)
            self.rfile.readline()
            if not size:
                break
        self.function.asked.put((self.command, self.path, dict(self.headers), body))
        self.function.answer(self)

    do_GET = do_POST = do_DELETE = _handle

    def log_message(self, format: str, *args: Any) -> None:
        pass


def plain(request: BaseHTTPRequestHandler, body: bytes = b"answer", status: int = 201) -> None:
    request.send_response(status)
    request.send_header("X-Own", "theirs")
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


def begin(request: BaseHTTPRequestHandler, content_type: str = EVENT_STREAM) -> None:
    request.send_response(200)
    request.send_header("Content-Type", content_type)
    request.send_header("Connection", "close")
    request.end_headers()


def wait_until_left(request: Any) -> None:
    """Waits until the connection is closed from the other side."""
    readable, _, _ = select.select([request.connection], [], [], PATIENCE)
    if readable and not request.connection.recv(1, socket.MSG_PEEK):
        request.function.left.set()


@pytest.fixture
def function() -> Iterator[Function]:
    function = Function()
    yield function
    function.close()


@pytest.fixture
def front(function: Function) -> Iterator[Callable[..., str]]:
    """Starts a front end of the function, and returns its URL."""
    with ExitStack() as ends:

        def start(target: str = "", **limits: Any) -> str:
            command = [sys.executable, "-m", "local.front_end", "--target", target or function.url]
            process = subprocess.Popen(
                [*command, "--limits", json.dumps(limits)], cwd=ROOT, text=True, stdout=subprocess.PIPE
            )
            ends.callback(partial(process.communicate, timeout=PATIENCE))
            ends.callback(process.terminate)
            assert process.stdout is not None
            return process.stdout.readline().split()[1].removeprefix("http=")

        yield start


def test_a_request_and_its_response_pass_as_they_are(front: Callable[..., str], function: Function) -> None:
    url = front()
    for body in (b"\x00bytes\xff", iter([b"\x00by", b"tes\xff"])):  # with its length, and in chunks
        answer = requests.post(
            f"{url}/a%20path/?q=1%2F2",
            data=body,
            headers={"X-Own": "mine", "Authorization": "Bearer its.own.token", "Content-Encoding": "gzip"},
            timeout=PATIENCE,
        )
        method, path, headers, asked = function.next()
        assert (method, path, asked) == ("POST", "/a%20path/?q=1%2F2", b"\x00bytes\xff")
        assert (headers["X-Own"], headers["Authorization"]) == ("mine", "Bearer its.own.token")
        assert headers["Host"] == url.removeprefix("http://")
        assert "Accept-Language" not in headers
        assert (answer.status_code, answer.content, answer.headers["X-Own"]) == (201, b"answer", "theirs")


def test_each_event_passes_at_once(front: Callable[..., str], function: Function) -> None:
    seen = threading.Semaphore(0)

    def stream(request: BaseHTTPRequestHandler) -> None:
        begin(request)
        for number in range(5):
            request.wfile.write(f"data: {number}\n\n".encode())
            assert seen.acquire(timeout=PATIENCE)  # the next one only after this one has arrived

    function.answer = stream
    with requests.get(front(), stream=True, timeout=PATIENCE) as answer:
        lines = []
        for line in answer.iter_lines(chunk_size=1):
            lines += [line] if line else []
            if line:
                seen.release()
    assert lines == [f"data: {number}".encode() for number in range(5)]


@pytest.mark.parametrize("begun", [True, False], ids=["in a stream", "before the status line"])
def test_a_client_that_leaves_closes_the_function_s_connection(
    front: Callable[..., str], function: Function, begun: bool
) -> None:
    def stream(request: BaseHTTPRequestHandler) -> None:
        if begun:
            begin(request)
            request.wfile.write(b"data: 1\n\n")
        wait_until_left(request)

    function.answer = stream
    host, port = front().removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), PATIENCE) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        function.next()
        if begun:
            assert client.recv(1)
    assert function.left.wait(PATIENCE)


@pytest.mark.parametrize("chunked", [True, False], ids=["in chunks", "with its length"])
def test_a_request_that_is_too_large_is_413(front: Callable[..., str], function: Function, chunked: bool) -> None:
    url = front(request_bytes=1000)

    def body(size: int) -> Any:
        return iter([b"x" * (size // 2), b"x" * (size - size // 2)]) if chunked else b"x" * size

    assert requests.post(url, data=body(1000), timeout=PATIENCE).status_code == 201
    assert len(function.next()[3]) == 1000
    assert requests.post(url, data=body(1001), timeout=PATIENCE).status_code == 413
    assert function.asked.empty()
    deadline = time.monotonic() + PATIENCE
    while function.connections < (2 if chunked else 1):  # it may be on its way
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert function.connections == (2 if chunked else 1)


def test_the_largest_request_is_cloud_run_s() -> None:
    assert Limits().request_bytes == 32 << 20


def test_a_response_that_is_too_large_and_not_streamed_is_500(front: Callable[..., str], function: Function) -> None:
    url = front(response_bytes=1000)
    function.answer = partial(plain, body=b"x" * 1000)
    assert requests.get(url, timeout=PATIENCE).status_code == 201
    function.answer = partial(plain, body=b"x" * 1001)
    assert requests.get(url, timeout=PATIENCE).status_code == 500


def test_a_response_that_has_not_begun_in_time_is_504(front: Callable[..., str], function: Function) -> None:
    function.answer = wait_until_left
    assert requests.get(front(response_seconds=0.3), timeout=PATIENCE).status_code == 504
    assert function.left.wait(PATIENCE)


def test_a_response_that_takes_longer_than_it_may_is_cut(front: Callable[..., str], function: Function) -> None:
    def stream(request: BaseHTTPRequestHandler) -> None:
        begin(request)
        while not function.left.is_set():
            request.wfile.write(b"data: 1\n\n")
            time.sleep(0.05)

    function.answer = stream
    with (
        pytest.raises(requests.exceptions.ChunkedEncodingError),
        requests.get(front(response_seconds=0.5), stream=True, timeout=PATIENCE) as answer,
    ):
        list(answer.iter_content())
    function.left.set()


def test_a_stream_that_is_silent_for_too_long_is_cut_and_a_silent_answer_is_not(
    front: Callable[..., str], function: Function
) -> None:
    url = front(idle_seconds=0.5)

    def silent(request: BaseHTTPRequestHandler) -> None:
        begin(request)
        request.wfile.write(b"data: 1\n\n")
        wait_until_left(request)

    def slow(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "6")
        request.end_headers()
        time.sleep(1)
        request.wfile.write(b"answer")

    function.answer = silent
    with (
        pytest.raises(requests.exceptions.ChunkedEncodingError),
        requests.get(url, stream=True, timeout=PATIENCE) as answer,
    ):
        list(answer.iter_content())
    assert function.left.wait(PATIENCE)
    function.answer = slow
    assert requests.get(url, timeout=PATIENCE).content == b"answer"


def test_a_connection_without_a_request_is_closed(front: Callable[..., str], function: Function) -> None:
    host, port = front(idle_seconds=0.2).removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), PATIENCE) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        received = b""
        while chunk := client.recv(4096):
            received += chunk
    assert received.endswith(b"answer")


def test_a_function_that_dies_breaks_its_responses(front: Callable[..., str], function: Function) -> None:
    def die(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "100")
        request.end_headers()
        request.wfile.write(b"a part")
        request.close_connection = True

    function.answer = die
    with pytest.raises(requests.exceptions.RequestException):
        assert requests.get(front(), timeout=PATIENCE).content


def test_a_request_waits_for_an_instance_and_then_is_429(front: Callable[..., str]) -> None:
    port = free_port()
    url = front(target=f"http://{HOST}:{port}", pending_seconds=0.2)
    assert requests.post(url, data=b"x", timeout=PATIENCE).status_code == 429
    url = front(target=f"http://{HOST}:{port}", pending_seconds=PATIENCE)
    answers: queue.SimpleQueue[int] = queue.SimpleQueue()
    asking = threading.Thread(
        target=lambda: answers.put(requests.post(url, data=b"x", timeout=PATIENCE).status_code), daemon=True
    )
    asking.start()
    asking.join(0.3)
    late = Function(port)
    assert answers.get(timeout=PATIENCE) == 201
    assert late.next()[3] == b"x"
    late.close()


@pytest.mark.parametrize("path", ["/healthz", "/eventlog", "/_ah/start"])
def test_a_path_that_google_keeps_to_itself_is_404(front: Callable[..., str], function: Function, path: str) -> None:
    assert requests.get(front() + path, timeout=PATIENCE).status_code == 404
    assert function.asked.empty()


# A private service


@pytest.fixture(scope="module")
def emulator() -> Iterator[TasksEmulator]:
    with TasksEmulator() as emulator:
        yield emulator


def call(url: str, token: str, header: str = "Authorization") -> int:
    return requests.post(url, headers={header: f"Bearer {token}"}, timeout=PATIENCE).status_code


def test_a_private_service_is_called_by_its_invoker_alone(
    front: Callable[..., str], function: Function, emulator: TasksEmulator
) -> None:
    url = front(invoker=INVOKER, audience=AUDIENCE, certs_url=emulator.certs_url)
    token = emulator.issuer.token(INVOKER, AUDIENCE)
    assert requests.post(url, timeout=PATIENCE).status_code == 403
    assert call(url, "no.token.at-all") == 401
    assert call(url, token[:-4] + "AAAA") == 401
    assert call(url, emulator.issuer.token(INVOKER, "https://other.example/")) == 401
    assert call(url, emulator.issuer.token("other@demo.iam.gserviceaccount.com", AUDIENCE)) == 403
    assert function.asked.empty()
    assert call(url, token) == 201
    assert function.next()[2]["Authorization"] == f"Bearer {token}"


@pytest.mark.parametrize("header", ["Authorization", "X-Serverless-Authorization"])
def test_a_verified_token_loses_its_signature_where_the_service_is_so_set(
    front: Callable[..., str], function: Function, emulator: TasksEmulator, header: str
) -> None:
    url = front(invoker=INVOKER, audience=AUDIENCE, certs_url=emulator.certs_url, strip=True)
    token = emulator.issuer.token(INVOKER, AUDIENCE)
    assert call(url, token, header) == 201
    assert function.next()[2][header] == f"Bearer {token.rpartition('.')[0]}.{REMOVED}"


@pytest.mark.parametrize("limits", [{"strip": True}, {"invoker": INVOKER}])
def test_a_private_service_without_what_verifies_its_callers_is_refused(limits: Any) -> None:
    with pytest.raises(ValueError, match=r"must be set|private service"):
        Limits(**limits)
