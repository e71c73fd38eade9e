"""The Firebase callable protocol on the local stack, read by the rules of the SDKs for iOS, Android and the web."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests

from lib.journal.segments import SEAL_BYTES
from local.client import Client, question
from local.demo_text import arguments, seed_of, text
from local.stack import Stack
from tests.conftest import WAIT_SECONDS, functions, held
from tests.e2e.callable_lines import Heard, begun, heard

INT64 = "type.googleapis.com/google.protobuf.Int64Value"
RESULT_FIELDS = {"id", "chatId", "messageId", "state", "reason", "seq", "content", "usage", "error", "finishReason"}
EVENT_FIELDS = {"seq", "delta", "event"}
HEARTBEAT = {"type": "heartbeat"}
UNKNOWN = "0" * 32
APP = "https://app.example"
VISITS = 20


def asked(what: str, tokens: int, **demo: Any) -> dict[str, Any]:
    return {"model": "demo", **question(what, tokens, **demo)}


def unique() -> str:
    return uuid.uuid4().hex


def expected(data: dict[str, Any]) -> str:
    return text(seed_of(data["messages"]), data["max_tokens"])


def call(client: Client, data: Any, **headers: str) -> requests.Response:
    """A unary call."""
    return client.request("POST", "/", json={"data": data}, headers=headers)


def stream(client: Client, data: Any, **headers: str) -> requests.Response:
    """A call whose stream is still to be read."""
    headers = {"Accept": "text/event-stream", **headers}
    return client.request("POST", "/", json={"data": data}, headers=headers, stream=True)


def told(response: requests.Response) -> Heard:
    """A stream's whole body, as all SDKs hear it."""
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/event-stream")
    return heard(response.content)


class Live:
    """A stream that is being read."""

    def __init__(self, response: requests.Response):
        self._pieces = response.iter_content(None)
        self._body = b""

    def until(self, condition: Callable[[list[Any]], bool]) -> list[Any]:
        """The messages up to where the condition holds of them; the connection stays open."""
        for piece in self._pieces:
            self._body += piece
            messages = begun(self._body).messages
            if condition(messages):
                return messages
        raise AssertionError(f"the stream ended too soon: {self._body[-500:]!r}")

    def whole(self) -> Heard:
        """The stream from its start to its end, as all SDKs hear it."""
        return heard(self._body + b"".join(self._pieces))


def seqs(messages: list[Any]) -> list[int]:
    return [message["seq"] for message in messages if "seq" in message]


def refusal(response: requests.Response) -> tuple[int, str, dict[str, Any]]:
    """A unary call's error: the HTTP status, the code, the details."""
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"status", "message", "details"}
    assert body["error"]["message"]
    return response.status_code, body["error"]["status"], body["error"]["details"]


# Streams


def test_a_stream_is_a_start_each_event_and_a_result(client: Client) -> None:
    data = {**asked("callable", 60, rate=0), "chatId": "c1", "messageId": unique()}
    answer = told(stream(client, data))
    assert answer.messages[0] == {
        "type": "start",
        "id": answer.result["id"],
        "chatId": "c1",
        "messageId": data["messageId"],
    }
    assert all(set(message) == EVENT_FIELDS for message in answer.events)
    assert seqs(answer.events) == list(range(1, len(answer.events) + 1))
    assert all(message in answer.events or message == HEARTBEAT for message in answer.messages[1:])
    assert answer.text == answer.result["content"] == expected(data)
    assert set(answer.result) == RESULT_FIELDS
    assert answer.result["state"] == "completed"
    assert answer.result["seq"] == len(answer.events)
    assert answer.result["usage"]["completion_tokens"] == 60
    assert client.show(answer.result["id"])["messageId"] == data["messageId"]


def test_the_first_words_come_before_the_last_are_written(client: Client) -> None:
    data = asked("first words", 2_000, rate=20)
    with stream(client, data) as response:
        start, *_ = Live(response).until(lambda messages: len(seqs(messages)) >= 3)
        assert client.show(start["id"])["state"] == "streaming"
        assert call(client, {"stop": start["id"]}).json()["result"]["state"] == "stopped"


