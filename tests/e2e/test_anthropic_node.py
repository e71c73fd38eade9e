"""Anthropic's own client for JavaScript, with another base URL and a user's token as its key."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from local.client import Client, question
from local.demo_text import arguments, reasoning_seed, seed_of, text
from local.stack import Stack
from local.token import id_token
from tests.e2e.breaking_proxy import BreakingProxy
from tests.e2e.node_script import run

ANTHROPIC = """
    import Anthropic from '@anthropic-ai/sdk';
    const options = { baseURL: order.url, apiKey: order.token, maxRetries: order.retries ?? 0 };
    const client = new Anthropic(options);
"""
TOOL = {"name": "look_up", "description": "Looks up.", "input_schema": {"type": "object"}}
THINKING = {"type": "enabled", "budget_tokens": 1024}
Json = dict[str, Any]


def said(client: Client, code: str, url: str = "", **order: Any) -> list[Any]:
    return run(ANTHROPIC + code, url=url or client.url, token=id_token(client.user), **order)


def asked(what: str, tokens: int, **demo: Any) -> Json:
    return {"model": "demo", **question(what, tokens, **demo), "max_tokens": 4096, "demo": {"tokens": tokens, **demo}}


def expected(body: Json) -> str:
    return text(seed_of(body["messages"]), body["demo"]["tokens"])


def test_the_anthropic_client_streams(client: Client) -> None:
    body = asked("streamed", 120, rate=200)
    pieces, message = said(
        client,
        """
            const pieces = [];
            const stream = client.messages.stream(order.body).on('text', (text) => pieces.push(text));
            const message = await stream.finalMessage();
            say(pieces);
            say(message);
        """,
        body=body,
    )
    assert "".join(pieces) == message["content"][0]["text"] == expected(body)
    assert (message["stop_reason"], message["usage"]["output_tokens"]) == ("end_turn", 120)
    assert message["usage"]["input_tokens"] > 0


def test_thinking_and_tools_reach_the_anthropic_client_in_a_stream_and_without_one(client: Client) -> None:
    body = {**asked("tools", 12, rate=0, tool_calls=2), "tools": [TOOL], "thinking": THINKING}
    whole, streamed = said(
        client,
        """
            say(await client.messages.create(order.body));
            say(await client.messages.stream(order.body).finalMessage());
        """,
        body=body,
    )
    assert whole["content"] == streamed["content"]
    thinking, *calls = whole["content"]
    seed = seed_of(body["messages"])
    assert (thinking["thinking"], bool(thinking["signature"])) == (text(reasoning_seed(seed), 20), True)
    assert [call["input"] for call in calls] == [json.loads(arguments(seed, number, 12)) for number in (0, 1)]
    assert whole["stop_reason"] == streamed["stop_reason"] == "tool_use"


def test_keep_alives_in_a_silence_do_not_disturb_the_anthropic_client(client: Client) -> None:
    body = asked("silence", 40, rate=0, fault={"kind": "stall", "at": 20, "seconds": 2})
    (found,) = said(client, "say(await client.messages.stream(order.body).finalText());", body=body)
    assert found == expected(body)


def test_an_answer_that_broke_off_is_an_error_of_the_anthropic_client(client: Client) -> None:
    body = asked("broke off", 40, rate=0, fault={"kind": "break", "at": 20})
    *pieces, error = said(
        client,
        """
            const stream = client.messages.stream(order.body).on('text', say);
            const shown = (error) => say([error instanceof Anthropic.APIError, error.type, error.errorCode]);
            await stream.done().catch(shown);
        """,
        body=body,
    )
    assert error == [True, "api_error", "upstream_disconnected"]
    assert "".join(pieces) == text(seed_of(body["messages"]), 20)


def test_each_error_is_of_its_class(client: Client) -> None:
    refused = [
        {**asked("refused", 5, fault={"kind": "refuse", "status": status}), "stream": stream}
        for status in (400, 401, 403, 404, 413, 422, 429, 500, 529)
        for stream in (False, True)
    ]
    bodies = [{"model": "demo", "max_tokens": 5}, *refused]
    found = said(
        client,
        """
            const all = order.bodies.map((body) => client.messages.create(body));
            all.push(new Anthropic({ ...options, apiKey: 'abc' }).messages.create(order.bodies[1]));
            await Promise.allSettled(all);
            const shown = (error) => say([error.constructor.name, error.status, error.type]);
            for (const each of all) await each.catch(shown);
        """,
        bodies=bodies,
    )
    assert found == [
        ["BadRequestError", 400, "invalid_request_error"],
        *[["BadRequestError", 400, "invalid_request_error"]] * 2,
        *[["InternalServerError", 502, "api_error"]] * 4,  # 401 and 403 are not the client's
        *[["NotFoundError", 404, "not_found_error"]] * 2,
        *[["ContentTooLargeError", 413, "request_too_large"]] * 2,
        *[["UnprocessableEntityError", 422, "invalid_request_error"]] * 2,
        *[["RateLimitError", 429, "rate_limit_error"]] * 2,
        *[["InternalServerError", 500, "api_error"]] * 2,
        *[["OverloadedError", 529, "overloaded_error"]] * 2,
        ["AuthenticationError", 401, "authentication_error"],
    ]


@pytest.mark.parametrize("turn", range(3))
def test_an_anthropic_client_that_leaves_at_any_event_comes_back_for_the_rest(client: Client, turn: int) -> None:
    body = {**asked(f"leaves {uuid.uuid4().hex}", 40, rate=100, reasoning=3), "stream": True}
    events = said(
        client,
        """
            const { data, response } = await client.messages.create(order.body).withResponse();
            let seen = 0;
            for await (const event of data) {
              say(event);
              if (++seen === order.leavesAt) break;
            }
            const rest = await client.get(`/v1/generations/${response.headers.get('x-generation-id')}`, {
              headers: { Accept: 'text/event-stream', 'Last-Event-ID': String(seen) }, stream: true,
            });
            for await (const event of rest) say(event);
        """,
        body=body,
        leavesAt=random.Random(turn).randrange(1, 30),
    )
    kinds = [event["type"] for event in events]
    assert [kinds.count(kind) for kind in ("message_start", "content_block_start", "content_block_stop")] == [1, 2, 2]
    assert kinds[-2:] == ["message_delta", "message_stop"]
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(delta.get("text", "") for delta in deltas) == expected(body)
    assert "".join(delta.get("thinking", "") for delta in deltas) == text(reasoning_seed(seed_of(body["messages"])), 3)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_retry_of_the_anthropic_client_with_an_idempotency_key_is_no_second_upstream_call(
    client: Client, stack: Stack, upstream_calls: Callable[[str], list[Json]], stream: bool
) -> None:
    what = uuid.uuid4().hex
    body = {**asked(what, 30, rate=0), "stream": stream}
    with BreakingProxy(stack.ports.api_port, after=0, times=1) as breaking:
        answers = said(
            client,
            """
                const headers = { 'Idempotency-Key': 'k' };
                const answer = await client.messages.create(order.body, { headers });
                if (order.body.stream) for await (const event of answer) say(event.delta?.text ?? '');
                else say(answer.content[0].text);
            """,
            url=breaking.url,
            body=body,
            retries=2,
        )
        assert breaking.broken == 1
    assert "".join(answers) == expected(body)
    assert len(upstream_calls(what)) == 1
