"""Interrupted answers that continue, with another call to the upstream or in another process."""

from __future__ import annotations

import json
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from local.client import Client, Frame, Stream, question
from local.demo_text import seed_of, text
from local.ports import HOST, Ports
from local.stack import Stack
from tests.conftest import STRICT, calls_of, database_of

WAIT_SECONDS = 60.0
STYLES = ("openrouter", "anthropic", "vllm")
UPSTREAMS = """
[plain]
base_url = "{url}"
models = ["demo"]

[impatient]
base_url = "{url}"
models = ["impatient"]
idle_seconds = 1

[messages]
base_url = "{url}"
models = ["claude"]
speaks = ["messages"]
continue = "prefill"
""" + "".join(
    f"""
[{style}]
base_url = "{{url}}"
models = ["{style}"]
continue = "prefill"
prefill_style = "{style}"
"""
    for style in STYLES
)


@pytest.fixture(scope="module")
def stack(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    ports = Ports.free()
    upstreams = tmp_path_factory.mktemp("upstreams") / "upstreams.toml"
    upstreams.write_text(UPSTREAMS.format(url=f"http://{HOST}:{ports.upstream_port}/v1"))
    settings = {"UPSTREAMS_FILE": str(upstreams), "SEND_SECONDS": "2", "KEEPALIVE_SECONDS": "0.5"}
    with Stack(ports, settings, strict=STRICT, beside=stack) as running:
        yield running


@pytest.fixture(scope="module")
def database(stack: Stack) -> Any:
    return database_of(stack)


@pytest.fixture
def ask(client: Client) -> Callable[..., Asked]:
    def ask(model: str, tokens: int, what: str = "", **demo: Any) -> Asked:
        return Asked(client, {**question(what or uuid.uuid4().hex, tokens, **demo), "model": model}, tokens)

    return ask


class Asked:
    """A question that was asked, with the answer to expect."""

    def __init__(self, client: Client, body: dict[str, Any], tokens: int):
        self.client = client
        self.body = body
        self.stream = client.stream(body)
        self.generation = self.stream.generation
        self.whole = text(seed_of(self.body["messages"]), tokens)

    def frames(self) -> list[Frame]:
        with self.stream as stream:
            return list(stream.frames())

    def calls(self, stack: Stack) -> list[dict[str, Any]]:
        return calls_of(stack, self.body["messages"][0]["content"])


def said(frames: list[Frame]) -> str:
    return "".join(frame.text for frame in frames if frame.id is not None)


def message(database: Any, asked: Asked) -> dict[str, Any]:
    found: dict[str, Any] = database.document(f"users/{asked.client.user}/messages/{asked.generation}").get().to_dict()
    return found


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("at", [7, 8, 23])
def test_an_answer_that_breaks_off_continues_from_the_saved_text_without_gap_or_repetition(
    ask: Callable[..., Asked], database: Any, style: str, at: int
) -> None:
    played = {} if style == "openrouter" else {"prefill": style}
    asked = ask(style, 60, rate=500, fault={"kind": "break", "at": at, "times": 1}, **played)
    *frames, done = asked.frames()

    assert done.data == "[DONE]"
    assert said(frames) == asked.whole
    assert [frame.id for frame in frames] == list(range(1, len(frames) + 1))
    chunks = [json.loads(frame.data) for frame in frames]
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1
    assert sum(1 for chunk in chunks for choice in chunk["choices"] if "role" in choice["delta"]) == 1
    saved = message(database, asked)
    assert (saved["state"], saved["content"], saved["finishReason"]) == ("completed", asked.whole, "length")
    assert asked.client.show(asked.generation)["attempt"] == 2


@pytest.mark.parametrize("at", [0, 7, 8, 23])
def test_a_message_that_breaks_off_continues_from_the_saved_text_as_one_message(client: Client, at: int) -> None:
    body = question(uuid.uuid4().hex, 4096, rate=1000, fault={"kind": "break", "at": at, "times": 1})
    whole = text(seed_of(body["messages"]), 120)
    asking = {**body, "model": "claude", "stream": True}
    with Stream(client.request("POST", "/v1/messages", json=asking, stream=True)) as stream:
        frames = list(stream.frames())
        generation = stream.generation
    events = [json.loads(frame.data) for frame in frames if frame.id is not None]
    assert [frame.id for frame in frames if frame.id is not None] == list(range(1, len(events) + 1))
    kinds = [event["type"] for event in events]
    assert [kinds.count(kind) for kind in ("message_start", "content_block_start", "content_block_stop")] == [1, 1, 1]
    assert "".join(event["delta"].get("text", "") for event in events if event["type"] == kinds[2]) == whole
    assert frames[-1].data == '{"type":"message_stop"}'
    assert client.show(generation)["attempt"] == 2


def test_how_often_an_answer_is_continued_has_a_bound(stack: Stack, ask: Callable[..., Asked], database: Any) -> None:
    asked = ask("openrouter", 100, rate=500, fault={"kind": "break", "at": 20, "times": 9})
    *frames, error = asked.frames()
    shown = asked.client.wait_until_ended(asked.generation)
    assert (shown["state"], shown["reason"], shown["attempt"]) == ("incomplete", "upstream_disconnected", 3)
    assert json.loads(error.data)["error"]["code"] == "upstream_disconnected"
    assert said(frames) == message(database, asked)["content"] == text(seed_of(asked.body["messages"]), 60)
    assert len(asked.calls(stack)) == 3


@pytest.mark.parametrize("kind", ["stall", "close", "error_event"])
def test_other_ways_to_break_off_that_may_pass(stack: Stack, ask: Callable[..., Asked], kind: str) -> None:
    """An error event of the demo upstream's says `server_error`; a stall ends by the upstream's own reset here."""
    fault: dict[str, Any] = {"kind": kind, "at": 10, "times": 1}
    if kind == "stall":
        fault |= {"seconds": 1}
    asked = ask("openrouter", 30, rate=500, fault=fault)
    *frames, done = asked.frames()
    assert (said(frames), done.data) == (asked.whole, "[DONE]")


def test_without_the_setting_nothing_is_asked_for_again(stack: Stack, ask: Callable[..., Asked], database: Any) -> None:
    asked = ask("demo", 60, rate=500, fault={"kind": "break", "at": 20, "times": 1})
    asked.frames()
    assert asked.client.wait_until_ended(asked.generation)["state"] == "incomplete"
    assert message(database, asked)["content"] == text(seed_of(asked.body["messages"]), 20)
    assert len(asked.calls(stack)) == 1


def test_a_worker_that_stood_still_does_not_take_its_own_silence_for_the_upstreams(
    stack: Stack, ask: Callable[..., Asked]
) -> None:
    every = [ask("impatient", 100, rate=50) for _ in range(10)]
    worker = stack.processes["worker"]
    try:
        worker.pause()
        time.sleep(2)
    finally:
        worker.resume()
    for asked in every:
        *frames, done = asked.frames()
        assert (said(frames), done.data) == (asked.whole, "[DONE]")


def test_an_answer_that_broke_off_before_any_output_is_asked_for_again_without_the_setting(
    stack: Stack, ask: Callable[..., Asked]
) -> None:
    asked = ask("demo", 30, rate=500, fault={"kind": "break", "at": 0, "times": 1})
    *frames, done = asked.frames()
    assert (said(frames), done.data) == (asked.whole, "[DONE]")
    assert [frame.id for frame in frames] == list(range(1, len(frames) + 1))
    assert len(asked.calls(stack)) == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"response_format": {"type": "json_object"}},
        {"tools": [{"type": "function", "function": {"name": "look"}}], "demo": {"tool_calls": 1}},
        {"demo": {"refusal": True}},
    ],
)
def test_what_is_not_the_plain_text_of_one_choice_is_not_continued(
    stack: Stack, client: Client, fields: dict[str, Any]
) -> None:
    demo = {"rate": 500, "fault": {"kind": "break", "at": 12, "times": 1}, **fields.get("demo", {})}
    asked = {**question(f"not text {uuid.uuid4().hex}", 40), "model": "openrouter", **fields, "demo": demo}
    with client.stream(asked) as stream:
        list(stream.frames())
    shown = client.wait_until_ended(stream.generation)
    assert (shown["state"], shown["reason"], shown["attempt"]) == ("incomplete", "upstream_disconnected", 1)


