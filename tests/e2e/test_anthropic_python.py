"""Anthropic's own Python client, with another base_url and a user's token as its key."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import pytest
import requests
from anthropic.types import RawMessageStreamEvent
from google.cloud import firestore

from local.client import Client, question
from local.demo_text import arguments, reasoning_seed, seed_of, text
from local.stack import Stack
from local.token import id_token
from tests.e2e.breaking_proxy import BreakingProxy

WAIT_SECONDS = 60.0
TOOL = {"name": "look_up", "description": "Looks up.", "input_schema": {"type": "object"}}
THINKING = {"type": "enabled", "budget_tokens": 1024}
Json = dict[str, Any]


@pytest.fixture
def sdk(client: Client) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=client.url, api_key=id_token(client.user), max_retries=0) as sdk:
        yield sdk


def asked(what: str, tokens: int, **demo: object) -> Json:
    body = question(what, tokens, **demo)
    demo_fields = {"tokens": tokens, **body["demo"]}
    return {"model": "demo", "messages": body["messages"], "max_tokens": 4096, "extra_body": {"demo": demo_fields}}


def seed(what: str) -> str:
    return seed_of(question(what, 1)["messages"])


def test_the_anthropic_client_streams(sdk: anthropic.Anthropic) -> None:
    with sdk.messages.stream(**asked("streamed", 40, rate=200)) as stream:
        assert "".join(stream.text_stream) == text(seed("streamed"), 40)
        message = stream.get_final_message()
    assert (message.role, message.model, message.stop_reason) == ("assistant", "demo", "end_turn")
    assert (message.usage.input_tokens > 0, message.usage.output_tokens) == (True, 40)


def test_the_anthropic_client_gets_an_answer_that_is_not_streamed(sdk: anthropic.Anthropic) -> None:
    message = sdk.messages.create(**asked("whole", 40, rate=0))
    assert [(block.type, block.text) for block in message.content] == [("text", text(seed("whole"), 40))]
    assert (message.stop_reason, message.usage.output_tokens) == ("end_turn", 40)


@pytest.mark.parametrize("kind", ["stream_despite_json", "json_despite_stream"])
def test_an_answer_in_the_other_form_is_given_to_the_anthropic_client_in_the_one_it_asked_for(
    sdk: anthropic.Anthropic, kind: str
) -> None:
    asking = asked(kind, 20, rate=0, fault=kind, tool_calls=2, reasoning=5) | {"tools": [TOOL]}
    with sdk.messages.stream(**asking) as stream:
        streamed = stream.get_final_message()
    assert streamed.to_dict()["content"] == sdk.messages.create(**asking).to_dict()["content"]
    assert [block.type for block in streamed.content] == ["thinking", "tool_use", "tool_use"]


def test_the_token_may_come_as_a_key_or_as_a_bearer_token(client: Client) -> None:
    token = id_token(client.user)
    body = {"model": "demo", "max_tokens": 5, "messages": [{"role": "user", "content": "keys"}], "demo": {"rate": 0}}
    for headers in ({"x-api-key": token}, {"Authorization": f"Bearer {token}"}):
        answered = requests.post(f"{client.url}/v1/messages", json=body, headers=headers, timeout=WAIT_SECONDS)
        assert (answered.status_code, answered.json()["stop_reason"]) == (200, "max_tokens")


def test_keep_alives_in_a_silence_are_pings(sdk: anthropic.Anthropic, client: Client) -> None:
    asking = asked("silence", 40, rate=0, fault={"kind": "stall", "at": 20, "seconds": 2})
    with sdk.messages.stream(**asking) as stream:
        assert stream.get_final_text() == text(seed("silence"), 40)
    body = {**asking, **asking.pop("extra_body"), "stream": True}
    del body["extra_body"]
    wire = client.request("POST", "/v1/messages", json=body).content
    assert wire.count(b'event: ping\ndata: {"type": "ping"}\n\n') >= 2
    assert b"id: 1\nevent: message_start\n" in wire
    assert wire.endswith(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')


def test_thinking_comes_with_its_signature_and_tools_with_their_input(
    sdk: anthropic.Anthropic, client: Client, database: firestore.Client
) -> None:
    asking = asked("thinks", 12, rate=0, tool_calls=2) | {"tools": [TOOL], "thinking": THINKING}
    with sdk.messages.stream(**asking) as stream:
        streamed = stream.get_final_message()
        its = stream.response.headers["X-Generation-Id"]
    thinking, *calls = [block.to_dict() for block in streamed.content]
    thoughts = text(reasoning_seed(seed("thinks")), 20)
    assert (thinking["thinking"], bool(thinking["signature"])) == (thoughts, True)
    assert [(call["name"], call["input"]) for call in calls] == [
        ("look_up", json.loads(arguments(seed("thinks"), number, 12))) for number in (0, 1)
    ]
    assert streamed.stop_reason == "tool_use"
    assert sdk.messages.create(**asking).to_dict()["content"] == streamed.to_dict()["content"]
    message = database.document(f"users/{client.user}/messages/{its}").get().to_dict()
    assert (message["content"], message["reasoning"], message["finishReason"]) == ("", thoughts, "tool_use")
    assert [call["function"]["name"] for call in message["toolCalls"]] == ["look_up", "look_up"]
    assert [json.loads(call["function"]["arguments"]) for call in message["toolCalls"]] == [c["input"] for c in calls]
    assert message["extra"]["content"] == [thinking, *calls]


def test_a_tool_loop_goes_on_with_what_the_message_has(sdk: anthropic.Anthropic) -> None:
    asking = asked("loop", 6, rate=0, tool_calls=1) | {"tools": [TOOL]}
    called = sdk.messages.create(**asking)
    results = [{"type": "tool_result", "tool_use_id": called.content[0].id, "content": "Found."}]
    turns = [{"role": "assistant", "content": called.to_dict()["content"]}, {"role": "user", "content": results}]
    assert sdk.messages.create(**{**asking, "messages": [*asking["messages"], *turns]}).stop_reason == "end_turn"


def test_a_refusal_of_the_model_is_a_complete_answer(
    sdk: anthropic.Anthropic, client: Client, database: firestore.Client
) -> None:
    with sdk.messages.stream(**asked("refused", 5, rate=0, refusal=True)) as stream:
        message = stream.get_final_message()
        its = stream.response.headers["X-Generation-Id"]
    assert (message.stop_reason, message.stop_details.explanation) == ("refusal", "This can't be answered.")
    saved = database.document(f"users/{client.user}/messages/{its}").get().to_dict()
    assert (saved["state"], saved["refusal"]) == ("completed", "This can't be answered.")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("status", "kind", "type_"),
    [
        (400, anthropic.BadRequestError, "invalid_request_error"),
        (404, anthropic.NotFoundError, "not_found_error"),
        (413, anthropic.RequestTooLargeError, "request_too_large"),
        (422, anthropic.UnprocessableEntityError, "invalid_request_error"),
        (429, anthropic.RateLimitError, "rate_limit_error"),
        (500, anthropic.InternalServerError, "api_error"),
        (529, anthropic.OverloadedError, "overloaded_error"),
    ],
)
def test_an_upstream_s_refusal_is_the_anthropic_client_s_own_error(
    sdk: anthropic.Anthropic, status: int, kind: type[anthropic.APIStatusError], type_: str, stream: bool
) -> None:
    with pytest.raises(kind) as refused:
        sdk.messages.create(**asked("refuse", 5, fault={"kind": "refuse", "status": status}), stream=stream)
    assert (refused.value.status_code, refused.value.type) == (status, type_)
    assert refused.value.body["request_id"] == "req_demo"


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_of_this_service_s_key_is_no_fault_of_the_anthropic_client_s_user(
    sdk: anthropic.Anthropic, status: int
) -> None:
    with pytest.raises(anthropic.InternalServerError) as refused:
        sdk.messages.create(**asked("key", 5, fault={"kind": "refuse", "status": status}))
    assert (refused.value.status_code, refused.value.type, refused.value.error_code) == (
        502,
        "api_error",
        "upstream_key",
    )


def test_a_refusal_of_ours_is_the_anthropic_client_s_own_error(sdk: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError) as wrong:
        sdk.messages.create(model="demo", messages=[], max_tokens=5)
    assert (wrong.value.type, wrong.value.error_code) == ("invalid_request_error", "invalid_request")
    assert "'messages'" in str(wrong.value.api_message)
    with pytest.raises(anthropic.AuthenticationError) as nobody:
        sdk.with_options(api_key="abc").messages.create(**asked("nobody", 5))
    assert (nobody.value.type, nobody.value.error_code) == ("authentication_error", "malformed_token")


def test_an_answer_that_breaks_off_ends_in_an_error_of_the_anthropic_client(sdk: anthropic.Anthropic) -> None:
    said: list[str] = []
    with (
        pytest.raises(anthropic.APIStatusError) as broken,
        sdk.messages.stream(**asked("breaks", 40, rate=0, fault={"kind": "break", "at": 20})) as stream,
    ):
        said.extend(stream.text_stream)
    assert "".join(said) == text(seed("breaks"), 20)
    assert (broken.value.type, broken.value.error_code) == ("api_error", "upstream_disconnected")


def test_an_error_in_the_middle_of_a_stream_is_passed_on_as_it_came(sdk: anthropic.Anthropic) -> None:
    with (
        pytest.raises(anthropic.APIStatusError) as broken,
        sdk.messages.stream(**asked("error", 40, rate=0, fault={"kind": "error_event", "at": 20})) as stream,
    ):
        stream.until_done()
    assert broken.value.body == {
        "type": "error",
        "error": {"type": "api_error", "message": "The server had an error while processing your request."},
        "request_id": "req_demo",
    }


@pytest.mark.parametrize(
    "kind", ["crlf", "no_space", "multi_line", "comments", "unnamed", "gzip", "split", "big_event"]
)
def test_an_answer_in_any_valid_form_reaches_the_anthropic_client_whole(sdk: anthropic.Anthropic, kind: str) -> None:
    with sdk.messages.stream(**asked("form", 20, rate=0, fault=kind)) as stream:
        said = stream.get_final_text()
    assert said.replace("x" * 1_000_000, "") == text(seed("form"), 20)


@pytest.mark.parametrize("turn", range(4))
def test_an_anthropic_client_that_leaves_at_any_event_comes_back_for_the_rest(
    sdk: anthropic.Anthropic, turn: int
) -> None:
    leaves_at = random.Random(turn).randrange(1, 30)
    what = f"leaves {uuid.uuid4().hex}"
    asking = asked(what, 40, rate=100, reasoning=3)
    with sdk.messages.create(**asking, stream=True) as stream:
        events = [event.to_dict() for event, _ in zip(stream, range(leaves_at), strict=False)]
        its = stream.response.headers["X-Generation-Id"]
    rest = sdk.get(
        f"/v1/generations/{its}",
        cast_to=object,
        stream=True,
        stream_cls=anthropic.Stream[RawMessageStreamEvent],
        options={"headers": {"Accept": "text/event-stream", "Last-Event-ID": str(len(events))}},
    )
    *events[len(events) :], end = [event.to_dict() for event in rest]
    assert end == {"type": "message_stop"}
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(delta.get("text", "") for delta in deltas) == text(seed(what), 40)
    assert "".join(delta.get("thinking", "") for delta in deltas) == text(reasoning_seed(seed(what)), 3)
    kinds = [event["type"] for event in events]
    assert (kinds.count("message_start"), kinds.count("content_block_start"), kinds[-1]) == (1, 2, "message_delta")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_retry_of_the_anthropic_client_with_an_idempotency_key_is_no_second_upstream_call(
    sdk: anthropic.Anthropic, stack: Stack, upstream_calls: Callable[[str], list[Json]], stream: bool
) -> None:
    what = uuid.uuid4().hex
    with BreakingProxy(stack.ports.api_port, after=0, times=1) as breaking:
        retrying = sdk.with_options(base_url=breaking.url, max_retries=2)
        answer = retrying.messages.create(
            **asked(what, 30, rate=0), stream=stream, extra_headers={"Idempotency-Key": "k"}
        )
        if stream:
            said = [event.delta.text for event in answer if event.type == "content_block_delta"]
        else:
            said = [block.text for block in answer.content]
        assert breaking.broken == 1
    assert "".join(said) == text(seed(what), 30)
    assert len(upstream_calls(what)) == 1


def test_the_api_s_version_and_betas_that_the_anthropic_client_asks_for_reach_the_upstream(
    sdk: anthropic.Anthropic, upstream_calls: Callable[[str], list[Json]]
) -> None:
    what = uuid.uuid4().hex
    headers = {
        "anthropic-version": "2030-01-01",
        "anthropic-beta": "tools-2030-01-01",
        "X-Other": "not for the upstream",
    }
    sdk.messages.create(**asked(what, 3, rate=0), extra_headers=headers)
    (call,) = upstream_calls(what)
    assert call["headers"]["anthropic-version"] == "2030-01-01"
    assert call["headers"]["anthropic-beta"] == "tools-2030-01-01"
    assert not {"x-other", "x-api-key"} & call["headers"].keys()


def test_an_answer_in_messages_is_stopped_and_what_there_is_of_it_is_a_whole_message(
    sdk: anthropic.Anthropic, client: Client
) -> None:
    with sdk.messages.stream(**asked("stopped", 4000, rate=50)) as stream:
        for _ in zip(stream.text_stream, range(3), strict=False):
            pass
        its = stream.response.headers["X-Generation-Id"]
        stopped = client.request("POST", f"/v1/generations/{its}/stop").json()
        message = stream.get_final_message()
    assert (stopped["state"], message.stop_reason) == ("stopped", None)
    assert text(seed("stopped"), 4000).startswith(message.content[0].text)


def test_a_callable_client_is_answered_by_what_the_events_mean(client: Client, stack: Stack) -> None:
    settings = {"UPSTREAM_BASE_URL": f"{stack.upstream_url}/v1", "UPSTREAM_SPEAKS": "messages"}
    url = stack.add_functions("tongue", settings)
    try:
        data = {"model": "demo", "max_tokens": 50, **question("called", 50), "demo": {"rate": 0, "tokens": 20}}
        result = Client(url, client.user).request("POST", "/", json={"data": data}).json()["result"]
    finally:
        stack.end("tongue-api", "tongue-worker")
    assert (result["state"], result["content"]) == ("completed", text(seed("called"), 20))
    assert result["usage"]["output_tokens"] == 20
