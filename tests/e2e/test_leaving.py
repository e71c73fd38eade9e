"""Clients that leave and come back, which is the purpose of Holdfast."""

from __future__ import annotations

import json
import random
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from local.client import Client, Frame, question
from local.demo_text import seed_of, text
from local.stack import Stack
from local.token import id_token

WAIT_SECONDS = 90.0
THREADS = 64


def test_a_client_that_leaves_at_event_3600_of_4000_loses_nothing(client: Client, database: Any) -> None:
    asked = question("a long one", 4000, rate=2000)
    with client.stream(asked) as stream:
        before = []
        for frame in stream.frames():
            before.append(frame)
            if frame.id == 3600:
                break
    ended = client.wait_until_ended(stream.generation)
    with client.resume(stream.generation, 3600) as rest:
        *after, done = rest.frames()
    expected = text(seed_of(asked["messages"]), 4000)

    assert ended["state"] == "completed"
    assert [frame.id for frame in before + after] == list(range(1, ended["lastSeq"] + 1))
    assert "".join(frame.text for frame in before + after) == expected
    assert (done.data, done.id) == ("[DONE]", None)
    message = database.document(f"users/{client.user}/messages/{stream.generation}").get().to_dict()
    assert (message["state"], message["content"]) == ("completed", expected)


def test_200_clients_that_leave_at_random_moments_lose_nothing_and_leave_nothing_behind(
    stack: Stack, client: Client, database: Any
) -> None:
    settings = {"THREADS": str(THREADS), "MAX_USER_VIEWERS": str(THREADS), "MAX_VIEWERS": str(THREADS)}
    stack.add_functions("left", settings)
    # Without a front end, which may drop a request before the function sees it if its client leaves at once.
    client = Client(stack.own_url("left-api"), client.user)
    api = psutil.Process(stack.processes["left-api"].pid).children()[0]
    # So that the server has all the threads and connections that it keeps.
    watch_at_once(client, THREADS - 1)
    assert list(client.list(chat_id="leaving")) == []
    client.session.close()
    before = Held.of(api)
    assert before.threads >= THREADS

    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    questions = [f"leave {seed} {n}" for n in range(200)]
    with ThreadPoolExecutor(16) as pool:
        for left in [pool.submit(leave, client, what) for what in questions]:
            left.result()

    generations = list(client.list(chat_id="leaving"))
    assert len(generations) == 200
    for generation in generations:
        client.wait_until_ended(generation["id"])
    messages = {each.id: each.to_dict() for each in database.collection(f"{chat(client)}/messages").get()}
    for what in questions:
        message = messages[what.replace(" ", "-")]
        assert (message["state"], message["content"]) == ("completed", answer_to(what, 60)), what

    deadline = time.monotonic() + WAIT_SECONDS
    while not (now := Held.of(api)).at_most(before):
        assert time.monotonic() < deadline, f"{before} before, {now} now"
        time.sleep(0.2)
    stack.end("left-api", "left-worker")


def test_20_viewers_that_join_at_random_times_and_cursors_all_get_the_same_frames_once_and_in_order(
    client: Client, upstream_calls: Callable[[str], list[dict[str, Any]]]
) -> None:
    what = f"watched by many {random.getrandbits(40):x}"
    asked = question(what, 600, rate=200)
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")

    def watch(viewer: int) -> tuple[int, list[Frame]]:
        chance = random.Random(f"{seed} {viewer}")
        time.sleep(chance.uniform(0, 3))
        cursor = chance.randrange(client.show(generation)["lastSeq"] + 1)
        with Client(client.url, client.user).resume(generation, cursor) as stream:
            return cursor, list(stream.frames())

    with client.stream(asked) as first:
        generation = first.generation
        with ThreadPoolExecutor(20) as pool:
            watching = [pool.submit(watch, viewer) for viewer in range(20)]
            every = list(first.frames())
            seen = [each.result() for each in watching]

    assert [frame.id for frame in every] == [*range(1, 603), None]
    assert "".join(frame.text for frame in every[:-1]) == answer_to(what, 600)
    for cursor, frames in seen:
        assert frames == every[cursor:]
    assert len(upstream_calls(what)) == 1


