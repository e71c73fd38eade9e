"""OpenAI's own Python client, with another base_url and a user's token as its key."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
import requests

from local.client import question
from local.demo_text import arguments, seed_of, text
from local.stack import Stack
from local.token import id_token
from tests.e2e.breaking_proxy import BreakingProxy

TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}


@pytest.fixture
def sdk(stack: Stack) -> Iterator[openai.OpenAI]:
    user = f"user-{uuid.uuid4().hex[:12]}"
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key=id_token(user), max_retries=0) as client:
        yield client


def asked(tokens: int, **demo: object) -> dict[str, object]:
    body = question("for the SDK", tokens, **demo)
    return {"model": "demo", "messages": body["messages"], "max_tokens": tokens, "extra_body": {"demo": body["demo"]}}


def expected(tokens: int) -> str:
    return text(seed_of(question("for the SDK", tokens)["messages"]), tokens)


def test_the_openai_client_streams(sdk: openai.OpenAI) -> None:
    chunks = list(sdk.chat.completions.create(**asked(40, rate=200), stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected(40)
    assert chunks[-1].choices[0].finish_reason == "length"


def test_the_openai_client_gets_an_answer_that_is_not_streamed(sdk: openai.OpenAI) -> None:
    completion = sdk.chat.completions.create(**asked(40, rate=0))
    assert completion.choices[0].message.content == expected(40)
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 40


def test_the_openai_client_takes_an_answer_that_broke_off_for_an_error(sdk: openai.OpenAI) -> None:
    chunks = sdk.chat.completions.create(**asked(40, rate=0, fault={"kind": "break", "at": 20}), stream=True)
    said: list[str] = []
    with pytest.raises(openai.APIError, match="broke off"):
        said.extend(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert "".join(said) == expected(20)


def test_keep_alives_in_a_silence_do_not_disturb_the_openai_client(sdk: openai.OpenAI, stack: Stack) -> None:
    silence = {"kind": "stall", "at": 20, "seconds": 2}
    chunks = list(sdk.chat.completions.create(**asked(40, rate=0, fault=silence), stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected(40)
    body = {**question("for the SDK", 40, rate=0, fault=silence), "model": "demo", "stream": True}
    headers = {"Authorization": f"Bearer {sdk.api_key}"}
    wire = requests.post(f"{stack.url}/v1/chat/completions", json=body, headers=headers, timeout=30).content
    assert b"\n\n: keep-alive\n" in wire
    assert b": keep-alive\n\n" not in wire


def test_the_openai_client_lists_the_models(sdk: openai.OpenAI) -> None:
    assert [model.id for model in sdk.models.list()] == ["demo"]
    assert sdk.models.retrieve("gpt-any").id == "gpt-any"
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("none")


def test_the_openai_client_is_told_the_usage_where_it_asks_for_it(sdk: openai.OpenAI) -> None:
    options = {"include_usage": True}
    *_, last = sdk.chat.completions.create(**asked(20, rate=0), stream=True, stream_options=options)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 20


def test_tool_calls_reach_the_openai_client_in_a_stream_and_without_one(sdk: openai.OpenAI) -> None:
    calling = {**asked(12, rate=0, tool_calls=1), "tools": [TOOL]}
    with sdk.chat.completions.stream(**calling) as streaming:
        choices = [streaming.get_final_completion().choices[0], sdk.chat.completions.create(**calling).choices[0]]
    for choice in choices:
        assert choice.finish_reason == "tool_calls"
        (called,) = choice.message.tool_calls or ()
        assert called.function.name == "look_up"
        assert called.function.arguments == arguments(seed_of(question("for the SDK", 12)["messages"]), 0, 12)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, openai.BadRequestError),
        (404, openai.NotFoundError),
        (409, openai.ConflictError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
def test_an_upstream_s_refusal_is_the_openai_client_s_own_error(
    sdk: openai.OpenAI, status: int, kind: type[openai.APIStatusError], stream: bool
) -> None:
    with pytest.raises(kind) as refused:
        sdk.chat.completions.create(**asked(5, fault={"kind": "refuse", "status": status}), stream=stream)
    assert refused.value.status_code == status
    assert refused.value.code == {429: "rate_limit_exceeded", 500: None, 503: None}.get(status, "refused")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_of_this_service_s_key_is_no_fault_of_the_openai_client_s_user(
    sdk: openai.OpenAI, status: int, stream: bool
) -> None:
    with pytest.raises(openai.InternalServerError) as refused:
        sdk.chat.completions.create(**asked(5, fault={"kind": "refuse", "status": status}), stream=stream)
    assert (refused.value.status_code, refused.value.code) == (502, "upstream_key")


def test_a_refusal_of_ours_is_the_openai_client_s_own_error(sdk: openai.OpenAI) -> None:
    key = {"extra_headers": {"Idempotency-Key": "k"}}
    answered = sdk.chat.completions.with_raw_response.create(**asked(5, rate=0), **key)
    elsewhere = {"extra_headers": {"Idempotency-Key": "k", "X-Chat-Id": "other"}}
    with pytest.raises(openai.ConflictError) as conflict:
        sdk.chat.completions.create(**asked(5, rate=0), **elsewhere)
    assert conflict.value.code == "idempotency_conflict"
    assert conflict.value.request_id is None
    with pytest.raises(openai.BadRequestError) as wrong:
        sdk.chat.completions.create(model="demo", messages=[])
    assert wrong.value.param == "messages"
    with pytest.raises(openai.NotFoundError) as gone:
        sdk.get(f"{answered.headers['Location']}0".removeprefix("/v1"), cast_to=object)
    assert gone.value.code == "generation_not_found"
    with pytest.raises(openai.AuthenticationError) as nobody:
        sdk.with_options(api_key="abc").chat.completions.create(**asked(5))
    assert nobody.value.code == "malformed_token"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_retry_of_the_openai_client_with_an_idempotency_key_is_no_second_upstream_call(
    sdk: openai.OpenAI, stack: Stack, upstream_calls: Callable[[str], list[dict[str, Any]]], stream: bool
) -> None:
    what = uuid.uuid4().hex
    asking = asked(30, rate=0) | {"messages": question(what, 30)["messages"]}
    with BreakingProxy(stack.ports.api_port, after=0, times=1) as breaking:
        retrying = sdk.with_options(base_url=f"{breaking.url}/v1", max_retries=2)
        answer = retrying.chat.completions.create(**asking, stream=stream, extra_headers={"Idempotency-Key": "k"})
        if stream:
            content = "".join(chunk.choices[0].delta.content or "" for chunk in answer)
        else:
            content = answer.choices[0].message.content
        assert breaking.broken == 1
    assert content == text(seed_of(question(what, 30)["messages"]), 30)
    assert len(upstream_calls(what)) == 1


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "k"}], ids=["no key", "a key"])
def test_the_openai_client_s_retries_and_this_service_s_do_not_multiply(
    sdk: openai.OpenAI, upstream_calls: Callable[[str], list[dict[str, Any]]], headers: dict[str, str]
) -> None:
    """The first request is tried as often as `MAX_ATTEMPTS` allows, and each of the SDK's two retries once."""
    what = uuid.uuid4().hex
    fault = {"kind": "refuse", "status": 500}
    asking = asked(5, fault=fault) | {"messages": question(what, 5)["messages"]}
    with pytest.raises(openai.InternalServerError):
        sdk.with_options(max_retries=2).chat.completions.create(**asking, extra_headers=headers)
    assert len(upstream_calls(what)) == 3 + 1 + 1


def test_a_time_out_of_the_openai_client_is_no_second_upstream_call(
    sdk: openai.OpenAI, upstream_calls: Callable[[str], list[dict[str, Any]]]
) -> None:
    what = uuid.uuid4().hex
    asking = asked(30, rate=0, first_token_delay=3.0) | {"messages": question(what, 30)["messages"]}
    hasty = sdk.with_options(timeout=2.0, max_retries=20)
    raw = hasty.chat.completions.with_raw_response.create(**asking, extra_headers={"Idempotency-Key": "k"})
    assert raw.retries_taken > 0
    assert raw.parse().choices[0].message.content == text(seed_of(question(what, 30)["messages"]), 30)
    assert len(upstream_calls(what)) == 1