def test_every_text_arrives_as_it_was_written_line_ends_of_unicode_and_all(client: Client) -> None:
    data = asked("odd words", 240, rate=0)
    assert {"\n", "\u2028", "\u0085", "\\", '"', "🦊"} <= set(expected(data))
    response = stream(client, data)
    assert told(response).text == expected(data)
    assert not {"\u2028", "\u0085"} & set(response.content.decode())


def test_a_stream_is_resumed_after_the_last_message_an_app_has(client: Client) -> None:
    data = asked("resumed", 80, rate=40)
    with stream(client, data) as response:
        before = Live(response).until(lambda messages: len(seqs(messages)) >= 20)
    last = seqs(before)[-1]
    after = told(stream(client, {"resume": before[0]["id"], "after": {"@type": INT64, "value": str(last)}}))
    assert after.messages[0] == before[0]
    assert seqs(before) + seqs(after.messages) == list(range(1, after.result["seq"] + 1))
    assert "".join(message["delta"] for message in before[1:] if "seq" in message) + after.text == expected(data)
    again = told(stream(client, {"resume": before[0]["id"]}))
    assert again.text == again.result["content"] == expected(data)
    at_the_end = told(stream(client, {"resume": before[0]["id"], "after": again.result["seq"]}))
    assert (at_the_end.messages, at_the_end.result) == ([before[0]], again.result)
    assert call(client, {"resume": before[0]["id"]}).json()["result"] == again.result


def test_a_stop_ends_the_stream_and_keeps_what_there_is(client: Client) -> None:
    data = asked("stopped", 4_000, rate=40)
    with stream(client, data) as response:
        live = Live(response)
        start, *_ = live.until(lambda messages: len(seqs(messages)) >= 5)
        stopped = told(stream(client, {"stop": start["id"]}))
        assert stopped.messages == []
        answer = live.whole()
    result = answer.result
    assert result["content"] == answer.text
    assert result == stopped.result
    assert (result["state"], result["reason"]) == ("stopped", "stopped")
    assert result["content"]
    assert expected(data).startswith(result["content"])
    ended = told(stream(client, {"stop": start["id"]}))
    assert (ended.error["status"], ended.error["details"]["code"]) == ("FAILED_PRECONDITION", "generation_ended")


def test_a_silence_has_heartbeats(client: Client) -> None:
    data = asked("silence", 40, rate=0, fault={"kind": "stall", "at": 20, "seconds": 2})
    answer = told(stream(client, data))
    assert HEARTBEAT in answer.messages
    assert answer.text == expected(data)


def test_an_answer_that_broke_off_is_a_result_that_says_so(client: Client) -> None:
    data = asked("broke off", 40, rate=0, fault={"kind": "break", "at": 20})
    result = told(stream(client, data)).result
    assert (result["state"], result["reason"]) == ("incomplete", "upstream_disconnected")
    assert result["content"] == text(seed_of(data["messages"]), 20)


def test_an_answer_that_its_upstream_refused_is_an_error_in_a_stream_of_status_200(client: Client) -> None:
    data = asked("refused", 40, fault={"kind": "refuse", "status": 422})
    answer = told(stream(client, data))
    assert answer.error["status"] == "INVALID_ARGUMENT"
    assert answer.error["details"]["upstreamStatus"] == 422
    assert answer.error["details"]["state"] == "failed"
    again = told(stream(client, {"resume": answer.error["details"]["id"]}))
    assert again.error == answer.error


def test_an_answer_that_is_deleted_while_it_streams_ends_in_not_found(client: Client) -> None:
    with stream(client, asked("deleted", 4_000, rate=20)) as response:
        live = Live(response)
        start, *_ = live.until(lambda messages: len(seqs(messages)) >= 3)
        assert client.request("DELETE", f"/v1/generations/{start['id']}").status_code == 204
        error = live.whole().error
    assert (error["status"], error["details"]["code"]) == ("NOT_FOUND", "generation_deleted")


