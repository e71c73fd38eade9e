"""Pages of other origins in a real Chromium: one that is named may use every public route, another may use none."""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests

from local.client import Client
from local.stack import Stack
from local.token import id_token
from tests.conftest import functions
from tests.e2e.browsing import browse
from tests.e2e.callable_lines import heard

SECONDS = 60.0


class Page(BaseHTTPRequestHandler):
    """An empty one, wherever it is asked for."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>A page</title>")

    def log_message(self, *_: object) -> None:
        """It is quiet."""


@contextmanager
def origin() -> Iterator[str]:
    """An origin with a page."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join(30)


@pytest.fixture(scope="module")
def named() -> Iterator[str]:
    with origin() as url:
        yield url


@pytest.fixture(scope="module")
def strict(stack: Stack, named: str) -> Iterator[str]:
    """Functions that name the origins that may call."""
    with functions(stack, "strict", {"CORS_ORIGINS": f"https://app.example,{named}"}) as url:
        yield url


@pytest.fixture
def user(strict: str) -> Iterator[Client]:
    client = Client(strict, f"user-{uuid.uuid4().hex[:12]}")
    yield client
    client.session.close()


def visited(user: Client, *pages: str) -> list[dict[str, Any]]:
    """What pages were told when they called every route, and the paths that the browser asked for leave for first."""
    token = id_token(user.user)
    return browse("otherOrigins", url=pages[0], api=user.url, user=user.user, token=token, pages=pages)


def test_a_page_of_an_origin_that_is_named_may_use_every_route_and_read_what_it_needs(user: Client, named: str) -> None:
    (seen,) = visited(user, named)
    told = seen["told"]
    assert {name: each.get("status") for name, each in told.items()} == {
        "start": 200,
        "start, streamed": 200,
        "list": 200,
        "show": 200,
        "events": 200,
        "stop": 409,
        "models": 200,
        "call": 200,
        "call, streamed": 200,
        "delete": 204,
        "nobody": 401,
    }
    for name in ("start", "start, streamed", "events"):
        assert told[name]["generation"]
        assert told[name]["location"] == f"/v1/generations/{told[name]['generation']}"
    generation = told["start, streamed"]["generation"]
    assert [each["id"] for each in json.loads(told["list"]["body"])["data"]] == [generation]
    assert re.findall(r"(?m)^id: (\d+)$", told["events"]["body"])[0] == "3"
    assert told["events"]["body"].endswith("data: [DONE]\n\n")
    assert json.loads(told["call"]["body"])["result"] == heard(told["call, streamed"]["body"].encode()).result
    at = f"/v1/generations/{generation}"
    asked = {"/", "/v1/chat/completions", "/v1/generations", at, f"{at}/stop", "/v1/models"}
    assert set(seen["preflights"]) == asked


def test_a_page_of_another_origin_may_use_none_and_what_it_asks_for_is_not_done(user: Client) -> None:
    with origin() as mallory:
        (seen,) = visited(user, mallory)
    assert set(map(json.dumps, seen["told"].values())) == {'{"refused": "TypeError"}'}
    assert "/v1/chat/completions" in seen["preflights"]
    assert list(user.list()) == []


def test_unless_it_is_set_a_page_of_any_origin_may_use_every_route(client: Client) -> None:
    with origin() as somewhere:
        (seen,) = visited(client, somewhere)
    assert not any("refused" in each for each in seen["told"].values()), seen["told"]
    assert seen["told"]["start"]["generation"]


def test_no_answer_lets_a_page_send_cookies(user: Client, named: str) -> None:
    asking = {"Origin": named, "Access-Control-Request-Method": "POST"}
    for response in (
        requests.options(user.url, headers=asking, timeout=SECONDS),
        user.request("GET", "/v1/models", headers={"Origin": named}),
    ):
        assert response.headers["Access-Control-Allow-Origin"] == named
        assert "Access-Control-Allow-Credentials" not in response.headers
