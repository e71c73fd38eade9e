"""The public routes, with scripted generations."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from flask.testing import FlaskClient
from werkzeug.datastructures import Headers

from lib.dialects import DIALECTS
from lib.domain.end import End, State
from lib.domain.errors import Unauthenticated, Unreachable
from lib.domain.event import Event
from lib.domain.generation import Generation
from lib.domain.segment import Head, empty_head
from lib.runtime.settings import Settings
from lib.serving.feed import Piece
from lib.serving.generations import Generations, Started
from lib.serving.start_request import StartRequest
from lib.serving.tail import Tail
from lib.wires.api import create_api
from tests.unit.wires.scripted_tail import ScriptedTail, chunk, piece

NEEDED = {
    "GOOGLE_CLOUD_PROJECT": "demo",
    "WORKER_URL": "https://worker.example/",
    "TASKS_INVOKER": "invoker@demo.iam.gserviceaccount.com",
    "UPSTREAM_BASE_URL": "https://upstream.example/v1",
    "UPSTREAM_MODELS": "*",
}
NOW = datetime(2026, 1, 1, tzinfo=UTC)
GENERATION = Generation(
    id="g1",
    owner="alice",
    message_path="users/alice/messages/g1",
    chat_id=None,
    message_id="g1",
    model="demo",
    dialect="chat_completions",
    upstream="default",
    request=b"{}",
    request_hash="",
    created_at=NOW,
    expire_at=NOW,
)
ASKED = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}]}
ERROR = {
    "message": "Too long.",
    "code": "context_length_exceeded",
    "type": "invalid_request_error",
    "param": "messages",
}
OWN = json.dumps({"error": ERROR}, indent=1)
FAILED = End(
    state=State.FAILED,
    reason="upstream_status",
    error={**ERROR, "status": 400, "body": OWN, "contentType": "application/json; charset=utf-8"},
)


class Played:
    """One generation with a scripted tail. An exception in `find` is raised."""

    def __init__(self) -> None:
        self.tail = ScriptedTail(piece(1, end=End(state=State.COMPLETED)))
        self.generation = GENERATION
        self.asked: list[StartRequest] = []
        self.fault: Exception | None = None

    def start(self, uid: str, request: StartRequest) -> Started:
        assert uid == "alice"
        self.asked.append(request)
        body = json.loads(request.body)
        dialect = DIALECTS[request.dialect or "chat_completions"]
        asked = dialect.check(body if request.dialect else {**body, "stream": True})
        return Started(self.generation, cast(Tail, self.tail), asked, attached=False)

    def find(self, uid: str, generation_id: str) -> tuple[Generation, Head]:
        if self.fault is not None:
            raise self.fault
        return self.generation, replace(empty_head(NOW, NOW), last=1)

    def resume(self, generation: Generation, after: int, every: float = 0.0) -> Tail:
        self.tail.cursor = after
        return self.tail.tail

    def stop(self, uid: str, generation_id: str) -> tuple[Generation, Head]:
        return self.find(uid, generation_id)

    def delete(self, uid: str, generation_id: str) -> None:
        raise AssertionError("it was reached")

    def answer(self, generation: Generation) -> tuple[Generation, int, str]:
        return self.generation, 1, "w1"


@pytest.fixture
def played() -> Played:
    return Played()


@pytest.fixture
def client(played: Played) -> Iterator[FlaskClient]:
    def identify(headers: Headers) -> str:
        if headers.get("Authorization") is None:
            raise Unauthenticated("No.")
        return "alice"

    app = create_api(Settings.from_env(NEEDED), cast(Generations, played), identify, DIALECTS)
    with app.test_client() as client:
        client.environ_base["HTTP_AUTHORIZATION"] = "Bearer x"
        yield client


def test_a_request_is_started_as_it_came_with_its_ids_in_any_script(client: FlaskClient, played: Played) -> None:
    body = b'{"model": "demo", "messages": [{}],  "n": 1}'
    headers = {"X-Chat-Id": "Räume".encode().decode("latin-1"), "X-Message-Id": "m", "Idempotency-Key": "k"}
    response = client.post("/v1/chat/completions", data=body, content_type="application/json", headers=headers)
    assert response.status_code == 200
    assert played.asked == [
        StartRequest(body=body, chat_id="Räume", message_id="m", idempotency_key="k", dialect="chat_completions")
    ]
    assert (response.headers["X-Generation-Id"], response.headers["Location"]) == ("g1", "/v1/generations/g1")
    assert played.tail.closed


def test_a_stream_is_the_events_with_their_numbers_and_the_end_mark(client: FlaskClient, played: Played) -> None:
    response = client.post("/v1/chat/completions", json={**ASKED, "stream": True})
    assert response.data == b"id: 1\ndata: %b\n\ndata: [DONE]\n\n" % chunk(1)
    assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert response.headers["X-Generation-Id"] == "g1"
    response.close()
    assert played.tail.closed


@pytest.mark.parametrize("streamed", [True, False])
def test_an_upstream_s_refusal_is_the_response_byte_by_byte(
    client: FlaskClient, played: Played, streamed: bool
) -> None:
    played.tail = ScriptedTail(Piece([], 0, FAILED))
    response = client.post("/v1/chat/completions", json={**ASKED, "stream": streamed})
    assert (response.status_code, response.get_data(as_text=True)) == (400, OWN)
    assert response.headers["Content-Type"] == "application/json; charset=utf-8"
    assert response.headers["X-Generation-Id"] == "g1"
    assert played.tail.closed


def test_a_refusal_that_comes_after_the_status_line_is_the_upstream_s_object(
    client: FlaskClient, played: Played
) -> None:
    played.tail = ScriptedTail(Piece([], 0), Piece([], 0, FAILED))
    response = client.post("/v1/chat/completions", json={**ASKED, "stream": True})
    keep_alive, data = response.get_data(as_text=True).split("\n", 1)
    assert (response.status_code, keep_alive) == (200, ": keep-alive")
    lines = [line.removeprefix("data: ") for line in data.removesuffix("\n\n").split("\n")]
    assert "\n".join(lines) == OWN


def test_an_event_with_a_name_keeps_it(client: FlaskClient, played: Played) -> None:
    played.tail = ScriptedTail(Piece([Event(b"{}", b"delta")], 1, End(state=State.COMPLETED)))
    response = client.get("/v1/generations/g1", headers={"Accept": "text/event-stream"})
    assert response.data == b": keep-alive\nid: 1\nevent: delta\ndata: {}\n\ndata: [DONE]\n\n"


def test_a_generation_of_a_dialect_that_is_not_known_can_be_followed(client: FlaskClient, played: Played) -> None:
    played.generation = replace(GENERATION, dialect="later")
    response = client.get("/v1/generations/g1", headers={"Accept": "text/event-stream"})
    assert response.data == b": keep-alive\nid: 1\ndata: %b\n\n" % chunk(1)


def test_a_generation_s_error_is_shown_with_the_upstream_s_message(client: FlaskClient, played: Played) -> None:
    played.generation = GENERATION.ended(FAILED, 0, NOW)
    shown = client.get("/v1/generations/g1").json
    assert shown["error"] == {
        "message": "Too long.",
        "code": "context_length_exceeded",
        "param": "messages",
        "status": 400,
    }


@pytest.mark.parametrize("streamed", [True, False])
def test_a_call_s_error_has_the_upstream_s_message_streamed_or_not(
    client: FlaskClient, played: Played, streamed: bool
) -> None:
    played.tail = ScriptedTail(Piece([], 0, FAILED))
    played.generation = GENERATION.ended(FAILED, 0, NOW)
    response = client.post("/", json={"data": ASKED}, headers={"Accept": "text/event-stream"} if streamed else {})
    said = response.get_data(as_text=True).rstrip().split("\n\n")[-1].removeprefix("data: ")
    assert response.status_code == (200 if streamed else 400)
    assert json.loads(said)["error"] == {
        "status": "INVALID_ARGUMENT",
        "message": "Too long.",
        "details": {
            "code": "context_length_exceeded",
            "param": "messages",
            "id": "g1",
            "state": "failed",
            "reason": "upstream_status",
            "upstreamStatus": 400,
        },
    }


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [(Unreachable("grpc: 10.0.0.7"), 503, "unavailable"), (RuntimeError("10.0.0.7"), 500, "internal_error")],
    ids=["unreachable", "a fault of ours"],
)
def test_an_error_of_the_database_or_of_ours_says_nothing_of_the_inside(
    client: FlaskClient, played: Played, caplog: pytest.LogCaptureFixture, fault: Exception, status: int, code: str
) -> None:
    played.fault = fault
    response = client.get("/v1/generations/g1")
    assert (response.status_code, response.json["error"]["code"]) == (status, code)
    assert "10.0.0.7" not in response.get_data(as_text=True)
    assert any("10.0.0.7" in str(vars(record)) for record in caplog.records)
    called = client.post("/", json={"data": {"resume": "g1"}})
    assert called.status_code == status
    assert called.json["error"]["details"]["code"] == code


def test_a_request_in_messages_has_its_own_headers_and_no_others(client: FlaskClient, played: Played) -> None:
    headers = {"Anthropic-Version": "2030-01-01", "anthropic-beta": "a,b", "X-Other": "c", "Idempotency-Key": "k"}
    response = client.post("/v1/messages", json=ASKED, headers=headers)
    assert response.status_code == 200
    (asked,) = played.asked
    assert (asked.dialect, asked.idempotency_key) == ("messages", "k")
    assert asked.headers == {"anthropic-version": "2030-01-01", "anthropic-beta": "a,b"}


@pytest.mark.parametrize(
    ("given", "status", "kind"),
    [
        ({"json": {}}, 400, "invalid_request_error"),
        ({"data": b"{}", "content_type": "text/plain"}, 415, "invalid_request_error"),
        ({"data": b"x" * (11 << 20), "content_type": "application/json"}, 413, "request_too_large"),
    ],
)
def test_every_error_of_messages_is_in_its_own_shape(
    client: FlaskClient, given: dict[str, Any], status: int, kind: str
) -> None:
    response = client.post("/v1/messages", **given)
    assert (response.status_code, response.json["type"], response.json["error"]["type"]) == (status, "error", kind)
    assert response.json["error"]["message"]


def test_a_fault_of_ours_is_told_to_a_client_of_messages_without_its_text(
    client: FlaskClient, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*_: object) -> Started:
        raise RuntimeError("10.0.0.7")

    monkeypatch.setattr(played, "start", start)
    response = client.post("/v1/messages", json=ASKED)
    assert (response.status_code, response.json["error"]["type"]) == (500, "api_error")
    assert "10.0.0.7" not in response.get_data(as_text=True)


ROUTES: dict[str, Callable[[FlaskClient], Any]] = {
    "start": lambda client: client.post("/v1/chat/completions", json=ASKED),
    "messages": lambda client: client.post("/v1/messages", json=ASKED),
    "show": lambda client: client.get("/v1/generations/g1"),
    "list": lambda client: client.get("/v1/generations"),
    "stop": lambda client: client.post("/v1/generations/g1/stop"),
    "delete": lambda client: client.delete("/v1/generations/g1"),
    "models": lambda client: client.get("/v1/models"),
    "call": lambda client: client.post("/", json={"data": ASKED}),
}


@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)
def test_no_route_is_open(client: FlaskClient, played: Played, route: Callable[[FlaskClient], Any]) -> None:
    del client.environ_base["HTTP_AUTHORIZATION"]
    assert route(client).status_code == 401
    assert played.asked == []
