"""The AI SDK with its provider for OpenAI-compatible servers, and the `fetch` that makes any SDK come back."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from local.client import Client, question
from local.demo_text import seed_of, text
from local.stack import Stack
from local.token import id_token
from tests.e2e.breaking_proxy import BreakingProxy
from tests.e2e.node_script import run

AI = """
    import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
    import { generateText, streamText, tool, jsonSchema } from 'ai';
    import { resumingFetch } from 'holdfast-client';
    const holdfast = createOpenAICompatible({
      name: 'holdfast',
      baseURL: `${order.url}/v1`,
      apiKey: order.token,
      includeUsage: true,
      fetch: order.resuming ? resumingFetch() : fetch,
      transformRequestBody: (body) => ({ ...body, demo: order.demo }),
    });
    const { what: prompt, tokens: maxOutputTokens } = order;
    const asked = { model: holdfast('demo'), prompt, maxOutputTokens, maxRetries: 0 };
"""
STREAMED = """
    const answer = streamText({ ...asked, onError: ({ error }) => say(String(error)) });
    let whole = '';
    for await (const piece of answer.textStream) whole += piece;
    say(whole);
    say(await answer.finishReason);
    say((await answer.usage).outputTokens);
"""


def said(client: Client, code: str, what: str, tokens: int, url: str = "", **order: Any) -> list[Any]:
    told = {"url": url or client.url, "token": id_token(client.user), "demo": {"rate": 0}, **order}
    return run(AI + code, what=what, tokens=tokens, **told)


def expected(what: str, tokens: int) -> str:
    return text(seed_of(question(what, tokens)["messages"]), tokens)


def test_the_ai_sdk_streams_a_text(client: Client) -> None:
    assert said(client, STREAMED, "streamed", 120, demo={"rate": 200}) == [expected("streamed", 120), "length", 120]


def test_the_ai_sdk_gets_a_text_that_is_not_streamed(client: Client) -> None:
    assert said(client, "say((await generateText(asked)).text);", "whole", 40) == [expected("whole", 40)]


def test_the_ai_sdk_is_told_of_an_error_as_its_own(client: Client) -> None:
    code = "await generateText(asked).catch((error) => say([error.name, error.statusCode]));"
    refused = {"fault": {"kind": "refuse", "status": 422}}
    assert said(client, code, "refused", 5, demo=refused) == [["AI_APICallError", 422]]


def test_with_the_resuming_fetch_an_answer_continues_after_each_break(
    client: Client, stack: Stack, upstream_calls: Callable[[str], list[dict[str, Any]]]
) -> None:
    what = uuid.uuid4().hex
    with BreakingProxy(stack.ports.api_port, after=8_000, times=2) as breaking:
        answer = said(client, STREAMED, what, 200, url=breaking.url, resuming=True, demo={"rate": 100})
        assert breaking.broken == 2
    assert answer == [expected(what, 200), "length", 200]
    assert len(upstream_calls(what)) == 1


def test_with_the_resuming_fetch_the_openai_client_comes_back_as_well(client: Client, stack: Stack) -> None:
    what = uuid.uuid4().hex
    code = """
        const { default: OpenAI } = await import('openai');
        const client = new OpenAI({ baseURL: `${order.url}/v1`, apiKey: order.token, fetch: resumingFetch() });
        for await (const chunk of await client.chat.completions.create(order.body)) say(chunk);
    """
    body = {"model": "demo", "stream": True, **question(what, 200, rate=100)}
    with BreakingProxy(stack.ports.api_port, after=8_000, times=2) as breaking:
        chunks = said(client, code, what, 200, url=breaking.url, body=body)
        assert breaking.broken == 2
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == expected(what, 200)


def test_with_the_resuming_fetch_an_answer_that_broke_off_upstream_is_still_an_error(client: Client) -> None:
    broken = {"rate": 0, "fault": {"kind": "break", "at": 20}}
    first, whole, *_ = said(client, STREAMED.split("say(await")[0], "broke off", 40, resuming=True, demo=broken)
    assert "broke off" in first
    assert whole == text(seed_of(question("broke off", 40)["messages"]), 20)


def test_with_the_resuming_fetch_a_reader_that_leaves_is_gone(client: Client) -> None:
    code = """
        const leaving = new AbortController();
        const answer = streamText({ ...asked, abortSignal: leaving.signal });
        let pieces = 0;
        for await (const _ of answer.textStream) if ((pieces += 1) === 5) leaving.abort();
        say(pieces < 200);
    """
    assert said(client, code, "left", 200, resuming=True, demo={"rate": 40}) == [True]
