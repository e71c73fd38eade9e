"""OpenAI's own client for JavaScript and its Responses, over upstreams of four APIs."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from local.client import Client
from local.demo_text import arguments, text
from local.stack import Stack
from local.token import id_token
from tests.conftest import calls_of
from tests.e2e.breaking_proxy import BreakingProxy
from tests.e2e.four_apis import APIS, RENDERED, four_apis
from tests.e2e.node_script import run

OPENAI = """
    import OpenAI from 'openai';
    import { resumingFetch } from 'holdfast-client';
    const more = order.resuming ? { fetch: resumingFetch() } : {};
    const client = new OpenAI({ baseURL: `${order.url}/v1`, apiKey: order.token, maxRetries: 0, ...more });
    const { responses } = client;
    const all = async (stream) => {
      const seen = [];
      for await (const event of await stream) seen.push(event);
      return seen;
    };
"""
LOOK = {"type": "function", "name": "look_up", "parameters": {"type": "object"}}
OVER_EACH = pytest.mark.parametrize("api", APIS)
Json = dict[str, Any]


@pytest.fixture(scope="module")
def stack(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with four_apis(stack, tmp_path_factory.mktemp("catalog")) as running:
        yield running


def said(client: Client, code: str, url: str = "", **order: Any) -> list[Any]:
    return run(OPENAI + code, url=url or client.url, token=id_token(client.user), **order)


def asked(api: str, what: str, tokens: int, **demo: Any) -> Json:
    """A question whose answer is `text(what, tokens)`."""
    return {"model": api, "input": what, "demo": {"seed": what, "tokens": tokens, "rate": 0, **demo}}


@OVER_EACH
def test_an_answer_whole_streamed_by_the_helper_and_by_its_id(client: Client, api: str) -> None:
    whole, events, helped, followed = said(
        client,
        """
            say((await responses.create(order.body)).output_text);
            const events = await all(responses.create({ ...order.body, stream: true }));
            say(events);
            const stream = responses.stream(order.body);
            say((await stream.finalResponse()).output_text);
            const { id } = events.at(-1).response;
            const seen = await all(responses.stream({ response_id: id, starting_after: 5 }));
            say(seen.map((event) => event.sequence_number));
        """,
        body=asked(api, "whole", 20, rate=300, reasoning=2),
    )
    assert whole == helped == text("whole", 20)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert "".join(deltas) == text("whole", 20)
    assert events[-1]["type"] == "response.completed"
    assert followed == list(range(6, len(events)))


@OVER_EACH
def test_a_client_that_leaves_comes_back_for_exactly_the_rest(client: Client, stack: Stack, api: str) -> None:
    what = uuid.uuid4().hex
    first, rest, again = said(
        client,
        """
            const seen = [];
            for await (const event of await responses.create({ ...order.body, stream: true })) {
              seen.push(event);
              if (seen.length === 17) break;
            }
            const { id } = seen[0].response;
            say(seen);
            say(await all(responses.retrieve(id, { stream: true, starting_after: seen.at(-1).sequence_number })));
            say(await all(responses.retrieve(id, { stream: true })));
        """,
        body=asked(api, what, 40, rate=150),
    )
    assert first + rest == again
    assert [event["sequence_number"] for event in again] == list(range(len(again)))
    assert again[-1]["response"]["output"][0]["content"][0]["text"] == text(what, 40)
    assert len(calls_of(stack, what)) == 1


@OVER_EACH
@pytest.mark.parametrize("turn", range(3))
def test_who_leaves_the_stream_helper_at_any_event_comes_back_for_the_rest_whole_and_once(
    client: Client, stack: Stack, api: str, turn: int
) -> None:
    what = uuid.uuid4().hex
    leaves_at = random.Random(f"{api}{turn}").randrange(1, 40)
    first, rest, helped, final = said(
        client,
        """
            const told = (event) => [event.sequence_number, event.type, event.delta ?? ''];
            const seen = [];
            for await (const event of responses.stream(order.body)) {
              seen.push(event);
              if (seen.length === order.leavesAt) break;
            }
            const { id } = seen[0].response;
            const starting_after = seen.at(-1).sequence_number;
            say(seen.map(told));
            say((await all(responses.retrieve(id, { stream: true, starting_after }))).map(told));
            const again = responses.stream({ response_id: id, starting_after });
            say((await all(again)).map(told));
            say((await again.finalResponse()).output_text);
        """,
        body=asked(api, what, 40, rate=150, reasoning=4),
        leavesAt=leaves_at,
    )
    assert len(first) == leaves_at
    assert rest == helped
    whole = first + rest
    assert [number for number, _, _ in whole] == list(range(len(whole)))
    deltas = [delta for _, kind, delta in whole if kind == "response.output_text.delta"]
    assert "".join(deltas) == final == text(what, 40)
    assert whole[-1][1] == "response.completed"
    assert len(calls_of(stack, what)) == 1


@OVER_EACH
def test_in_the_background_an_answer_goes_on_and_is_cancelled_and_deleted(client: Client, api: str) -> None:
    begun, ended, cancelled, kept, gone = said(
        client,
        """
            const over = async (id) => {
              for (;;) {
                const response = await responses.retrieve(id);
                if (!['queued', 'in_progress'].includes(response.status)) return response;
                await new Promise((resolve) => setTimeout(resolve, 100));
              }
            };
            const begun = await responses.create({ ...order.body, background: true });
            say(begun.status);
            say((await over(begun.id)).output_text);
            const long = { ...order.body, demo: { ...order.body.demo, tokens: 4000, rate: 40 } };
            const running = await responses.create({ ...long, background: true });
            for await (const event of await responses.retrieve(running.id, { stream: true })) {
              if (event.type === 'response.output_text.delta') break;
            }
            const cancelled = await responses.cancel(running.id);
            say([cancelled.status, cancelled.output[0].content[0].text]);
            say((await responses.retrieve(running.id)).output_text);
            await responses.delete(running.id);
            say(await responses.retrieve(running.id).catch((error) => [error.constructor.name, error.code]));
        """,
        body=asked(api, "background", 20),
    )
    assert (begun, ended) == ("queued", text("background", 20))
    assert cancelled == ["cancelled", kept]
    assert kept
    assert text("background", 4000).startswith(kept)
    assert gone == ["NotFoundError", "response_not_found"]


@OVER_EACH
def test_a_tool_is_called_and_its_result_gone_on_with(client: Client, api: str) -> None:
    call, after = said(
        client,
        """
            const first = await responses.create(order.body);
            const call = first.output.find((item) => item.type === 'function_call');
            say(call);
            const input = [{ type: 'function_call_output', call_id: call.call_id, output: 'Found.' }];
            const demo = { ...order.body.demo, tool_calls: 0 };
            const next = await responses.create({ ...order.body, demo, input, previous_response_id: first.id });
            say(next.output_text);
        """,
        body={**asked(api, "tools", 12, tool_calls=1), "tools": [LOOK]},
    )
    assert (call["name"], call["arguments"]) == ("look_up", arguments("tools", 0, 12))
    assert after == text("tools", 12)


@OVER_EACH
@pytest.mark.parametrize(
    ("status", "kind"), [(400, "BadRequestError"), (429, "RateLimitError"), (500, "InternalServerError")]
)
def test_an_upstream_s_refusal_is_the_client_s_own_error(client: Client, api: str, status: int, kind: str) -> None:
    code = """
        const caught = (error) => say([error.constructor.name, error.status]);
        await responses.create(order.body).catch(caught);
        await responses.create({ ...order.body, stream: true }).catch(caught);
    """
    body = asked(api, "refused", 5, fault={"kind": "refuse", "status": status})
    assert said(client, code, body=body) == [[kind, status]] * 2


@pytest.mark.parametrize("api", RENDERED)
def test_what_can_t_be_rendered_is_an_error_that_names_it(client: Client, api: str) -> None:
    code = "await responses.create(order.body).catch((error) => say([error.status, error.param]));"
    body = {**asked(api, "tools", 5), "tools": [{"type": "web_search"}]}
    assert said(client, code, body=body) == [[400, "tools[0].type"]]


@OVER_EACH
def test_with_the_documented_fetch_an_answer_continues_after_each_break(client: Client, stack: Stack, api: str) -> None:
    what = uuid.uuid4().hex
    code = "say(await all(responses.create({ ...order.body, stream: true })));"
    with BreakingProxy(stack.ports.api_port, after=8_000, times=2) as breaking:
        (events,) = said(client, code, url=breaking.url, body=asked(api, what, 100, rate=100), resuming=True)
        assert breaking.broken == 2
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == text(what, 100)
    assert len(calls_of(stack, what)) == 1