@pytest.mark.parametrize(
    ("tokens", "token_bytes"), [(64_000, 0), (4_000, 600)], ids=["64,000 tokens", "over 1 MiB of text"]
)
def test_a_very_long_answer_is_saved_and_replayed_whole(
    client: Client, database: Any, tokens: int, token_bytes: int
) -> None:
    asked = question("as long as it gets", tokens, rate=0, token_bytes=token_bytes)
    expected = text(seed_of(asked["messages"]), tokens, token_bytes)
    with client.stream(asked) as stream:
        live = "".join(frame.text for frame in stream.frames() if frame.id is not None)
    with client.resume(stream.generation, 0) as again:
        *replayed, done = again.frames()

    assert live == expected
    assert [frame.id for frame in replayed] == list(range(1, tokens + 3))
    assert "".join(frame.text for frame in replayed) == expected
    assert done.data == "[DONE]"
    path = f"users/{client.user}/messages/{stream.generation}"
    message = database.document(path).get().to_dict()
    parts = [database.document(f"{path}/holdfastParts/{part}").get().to_dict() for part in message["parts"]]
    assert message["content"] + "".join(part["text"] for part in parts) == expected
    journal = database.collection(f"{path}/holdfastJournal").order_by("first").get()
    assert "".join(document.get("text") for document in journal) == expected


def leave(client: Client, what: str) -> None:
    """Asks over a plain socket, and tears it down before the first byte, in the middle of an event, or at the end."""
    moments = random.Random(what)
    body = json.dumps({"model": "demo", "stream": True, **question(what, 60, rate=100)}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {id_token(client.user)}\r\n"
        f"X-Chat-Id: leaving\r\nX-Message-Id: {what.replace(' ', '-')}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", urlsplit(client.url).port), timeout=WAIT_SECONDS) as connection:
        connection.sendall(head.encode() + body)
        kind = moments.choice(["before the first byte", "inside", "inside", "inside", "at the end"])
        if kind == "before the first byte":
            time.sleep(moments.uniform(0.0, 0.05))
        wanted = {"before the first byte": 0, "inside": moments.randrange(1, 15_000), "at the end": 1 << 30}[kind]
        got = 0
        while got < wanted and (piece := connection.recv(min(4096, wanted - got))):
            got += len(piece)
            if piece.endswith(b"0\r\n\r\n"):
                break
        if moments.random() < 0.5:
            # A reset instead of an orderly close.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")


class Held:
    """What a process holds that a viewer could leave behind."""

    def __init__(self, threads: int, connections: int):
        self.threads, self.connections = threads, connections

    @classmethod
    def of(cls, process: psutil.Process) -> Held:
        connections = [each for each in process.net_connections("inet") if each.status != psutil.CONN_LISTEN]
        return cls(threads_of_python(process), len(connections))

    def at_most(self, other: Held) -> bool:
        return self.threads <= other.threads and self.connections <= other.connections

    def __repr__(self) -> str:
        return f"{self.threads} threads, {self.connections} connections"


def threads_of_python(process: psutil.Process) -> int:
    """Without those that gRPC has named: it starts and ends them as it likes. Elsewhere than on Linux, all."""
    if sys.platform != "linux":
        return int(process.num_threads())
    own, named = process.name(), []
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            named.append((task / "comm").read_text().strip())
    return named.count(own)


def watch_at_once(client: Client, viewers: int) -> None:
    """Has so many streams of one answer open at the same time, and ends them."""
    with client.stream(question("all at once", 50_000, rate=10)) as first:
        others = [client.resume(first.generation, 0) for _ in range(viewers - 1)]
        client.request("POST", f"/v1/generations/{first.generation}/stop")
        for stream in [first, *others]:
            for _ in stream.frames():
                pass


def answer_to(what: str, tokens: int) -> str:
    return text(seed_of(question(what, tokens)["messages"]), tokens)


def chat(client: Client) -> str:
    return f"users/{client.user}/chats/leaving"