def test_a_worker_that_is_told_to_end_hands_its_answers_to_the_next_one(
    stack: Stack, ask: Callable[..., Asked]
) -> None:
    # The first call of each of these stops in the midst, so none can end before the worker is told to.
    asked = [ask("openrouter", 400, rate=80, fault={"kind": "stall", "at": 40, "times": 1}) for _ in range(5)]
    asked += [ask("demo", 150, rate=80) for _ in range(3)]  # which has the time to end where it is
    with ThreadPoolExecutor(8) as pool:
        reading = [pool.submit(each.frames) for each in asked]
        wait_for(lambda: all(each.client.show(each.generation)["lastSeq"] for each in asked))
        end(stack, "worker")
        stack.restart("worker")
        for each, read in zip(asked, reading, strict=True):
            *frames, done = read.result(WAIT_SECONDS)
            assert (said(frames), done.data) == (each.whole, "[DONE]"), done.data
    assert {each.client.show(each.generation)["attempt"] for each in asked[:5]} == {2}
    assert {each.client.show(each.generation)["attempt"] for each in asked[5:]} == {1}


def test_an_api_at_shutdown_tells_its_viewers_where_to_continue(stack: Stack, ask: Callable[..., Asked]) -> None:
    asked = ask("demo", 300, rate=30)
    frames: list[Frame] = []
    with asked.stream as stream:
        for frame in stream.frames():
            frames.append(frame)
            if len(frames) == 20:
                psutil.Process(stack.processes["api"].pid).terminate()
    planned = json.loads(frames.pop().data)["error"]
    assert (planned["code"], planned["last_event_id"]) == ("still_running", frames[-1].id)
    end(stack, "api")
    stack.restart("api")
    stack.wait_for("api")
    with asked.client.resume(asked.generation, planned["last_event_id"]) as rest:
        *more, done = rest.frames()
    assert (said(frames + more), done.data) == (asked.whole, "[DONE]")


