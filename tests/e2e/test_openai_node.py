"""OpenAI's own client for JavaScript, with another base URL and a user's token as its key."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from local.client import Client, question
from local.demo_text import arguments, seed_of, text
from local.stack import Stack
from local.token import id_token
from tests.e2e.breaking_proxy import BreakingProxy
from tests.e2e.node_script import run

OPENAI = """
    import OpenAI from 'openai';
    const options = { baseURL: `${order.url}/v1`, apiKey: order.token, maxRetries: order.retries ?? 0 };
    const client = new OpenAI(options);
"""
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
EACH_CHUNK = "for await (const chunk of await client.chat.completions.create(order.body)) say(chunk);"


def said(client: Client, code: str, url: str = "", **order: Any) -> list[Any]:
    return run(OPENAI + code, url=url or client.url, token=id_token(client.user), **order)


def asked(what: str, tokens: int, *, stream: bool, **demo: Any) -> dict[str, Any]:
    return {"model": "demo", "stream": stream, **question(what, tokens, **demo)}


def expected(body: dict[str, Any]) -> str:
    return text(seed_of(body["messages"]), body["max_tokens"])


def test_the_openai_client_streams(client: Client) -> None:
    body = asked("streamed", 120, stream=True, rate=200)
    chunks = said(client, EACH_CHUNK, body=body)
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == expected(body)
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert not any(chunk.get("usage") for chunk in chunks)


def test_the_openai_client_is_told_the_usage_where_it_asks_for_it(client: Client) -> None:
    body = {**asked("usage", 20, stream=True, rate=0), "stream_options": {"include_usage": True}}
    *_, last = said(client, EACH_CHUNK, body=body)
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 20)


def test_the_openai_client_gets_an_answer_that_is_not_streamed(client: Client) -> None:
    body = asked("whole", 40, stream=False, rate=0)
    (completion,) = said(client, "say(await client.chat.completions.create(order.body));", body=body)
    assert completion["choices"][0]["message"]["content"] == expected(body)
    assert completion["usage"]["completion_tokens"] == 40


def test_keep_alives_in_a_silence_do_not_disturb_the_openai_client(client: Client) -> None:
    body = asked("silence", 40, stream=True, rate=0, fault={"kind": "stall", "at": 20, "seconds": 2})
    chunks = said(client, EACH_CHUNK, body=body)
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == expected(body)


def test_tool_calls_reach_the_openai_client_in_a_stream_and_without_one(client: Client) -> None:
    body = {**asked("tools", 12, stream=False, rate=0, tool_calls=1), "tools": [TOOL]}
    whole, put_together = said(
        client,
        """
            say((await client.chat.completions.create(order.body)).choices[0]);
            const streaming = client.chat.completions.stream({ ...order.body, stream: true });
            say((await streaming.finalChatCompletion()).choices[0]);
        """,
        body=body,
    )
    for choice in (whole, put_together):
        (called,) = choice["message"]["tool_calls"]
        assert choice["finish_reason"] == "tool_calls"
        assert called["function"]["name"] == "look_up"
        assert called["function"]["arguments"] == arguments(seed_of(body["messages"]), 0, 12)


def test_the_openai_client_takes_an_answer_that_broke_off_for_an_error(client: Client) -> None:
    body = asked("broke off", 40, stream=True, rate=0, fault={"kind": "break", "at": 20})
    *chunks, error = said(
        client,
        f"try {{ {EACH_CHUNK} }} catch (error) {{ say([error instanceof OpenAI.APIError, error.code]); }}",
        body=body,
    )
    assert error == [True, "upstream_disconnected"]
    content = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert content == text(seed_of(body["messages"]), 20)


def test_each_error_is_of_its_class(client: Client) -> None:
    client.complete(asked("another", 5, stream=False, rate=0), Idempotency_Key="k", X_Chat_Id="c")
    refused = [
        asked("refused", 5, stream=stream, fault={"kind": "refuse", "status": status})
        for status in (400, 401, 403, 404, 409, 422, 429, 500)
        for stream in (False, True)
    ]
    bodies = [{"model": "demo"}, asked("another", 5, stream=False, rate=0), *refused]
    found = said(
        client,
        """
            const headers = { 'Idempotency-Key': 'k' };
            const all = order.bodies.map((body, at) =>
              client.chat.completions.create(body, at === 1 ? { headers } : {}));
            all.push(new OpenAI({ ...options, apiKey: 'abc' }).chat.completions.create(order.bodies[1]));
            await Promise.allSettled(all);
            for (const each of all) {
              await each.catch((error) => say([error.constructor.name, error.status, error.code]));
            }
        """,
        bodies=bodies,
    )
    assert found == [
        ["BadRequestError", 400, "invalid_request"],
        ["ConflictError", 409, "idempotency_conflict"],
        ["BadRequestError", 400, "refused"],
        ["BadRequestError", 400, "refused"],
        *[["InternalServerError", 502, "upstream_key"]] * 4,  # 401 and 403 are not the client's
        ["NotFoundError", 404, "refused"],
        ["NotFoundError", 404, "refused"],
        ["ConflictError", 409, "refused"],
        ["ConflictError", 409, "refused"],
        ["UnprocessableEntityError", 422, "refused"],
        ["UnprocessableEntityError", 422, "refused"],
        ["RateLimitError", 429, "rate_limit_exceeded"],
        ["RateLimitError", 429, "rate_limit_exceeded"],
        ["InternalServerError", 500, None],
        ["InternalServerError", 500, None],
        ["AuthenticationError", 401, "malformed_token"],
    ]


def test_a_time_out_of_the_openai_client_is_no_second_upstream_call(
    client: Client, upstream_calls: Callable[[str], list[dict[str, Any]]]
) -> None:
    what = uuid.uuid4().hex
    body = asked(what, 30, stream=False, rate=0, first_token_delay=3)
    answer, *tries = said(
        client,
        """
            let tries = 0;
            const counted = (...request) => { tries += 1; return fetch(...request); };
            const hasty = new OpenAI({ ...options, timeout: 2000, maxRetries: 20, fetch: counted });
            const headers = { 'Idempotency-Key': 'k' };
            say((await hasty.chat.completions.create(order.body, { headers })).choices[0].message.content);
            say(tries);
        """,
        body=body,
    )
    assert (answer, tries > [1]) == (expected(body), True)
    assert len(upstream_calls(what)) == 1


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_retry_of_the_openai_client_with_an_idempotency_key_is_no_second_upstream_call(
    client: Client, stack: Stack, upstream_calls: Callable[[str], list[dict[str, Any]]], stream: bool
) -> None:
    what = uuid.uuid4().hex
    body = asked(what, 30, stream=stream, rate=0)
    with BreakingProxy(stack.ports.api_port, after=0, times=1) as breaking:
        answers = said(
            client,
            """
                const headers = { 'Idempotency-Key': 'k' };
                const answer = await client.chat.completions.create(order.body, { headers });
                if (order.body.stream) for await (const chunk of answer) say(chunk.choices[0].delta.content ?? '');
                else say(answer.choices[0].message.content);
            """,
            url=breaking.url,
            body=body,
            retries=2,
        )
        assert breaking.broken == 1
    assert "".join(answers) == expected(body)
    assert len(upstream_calls(what)) == 1
