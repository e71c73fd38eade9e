"""The AI SDK's `useChat` in three versions, with `DefaultChatTransport` and no server in between."""

from __future__ import annotations

import json
import random
import uuid
from pathlib import Path
from typing import Any

import pytest

from local.client import Client, question
from local.demo_text import arguments, choice_seed, reasoning_seed, seed_of, text
from local.stack import Stack
from local.token import id_token
from tests.conftest import database_of
from tests.e2e.node_script import run

CHAT = Path(__file__).resolve().parent / "chat"
IMPORTS = "import { chatOf, hold, letGo, order, say, sdk, textOf, until } from './chat.mjs';"
VERSIONS = (5, 6, 7)
TOOL = {"name": "look", "description": "Looks.", "inputSchema": {"type": "object"}}


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> int:
    """The major version of npm's `ai`."""
    return int(request.param)


def said(
    client: Client,
    version: int,
    code: str,
    *,
    tokens: int = 40,
    tools: Any = (),
    moments: Any = (),
    whole_body: Any = None,
    upstream: str = "",
    **demo: Any,
) -> list[Any]:
    """What the script says. Its chat asks for `order.what`, and the demo upstream answers as `demo` says.

    `upstream` is its URL, for a script that holds the answer.
    """
    body = {"model": "demo", "options": {"max_tokens": tokens, "demo": {"rate": 0, **demo}}, "tools": list(tools)}
    what = {"what": uuid.uuid4().hex, "chat": uuid.uuid4().hex}
    told = {
        "version": version,
        "url": client.url,
        "upstream": upstream,
        "token": id_token(client.user),
        "body": whole_body or body,
        "moments": moments,
        **what,
    }
    return [told, *run(code, folder=CHAT, imports=IMPORTS, **told)]


def expected(what: str, tokens: int) -> str:
    return text(seed_of(question(what, tokens)["messages"]), tokens)


def message_of(stack: Stack, client: Client, order: Any, message: str) -> dict[str, Any]:
    path = f"users/{client.user}/chats/{order['chat']}/messages/{message}"
    found: dict[str, Any] = database_of(stack).document(path).get().to_dict()
    return found


def test_an_answer_streams_and_its_message_is_that_of_firestore(client: Client, stack: Stack, version: int) -> None:
    order, shown = said(
        client,
        version,
        """
            const chat = chatOf();
            await chat.sendMessage({ text: order.what });
            say({ status: chat.status, message: chat.messages.at(-1) });
        """,
        tokens=120,
        rate=400,
    )
    message = shown["message"]
    texts = [part["text"] for part in message["parts"] if part["type"] == "text"]
    assert (shown["status"], texts) == ("ready", [expected(order["what"], 120)])
    assert message["metadata"]["state"] == "completed"
    assert message["metadata"]["usage"]["completion_tokens"] == 120
    saved = message_of(stack, client, order, message["id"])
    assert (saved["content"], saved["generationId"]) == (texts[0], message["metadata"]["generationId"])


def test_a_page_that_is_loaded_again_in_the_middle_goes_on_with_the_same_message(
    client: Client, stack: Stack, version: int
) -> None:
    """The page leaves at a random moment three times. Each time it comes back with the user's message alone."""
    order, *seen = said(
        client,
        version,
        """
            await hold(250);
            let chat = chatOf();
            chat.sendMessage({ text: order.what });
            for (const moment of order.moments) {
              await until(() => chat.messages.length > 1 && textOf(chat.messages.at(-1)).length > moment);
              say({ id: chat.messages.at(-1).id, text: textOf(chat.messages.at(-1)) });
              await chat.stop();
              chat = chatOf({ messages: chat.messages.slice(0, 1) });
              chat.resumeStream();
            }
            await until(() => chat.messages.length > 1);
            await letGo();
            await until(() => chat.status === 'ready' && chat.messages.length > 1);
            say({ id: chat.messages.at(-1).id, text: textOf(chat.messages.at(-1)), count: chat.messages.length });
        """,
        upstream=stack.upstream_url,
        tokens=300,
        rate=200,
        moments=sorted(random.Random(version).sample(range(1, 900), 3)),
    )
    assert len({each["id"] for each in seen}) == 1
    assert (seen[-1]["text"], seen[-1]["count"]) == (expected(order["what"], 300), 2)
    assert all(seen[-1]["text"].startswith(each["text"]) for each in seen)


