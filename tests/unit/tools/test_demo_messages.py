"""The demo upstream's answers in Messages say the same as those in chat completions, and have the same faults."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from local.demo_text import arguments, reasoning_seed, seed_of, text
from local.demo_upstream import DemoUpstream

WAIT_SECONDS = 60.0
ASKED = {"model": "demo", "max_tokens": 1000, "messages": [{"role": "user", "content": "Hi"}]}
SEED = seed_of(ASKED["messages"])  # type: ignore[arg-type]
TOOLS = {"tools": [{"name": "look_up", "input_schema": {"type": "object"}}]}
Json = dict[str, Any]


@pytest.fixture(scope="module")
def upstream() -> Iterator[DemoUpstream]:
    with DemoUpstream() as running:
        yield running


def ask(upstream: DemoUpstream, **more: Any) -> requests.Response:
    demo = {"rate": 0, **more.pop("demo", {})}
    return requests.post(f"{upstream.base_url}/messages", json={**ASKED, **more, "demo": demo}, timeout=WAIT_SECONDS)


def events(response: requests.Response) -> list[Json]:
    """The events of a stream. Each has its type as its name."""
    found = []
    for raw in response.content.decode().removesuffix("\n\n").split("\n\n"):
        name, data = raw.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def test_a_stream_begins_has_one_event_a_token_and_ends(upstream: DemoUpstream) -> None:
    first, ping, start, *deltas, stop, delta, end = events(ask(upstream, stream=True, demo={"tokens": 20}))
    assert (first["message"]["content"], first["message"]["usage"]["output_tokens"]) == ([], 1)
    assert [each["type"] for each in (ping, start, stop, end)] == [
        "ping",
        "content_block_start",
        "content_block_stop",
        "message_stop",
    ]
    assert len(deltas) == 20
    assert "".join(each["delta"]["text"] for each in deltas) == text(SEED, 20)
    assert (delta["delta"]["stop_reason"], delta["usage"]) == ("end_turn", {"output_tokens": 20})


def test_the_limit_is_needed_and_only_limits(upstream: DemoUpstream) -> None:
    assert ask(upstream, max_tokens=5, demo={"tokens": 20}).json()["stop_reason"] == "max_tokens"
    assert ask(upstream, max_tokens=20, demo={"tokens": 20}).json()["stop_reason"] == "end_turn"
    refused = ask(upstream, max_tokens=None)
    assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_request_error")


def test_thinking_and_tools_are_blocks(upstream: DemoUpstream) -> None:
    message = ask(upstream, **TOOLS, demo={"tokens": 3, "reasoning": 2, "tool_calls": 1}).json()
    thinking, call = message["content"]
    assert (thinking["thinking"], bool(thinking["signature"])) == (text(reasoning_seed(SEED), 2), True)
    assert (call["name"], call["input"]) == ("look_up", json.loads(arguments(SEED, 0, 3)))
    assert message["stop_reason"] == "tool_use"


def test_an_assistant_s_last_turn_is_continued_and_may_not_end_in_white_space(upstream: DemoUpstream) -> None:
    begun = text(SEED, 7)
    turn = {"role": "assistant", "content": begun}
    message = ask(upstream, messages=[*ASKED["messages"], turn], demo={"tokens": 20}).json()  # type: ignore[misc]
    assert begun + message["content"][0]["text"] == text(SEED, 20)
    turn = {"role": "assistant", "content": f"{begun} "}
    assert ask(upstream, messages=[*ASKED["messages"], turn]).status_code == 400  # type: ignore[misc]


@pytest.mark.parametrize(
    ("status", "kind"), [(400, "invalid_request_error"), (429, "rate_limit_error"), (529, "overloaded_error")]
)
def test_a_refusal_is_anthropic_s(upstream: DemoUpstream, status: int, kind: str) -> None:
    refused = ask(upstream, demo={"fault": {"kind": "refuse", "status": status}})
    assert (refused.status_code, refused.json()["type"], refused.json()["error"]["type"]) == (status, "error", kind)


def test_an_error_in_the_middle_is_an_event_of_that_name(upstream: DemoUpstream) -> None:
    *_, last = events(ask(upstream, stream=True, demo={"fault": {"kind": "error_event", "at": 3}}))
    assert (last["type"], last["error"]["type"]) == ("error", "api_error")


def test_a_malformed_event_is_no_json(upstream: DemoUpstream) -> None:
    with pytest.raises(json.JSONDecodeError):
        events(ask(upstream, stream=True, demo={"fault": "malformed_json"}))


def test_a_stream_may_lack_its_end_or_the_names_of_its_events(upstream: DemoUpstream) -> None:
    assert events(ask(upstream, stream=True, demo={"fault": "no_done"}))[-1]["type"] == "message_delta"
    assert b"event:" not in ask(upstream, stream=True, demo={"fault": "unnamed"}).content


def test_the_key_may_come_in_either_header() -> None:
    with DemoUpstream(key="right") as upstream:
        for headers, status in (
            ({"x-api-key": "right"}, 200),
            ({"Authorization": "Bearer right"}, 200),
            ({"x-api-key": "wrong"}, 401),
            ({}, 401),
        ):
            body = {**ASKED, "demo": {"rate": 0}}
            url = f"{upstream.base_url}/messages"
            answered = requests.post(url, json=body, headers=headers, timeout=WAIT_SECONDS)
            assert answered.status_code == status
