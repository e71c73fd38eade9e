"""OpenAI's own Python client and its Responses, over upstreams of four APIs."""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import openai
import pytest
import requests
from google.cloud.firestore import FieldFilter
from openai.types.responses import Response

from local.demo_text import arguments, reasoning_seed, text
from local.stack import Stack
from local.token import id_token
from tests.conftest import calls_of, database_of
from tests.e2e.breaking_proxy import BreakingProxy
from tests.e2e.four_apis import APIS, RENDERED, four_apis

WAIT_SECONDS = 60.0
LOOK = {"type": "function", "name": "look_up", "description": "Looks up.", "parameters": {"type": "object"}}
OVER_EACH = pytest.mark.parametrize("api", APIS)
OVER_OTHERS = pytest.mark.parametrize("api", RENDERED)
Json = dict[str, Any]


@pytest.fixture(scope="module")
def stack(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with four_apis(stack, tmp_path_factory.mktemp("catalog")) as running:
        yield running


@pytest.fixture
def sdk(stack: Stack) -> Iterator[openai.OpenAI]:
    user = f"user-{uuid.uuid4().hex[:12]}"
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key=id_token(user), max_retries=0) as client:
        yield client


@pytest.fixture
def stranger(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key=id_token("stranger"), max_retries=0) as client:
        yield client


@pytest.fixture
def calls(stack: Stack) -> Callable[[str], list[Json]]:
    return partial(calls_of, stack)


def asked(api: str, what: str, tokens: int, **demo: Any) -> Json:
    """A question whose answer is `text(what, tokens)`."""
    demo = {"seed": what, "tokens": tokens, "rate": 0, **demo}
    return {"model": api, "input": what, "extra_body": {"demo": demo}}


def new() -> str:
    return uuid.uuid4().hex