def test_an_answer_that_is_deleted_while_a_unary_call_waits_for_it_is_not_found(client: Client) -> None:
    data = asked("deleted, unary", 4_000, rate=20)
    with ThreadPoolExecutor(1) as pool:
        calling = pool.submit(call, client, data)
        while not (found := list(client.list(state="streaming"))):
            assert not calling.done(), calling.result().text
        assert client.request("DELETE", f"/v1/generations/{found[0]['id']}").status_code == 204
        status, code, details = refusal(calling.result())
    assert (status, code, details["code"]) == (404, "NOT_FOUND", "generation_deleted")


def test_an_app_that_leaves_is_noticed_and_its_answer_continues_to_the_end(
    stack: Stack, client: Client, database: Any, upstream_calls: Callable[[str], list[dict[str, Any]]]
) -> None:
    what = unique()
    data = asked(what, 400, rate=0)
    with held(stack, what, 20):
        with stream(client, data) as response:
            start, *_ = Live(response).until(lambda messages: len(seqs(messages)) >= 5)
        generation = database.document(f"holdfastGenerations/{start['id']}")
        stack.processes["api"].wait_until(lambda: not generation.get().get("watchers"), WAIT_SECONDS)
    assert client.wait_until_ended(start["id"])["state"] == "completed"
    assert call(client, {"resume": start["id"]}).json()["result"]["content"] == expected(data)
    (called,) = upstream_calls(what)
    assert not called["client_gone"]


def test_tool_calls_come_as_events(client: Client) -> None:
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
    data = {**asked("tools", 12, rate=0, tool_calls=1), "tools": [tool]}
    answer = told(stream(client, data))
    deltas = [choice["delta"] for message in answer.events for choice in message["event"]["choices"]]
    calls = [each["function"] for delta in deltas for each in delta.get("tool_calls") or ()]
    assert calls[0]["name"] == "look_up"
    assert "".join(each.get("arguments", "") for each in calls) == arguments(seed_of(data["messages"]), 0, 12)
    assert answer.text == answer.result["content"] == ""
    assert answer.result["state"] == "completed"


@pytest.mark.parametrize(
    ("data", "status", "param"),
    [
        ({"model": "demo"}, "INVALID_ARGUMENT", "messages"),
        ({"model": "demo", "messages": [{"role": "user", "content": "Hi"}], "chatId": 7}, "INVALID_ARGUMENT", "chatId"),
        ({"model": "none", "messages": [{"role": "user", "content": "Hi"}]}, None, "model"),
        ({"resume": UNKNOWN}, "NOT_FOUND", None),
        ({"resume": UNKNOWN, "after": {"@type": INT64, "value": "3"}}, "NOT_FOUND", None),
        ({"resume": UNKNOWN, "after": "3"}, "INVALID_ARGUMENT", "after"),
        ({"resume": UNKNOWN, "after": -1}, "INVALID_ARGUMENT", "after"),
        ({"resume": UNKNOWN, "after": 1.5}, "INVALID_ARGUMENT", "after"),
        ({"resume": UNKNOWN, "after": {"@type": INT64, "value": "-3"}}, "INVALID_ARGUMENT", "after"),
        ({"resume": UNKNOWN, "after": {"@type": INT64, "value": "three"}}, "INVALID_ARGUMENT", "data"),
        ({"resume": UNKNOWN, "model": "demo"}, "INVALID_ARGUMENT", "messages"),
        ({"resume": "../etc"}, "INVALID_ARGUMENT", "resume"),
        ({"stop": UNKNOWN}, "NOT_FOUND", None),
        ({"stop": UNKNOWN, "after": 3}, "INVALID_ARGUMENT", "data"),
        ({"stop": None}, "INVALID_ARGUMENT", "stop"),
        (None, "INVALID_ARGUMENT", "data"),
        ([], "INVALID_ARGUMENT", "data"),
        ({"@type": ["x"]}, "INVALID_ARGUMENT", "model"),
    ],
    ids=str,
)
def test_a_wrong_call_is_told_the_same_in_a_stream_and_without_one(
    client: Client, data: Any, status: str | None, param: str | None
) -> None:
    streamed = told(stream(client, data)).error
    _, code, details = refusal(call(client, data))
    assert (streamed["status"], streamed["details"]) == (code, details)
    assert status in (None, code)
    assert details["param"] == param


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"{}", b'{"data": {}, "extra": 1}', b'{"data": "\xff"}', b"[" * 10_000]
)
def test_a_body_that_is_no_call_is_an_error_that_the_sdks_know(client: Client, body: bytes) -> None:
    headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
    assert told(client.request("POST", "/", data=body, headers=headers)).error["status"] == "INVALID_ARGUMENT"
    del headers["Accept"]
    assert refusal(client.request("POST", "/", data=body, headers=headers))[:2] == (400, "INVALID_ARGUMENT")