def test_a_client_that_never_reads_is_dropped_holds_nobody_up_and_can_come_back(stack: Stack, client: Client) -> None:
    stuck = {**question(f"stuck {uuid.uuid4().hex}", 3000, rate=3000, token_bytes=2000), "model": "demo"}
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect((HOST, stack.ports.api_port))
        raw = json.dumps({**stuck, "stream": True}).encode()
        headers = f"Host: x\r\nAuthorization: {client.session.headers['Authorization']}\r\nX-Chat-Id: deaf\r\n"
        head = f"POST /v1/chat/completions HTTP/1.1\r\n{headers}Content-Type: application/json\r\n"
        deaf.sendall(f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw)

        started = wait_for(lambda: list(client.list(chat_id="deaf")))[0]
        shown = client.wait_until_ended(started["id"])
        assert shown["state"] == "completed"
        with client.resume(started["id"], 0) as other:
            *frames, done = other.frames()
        assert (said(frames), done.data) == (text(seed_of(stuck["messages"]), 3000, 2000), "[DONE]")

        server = psutil.Process(stack.processes["api"].pid)
        wait_for(lambda: not connected(server, deaf.getsockname()[1]))


def test_many_clients_that_never_read_are_dropped_at_once_and_not_one_after_the_other(
    stack: Stack, ask: Callable[..., Asked]
) -> None:
    """Each would keep the server from new connections for two seconds: together, for longer than this waits."""
    answer = ask("demo", 3000, rate=3000, token_bytes=2000)
    answer.frames()
    headers = f"Host: x\r\nAccept: text/event-stream\r\nAuthorization: {answer.client.session.headers['Authorization']}"
    asking = f"GET /v1/generations/{answer.generation} HTTP/1.1\r\n{headers}\r\n\r\n".encode()
    server = psutil.Process(stack.processes["api"].pid)
    with ExitStack() as open_sockets:
        deaf = [open_sockets.enter_context(socket.socket()) for _ in range(40)]
        for each in deaf:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            each.connect((HOST, urlsplit(stack.own_url("api")).port or 0))  # it is the api that drops them
            each.sendall(asking)
        deadline = time.monotonic() + WAIT_SECONDS
        for each in deaf:
            each.settimeout(max(0.1, deadline - time.monotonic()))
            with suppress(ConnectionResetError):  # the first may be dropped before the last is served
                assert each.recv(1, socket.MSG_PEEK), "it was closed without an answer"
        wait_for(lambda: not connected(server, *(each.getsockname()[1] for each in deaf)))


def connected(server: psutil.Process, *ports: int) -> bool:
    """Whether any of the clients that have these ports is connected to the server."""
    every = [each for process in (server, *server.children()) for each in process.net_connections()]
    return any(each.raddr and each.raddr.port in ports and each.status == "ESTABLISHED" for each in every)


def wait_for(something: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := something()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)
    return found


def end(stack: Stack, part: str) -> None:
    """Tells a part to end, as the platform does, and waits until it has."""
    process = psutil.Process(stack.processes[part].pid)
    children = process.children(recursive=True)
    process.terminate()
    _, left = psutil.wait_procs(children, timeout=WAIT_SECONDS)
    assert not left
    stack.processes[part].end(time.monotonic() + WAIT_SECONDS)
