"""One user who takes all he can get from one instance does not take it from the others.

The functions run with the threads and the limits that they are deployed with. While one user hogs, another one's answer
goes on, a third one starts one, and health is answered; and no process ever has more than 512 MiB. How far the second
user's answer lags, and what memory was used, is printed (`pytest -s`).
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from local.client import Client, question
from local.ports import Ports
from local.stack import Stack
from local.token import id_token

ROOT = Path(__file__).resolve().parents[2]
THREADS = 90  # as deployed
UPLOAD_SECONDS = 3
WAIT_SECONDS = 60.0
MEMORY = 512 << 20
RATE = 20.0  # events a second of the answer that others watch
SETTINGS = {
    "THREADS": str(THREADS),
    "UPLOAD_SECONDS": str(UPLOAD_SECONDS),
    "STATUS_WAIT_SECONDS": "120",  # so that nothing else ends a wait
    "KEEPALIVE_SECONDS": "120",
}
SILENT = {"first_byte_delay": 600}


@pytest.fixture(scope="module")
def own() -> Iterator[Stack]:
    environ = {name: value for name, value in os.environ.items() if not name.endswith("_PORT")}
    with Stack(Ports.free(), SETTINGS, environ) as running:
        yield running


@pytest.fixture
def hog(own: Stack) -> Iterator[Client]:
    client = Client(own.url, f"hog-{uuid.uuid4().hex[:8]}")
    yield client
    client.session.close()


@pytest.fixture(autouse=True)
def no_process_has_grown(own: Stack) -> Iterator[None]:
    yield
    for name in ("api", "worker"):
        leader = psutil.Process(own.processes[name].pid)
        most = max(map(most_memory, [leader, *leader.children(recursive=True)]))
        print(f"{name}: {most >> 20} MiB at the most so far")
        assert most < MEMORY, name


def most_memory(process: psutil.Process) -> int:
    """The most bytes that a process has ever had in memory."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10


# In a process of its own, which has nothing else to do.
READER = f"""
import sys, time
from local.client import Client, question
with Client(*sys.argv[1:]).stream(question("a long story", 4000, rate={RATE})) as stream:
    for _ in stream.frames():
        print(time.monotonic(), flush=True)
"""


