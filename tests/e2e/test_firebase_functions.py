"""Firebase's own web SDK for callable functions, unary and streaming, against the local stack."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest

from local.client import Client, question
from local.demo_text import seed_of, text
from local.stack import Stack
from local.token import id_token
from tests.e2e.breaking_proxy import BreakingProxy
from tests.e2e.node_script import run

UNKNOWN = "0" * 32
FUNCTIONS = """
    import { httpsCallableFromURL } from '@firebase/functions';
    import { functionsOf } from './functions.mjs';
    const call = httpsCallableFromURL(functionsOf(order.token), order.url);
"""


def asked(what: str, tokens: int, **demo: Any) -> dict[str, Any]:
    return {"model": "demo", **question(what, tokens, **demo)}


def expected(data: dict[str, Any]) -> str:
    return text(seed_of(data["messages"]), data["max_tokens"])


@pytest.fixture
def breaking(stack: Stack) -> Iterator[BreakingProxy]:
    with BreakingProxy(stack.ports.api_port, after=8_000, times=2) as proxy:
        yield proxy


def test_a_callable_gives_the_answer_when_it_is_whole(client: Client) -> None:
    data = {**asked("unary", 40, rate=0), "chatId": "c1"}
    (result,) = run(
        FUNCTIONS + "say((await call(order.data)).data);", url=client.url, token=id_token(client.user), data=data
    )
    assert (result["state"], result["content"], result["chatId"]) == ("completed", expected(data), "c1")


def test_a_callable_streams_every_word_and_then_gives_the_result(client: Client) -> None:
    data = asked("streamed", 240, rate=200)
    assert {"\u2028", "\u0085"} <= set(expected(data))
    *messages, result = run(
        FUNCTIONS
        + """
            const { stream, data } = await call.stream(order.data);
            for await (const message of stream) say(message);
            say(await data);
        """,
        url=client.url,
        token=id_token(client.user),
        data=data,
    )
    assert messages[0]["type"] == "start"
    events = [message for message in messages if "seq" in message]
    assert [event["seq"] for event in events] == list(range(1, result["seq"] + 1))
    assert "".join(event["delta"] for event in events) == result["content"] == expected(data)


def test_a_callable_that_was_aborted_is_resumed_after_what_the_app_has(client: Client) -> None:
    data = asked("aborted", 100, rate=40)
    *messages, refused, result = run(
        FUNCTIONS
        + """
            const leaving = new AbortController();
            const first = await call.stream(order.data, { signal: leaving.signal });
            const refused = first.data.catch((error) => error.code);
            const shown = [];
            try {
              for await (const message of first.stream) {
                shown.push(message);
                if (message.seq >= 20) leaving.abort();
              }
            } catch (error) {
              if (!leaving.signal.aborted) throw error;
            }
            const second = await call.stream({ resume: shown[0].id, after: shown.at(-1).seq });
            for await (const message of second.stream) shown.push(message);
            shown.forEach(say);
            say(await refused);
            say(await second.data);
        """,
        url=client.url,
        token=id_token(client.user),
        data=data,
    )
    assert refused == "functions/cancelled"
    events = [message for message in messages if "seq" in message]
    assert [event["seq"] for event in events] == list(range(1, result["seq"] + 1))
    assert "".join(event["delta"] for event in events) == result["content"] == expected(data)


def test_a_callable_stops_an_answer(client: Client) -> None:
    data = asked("stopped", 4_000, rate=40)
    stopped, result, shown = run(
        FUNCTIONS
        + """
            import { answer } from 'holdfast-client';
            let shown;
            let stopping;
            const onUpdate = ({ id, text }) => {
              shown = text;
              if (text) stopping ??= call({ stop: id });
            };
            const result = await answer(call, order.data, { onUpdate });
            say((await stopping).data);
            say(result);
            say(shown);
        """,
        url=client.url,
        token=id_token(client.user),
        data=data,
    )
    assert stopped == result
    assert result["state"] == "stopped"
    assert result["content"] == shown
    assert 0 < len(shown) < len(expected(data))
    assert expected(data).startswith(shown)


def test_the_package_comes_back_after_each_break_and_asks_but_once(
    client: Client, breaking: BreakingProxy, upstream_calls: Callable[[str], list[dict[str, Any]]]
) -> None:
    what = uuid.uuid4().hex
    data = asked(what, 200, rate=100)
    *shown, result = run(
        FUNCTIONS
        + """
            import { answer } from 'holdfast-client';
            say(await answer(call, order.data, { onUpdate: ({ text }) => say(text) }));
        """,
        url=breaking.url,
        token=id_token(client.user),
        data=data,
    )
    assert breaking.broken == 2
    assert result["state"] == "completed"
    assert shown[-1] == result["content"] == expected(data)
    assert all(len(before) <= len(after) for before, after in pairwise(shown))
    assert len(upstream_calls(what)) == 1


def test_each_error_is_the_one_that_apps_know_in_a_stream_and_without_one(client: Client) -> None:
    ended = client.complete(question("ended", 5, rate=0)).headers["X-Generation-Id"]
    client.complete(question("one", 5, rate=0), X_Chat_Id="c", X_Message_Id="m")
    calls = {
        "functions/invalid-argument": {"model": "demo"},
        "functions/not-found": {"resume": UNKNOWN},
        "functions/already-exists": {**asked("another", 5, rate=0), "chatId": "c", "messageId": "m"},
        "functions/failed-precondition": {"stop": ended},
        "functions/internal": asked("its key is wrong", 5, fault={"kind": "refuse", "status": 401}),
    }
    codes = run(
        FUNCTIONS
        + """
            async function codes(call, data) {
              const unary = await call(data).catch((error) => error);
              const { stream, data: whole } = await call.stream(data);
              const late = whole.catch((error) => error);
              let early;
              try { for await (const _ of stream); } catch (error) { early = error; }
              return [unary, early, await late].map((error) => [error.code, error.details?.code ?? null]);
            }
            for (const data of order.calls) say(await codes(call, data));
            for (const token of ['abc', null]) {
              say(await codes(httpsCallableFromURL(functionsOf(token), order.url), order.calls[0]));
            }
        """,
        url=client.url,
        token=id_token(client.user),
        calls=list(calls.values()),
    )
    named = [*calls, "functions/unauthenticated", "functions/unauthenticated"]
    assert [[code for code, _ in each] for each in codes] == [[name] * 3 for name in named]
    assert [each[0][1] for each in codes] == [
        "invalid_request",
        "generation_not_found",
        "message_exists",
        "generation_ended",
        "upstream_key",
        "malformed_token",
        "missing_token",
    ]
    assert all(len({reason for _, reason in each}) == 1 for each in codes)


def test_an_answer_that_was_refused_is_an_error_of_the_package_at_once(client: Client) -> None:
    (code,) = run(
        FUNCTIONS
        + """
            import { answer } from 'holdfast-client';
            await answer(call, { model: 'demo' }).catch((error) => say(error.code));
        """,
        url=client.url,
        token=id_token(client.user),
    )
    assert code == "functions/invalid-argument"