def ended(sdk: openai.OpenAI, its_id: str) -> Response:
    deadline = time.monotonic() + WAIT_SECONDS
    while (response := sdk.responses.retrieve(its_id)).status in ("queued", "in_progress"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return response


@OVER_EACH
def test_an_answer_that_is_not_streamed(sdk: openai.OpenAI, api: str) -> None:
    raw = sdk.responses.with_raw_response.create(**asked(api, "whole", 40), metadata={"a": "b"}, temperature=0.5)
    response = raw.parse()
    assert (response.status, response.output_text, response.model) == ("completed", text("whole", 40), api)
    assert response.id == f"resp_{raw.headers['X-Generation-Id']}"
    assert raw.headers["Location"] == f"/v1/responses/{response.id}"
    assert response.usage is not None
    assert response.usage.output_tokens == 40
    assert sdk.responses.retrieve(response.id) == response
    if api in RENDERED:
        assert (response.metadata, response.temperature, response.error) == ({"a": "b"}, 0.5, None)


@OVER_EACH
def test_a_stream_ends_with_the_response_that_is_kept(sdk: openai.OpenAI, api: str) -> None:
    events = list(sdk.responses.create(**asked(api, "streamed", 40, rate=200, reasoning=3), stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == text("streamed", 40)
    thoughts = [event.delta for event in events if event.type == "response.reasoning_summary_text.delta"]
    assert "".join(thoughts) == text(reasoning_seed("streamed"), 3)
    assert events[-1].type == "response.completed"
    response = events[-1].response
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert sdk.responses.retrieve(response.id).to_dict() == response.to_dict()
    assert list(sdk.responses.retrieve(response.id, stream=True)) == events


@OVER_EACH
@pytest.mark.parametrize("turn", range(3))
def test_a_client_that_leaves_at_any_event_comes_back_for_exactly_the_rest(
    sdk: openai.OpenAI, calls: Callable[[str], list[Json]], api: str, turn: int
) -> None:
    what = new()
    leaves_at = random.Random(f"{api}{turn}").randrange(1, 40)
    asking = asked(api, what, 40, rate=150, reasoning=4)
    with sdk.responses.create(**asking, stream=True) as stream:
        events = [event for event, _ in zip(stream, range(leaves_at), strict=False)]
    its_id = events[0].response.id
    rest = list(sdk.responses.retrieve(its_id, stream=True, starting_after=events[-1].sequence_number))
    assert [event.sequence_number for event in events + rest] == list(range(len(events + rest)))
    assert list(sdk.responses.retrieve(its_id, stream=True)) == events + rest
    assert rest[-1].response.output_text == text(what, 40)
    assert len(calls(what)) == 1


@OVER_EACH
def test_the_stream_helper_reads_a_new_answer_and_one_by_its_id(sdk: openai.OpenAI, api: str) -> None:
    with sdk.responses.stream(**asked(api, "helped", 30, reasoning=2, rate=100)) as stream:
        events = list(stream)
        response = stream.get_final_response()
    assert response.output_text == text("helped", 30)
    with sdk.responses.stream(response_id=response.id, starting_after=10) as stream:
        assert [event.sequence_number for event in stream] == [event.sequence_number for event in events[11:]]
        assert stream.get_final_response().output_text == text("helped", 30)


@OVER_EACH
@pytest.mark.parametrize("turn", range(3))
def test_who_leaves_the_stream_helper_at_any_event_comes_back_for_the_rest_whole_and_once(
    sdk: openai.OpenAI, calls: Callable[[str], list[Json]], api: str, turn: int
) -> None:
    what = new()
    leaves_at = random.Random(f"helper {api}{turn}").randrange(1, 40)
    with sdk.responses.stream(**asked(api, what, 40, rate=150, reasoning=4)) as stream:
        first = [event for event, _ in zip(stream, range(leaves_at), strict=False)]
    its_id, after = first[0].response.id, first[-1].sequence_number
    rest = list(sdk.responses.retrieve(its_id, stream=True, starting_after=after))
    whole = first + rest
    assert [event.sequence_number for event in whole] == list(range(len(whole)))
    deltas = [event.delta for event in whole if event.type == "response.output_text.delta"]
    assert "".join(deltas) == rest[-1].response.output_text == text(what, 40)
    with sdk.responses.stream(response_id=its_id, starting_after=after) as stream:
        assert [event.sequence_number for event in stream] == [event.sequence_number for event in rest]
        assert stream.get_final_response().output_text == text(what, 40)
    assert len(calls(what)) == 1


@OVER_EACH
def test_an_answer_in_the_background_goes_on_by_itself(sdk: openai.OpenAI, api: str) -> None:
    begun = sdk.responses.create(**asked(api, "background", 30, rate=100), background=True)
    assert (begun.status, begun.background, begun.output) == ("queued", True, [])
    with sdk.responses.retrieve(begun.id, stream=True) as stream:
        first = next(iter(stream))
    assert (first.type, first.response.id) == ("response.created", begun.id)
    assert ended(sdk, begun.id).output_text == text("background", 30)
    rest = list(sdk.responses.retrieve(begun.id, stream=True, starting_after=first.sequence_number))
    assert rest[-1].response.output_text == text("background", 30)


@OVER_OTHERS
def test_a_stream_in_the_background_begins_in_the_queue(sdk: openai.OpenAI, api: str) -> None:
    events = list(sdk.responses.create(**asked(api, "queued", 5), background=True, stream=True))
    assert [event.type for event in events[:3]] == ["response.created", "response.queued", "response.in_progress"]
    assert [event.response.status for event in events[:3]] == ["queued", "queued", "in_progress"]
    assert events[-1].response.output_text == text("queued", 5)


@OVER_EACH
@pytest.mark.parametrize("background", [False, True], ids=["foreground", "background"])
def test_an_answer_is_cancelled_with_what_was_said(
    sdk: openai.OpenAI, calls: Callable[[str], list[Json]], api: str, background: bool
) -> None:
    what = new()
    with sdk.responses.create(**asked(api, what, 4000, rate=40), stream=True, background=background) as stream:
        for event in stream:
            if event.type == "response.created":
                its_id = event.response.id
            if event.type == "response.output_text.delta":
                break
        cancelled = sdk.responses.cancel(its_id)
        *_, last = stream
    assert (cancelled.id, cancelled.status) == (its_id, "cancelled")
    assert cancelled.output_text
    assert text(what, 4000).startswith(cancelled.output_text)
    assert (last.type, last.response.to_dict()) == ("response.incomplete", cancelled.to_dict())
    assert sdk.responses.cancel(its_id) == sdk.responses.retrieve(its_id) == cancelled
    assert calls(what)[0]["client_gone"]


@OVER_EACH
def test_a_deleted_response_and_another_user_s_are_not_there(
    sdk: openai.OpenAI, stranger: openai.OpenAI, api: str
) -> None:
    response = sdk.responses.create(**asked(api, "deleted", 5))
    for call in (stranger.responses.retrieve, stranger.responses.cancel, stranger.responses.delete):
        with pytest.raises(openai.NotFoundError) as hidden:
            call(response.id)
        assert hidden.value.code == "response_not_found"
    with pytest.raises(openai.BadRequestError) as unknown:
        stranger.responses.create(**asked(api, "next", 5), previous_response_id=response.id)
    assert (unknown.value.code, unknown.value.param) == ("previous_response_not_found", "previous_response_id")
    sdk.responses.delete(response.id)
    for call in (sdk.responses.retrieve, sdk.responses.cancel, sdk.responses.delete):
        with pytest.raises(openai.NotFoundError):
            call(response.id)


@OVER_EACH
def test_tools_and_their_results_are_gone_on_with_by_the_previous_response(
    sdk: openai.OpenAI, calls: Callable[[str], list[Json]], api: str
) -> None:
    what = new()
    called = sdk.responses.create(**asked(api, what, 12, tool_calls=2, reasoning=3), tools=[LOOK])
    uses = [item for item in called.output if item.type == "function_call"]
    assert [(use.name, use.arguments) for use in uses] == [("look_up", arguments(what, n, 12)) for n in (0, 1)]
    results = [{"type": "function_call_output", "call_id": use.call_id, "output": "Found."} for use in uses]
    second = sdk.responses.create(
        **{**asked(api, what, 6), "input": results}, previous_response_id=called.id, tools=[LOOK]
    )
    assert (second.status, second.previous_response_id, second.output_text) == ("completed", called.id, text(what, 6))
    third = sdk.responses.create(**{**asked(api, what, 7), "input": "And now?"}, previous_response_id=second.id)
    assert third.output_text == text(what, 7)
    if api == "chat_completions":
        said = calls(what)[-1]["request"]["messages"]
        assert [each["role"] for each in said] == ["user", "assistant", "tool", "tool", "assistant", "user"]
        assert [call["id"] for call in said[1]["tool_calls"]] == [use.call_id for use in uses]
        assert (said[4]["content"], said[5]["content"]) == (text(what, 6), "And now?")
    if api == "responses":
        assert not calls(what)[-1]["request"]["previous_response_id"].endswith(second.id)


@pytest.mark.parametrize("then", ["messages", "gemini", "responses"])
def test_a_conversation_goes_on_with_a_model_of_another_api(
    sdk: openai.OpenAI, calls: Callable[[str], list[Json]], then: str
) -> None:
    what = new()
    first = sdk.responses.create(**asked("chat_completions", what, 5, reasoning=2))
    second = sdk.responses.create(**{**asked(then, what, 6), "input": "And now?"}, previous_response_id=first.id)
    assert (second.output_text, second.previous_response_id) == (text(what, 6), first.id)
    request = json.dumps(calls(what)[-1]["request"])
    assert json.dumps(text(what, 5))[1:-1] in request
    assert "And now?" in request


def test_a_conversation_that_its_upstream_keeps_can_t_go_on_elsewhere(sdk: openai.OpenAI) -> None:
    first = sdk.responses.create(**asked("responses", "kept", 5))
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.responses.create(**asked("messages", "kept", 5), previous_response_id=first.id)
    assert (refused.value.code, refused.value.param) == ("previous_response_elsewhere", "previous_response_id")


@pytest.mark.parametrize("api", ["messages", "responses"])
@pytest.mark.parametrize(
    ("text", "parts", "limit"), [("A" * (6 << 20), 1, "MAX_REQUEST_BYTES"), ("A", 6000, "MAX_REQUEST_NODES")]
)
def test_a_conversation_has_the_limits_of_one_request(
    sdk: openai.OpenAI, api: str, text: str, parts: int, limit: str
) -> None:
    what = new()
    turn = [{"role": "user", "content": [{"type": "input_text", "text": text}] * parts}]
    first = sdk.responses.create(**{**asked("chat_completions", what, 5), "input": turn})
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.responses.create(**{**asked(api, what, 5), "input": turn}, previous_response_id=first.id)
    assert (refused.value.code, refused.value.param) == ("conversation_too_large", "previous_response_id")
    assert limit in refused.value.message


@OVER_OTHERS
def test_a_response_that_is_not_over_has_no_next(sdk: openai.OpenAI, api: str) -> None:
    running = sdk.responses.create(**asked(api, "running", 4000, rate=20), background=True)
    with pytest.raises(openai.BadRequestError) as early:
        sdk.responses.create(**asked(api, "next", 5), previous_response_id=running.id)
    assert early.value.code == "previous_response_in_progress"
    sdk.responses.delete(running.id)


@OVER_EACH
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, openai.BadRequestError),
        (404, openai.NotFoundError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
    ],
)
def test_an_upstream_s_refusal_is_the_client_s_own_error(
    sdk: openai.OpenAI, api: str, status: int, kind: type[openai.APIStatusError], stream: bool
) -> None:
    with pytest.raises(kind) as refused:
        sdk.responses.create(**asked(api, "refused", 5, fault={"kind": "refuse", "status": status}), stream=stream)
    assert refused.value.status_code == status
    assert refused.value.body is not None
    assert set(refused.value.body) >= {"message", "type", "code", "param"} - {"param" if api == "responses" else ""}


@OVER_EACH
def test_a_refusal_in_the_background_is_a_response_that_failed(sdk: openai.OpenAI, api: str) -> None:
    fault = {"kind": "refuse", "status": 400}
    begun = sdk.responses.create(**asked(api, "refused", 5, fault=fault), background=True)
    failed = ended(sdk, begun.id)
    assert (failed.status, failed.output) == ("failed", [])
    assert failed.error is not None
    assert failed.error.message == "The request was refused with status 400."
    events = list(sdk.responses.retrieve(begun.id, stream=True))
    assert (events[0].type, events[-1].type) == ("response.created", "response.failed")
    assert events[-1].response.error == failed.error


@OVER_EACH
def test_an_answer_that_breaks_off_fails_with_what_was_said(sdk: openai.OpenAI, api: str) -> None:
    asking = asked(api, "breaks", 40, fault={"kind": "break", "at": 20})
    *_, last = sdk.responses.create(**asking, stream=True)
    assert (last.type, last.response.status) == ("response.failed", "failed")
    assert last.response.output_text == text("breaks", 20)
    assert last.response.error.code == "upstream_disconnected"
    assert sdk.responses.retrieve(last.response.id).to_dict() == last.response.to_dict()
    with pytest.raises(openai.InternalServerError) as broken:
        sdk.responses.create(**asking)
    assert (broken.value.status_code, broken.value.code) == (502, "upstream_disconnected")


@OVER_EACH
def test_an_answer_at_its_limit_is_incomplete(sdk: openai.OpenAI, api: str) -> None:
    response = sdk.responses.create(**asked(api, "limit", 40), max_output_tokens=10)
    assert (response.status, response.output_text) == ("incomplete", text("limit", 10))
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize("api", ["chat_completions", "messages", "responses"])
def test_a_refusal_of_the_model_is_a_part_of_a_complete_answer(sdk: openai.OpenAI, api: str) -> None:
    events = list(sdk.responses.create(**asked(api, "no", 5, refusal=True), stream=True))
    refusal = "".join(event.delta for event in events if event.type == "response.refusal.delta")
    assert events[-1].response.status == "completed"
    (message,) = events[-1].response.output
    assert (message.content[-1].type, message.content[-1].refusal) == ("refusal", refusal)
    assert refusal


@OVER_OTHERS
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"include": ["file_search_call.results"]}, "include"),
    ],
)
def test_what_can_t_be_rendered_is_an_error_that_names_it(
    sdk: openai.OpenAI, api: str, fields: Json, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.responses.create(**{**asked(api, "asked", 5), **fields})
    assert refused.value.param == param


@OVER_EACH
def test_what_is_not_to_be_stored_can_neither_be_retrieved_nor_gone_on_with(sdk: openai.OpenAI, api: str) -> None:
    response = sdk.responses.create(**asked(api, "unkept", 5), store=False)
    assert response.output_text == text("unkept", 5)
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(response.id)
    with pytest.raises(openai.BadRequestError):
        sdk.responses.create(**asked(api, "next", 5), previous_response_id=response.id)
    sdk.responses.delete(response.id)
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.responses.create(**asked(api, "both", 5), store=False, background=True)
    assert refused.value.param == "background"


@OVER_EACH
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_retry_with_an_idempotency_key_is_no_second_upstream_call(
    sdk: openai.OpenAI, stack: Stack, calls: Callable[[str], list[Json]], api: str, stream: bool
) -> None:
    what = new()
    with BreakingProxy(stack.ports.api_port, after=0, times=1) as breaking:
        retrying = sdk.with_options(base_url=f"{breaking.url}/v1", max_retries=2)
        answer = retrying.responses.create(
            **asked(api, what, 30), stream=stream, extra_headers={"Idempotency-Key": "k"}
        )
        response = list(answer)[-1].response if stream else answer
        assert breaking.broken == 1
    assert response.output_text == text(what, 30)
    assert len(calls(what)) == 1


def test_the_same_key_with_another_request_is_another_answer(sdk: openai.OpenAI) -> None:
    key = {"extra_headers": {"Idempotency-Key": "k"}}
    asking = asked("messages", "keyed", 5)
    first, again = (sdk.responses.create(**asking, **key) for _ in range(2))
    other = sdk.responses.create(**asking, metadata={"step": "2"}, **key)
    assert first.id == again.id != other.id


@OVER_EACH
def test_keep_alives_in_a_silence_do_not_disturb_the_client(sdk: openai.OpenAI, stack: Stack, api: str) -> None:
    asking = asked(api, "silence", 40, fault={"kind": "stall", "at": 20, "seconds": 2})
    assert list(sdk.responses.create(**asking, stream=True))[-1].response.output_text == text("silence", 40)
    body = {"model": api, "input": "silence", "stream": True, **asking["extra_body"]}
    headers = {"Authorization": f"Bearer {sdk.api_key}"}
    wire = requests.post(f"{stack.url}/v1/responses", json=body, headers=headers, timeout=WAIT_SECONDS).content
    assert b"\n\n: keep-alive\n" in wire
    assert b": keep-alive\n\n" not in wire
    assert wire.startswith(b"id: 1\nevent: response.created\ndata: ")


@OVER_EACH
def test_the_message_in_firestore_has_the_answer(sdk: openai.OpenAI, stack: Stack, api: str) -> None:
    place = {"X-Chat-Id": "chat", "X-Message-Id": new()}
    response = sdk.responses.create(**asked(api, "kept", 10), extra_headers=place)
    generations = requests.get(
        f"{stack.url}/v1/generations/{response.id.removeprefix('resp_')}",
        headers={"Authorization": f"Bearer {sdk.api_key}"},
        timeout=WAIT_SECONDS,
    ).json()
    assert (generations["chatId"], generations["messageId"]) == ("chat", place["X-Message-Id"])
    messages = database_of(stack).collection_group("messages")
    (message,) = messages.where(filter=FieldFilter("generationId", "==", generations["id"])).get()
    assert message.id == place["X-Message-Id"]
    assert (message.get("content"), message.get("state")) == (text("kept", 10), "completed")
    with pytest.raises(openai.ConflictError) as taken:
        sdk.responses.create(**asked(api, "other", 10), extra_headers=place)
    assert taken.value.code == "message_exists"


def test_a_cursor_that_is_none_is_named(sdk: openai.OpenAI, stack: Stack) -> None:
    response = sdk.responses.create(**asked("messages", "cursor", 5))
    headers = {"Authorization": f"Bearer {sdk.api_key}"}
    wrong = requests.get(
        f"{stack.url}/v1/responses/{response.id}?stream=true&starting_after=-1", headers=headers, timeout=WAIT_SECONDS
    )
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "starting_after")
    with pytest.raises(openai.APIError) as beyond:
        list(sdk.responses.retrieve(response.id, stream=True, starting_after=500))
    assert beyond.value.code == "invalid_cursor"


def test_a_generation_of_another_protocol_is_no_response(sdk: openai.OpenAI) -> None:
    chat = sdk.chat.completions.with_raw_response.create(
        model="chat_completions", messages=[{"role": "user", "content": "Hi"}], max_tokens=5
    )
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(f"resp_{chat.headers['X-Generation-Id']}")
    with pytest.raises(openai.NotFoundError):
        sdk.responses.input_tokens.count(model="messages", input="Hi")