@pytest.mark.parametrize("token", [None, "Bearer abc", "Bearer", "Basic abc"], ids=str)
def test_a_call_without_a_valid_token_is_unauthenticated(stack: Stack, token: str | None) -> None:
    headers = {"Authorization": token} if token else {}
    body = {"data": asked("nobody", 5)}
    assert refusal(requests.post(stack.url, json=body, headers=headers, timeout=60))[:2] == (401, "UNAUTHENTICATED")
    headers["Accept"] = "text/event-stream"
    assert told(requests.post(stack.url, json=body, headers=headers, timeout=60)).error["status"] == "UNAUTHENTICATED"


def test_another_user_s_answer_is_not_found(stack: Stack, client: Client) -> None:
    mine = call(client, asked("mine", 5, rate=0)).json()["result"]["id"]
    other = Client(stack.url, f"user-{unique()}")
    for data in ({"resume": mine}, {"stop": mine}):
        assert refusal(call(other, data))[:2] == (404, "NOT_FOUND")
        assert told(stream(other, data)).error["status"] == "NOT_FOUND"
    other.session.close()


# Unary calls


def test_a_unary_call_is_answered_when_the_answer_is_whole(client: Client) -> None:
    data = asked("unary", 40, rate=200)
    response = call(client, data)
    assert (response.status_code, response.headers["Content-Type"]) == (200, "application/json")
    result = response.json()["result"]
    assert set(response.json()) == {"result"}
    assert set(result) == RESULT_FIELDS
    assert (result["state"], result["reason"], result["content"]) == ("completed", None, expected(data))
    assert result["seq"] == client.show(result["id"])["lastSeq"]
    assert (result["chatId"], result["messageId"]) == (None, result["id"])
    assert result["usage"]["completion_tokens"] == 40


def test_a_unary_call_and_its_repetition_as_a_stream_are_one_upstream_call(
    client: Client, upstream_calls: Callable[[str], list[dict[str, Any]]]
) -> None:
    what = unique()
    data = {**asked(what, 30, rate=0), "idempotencyKey": "k1"}
    result = call(client, data).json()["result"]
    repeated = told(stream(client, data))
    assert repeated.result == result
    assert repeated.text == result["content"] == expected(data)
    assert call(client, {**data, "stream": True}).json()["result"] == result
    assert len(upstream_calls(what)) == 1


def test_another_body_under_the_same_message_id_is_already_exists(client: Client) -> None:
    place = {"chatId": "c", "messageId": "m"}
    call(client, {**asked("one", 5, rate=0), **place})
    again = call(client, {**asked("another", 5, rate=0), **place})
    status, code, details = refusal(again)
    assert (status, code, details["code"]) == (409, "ALREADY_EXISTS", "message_exists")
    assert details["param"] == "messageId"


def test_the_result_has_the_tool_calls_and_why_it_ended(client: Client) -> None:
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
    data = {**asked("tools", 5, rate=0, tool_calls=1), "tools": [tool]}
    result = call(client, data).json()["result"]
    assert (result["content"], result["finishReason"]) == ("", "tool_calls")
    assert result["toolCalls"][0]["function"]["name"] == "look_up"


