"""Google's own client for JavaScript, with another base URL and a user's token as its key."""

from __future__ import annotations

import json
import random
import uuid
from typing import Any

import pytest

from local.client import Client, question
from local.demo_text import arguments, reasoning_seed, seed_of, text
from local.token import id_token
from tests.e2e.node_script import run

GOOGLE = """
    import { ApiError, GoogleGenAI } from '@google/genai';
    const clientOf = (apiKey) => new GoogleGenAI({ vertexai: false, apiKey, httpOptions: { baseUrl: order.url } });
    const client = clientOf(order.token);
    const ask = ({ what, demo, ...config }) => ({
      model: 'demo', contents: what, config: { ...config, httpOptions: { extraBody: { demo } } },
    });
    const streaming = () => client.models.generateContentStream(ask(order.asked));
    const partsOf = (response) => response.candidates?.[0].content?.parts ?? [];
    const idOf = (response) => response.sdkHttpResponse.headers['x-generation-id'];
    const shown = (error) => say([error instanceof ApiError, error.status, error.message]);
"""
TOOL = {"functionDeclarations": [{"name": "look_up", "description": "Looks up.", "parametersJsonSchema": {}}]}
Json = dict[str, Any]


def said(client: Client, code: str, **order: Any) -> list[Any]:
    return run(GOOGLE + code, url=client.url, token=id_token(client.user), **order)


def asked(what: str, tokens: int, **demo: Any) -> Json:
    return {"what": what, "demo": {"tokens": tokens, **demo}}


def seed(what: str) -> str:
    return seed_of(question(what, 1)["messages"])


def error_in(message: str) -> Json:
    found: Json = json.loads(message[message.index("{") :])["error"]
    return found


def test_the_google_client_streams(client: Client) -> None:
    *pieces, last = said(
        client,
        """
            let last;
            for await (const each of await streaming()) {
              say(each.text ?? '');
              last = each;
            }
            say([last.candidates[0].finishReason, last.usageMetadata.candidatesTokenCount, last.modelVersion]);
        """,
        asked=asked("streamed", 120, rate=200),
    )
    assert "".join(pieces) == text(seed("streamed"), 120)
    assert last == ["STOP", 120, "demo"]


def test_thoughts_and_functions_reach_the_google_client_in_a_stream_and_without_one(client: Client) -> None:
    asking = {**asked("tools", 12, rate=0, tool_calls=2), "tools": [TOOL], "thinkingConfig": {"includeThoughts": True}}
    whole, *streamed = said(
        client,
        """
            say(partsOf(await client.models.generateContent(ask(order.asked))));
            for await (const each of await streaming()) say(partsOf(each));
        """,
        asked=asking,
    )
    thinking, *calls = whole
    assert (thinking["text"], thinking["thought"]) == (text(reasoning_seed(seed("tools")), 20), True)
    parts = [part for each in streamed for part in each]
    assert "".join(part["text"] for part in parts if part.get("thought")) == thinking["text"]
    assert [part for part in parts if "functionCall" in part] == calls[:2]
    assert [call["functionCall"]["args"] for call in calls[:2]] == [
        json.loads(arguments(seed("tools"), number, 12)) for number in (0, 1)
    ]
    assert ["thoughtSignature" in part for part in whole] == [False, True, False, True]


def test_a_chat_of_the_google_client_goes_on_with_what_was_said(client: Client) -> None:
    first, second = said(
        client,
        """
            const { model, contents: message, config } = ask(order.asked);
            const chat = client.chats.create({ model, config });
            for (const words of [message, 'And then?']) {
              let whole = '';
              for await (const each of await chat.sendMessageStream({ message: words })) whole += each.text ?? '';
              say(whole);
            }
        """,
        asked=asked("chat", 20, rate=0),
    )
    assert first == text(seed("chat"), 20)
    assert second
    assert second != first


def test_keep_alives_in_a_silence_do_not_disturb_the_google_client(client: Client) -> None:
    stall = {"kind": "stall", "at": 20, "seconds": 2}
    (found,) = said(
        client,
        """
            let whole = '';
            for await (const each of await streaming()) whole += each.text ?? '';
            say(whole);
        """,
        asked=asked("silence", 40, rate=0, fault=stall),
    )
    assert found == text(seed("silence"), 40)