def test_a_second_tab_follows(client: Client, stack: Stack, version: int) -> None:
    order, first, second = said(
        client,
        version,
        """
            await hold(100);
            const chat = chatOf();
            const asked = chat.sendMessage({ text: order.what });
            await until(() => chat.messages.length > 1);
            const tab = chatOf({ messages: chat.messages.slice(0, 1) });
            const followed = tab.resumeStream();
            await until(() => tab.messages.length > 1);
            await letGo();
            await Promise.all([asked, followed]);
            say(chat.messages.at(-1));
            say(tab.messages.at(-1));
        """,
        upstream=stack.upstream_url,
        tokens=200,
        rate=400,
    )
    assert first == second
    assert first["parts"][-1]["text"] == expected(order["what"], 200)


def test_where_nothing_runs_there_is_nothing_to_resume(client: Client, version: int) -> None:
    _, shown = said(
        client,
        version,
        """
            const chat = chatOf();
            await chat.resumeStream();
            say([chat.status, chat.messages.length]);
        """,
    )
    assert shown == ["ready", 0]


def test_a_stop_really_stops_and_keeps_what_there_is(client: Client, stack: Stack, version: int) -> None:
    order, stopped, shown = said(
        client,
        version,
        """
            const chat = chatOf();
            const asked = chat.sendMessage({ text: order.what });
            await until(() => chat.messages.length > 1 && textOf(chat.messages.at(-1)));
            const headers = { Authorization: `Bearer ${order.token}` };
            const route = `${order.url}/api/chat/${order.chat}/stop`;
            say((await (await fetch(route, { method: 'POST', headers })).json()).stopped);
            await asked;
            say({ message: chat.messages.at(-1), again: (await fetch(route, { method: 'POST', headers })).status });
        """,
        tokens=2000,
        rate=50,
    )
    message = shown["message"]
    assert (message["metadata"]["state"], message["metadata"]["generationId"]) == ("stopped", stopped)
    assert shown["again"] == 204
    saved = message_of(stack, client, order, message["id"])
    assert (saved["state"], saved["content"]) == ("stopped", message["parts"][-1]["text"])


def test_regenerate_makes_a_new_answer_and_keeps_the_old_one(client: Client, stack: Stack, version: int) -> None:
    order, first, question_id, second, count, third = said(
        client,
        version,
        """
            const chat = chatOf();
            await chat.sendMessage({ text: order.what });
            say(chat.messages.at(-1).id);
            say(chat.messages.at(-2).id);
            await chat.regenerate({ messageId: chat.messages.at(-1).id });
            say(chat.messages.at(-1).id);
            say(chat.messages.length);
            await chat.regenerate();
            say(chat.messages.at(-1).id);
        """,
    )
    assert (len({first, second, third}), count) == (3, 2)
    saved = [message_of(stack, client, order, each) for each in (first, second, third)]
    assert [each["state"] for each in saved] == ["completed"] * 3
    assert [each["parent"] for each in saved] == [question_id] * 3
    assert [each["replaces"] for each in saved[:2]] == [None, first]


def test_reasoning_is_a_part_before_the_text(client: Client, version: int) -> None:
    order, parts = said(
        client,
        version,
        """
            const chat = chatOf();
            await chat.sendMessage({ text: order.what });
            say(chat.messages.at(-1).parts.filter((part) => part.type !== 'step-start').map((p) => [p.type, p.text]));
        """,
        tokens=30,
        reasoning=20,
    )
    seed = seed_of(question(order["what"], 30)["messages"])
    assert parts == [["reasoning", text(reasoning_seed(choice_seed(seed, 0)), 20)], ["text", text(seed, 30)]]