@pytest.mark.parametrize(
    ("upstream", "status", "code"),
    [(400, 400, "INVALID_ARGUMENT"), (404, 400, "INVALID_ARGUMENT"), (409, 500, "INTERNAL")],
)
def test_an_upstream_s_refusal_has_the_http_status_of_its_code(
    client: Client, upstream: int, status: int, code: str
) -> None:
    data = asked("refused", 5, fault={"kind": "refuse", "status": upstream})
    found, name, details = refusal(call(client, data))
    assert (found, name, details["upstreamStatus"]) == (status, code, upstream)


@pytest.mark.parametrize("upstream", [401, 403])
def test_a_refusal_of_this_service_s_key_is_internal_and_no_fault_of_the_caller(client: Client, upstream: int) -> None:
    data = asked("key refused", 5, fault={"kind": "refuse", "status": upstream})
    status, name, details = refusal(call(client, data))
    assert (status, name, details["code"]) == (500, "INTERNAL", "upstream_key")
    assert told(stream(client, data)).error["details"]["code"] == "upstream_key"


def test_a_stop_of_what_has_ended_is_a_failed_precondition(client: Client) -> None:
    ended = call(client, asked("ended", 5, rate=0)).json()["result"]["id"]
    status, code, details = refusal(call(client, {"stop": ended}))
    assert (status, code, details["code"]) == (400, "FAILED_PRECONDITION", "generation_ended")


def test_a_cursor_beyond_the_end_is_refused(client: Client) -> None:
    result = call(client, asked("cursor", 5, rate=0)).json()["result"]
    for after in (result["seq"] + 1, 1 << 62, {"@type": INT64, "value": str(1 << 62)}):
        status, code, details = refusal(call(client, {"resume": result["id"], "after": after}))
        assert (status, code, details["param"]) == (400, "INVALID_ARGUMENT", "after")
        streamed = told(stream(client, {"resume": result["id"], "after": after})).error
        assert (streamed["status"], streamed["details"]) == (code, details)


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", ""])
def test_a_body_of_another_kind_is_an_invalid_argument(client: Client, kind: str) -> None:
    body = json.dumps({"data": {"stop": UNKNOWN}})
    status, code, details = refusal(client.request("POST", "/", data=body, headers={"Content-Type": kind}))
    assert (status, code, details["code"]) == (400, "INVALID_ARGUMENT", "unsupported_media_type")
    headers = {"Content-Type": kind, "Accept": "text/event-stream"}
    streamed = told(client.request("POST", "/", data=body, headers=headers)).error
    assert (streamed["status"], streamed["details"]) == (code, details)


# From a browser


PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-firebase-appcheck,x-chat-id,idempotency-key",
}


def test_where_no_origins_are_named_every_page_may_call(client: Client) -> None:
    allowed = client.request("OPTIONS", "/", headers={"Origin": APP, **PREFLIGHT})
    assert allowed.status_code == 200
    assert allowed.headers["Access-Control-Allow-Origin"] in ("*", APP)
    assert "POST" in allowed.headers["Access-Control-Allow-Methods"]
    asked_for = {name.strip().lower() for name in allowed.headers["Access-Control-Allow-Headers"].split(",")}
    assert set(PREFLIGHT["Access-Control-Request-Headers"].split(",")) <= asked_for
    assert stream(client, {"stop": UNKNOWN}, Origin=APP).headers["Access-Control-Allow-Origin"] in ("*", APP)


# Functions with settings of their own, and an upstream that says what it is told to