class Others:
    """Another user who reads a long answer, and a new one who asks for something now and then."""

    def __init__(self, stack: Stack, name: str, folder: Path):
        self._stack = stack
        self._name = name
        self._read = folder / "read"
        with self._read.open("wb") as read:
            user = f"reader-{uuid.uuid4().hex[:8]}"
            self._reader = subprocess.Popen([sys.executable, "-c", READER, stack.url, user], cwd=ROOT, stdout=read)

    @property
    def _times(self) -> list[float]:
        return [float(line) for line in self._read.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def are_served(self) -> None:
        """Health is answered, a new user gets a whole answer, and the reader's goes on."""
        read = len(self._times)
        assert requests.get(f"{self._stack.url}/health", timeout=WAIT_SECONDS).status_code == 200
        client = Client(self._stack.url, f"guest-{uuid.uuid4().hex[:8]}")
        assert client.complete(question("a short one", 3, rate=0)).status_code == 200
        client.session.close()
        wait_for(lambda: len(self._times) > read)

    def have_the_usual_lag(self) -> None:
        """So much is read that the usual lag can be said."""
        wait_for(lambda: len(self._times) >= RATE)

    def print_lag(self, hogging_since: float) -> None:
        """The lag behind the upstream's pace, before and while somebody hogs."""
        times = self._times
        late = [(at, at - times[0] - k / RATE) for k, at in enumerate(times)]
        least = min(lag for _, lag in late)
        for when, lags in (
            ("usual", [lag - least for at, lag in late if at < hogging_since]),
            ("others", [lag - least for at, lag in late if at >= hogging_since]),
        ):
            if len(lags) > 1:
                p95 = statistics.quantiles(lags, n=20)[-1]
                print(f"{self._name}: {when} lag p50 {statistics.median(lags) * 1000:.0f} ms, p95 {p95 * 1000:.0f} ms")

    def close(self) -> None:
        self._reader.kill()
        self._reader.wait()


@pytest.fixture
def others(own: Stack, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Others]:
    others = Others(own, request.node.name, tmp_path)
    others.are_served()
    others.have_the_usual_lag()
    since = time.monotonic()
    yield others
    others.are_served()
    others.print_lag(since)
    others.close()


def wait_for(condition: Callable[[], Any], seconds: float = WAIT_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def together(works: Sequence[Callable[[], Any]]) -> list[Any]:
    """Runs all at one instant, each in a thread of its own."""
    results: list[Any] = [None] * len(works)
    at_once = threading.Barrier(len(works))

    def run(index: int, work: Callable[[], Any]) -> None:
        at_once.wait()
        try:
            results[index] = work()
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=each, daemon=True) for each in enumerate(works)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(2 * WAIT_SECONDS)
    return results


def raw(user: str, path: str, body: bytes, length: int | None = None, **headers: str) -> bytes:
    """An HTTP request as bytes. `length` is what its Content-Length says, if that is not the body's."""
    fields = {
        "Host": "127.0.0.1",
        "Authorization": f"Bearer {id_token(user)}" if user else "Bearer no",
        "Content-Type": "application/json",
        "Content-Length": str(len(body) if length is None else length),
        **headers,
    }
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


@contextmanager
def connections(stack: Stack, number: int, request: bytes) -> Iterator[list[socket.socket]]:
    """That many connections, each of which has sent the request."""
    with ExitStack() as there:
        made = []
        for _ in range(number):
            connection = socket.create_connection(("127.0.0.1", stack.ports.api_port), timeout=WAIT_SECONDS)
            made.append(there.enter_context(connection))
            connection.sendall(request)
        yield made


def status_of(connection: socket.socket) -> int:
    """The status of the response, or 0 if the connection ended without one."""
    return head_of(connection)[0]


def head_of(connection: socket.socket) -> tuple[int, dict[str, str]]:
    """The status of the response, or 0 if the connection ended without one, and its fields by lower-case name."""
    head = b""
    try:
        while b"\r\n\r\n" not in head:
            piece = connection.recv(4096)
            if not piece:
                break
            head += piece
    except OSError:
        pass
    line, *fields = head.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    named = (field.partition(": ") for field in fields)
    return int(line.split()[1]) if line else 0, {name.lower(): value for name, _, value in named}


def test_bodies_of_ten_mebibytes_of_nothing_are_refused_before_they_are_parsed(
    own: Stack, hog: Client, others: Others
) -> None:
    start = b'{"model":"demo","messages":['
    body = start + b"[]," * ((10 << 20) // 3 - 20) + b"[]]}"
    headers = {"Content-Type": "application/json"}

    def send() -> requests.Response:
        return requests.post(
            f"{own.url}/v1/chat/completions",
            data=body,
            headers={**headers, "Authorization": hog.session.headers["Authorization"]},
            timeout=WAIT_SECONDS,
        )

    for _ in range(3):
        # Of those that are sent at once, each may be refused for what the others hold.
        answers = [*together([send] * 4), send()]
        others.are_served()
        codes = {answer.json()["error"]["code"] for answer in answers}
        assert codes <= {"too_many_nodes", "too_many_bytes"}
        assert answers[-1].json()["error"]["code"] == "too_many_nodes"
        for answer in answers:
            refused = answer.json()["error"]
            if refused["code"] == "too_many_nodes":
                assert answer.status_code == 400
                assert "MAX_REQUEST_NODES" in refused["message"]
            else:
                assert (answer.status_code, int(answer.headers["Retry-After"]) > 0) == (429, True)


def test_large_pictures_of_many_users_are_held_within_a_bound(own: Stack, others: Others) -> None:
    picture = "A" * (9 << 20)
    users = [Client(own.url, f"artist-{n}-{uuid.uuid4().hex[:8]}") for n in range(8)]

    def send(client: Client) -> int:
        while True:
            answer = client.complete(question(picture, 2, rate=0))
            if answer.status_code != 429:
                return answer.status_code
            assert answer.json()["error"]["code"] == "too_many_bytes"
            time.sleep(int(answer.headers["Retry-After"]))

    assert together([lambda client=client: send(client) for client in users]) == [200] * 8
    others.are_served()
    for client in users:
        client.session.close()


@pytest.mark.parametrize("query", ["", "?stream=true"], ids=["whole", "streamed"])
def test_earlier_requests_that_are_read_back_are_held_within_the_bound_too(
    own: Stack, hog: Client, others: Others, query: str
) -> None:
    kept = {"model": "demo", "input": "x", "background": True, "demo": SILENT, "instructions": "A" * (9 << 20)}
    started = hog.request("POST", "/v1/responses", json=kept)
    assert started.status_code == 200
    path = f"/v1/responses/{started.json()['id']}"
    headers = {"Authorization": hog.session.headers["Authorization"]}

    def retrieve() -> requests.Response:
        return requests.get(f"{own.url}{path}{query}", headers=headers, timeout=WAIT_SECONDS, stream=True)

    answers = together([retrieve] * 60)
    others.are_served()
    for answer in answers:
        if answer.status_code != 200:
            assert (answer.status_code, answer.json()["error"]["code"]) == (429, "too_many_bytes")
            assert int(answer.headers["Retry-After"]) > 0
        answer.close()
    wait_for(lambda: retrieve().status_code == 200)
    hog.request("DELETE", path)


PLAIN = question("plain", 3, **SILENT) | {"model": "demo"}
KINDS: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "plain": ("/v1/chat/completions", PLAIN, {"Idempotency-Key": "key"}),
    "streamed": ("/v1/chat/completions", {**PLAIN, "stream": True}, {"Idempotency-Key": "key"}),
    "call": ("/", {"data": {**PLAIN, "idempotencyKey": "key"}}, {}),
    "streamed call": ("/", {"data": {**PLAIN, "idempotencyKey": "key"}}, {"Accept": "text/event-stream"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_clients_that_hang_up_while_they_wait_are_noticed(own: Stack, hog: Client, others: Others, kind: str) -> None:
    path, body, headers = KINDS[kind]
    request = raw(hog.user, path, json.dumps(body).encode(), **headers)
    with connections(own, 340, request) as waiting:
        wait_for(lambda: full(hog))
        others.are_served()
        assert len(waiting) == 340
    wait_for(lambda: not full(hog))
    others.are_served()


def full(client: Client) -> bool:
    """Whether the user has no viewer's place left."""
    running = next(client.list(state="queued,streaming"), None)
    if running is None:
        return False
    headers = {"Authorization": client.session.headers["Authorization"], "Accept": "text/event-stream"}
    with requests.get(
        f"{client.url}/v1/generations/{running['id']}", headers=headers, stream=True, timeout=5
    ) as answer:
        return answer.status_code == 429


@pytest.mark.parametrize("user", ["hog", ""], ids=["signed in", "not signed in"])
def test_uploads_that_stop_after_a_byte_end_soon(own: Stack, hog: Client, others: Others, user: str) -> None:
    request = raw(hog.user if user else "", "/v1/chat/completions", b"{", length=1000)
    with connections(own, 340, request) as uploads:
        others.are_served()
        found = Counter(map(status_of, uploads))
    if user:
        assert set(found) == {408, 429}
        assert found[408] >= 1
    else:
        assert set(found) == {401}


def test_an_upload_that_trickles_ends_at_its_time_too(own: Stack, hog: Client) -> None:
    with connections(own, 1, raw(hog.user, "/v1/chat/completions", b"{", length=100_000)) as (upload,):
        upload.settimeout(0.1)
        ended = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < ended:
            upload.sendall(b" ")
            try:
                answer = upload.recv(65536)
                break
            except TimeoutError:
                continue
        upload.settimeout(WAIT_SECONDS)
        while piece := upload.recv(65536):  # the body may come after the head
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"request_timeout" in body
    assert b"3 s" in body


def test_viewers_of_one_answer_beyond_the_limit_are_told_to_come_back(own: Stack, hog: Client, others: Others) -> None:
    with hog.stream(question("watched", 3000, rate=20)) as first:
        request = raw(hog.user, "/", b"").replace(b"POST / ", f"GET /v1/generations/{first.generation} ".encode())
        with connections(own, 400, request.replace(b"Host:", b"Accept: text/event-stream\r\nHost:")) as viewers:
            found = Counter(map(status_of, viewers))
            others.are_served()
        assert found == {200: 49, 429: 351}
        hog.request("POST", f"/v1/generations/{first.generation}/stop")


def test_starts_at_one_instant_end_with_exactly_the_limit(own: Stack, hog: Client, others: Others) -> None:
    body = json.dumps({**question("at once", 2000, rate=5), "model": "demo", "stream": True})
    with connections(own, 150, raw(hog.user, "/v1/chat/completions", body.encode())) as starts:
        answers = list(map(head_of, starts))
        others.are_served()
    accepted = {fields["x-generation-id"] for status, fields in answers if status == 200}
    assert Counter(status for status, _ in answers) == {200: 20, 429: 130}
    assert all(int(fields["retry-after"]) > 0 for status, fields in answers if status == 429)
    assert {each["id"] for each in hog.list(state="queued,streaming")} == accepted
    for generation in accepted:
        hog.request("DELETE", f"/v1/generations/{generation}")