TOOL_LOOP = """
    const done = sdk.lastAssistantMessageIsCompleteWithToolCalls;
    const chat = chatOf({ sendAutomaticallyWhen: done });
    await chat.sendMessage({ text: order.what });
    const call = () => chat.messages.at(-1).parts.find((part) => part.type === 'tool-look');
    say([call().state, call().input]);
    const add = (chat.addToolOutput ?? chat.addToolResult).bind(chat);
    await add({ tool: 'look', toolCallId: call().toolCallId, output: { found: 7 } });
    await until(() => chat.status === 'ready' && chat.messages.at(-1).parts.at(-1).type === 'text');
    say(chat.messages.at(-1).parts.map((part) => part.type));
    say([call().state, chat.messages.length]);
"""


def test_a_tool_call_is_answered_by_the_page_and_the_answer_goes_on(client: Client, version: int) -> None:
    order, called, parts, end = said(client, version, TOOL_LOOP, tokens=12, tool_calls=1, tools=[TOOL])
    seed = seed_of(question(order["what"], 12)["messages"])
    assert called[0] == "input-available"
    assert called[1] == json.loads(arguments(choice_seed(seed, 0), 0, 12))
    assert parts == ["step-start", "tool-look", "step-start", "text"]
    assert end == ["output-available", 2]


def test_a_tool_call_that_waits_for_the_user_is_there_after_a_reload(client: Client, version: int) -> None:
    """The page is loaded again while the call waits, with the messages that the app has kept."""
    _, state, parts = said(
        client,
        version,
        """
            const before = chatOf();
            await before.sendMessage({ text: order.what });
            const chat = chatOf({
              messages: JSON.parse(JSON.stringify(before.messages)),
              sendAutomaticallyWhen: sdk.lastAssistantMessageIsCompleteWithToolCalls,
            });
            await chat.resumeStream();
            const call = chat.messages.at(-1).parts.find((part) => part.type === 'tool-look');
            say(call.state);
            const add = (chat.addToolOutput ?? chat.addToolResult).bind(chat);
            await add({ tool: 'look', toolCallId: call.toolCallId, output: 'seven' });
            await until(() => chat.status === 'ready' && chat.messages.at(-1).parts.at(-1).type === 'text');
            say(chat.messages.at(-1).parts.map((part) => part.type));
        """,
        tokens=12,
        tool_calls=1,
        tools=[TOOL],
    )
    assert state == "input-available"
    assert parts == ["step-start", "tool-look", "step-start", "text"]


@pytest.mark.parametrize("version", [6, 7])  # approvals came with version 6
def test_a_call_that_the_user_must_approve_waits_and_a_refusal_reaches_the_model(
    client: Client, version: int, upstream_calls: Any
) -> None:
    order, state, _ = said(
        client,
        version,
        """
            const when = sdk.lastAssistantMessageIsCompleteWithApprovalResponses;
            const chat = chatOf({ sendAutomaticallyWhen: when });
            await chat.sendMessage({ text: order.what });
            const call = chat.messages.at(-1).parts.find((part) => part.type === 'tool-look');
            say(call.state);
            await chat.addToolApprovalResponse({ id: call.approval.id, approved: false, reason: 'Not now.' });
            await until(() => chat.status === 'ready' && chat.messages.at(-1).parts.at(-1).type === 'text');
            say(chat.messages.length);
        """,
        tokens=12,
        tool_calls=1,
        tools=[{**TOOL, "needsApproval": True}],
    )
    assert state == "approval-requested"
    second = upstream_calls(order["what"])[-1]["request"]["messages"]
    assert second[-1]["content"] == "The user denied this tool call. Not now."