class Script(BaseHTTPRequestHandler):
    """Sends the request's own `script`: payloads of events, a number being a pause in seconds; or refuses."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(asked.get("status", 200))
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for step in asked.get("script", ()):
            if isinstance(step, str):
                self.wfile.write(f"data: {step}\n\n".encode())
                self.wfile.flush()
            else:
                time.sleep(step)

    def log_message(self, *_: object) -> None:
        """It is quiet."""


@pytest.fixture(scope="module")
def scripted(stack: Stack) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Script)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    settings = {
        "UPSTREAM_BASE_URL": f"http://127.0.0.1:{server.server_port}/v1",
        "UPSTREAM_MODELS": "demo",
        "CORS_ORIGINS": f"{APP}, http://localhost:5173",
        "RESPONSE_SECONDS": "2",
        "MAX_ATTEMPTS": "1",
        "MAX_REQUEST_BYTES": "100000",
        "MAX_LIVE_GENERATIONS": "2",
    }
    with functions(stack, "scripted", settings) as url:
        yield url
    server.shutdown()
    server.server_close()
    thread.join(30)


@pytest.fixture
def teller(scripted: str) -> Iterator[Client]:
    client = Client(scripted, f"user-{unique()}")
    yield client
    client.session.close()


def event(content: str = "", finish: str | None = None, **more: Any) -> str:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish}
    return json.dumps({"id": "c", "choices": [choice], **more})


def telling(*script: str | float, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": unique()}]
    return {"model": "demo", "messages": messages, "script": [*script, event(finish="stop"), "[DONE]"], **more}


def settled(client: Client, data: dict[str, Any]) -> requests.Response:
    """A unary call's response once there is an end: a slow machine needs more than one call of RESPONSE_SECONDS."""
    response = call(client, data)
    for _ in range(VISITS):
        said = response.json().get("result")
        if said is None or said["state"] not in ("queued", "streaming"):
            return response
        response = call(client, {"resume": said["id"], "after": said["seq"]})
    raise AssertionError(f"it is still not over after {VISITS} visits")


def followed(client: Client, data: dict[str, Any]) -> Heard:
    """A call and as many resumed ones as it takes, put together."""
    whole = told(stream(client, data))
    for _ in range(VISITS):
        if whole.error or whole.result["state"] not in ("queued", "streaming"):
            return whole
        visit = told(stream(client, {"resume": whole.result["id"], "after": whole.result["seq"]}))
        whole = Heard(whole.messages + visit.messages[1:], visit.result, visit.error)
    raise AssertionError(f"it is still {whole.result['state']} after {VISITS} visits")


def test_a_response_that_has_lasted_as_long_as_it_may_says_where_to_continue(teller: Client) -> None:
    data = telling(*map(event, "abcde"), 5.0, *map(event, "fghij"), idempotencyKey="k")
    first = told(stream(teller, data))
    assert first.result["state"] in ("queued", "streaming")
    assert first.result["seq"] == len(first.events)
    assert first.result["content"].startswith(first.text)
    unary = call(teller, data)
    assert unary.status_code == 200
    assert unary.json()["result"]["id"] == first.result["id"]
    whole = followed(teller, data)
    assert whole.result["state"] == "completed"
    assert whole.result["content"] == whole.text == "abcdefghij"
    assert seqs(whole.messages) == list(range(1, whole.result["seq"] + 1))


def test_an_app_that_resumes_after_the_result_s_seq_misses_nothing_of_an_answer_that_never_pauses(
    teller: Client,
) -> None:
    words = [f"w{number} " for number in range(250)]
    whole = followed(teller, telling(*(step for word in words for step in (event(word), 0.02))))
    assert whole.text == whole.result["content"] == "".join(words)
    assert seqs(whole.messages) == list(range(1, whole.result["seq"] + 1))


def test_numbers_beyond_javascript_s_and_types_of_others_reach_every_sdk(teller: Client) -> None:
    odd = {
        "@type": "type.googleapis.com/google.protobuf.Duration",
        "@@type": INT64,
        "exact": (1 << 53) - 1,
        "long": (1 << 53) + 1,
        "least": -(1 << 63),
        "more": (1 << 64) - 1,
    }
    usage = {"prompt_tokens": 1, "completion_tokens": (1 << 60) + 1, "total_tokens": (1 << 60) + 2}
    answer = followed(teller, telling(event("Hi", odd=odd), event(usage=usage)))
    assert answer.events[0]["event"]["odd"] == {
        "@@type": "type.googleapis.com/google.protobuf.Duration",
        "@@@type": INT64,
        "exact": (1 << 53) - 1,
        "long": (1 << 53) + 1,
        "least": -(1 << 63),
        "more": str((1 << 64) - 1),
    }
    assert answer.result["usage"]["completion_tokens"] == (1 << 60) + 1
    assert answer.result["content"] == "Hi"