@pytest.mark.parametrize("kind", ["crlf", "multi_line", "comments", "split", "json_despite_stream", "big_event"])
def test_an_answer_in_any_valid_form_reaches_the_google_client_whole(client: Client, kind: str) -> None:
    pieces = said(
        client,
        "for await (const each of await streaming()) say(each.text ?? '');",
        asked=asked("form", 20, rate=0, fault=kind),
    )
    assert "".join(pieces).replace("x" * 1_000_000, "") == text(seed("form"), 20)


def test_a_blocked_prompt_is_a_complete_answer_without_words(client: Client) -> None:
    whole, streamed = said(
        client,
        """
            const told = ({ candidates, promptFeedback }) => say([candidates ?? null, promptFeedback.blockReason]);
            told(await client.models.generateContent(ask(order.asked)));
            for await (const each of await streaming()) told(each);
        """,
        asked=asked("blocked", 5, rate=0, refusal=True),
    )
    assert whole == streamed == [None, "PROHIBITED_CONTENT"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [({"kind": "break", "at": 20}, "upstream_disconnected"), ({"kind": "close", "at": 20}, "upstream_ended_early")],
)
def test_an_answer_that_broke_off_is_an_error_of_the_google_client(client: Client, fault: Json, reason: str) -> None:
    *pieces, error = said(
        client,
        """
            try {
              for await (const each of await streaming()) say(each.text ?? '');
            } catch (error) { shown(error); }
        """,
        asked=asked("broke off", 40, rate=0, fault=fault),
    )
    assert "".join(pieces) == text(seed("broke off"), 20)
    assert error[:2] == [True, 502]
    assert error_in(error[2])["details"][0]["reason"] == reason


def test_each_error_is_the_google_client_s_own_with_its_status(client: Client) -> None:
    refused = [
        asked("refused", 5, fault={"kind": "refuse", "status": status})
        for status in (400, 401, 403, 404, 429, 500, 503)
    ]
    found = said(
        client,
        """
            const all = order.asked.flatMap((each) => [
              client.models.generateContent(ask(each)), client.models.generateContentStream(ask(each)),
            ]);
            all.push(clientOf('abc').models.generateContent(ask(order.asked[1])));
            await Promise.allSettled(all);
            for (const each of all) await each.catch(shown);
        """,
        asked=[{**asked("wrong", 5), "candidateCount": 9}, *refused],
    )
    assert all(is_own for is_own, *_ in found)
    assert [(status, error_in(message)["status"]) for _, status, message in found] == [
        *[(400, "INVALID_ARGUMENT")] * 2,
        *[(400, "INVALID_ARGUMENT")] * 2,
        *[(502, "INTERNAL")] * 4,  # 401 and 403 are not the client's
        *[(404, "NOT_FOUND")] * 2,
        *[(429, "RESOURCE_EXHAUSTED")] * 2,
        *[(500, "INTERNAL")] * 2,
        *[(503, "UNAVAILABLE")] * 2,
        (401, "UNAUTHENTICATED"),
    ]


@pytest.mark.parametrize("turn", range(3))
def test_a_google_client_that_leaves_at_any_event_comes_back_for_the_rest(client: Client, turn: int) -> None:
    what = f"leaves {uuid.uuid4().hex}"
    events = said(
        client,
        """
            let seen = 0;
            let id;
            for await (const each of await streaming()) {
              say(each);
              id = idOf(each);
              if (++seen === order.leavesAt) break;
            }
            const headers = { Accept: 'text/event-stream', 'x-goog-api-key': order.token };
            const rest = await fetch(`${order.url}/v1/generations/${id}?bare_events=1&after=${seen}`, { headers });
            const lines = (await rest.text()).split('\\n');
            for (const line of lines) if (line) say(JSON.parse(line.slice('data: '.length)));
        """,
        asked=asked(what, 40, rate=100, reasoning=3),
        leavesAt=random.Random(turn).randrange(1, 30),
    )
    parts = [part for each in events for part in each["candidates"][0]["content"].get("parts", ())]
    assert "".join(part.get("text", "") for part in parts if not part.get("thought")) == text(seed(what), 40)
    assert "".join(part["text"] for part in parts if part.get("thought")) == text(reasoning_seed(seed(what)), 3)
    assert [each["candidates"][0].get("finishReason") for each in events][-2:] == [None, "STOP"]