@pytest.mark.parametrize("version", [6, 7])
def test_a_page_that_came_back_while_the_call_was_written_is_asked_for_approval_as_well(
    client: Client, stack: Stack, version: int
) -> None:
    _, before, after = said(
        client,
        version,
        """
            await hold(10);
            const chat = chatOf();
            chat.sendMessage({ text: order.what });
            const call = ({ messages }) => messages.at(-1)?.parts.find((part) => part.type === 'tool-look');
            await until(() => call(chat));
            await chat.stop();
            say(call(chat).state);
            const tab = chatOf({ messages: chat.messages.slice(0, 1) });
            const followed = tab.resumeStream();
            await until(() => tab.messages.length > 1);
            await letGo();
            await followed;
            say(call(tab).state);
        """,
        upstream=stack.upstream_url,
        tokens=30,
        rate=100,
        tool_calls=1,
        tools=[{**TOOL, "needsApproval": True}],
    )
    assert (before, after) == ("input-streaming", "approval-requested")


@pytest.mark.parametrize(
    ("demo", "words"),
    [
        ({"fault": {"kind": "refuse", "status": 400}}, "refuse"),
        ({"fault": {"kind": "break", "at": 20}}, "saved as incomplete"),
    ],
    ids=["refused", "broke off"],
)
def test_an_error_is_the_chat_s_own_in_plain_words(
    client: Client, version: int, demo: dict[str, Any], words: str
) -> None:
    _, shown = said(
        client,
        version,
        """
            const chat = chatOf();
            await chat.sendMessage({ text: order.what });
            say([chat.status, chat.error.message]);
        """,
        **demo,
    )
    assert shown[0] == "error"
    assert words in shown[1].lower()
    assert "{" not in shown[1]


def test_a_chat_with_reasoning_and_a_tool_works_over_gemini_as_well(
    client: Client, stack: Stack, upstream_calls: Any, version: int
) -> None:
    url = stack.add_functions(
        "gemini", {"UPSTREAM_BASE_URL": f"{stack.upstream_url}/v1beta", "UPSTREAM_SPEAKS": "gemini"}
    )
    demo = {"rate": 0, "tokens": 12, "tool_calls": 1, "reasoning": 5}
    body = {"model": "demo", "options": {"demo": demo}, "tools": [TOOL]}
    try:
        order, called, answered = said(
            Client(url, client.user),
            version,
            """
                const chat = chatOf({ sendAutomaticallyWhen: sdk.lastAssistantMessageIsCompleteWithToolCalls });
                await chat.sendMessage({ text: order.what });
                const call = chat.messages.at(-1).parts.find((part) => part.type === 'tool-look');
                say(call);
                await chat.addToolResult({ tool: 'look', toolCallId: call.toolCallId, output: { found: 7 } });
                await until(() => chat.status === 'ready' && chat.messages.at(-1).parts.at(-1).type === 'text');
                say(chat.messages.at(-1));
            """,
            whole_body=body,
        )
    finally:
        stack.end("gemini-api", "gemini-worker")
    seed = seed_of(question(order["what"], 1)["messages"])
    assert (called["state"], called["input"]) == ("input-available", json.loads(arguments(seed, 0, 12)))
    reasoned = [part["text"] for part in answered["parts"] if part["type"] == "reasoning"]
    assert reasoned[0] == text(reasoning_seed(seed), 5)
    assert answered["metadata"]["usage"]["candidatesTokenCount"] == 12
    asked, use, result = upstream_calls(order["what"])[-1]["request"]["contents"]
    assert asked == {"role": "user", "parts": [{"text": order["what"]}]}
    assert use["parts"][0]["functionCall"] == {"name": "look", "args": called["input"]}
    assert result == {
        "role": "user",
        "parts": [{"functionResponse": {"name": "look", "response": {"found": 7}}}],
    }
