"""`every`: a viewer that asks for a coarser stream gets one, on each wire, and the worker writes less for it."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import orjson
import pytest
import requests
from google.cloud import firestore

from lib.domain.collections import GENERATIONS
from local.client import Client, Stream, question
from local.stack import Stack

WAIT_SECONDS = 60.0
SSE = {"Accept": "text/event-stream"}
SAID = "Say it slowly."
MESSAGES = [{"role": "user", "content": SAID}]
SLOWLY = {"tokens": 900, "rate": 20}  # an answer that lives for as long as the test looks at it
HOLDS = {"demo": SLOWLY}

PARTS = [{"type": "text", "text": SAID}]
CHAT = {"model": "demo", "stream": True, "messages": MESSAGES, **HOLDS}
STARTS: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "chat completions": ("/v1/chat/completions", CHAT, {}),
    "messages": ("/v1/messages", CHAT | {"max_tokens": 900}, {"anthropic-version": "2023-06-01"}),
    "responses": ("/v1/responses", {"model": "demo", "stream": True, "input": SAID, "demo": SLOWLY}, {}),
    "gemini": (
        "/v1beta/models/demo:streamGenerateContent?alt=sse",
        {"contents": [{"role": "user", "parts": [{"text": SAID}]}], **HOLDS},
        {},
    ),
    "AI SDK": (
        "/api/chat",
        {"id": "c1", "model": "demo", "messages": [{"id": "m1", "role": "user", "parts": PARTS}]},
        {},
    ),
}


def every_of(database: firestore.Client, generation: str) -> list[float]:
    """What the viewers of a generation ask for, by its document."""
    found = database.document(f"{GENERATIONS}/{generation}").get().to_dict()
    assert found is not None
    return sorted(found["every"].values())


def ask(client: Client, method: str, path: str, **more: Any) -> requests.Response:
    return client.request(method, path, stream=True, **more)


@pytest.mark.parametrize("wire", STARTS)
@pytest.mark.parametrize("by", ["query", "header"])
def test_a_start_carries_it_on_every_wire(client: Client, database: firestore.Client, wire: str, by: str) -> None:
    path, body, headers = STARTS[wire]
    body = {**body, "id": uuid.uuid4().hex} if "id" in body else body
    query = {"every": "2.5"} if by == "query" else {}
    headers = headers | ({"X-Every": "2.5"} if by == "header" else {})
    with ask(client, "POST", path, json=body, headers=headers, params=query) as response:
        assert response.status_code == 200, response.text
        assert every_of(database, response.headers["X-Generation-Id"]) == [2.5]


@pytest.mark.parametrize("wire", STARTS)
@pytest.mark.parametrize("value", ["5.1", "-1", "often", "nan"])
def test_what_is_no_number_of_seconds_is_refused_by_its_name(client: Client, wire: str, value: str) -> None:
    path, body, headers = STARTS[wire]
    for name, more in (("every", {"params": {"every": value}}), ("X-Every", {"headers": {"X-Every": value}})):
        more["headers"] = headers | more.get("headers", {})
        refused = client.request("POST", path, json=body, **more)
        assert refused.status_code == 400
        assert f"'{name}' must be the seconds" in refused.text
        assert "from 0 to 5" in refused.text
    assert not list(client.list())


def test_who_comes_back_says_it_again_on_every_wire(client: Client, database: firestore.Client) -> None:
    chat = uuid.uuid4().hex
    with client.stream(CHAT, X_Chat_Id=chat) as first:
        generation = first.generation
    with ask(client, "POST", "/v1/responses", json={**STARTS["responses"][1], "background": True}) as started:
        response = started.headers["Location"].rpartition("/")[2]
        its = started.headers["X-Generation-Id"]
    for seconds, path, of in (
        (1.0, f"/v1/generations/{generation}", generation),
        (1.5, f"/api/chat/{chat}/stream", generation),
        (2.0, f"/v1/responses/{response}?stream=true", its),
    ):
        with ask(client, "GET", path, headers=SSE, params={"every": seconds}) as followed:
            assert followed.status_code == 200, followed.text
            content = followed.iter_content(None)
            while next(content) and every_of(database, of) != [seconds]:  # until its lease is written, or the end
                pass
        refused = client.request("GET", path, headers=SSE, params={"every": "6"})
        assert (refused.status_code, "'every' must be the seconds" in refused.text) == (400, True)


def test_a_callable_says_it_beside_its_request(client: Client, database: firestore.Client) -> None:
    def call(**data: Any) -> requests.Response:
        return ask(client, "POST", "/", json={"data": data}, headers=SSE)

    with call(model="demo", messages=MESSAGES, every=2.5, **HOLDS):
        generation = next(client.list(state="queued,streaming"))["id"]
        assert every_of(database, generation) == [2.5]
        with call(resume=generation, every=1) as resumed:
            content = resumed.iter_content(
                None
            )  # once it is dropped, its connection is closed, and its viewer has left
            assert next(content)
            eventually(lambda: every_of(database, generation) == [1.0])
    for data in ({"model": "demo", "messages": MESSAGES}, {"resume": generation}):
        for value in (6, -1, "1", True, None):
            with call(**data, every=value) as refused:
                assert "'every' must be the seconds" in refused.text


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.05)


# What it saves


def pieces_of(stream: Stream) -> Iterator[bytes]:
    """What arrives at once, as the service sent it or several of those together. No keep-alives."""
    yield from (piece for piece in stream.response.iter_content(None) if b"data: " in piece)


def commits_of(stack: Stack, generation: str) -> int:
    """How many commits the worker made for an answer."""
    found: list[int] = []

    def logged() -> bool:
        for line in stack.processes["worker"].printed.splitlines():
            if f'"{generation}"' in line and '"generation ended"' in line:
                found.append(orjson.loads(line)["commits"])
        return bool(found)

    eventually(logged)
    return found[0]


def test_a_coarser_stream_is_whole_with_fewer_pieces_and_fewer_writes(client: Client, stack: Stack) -> None:
    asked = question("coarse", 250, rate=50)
    with client.stream(asked, X_Every="1") as stream:
        sent = list(pieces_of(stream))
    assert sent[-1].endswith(b"data: [DONE]\n\n")
    assert b"".join(sent).count(b"\nid: ") + 1 >= 250
    shown = client.wait_until_ended(stream.generation)
    began, ended = (datetime.fromisoformat(shown[name]) for name in ("startedAt", "finishedAt"))
    most = math.ceil((ended - began).total_seconds())
    # The first one comes at once, and so does the end.
    assert len(sent) <= most + 2
    # One for the claim, and one more for the end.
    assert commits_of(stack, stream.generation) <= most + 3