def test_a_character_that_the_upstream_cuts_in_two_is_whole_wherever_it_is_read(database: Any, teller: Client) -> None:
    """The first half is the last that one of the journal's segments has, and the second comes in another commit."""
    long = "x" * SEAL_BYTES
    halves = [event(f"{long}\ud83e", note="cut"), 0.5, event("\udd8a!"), event("\ud83e"), 0.5, event("\udd8a")]
    answer = followed(teller, telling(*halves))
    assert [each["delta"] for each in answer.events][:4] == [long, "🦊!", "", "🦊"]
    assert answer.text == answer.result["content"] == f"{long}🦊!🦊"
    journal = database.collection(f"users/{teller.user}/messages/{answer.result['id']}/holdfastJournal")
    segments = journal.order_by("first").get()
    assert len(segments) > 1
    assert "".join(each.get("text") for each in segments) == answer.text


@pytest.mark.parametrize(
    ("upstream", "status", "code"),
    [
        (429, 429, "RESOURCE_EXHAUSTED"),
        (500, 503, "UNAVAILABLE"),
        (503, 503, "UNAVAILABLE"),
        (504, 504, "DEADLINE_EXCEEDED"),
    ],
)
def test_an_upstream_that_can_not_now_has_the_http_status_of_its_code(
    teller: Client, upstream: int, status: int, code: str
) -> None:
    found, name, details = refusal(settled(teller, telling(status=upstream)))
    assert (found, name, details["upstreamStatus"]) == (status, code, upstream)


def test_a_body_that_is_too_large_is_an_invalid_argument(teller: Client) -> None:
    status, code, details = refusal(call(teller, telling(event("x"), padding="x" * 100_000)))
    assert (status, code, details["code"]) == (400, "INVALID_ARGUMENT", "request_too_large")


def test_more_answers_than_a_user_may_have_live_are_resource_exhausted(teller: Client) -> None:
    with stream(teller, telling(event("a"), 20.0)) as one, stream(teller, telling(event("a"), 20.0)) as two:
        running = [Live(each).until(lambda messages: bool(seqs(messages)))[0]["id"] for each in (one, two)]
        answer = call(teller, telling(event("b")))
        status, code, details = refusal(answer)
        assert (status, code, details["code"]) == (429, "RESOURCE_EXHAUSTED", "too_many_generations")
        assert details["retryAfter"] == int(answer.headers["Retry-After"]) > 0
        for each in running:
            teller.request("DELETE", f"/v1/generations/{each}")


@pytest.mark.parametrize("path", ["/", "/v1/chat/completions"])
@pytest.mark.parametrize("origin", [APP, "http://localhost:5173"])
def test_a_page_of_an_origin_that_is_named_may_call(teller: Client, path: str, origin: str) -> None:
    allowed = teller.request("OPTIONS", path, headers={"Origin": origin, **PREFLIGHT})
    assert allowed.headers["Access-Control-Allow-Origin"] == origin
    response = teller.request("POST", path, json={"data": telling(event("x"))}, headers={"Origin": origin})
    assert response.headers["Access-Control-Allow-Origin"] == origin
    assert "X-Generation-Id" in response.headers["Access-Control-Expose-Headers"]
    assert "Origin" in response.headers["Vary"]


@pytest.mark.parametrize(
    "origin", ["https://mallory.example", "https://app.example.mallory.example", "http://app.example", "null"]
)
def test_a_page_of_another_origin_may_not(teller: Client, origin: str) -> None:
    assert (
        "Access-Control-Allow-Origin"
        not in teller.request("OPTIONS", "/", headers={"Origin": origin, **PREFLIGHT}).headers
    )
    assert "Access-Control-Allow-Origin" not in call(teller, {"stop": UNKNOWN}, Origin=origin).headers
    assert "Access-Control-Allow-Origin" not in stream(teller, {"stop": UNKNOWN}, Origin=origin).headers
