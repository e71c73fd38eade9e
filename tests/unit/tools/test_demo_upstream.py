"""The demo upstream behaves as documented, since other tests rely on it.

Bodies are read with the standard library's HTTP client and a minimal reader, so that no lenient client library hides
what was sent. No test asserts that something is fast.
"""

from __future__ import annotations

import ast
import asyncio
import gzip
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from local import demo_text
from local.demo_calls import CallLog
from local.demo_delivery import Call, Pace
from local.demo_faults import FAULTS, Fault, Order
from local.demo_fields import BadField
from local.demo_text import DONE_TEXT, WORDS, Json, arguments, blob, choice_seed, reasoning_seed, seed_of, text, token
from local.demo_upstream import DemoUpstream, main

ROOT = Path(__file__).resolve().parents[3]
MESSAGES = [{"role": "user", "content": "Tell me about rivers."}]
SEED = seed_of(MESSAGES)
TOOLS = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("look_up", "write_down")]


@pytest.fixture(scope="module")
def running() -> Iterator[DemoUpstream]:
    with DemoUpstream() as upstream:
        yield upstream


@pytest.fixture
def upstream(running: DemoUpstream) -> DemoUpstream:
    running.clear()
    return running


def body(*, stream: bool = True, demo: Json | None = None, **fields: Any) -> Json:
    asked: Json = {"tokens": 24, "rate": 0, **(demo or {})}
    return {"model": "demo", "messages": MESSAGES, "stream": stream, "demo": asked, **fields}


def address(upstream: DemoUpstream) -> tuple[str, int]:
    host, port = upstream.url.removeprefix("http://").split(":")
    return host, int(port)


class Reply:
    """A response on a connection of its own; `read` gives all that arrived, and notes whether the body was whole."""

    def __init__(self, upstream: DemoUpstream, request: Json | bytes, **headers: str):
        self.connection = http.client.HTTPConnection(*address(upstream), timeout=60)
        raw = request if isinstance(request, bytes) else json.dumps(request).encode()
        self.connection.request("POST", "/v1/chat/completions", raw, {"Content-Type": "application/json", **headers})
        self.response = self.connection.getresponse()
        self.status = self.response.status
        self.headers = {name.lower(): value for name, value in self.response.getheaders()}
        self.whole = True
        self.reset = False

    def read(self) -> bytes:
        arrived = bytearray()
        try:
            while piece := self.response.read1(65_536):
                arrived += piece
            self.whole = self.response.length in (0, None)
        except ConnectionResetError:
            self.whole, self.reset = False, True
        except http.client.IncompleteRead as error:
            arrived += error.partial
            self.whole = False
        self.connection.close()
        return bytes(arrived)

    def until(self, mark: bytes) -> bytes:
        arrived = b""
        while mark not in arrived:
            piece = self.response.read1(65_536)
            assert piece, f"the body ended before {mark!r}"
            arrived += piece
        return arrived

    def json(self) -> Any:
        return json.loads(self.read())

    def leave(self) -> None:
        self.response.close()
        self.connection.close()


def events(raw: bytes) -> list[bytes]:
    """The events' data, by the letter of the specification for bodies that end with a blank line."""
    blocks = raw.replace(b"\r\n", b"\n").split(b"\n\n")
    found = []
    for block in blocks:
        lines = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:")]
        if lines:
            found.append(b"\n".join(lines))
    return found


def chunks(raw: bytes) -> list[Json]:
    return [json.loads(event) for event in events(raw) if event != b"[DONE]"]


def content(raw: bytes, choice: int = 0, field: str = "content") -> str:
    deltas = [said for chunk in chunks(raw) for said in chunk.get("choices", ()) if said["index"] == choice]
    return "".join(said["delta"].get(field) or "" for said in deltas)


def finish_reasons(raw: bytes) -> list[str]:
    said = [choice for chunk in chunks(raw) for choice in chunk.get("choices", ())]
    return [choice["finish_reason"] for choice in said if choice["finish_reason"]]


def ended(upstream: DemoUpstream, count: int = 1) -> list[Json]:
    return eventually(lambda: [call for call in upstream.calls() if call["ended"]], lambda found: len(found) >= count)


def eventually(look: Callable[[], list[Json]], good: Callable[[list[Json]], bool]) -> list[Json]:
    deadline = time.monotonic() + 20
    while not good(found := look()):
        assert time.monotonic() < deadline, f"still {found!r}"
        time.sleep(0.01)
    return found


def status_of(upstream: DemoUpstream, request: Json, **headers: str) -> int:
    reply = Reply(upstream, request, **headers)
    reply.read()
    return reply.status


def ask(upstream: DemoUpstream, method: str, path: str, given: Any = None, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(*address(upstream), timeout=60)
    connection.request(method, path, None if given is None else json.dumps(given), headers)
    response = connection.getresponse()
    answer = response.status, response.read()
    connection.close()
    return answer


# The text


def test_the_text_of_a_seed_never_changes() -> None:
    assert [token("river", k) for k in (0, 1, 9, 97)] == ["oak", " bridge", " שלום (10/f7cf)", " oak1"]
    assert text("river", 98) == "".join(token("river", k) for k in range(98))


@pytest.mark.parametrize("seed", ["river", "", "1", SEED])
def test_no_two_tokens_of_an_answer_are_equal(seed: str) -> None:
    tokens = [token(seed, k) for k in range(3_000)]
    assert len(set(tokens)) == 3_000
    assert all(tokens)


def test_every_answer_of_a_hundred_tokens_holds_what_breaks_readers() -> None:
    said = text(SEED, 100)
    for hard in ("é", "e\u0301", "漢", "🦊", "\u200d", '"', "\\", "\n", "\u2028", "\u0085", f"(100/{said[-5:-1]})"):
        assert hard in said
    assert {len(character.encode()) for character in said} == {1, 2, 3, 4}


def test_words_are_many_enough_for_every_stride_and_never_end_in_a_number() -> None:
    assert len(WORDS) == len(set(WORDS))
    assert all(len(WORDS) % divisor for divisor in range(2, len(WORDS)))
    assert not any(word[-1].isdigit() for word in WORDS)


def test_a_padded_token_has_at_least_the_bytes_that_were_asked_for() -> None:
    assert {len(token("river", k, 200).encode()) for k in range(200)} == {200}
    assert token("river", 9, 1) == token("river", 9)


def test_different_prompts_give_different_answers_and_the_answer_begun_does_not_count() -> None:
    begun = [*MESSAGES, {"role": "assistant", "content": "amber"}]
    other = [*MESSAGES, *begun[1:], {"role": "user", "content": "Go on."}]
    assert seed_of(begun) == seed_of(MESSAGES)
    assert len({text(seed_of(messages), 5) for messages in (MESSAGES, other, [{"role": "user"}])}) == 3


@pytest.mark.parametrize("incompressible", [False, True])
def test_a_blob_has_its_size_and_is_incompressible_when_asked(incompressible: bool) -> None:
    made = blob("river", 100_000, incompressible)
    assert len(made.encode()) == 100_000
    assert (len(gzip.compress(made.encode())) > 70_000) == incompressible


# Ordinary answers


def test_the_official_client_streams_the_whole_answer(upstream: DemoUpstream) -> None:
    with openai.OpenAI(base_url=upstream.base_url, api_key="any", max_retries=0) as client:
        stream = client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": "Tell me about rivers."}],
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"demo": {"rate": 0, "tokens": 150}},
        )
        arrived = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in arrived if chunk.choices) == text(SEED, 150)
    assert arrived[-2].choices[0].finish_reason == "stop"
    assert arrived[-1].usage is not None
    assert arrived[-1].usage.completion_tokens == 150


def test_the_official_client_gets_an_answer_in_one_piece(upstream: DemoUpstream) -> None:
    with openai.OpenAI(base_url=upstream.base_url, api_key="any", max_retries=0) as client:
        completion = client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": "Tell me about rivers."}],
            max_completion_tokens=30,
            extra_body={"demo": {"rate": 0}},
        )
        assert [model.id for model in client.models.list()] == ["demo"]
    assert completion.choices[0].message.content == text(SEED, 30)
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 30


def test_a_stream_is_a_role_one_chunk_a_token_a_finish_the_usage_and_done(upstream: DemoUpstream) -> None:
    reply = Reply(upstream, body(stream_options={"include_usage": True}))
    raw = reply.read()
    role, *tokens, finish, usage = chunks(raw)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert [chunk["choices"][0]["delta"] for chunk in tokens] == [{"content": token(SEED, k)} for k in range(24)]
    assert (finish["choices"][0]["delta"], finish["choices"][0]["finish_reason"]) == ({}, "stop")
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 24)
    assert all(chunk["usage"] is None for chunk in (role, *tokens, finish))
    assert {chunk["object"] for chunk in chunks(raw)} == {"chat.completion.chunk"}
    assert events(raw)[-1] == b"[DONE]"
    assert reply.whole


def test_no_chunk_speaks_of_usage_unless_it_was_asked_for(upstream: DemoUpstream) -> None:
    found = chunks(Reply(upstream, body()).read())
    assert len(found) == 26
    assert not any("usage" in chunk for chunk in found)


@pytest.mark.parametrize(
    ("fields", "tokens", "reason"),
    [
        ({"max_completion_tokens": 7, "max_tokens": 9}, 7, "length"),
        ({"max_tokens": 9}, 9, "length"),
        ({"max_tokens": None}, 24, "stop"),
        ({"demo": {"rate": 0}}, 120, "stop"),
        ({"demo": {"rate": 0, "tokens": 0}}, 0, "stop"),
    ],
)
def test_the_number_of_tokens_is_the_requests_limit_or_what_the_demo_says(
    upstream: DemoUpstream, fields: Json, tokens: int, reason: str
) -> None:
    raw = Reply(upstream, body() | fields).read()
    assert content(raw) == text(SEED, tokens)
    assert finish_reasons(raw) == [reason]


@pytest.mark.parametrize("stream", [True, False])
def test_each_choice_says_its_own_text(upstream: DemoUpstream, stream: bool) -> None:
    reply = Reply(upstream, body(stream=stream, n=3))
    raw = reply.read()
    said = [content(raw, n) if stream else json.loads(raw)["choices"][n]["message"]["content"] for n in range(3)]
    assert said == [text(choice_seed(SEED, n), 24) for n in range(3)]
    assert len(set(said)) == 3
    assert ended(upstream)[0]["tokens_sent"] == 72


@pytest.mark.parametrize("stream", [True, False])
def test_parallel_tool_calls_add_up_to_names_and_json_arguments(upstream: DemoUpstream, stream: bool) -> None:
    raw = Reply(upstream, body(stream=stream, tools=TOOLS, demo={"tool_calls": 3, "tokens": 12})).read()
    calls = _joined_tool_calls(raw) if stream else json.loads(raw)["choices"][0]["message"]["tool_calls"]
    assert [call["function"]["name"] for call in calls] == ["look_up", "write_down", "look_up"]
    assert [call["function"]["arguments"] for call in calls] == [arguments(SEED, n, 12) for n in range(3)]
    assert json.loads(calls[1]["function"]["arguments"]) == {"text": text(demo_text.tool_seed(SEED, 1), 12)}
    assert len({call["id"] for call in calls}) == 3
    assert all(call["type"] == "function" for call in calls)
    reasons = finish_reasons(raw) if stream else [json.loads(raw)["choices"][0]["finish_reason"]]
    assert reasons == ["tool_calls"]


def _joined_tool_calls(raw: bytes) -> list[Json]:
    joined: list[Json] = []
    for chunk in chunks(raw):
        for piece in chunk["choices"][0]["delta"].get("tool_calls", ()):
            if piece["index"] == len(joined):
                joined.append(piece)
            else:
                joined[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
    return joined


@pytest.mark.parametrize(
    "fields", [{}, {"tools": TOOLS, "messages": [*MESSAGES, {"role": "tool", "tool_call_id": "1", "content": "wet"}]}]
)
def test_without_tools_or_after_a_tools_result_it_answers_in_words(upstream: DemoUpstream, fields: Json) -> None:
    asked = body(demo={"tool_calls": True}) | fields
    raw = Reply(upstream, asked).read()
    assert content(raw) == text(seed_of(asked["messages"]), 24)


def test_reasoning_comes_before_the_answer(upstream: DemoUpstream) -> None:
    raw = Reply(upstream, body(demo={"reasoning": 9})).read()
    assert content(raw, field="reasoning_content") == text(reasoning_seed(SEED), 9)
    assert content(raw) == text(SEED, 24)
    assert ["reasoning_content" in chunk["choices"][0]["delta"] for chunk in chunks(raw)[1:11]] == [True] * 9 + [False]
    whole = Reply(upstream, body(stream=False, demo={"reasoning": 9})).json()
    assert whole["choices"][0]["message"]["reasoning_content"] == text(reasoning_seed(SEED), 9)
    assert whole["usage"]["completion_tokens_details"] == {"reasoning_tokens": 9}
    assert whole["usage"]["completion_tokens"] == 33


def test_a_refusal_is_no_content(upstream: DemoUpstream) -> None:
    raw = Reply(upstream, body(demo={"refusal": True})).read()
    assert (content(raw, field="refusal"), content(raw)) == (text(SEED, 24), "")
    message = Reply(upstream, body(stream=False, demo={"refusal": True})).json()["choices"][0]["message"]
    assert (message["refusal"], message["content"]) == (text(SEED, 24), None)


def test_a_seed_of_ones_own_sets_the_text(upstream: DemoUpstream) -> None:
    assert content(Reply(upstream, body(demo={"seed": 7})).read()) == text("7", 24)
    assert ended(upstream)[0]["seed"] == "7"


def test_padded_tokens_make_an_answer_of_more_than_a_mebibyte(upstream: DemoUpstream) -> None:
    raw = Reply(upstream, body(demo={"token_bytes": 50_000})).read()
    assert content(raw) == text(SEED, 24, 50_000)
    assert len(content(raw).encode()) > 1 << 20


@pytest.mark.parametrize("stream", [True, False])
def test_many_streams_at_once_do_not_mix(upstream: DemoUpstream, stream: bool) -> None:
    said: dict[int, str] = {}

    def run(n: int) -> None:
        raw = Reply(upstream, body(stream=stream, demo={"seed": n, "tokens": 200, "rate": 2_000})).read()
        said[n] = content(raw) if stream else json.loads(raw)["choices"][0]["message"]["content"]

    threads = [threading.Thread(target=run, args=(n,)) for n in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == {n: text(str(n), 200) for n in range(40)}


# Time


def test_no_token_is_sent_before_it_is_due(upstream: DemoUpstream) -> None:
    raw = Reply(upstream, body(demo={"rate": 100, "timestamps": True, "first_token_delay": 0.1})).read()
    call = ended(upstream)[0]
    sent = [chunk["t"] for chunk in chunks(raw)]
    due = [call["started"] + 0.1 + max(0, n - 1) / 100 for n in range(25)]  # the role goes with token 0
    assert all(at >= when - 0.002 for at, when in zip(sent, due, strict=False))
    assert sent == sorted(sent)
    assert call["ended"] >= sent[-1]


def test_when_each_token_was_written_can_be_asked_for_afterwards(upstream: DemoUpstream) -> None:
    before = time.monotonic_ns()
    answer = {"rate": 100, "seed": "noted"}
    said = content(Reply(upstream, body(demo={**answer, "record": True})).read())
    after = time.monotonic_ns()
    assert said == content(Reply(upstream, body(demo=answer)).read()) == text("noted", 24)
    written = json.loads(ask(upstream, "GET", "/demo/records/noted")[1])
    assert len(written) == 24
    assert before < written[0] < written[-1] < after
    assert written == sorted(written)
    assert written[-1] - written[0] > 22 * 10_000_000
    assert json.loads(ask(upstream, "GET", "/demo/records/another")[1]) == []


def test_what_is_late_is_due_at_once_and_delays_nothing_after_it() -> None:
    now = 7.0
    pace, hurry = Pace(100, lambda: now), Pace(0, lambda: now)
    assert [pace.wait(step) for step in (0, 1, 1_000)] == pytest.approx([0, 0.01, 10])
    now = 7.05
    assert [pace.wait(step) for step in (0, 5, 1_000)] == pytest.approx([-0.05, 0, 9.95])

    async def pause() -> None:
        nonlocal now
        now += 3

    asyncio.run(pace.hold(pause()))
    assert pace.wait(1_000) == pytest.approx(9.95)
    assert hurry.wait(1_000_000) == 0


def test_a_stream_without_a_pace_still_has_one_event_a_token(upstream: DemoUpstream) -> None:
    assert len(chunks(Reply(upstream, body(demo={"tokens": 3_000})).read())) == 3_002


def test_the_head_comes_before_the_first_token_does(upstream: DemoUpstream) -> None:
    reply = Reply(upstream, body(demo={"first_token_delay": 3_600}))
    assert reply.status == 200
    assert upstream.calls()[0]["tokens_sent"] == 0
    reply.leave()
    assert ended(upstream)[0]["client_gone"]


@pytest.mark.parametrize("stream", [True, False])
def test_the_first_byte_waits_as_long_as_it_was_told(upstream: DemoUpstream, stream: bool) -> None:
    Reply(upstream, body(stream=stream, demo={"first_byte_delay": 0.1, "rate": 1_000})).read()
    call = ended(upstream)[0]
    assert call["ended"] - call["started"] >= 0.1 + (0.023 if stream else 0.024) - 0.002


def test_an_answer_in_one_piece_takes_the_time_of_its_tokens_and_can_carry_it(upstream: DemoUpstream) -> None:
    completion = Reply(upstream, body(stream=False, demo={"rate": 200, "timestamps": True})).json()
    assert completion["t"] - ended(upstream)[0]["started"] >= 0.12 - 0.002


# Faults that come in place of an answer


@pytest.mark.parametrize("stream", [True, False])
def test_a_refusal_by_status_holds_for_its_times_and_then_works(upstream: DemoUpstream, stream: bool) -> None:
    asked = body(stream=stream, demo={"fault": {"status": 429, "retry_after": 2, "times": 2}})
    replies = [Reply(upstream, asked) for _ in range(4)]
    bodies = [reply.read() for reply in replies]
    assert [reply.status for reply in replies] == [429, 429, 200, 200]
    assert replies[0].headers["retry-after"] == "2"
    error = json.loads(bodies[0])["error"]
    assert (error["code"], set(error)) == ("rate_limit_exceeded", {"message", "type", "param", "code"})
    assert [call["status"] for call in ended(upstream, 4)] == [429, 429, 200, 200]
    assert [call["finished"] for call in upstream.calls()] == [False, False, True, True]


def test_times_count_for_each_seed_and_start_anew_when_the_calls_are_cleared(upstream: DemoUpstream) -> None:
    def status(seed: str) -> int:
        return status_of(upstream, body(demo={"seed": seed, "fault": {"status": 500, "times": 1}}))

    assert [status("a"), status("b"), status("a")] == [500, 500, 200]
    assert ask(upstream, "DELETE", "/demo/calls")[0] == 204
    assert status("a") == 500


def hold(upstream: DemoUpstream, at: int, said: str = "rivers") -> None:
    assert ask(upstream, "POST", "/demo/hold", {"text": said, "at": at})[0] == 204


def test_an_answer_is_held_before_a_token_until_it_is_moved_on_or_released(upstream: DemoUpstream) -> None:
    hold(upstream, 5)
    held, other = Reply(upstream, body()), Reply(upstream, body(messages=[{"role": "user", "content": "Hi"}]))
    assert other.read().endswith(b"data: [DONE]\n\n")
    for at in (5, 9):
        hold(upstream, at)
        held.until(token(SEED, at - 1).encode())
        sent = eventually(upstream.calls, lambda calls, at=at: calls[0]["tokens_sent"] == at)
        assert sent[0]["ended"] is None
    assert ask(upstream, "DELETE", "/demo/hold")[0] == 204
    assert held.read().endswith(b"data: [DONE]\n\n")
    assert Reply(upstream, body()).read().endswith(b"data: [DONE]\n\n")


def test_what_is_held_is_released_by_a_hold_for_another_text(upstream: DemoUpstream) -> None:
    hold(upstream, 5)
    held = Reply(upstream, body())
    eventually(upstream.calls, lambda calls: calls[0]["tokens_sent"] == 5)
    hold(upstream, 5, "mountains")
    assert held.read().endswith(b"data: [DONE]\n\n")
    assert ask(upstream, "DELETE", "/demo/hold")[0] == 204


@pytest.mark.parametrize(
    ("given", "param"),
    [({"text": "a"}, "hold.at"), ({"at": 1}, "hold.text"), ({"text": "a", "at": -1}, "hold.at"), ([], "hold")],
)
def test_a_hold_that_is_none_is_refused(upstream: DemoUpstream, given: Any, param: str) -> None:
    status, raw = ask(upstream, "POST", "/demo/hold", given)
    assert (status, json.loads(raw)["error"]["param"]) == (400, param)


def test_html_and_a_redirect_are_what_they_say(upstream: DemoUpstream) -> None:
    page = Reply(upstream, body(demo={"fault": "html"}))
    assert (page.status, page.headers["content-type"].split(";")[0]) == (200, "text/html")
    assert page.read().startswith(b"<!doctype html>")
    moved = Reply(upstream, body(demo={"fault": {"kind": "redirect", "status": 302, "location": "http://x.test/y"}}))
    assert (moved.status, moved.headers["location"], moved.read()) == (302, "http://x.test/y", b"")
    assert not any(call["finished"] for call in ended(upstream, 2))


# Faults in the middle of a stream


def struck(upstream: DemoUpstream, kind: str, at: int = 6, **parameters: Any) -> tuple[Reply, bytes, Json]:
    reply = Reply(upstream, body(demo={"fault": {"kind": kind, "at": at, **parameters}}))
    raw = reply.read()
    return reply, raw, ended(upstream)[-1]


@pytest.mark.parametrize("reset", [False, True])
def test_a_break_drops_the_connection_in_the_middle_of_a_character(upstream: DemoUpstream, reset: bool) -> None:
    reply, raw, call = struck(upstream, "break", reset=reset)
    *whole, cut = raw.split(b"\n\n")
    assert content(b"\n\n".join(whole)) == text(SEED, 6)
    assert cut.startswith(b"data: {")
    with pytest.raises(UnicodeDecodeError):
        cut.decode()
    assert (reply.whole, reply.reset) == (False, reset)
    assert (call["tokens_sent"], call["finished"], call["client_gone"]) == (6, False, False)


def test_a_close_ends_the_body_in_order_without_an_end_to_the_answer(upstream: DemoUpstream) -> None:
    reply, raw, call = struck(upstream, "close")
    assert reply.whole
    assert (content(raw), finish_reasons(raw), b"[DONE]" in raw) == (text(SEED, 6), [], False)
    assert (call["tokens_sent"], call["finished"]) == (6, False)


def test_no_done_has_a_finish_reason_and_no_done(upstream: DemoUpstream) -> None:
    raw = Reply(upstream, body(demo={"fault": "no_done"})).read()
    assert (content(raw), finish_reasons(raw), b"[DONE]" in raw) == (text(SEED, 24), ["stop"], False)


@pytest.mark.parametrize(
    ("kind", "error"), [("malformed_json", json.JSONDecodeError), ("invalid_utf8", UnicodeDecodeError)]
)
def test_a_spoilt_event_stands_between_whole_ones(upstream: DemoUpstream, kind: str, error: type[Exception]) -> None:
    _, raw, call = struck(upstream, kind)
    found = events(raw)
    with pytest.raises(error):
        json.loads(found.pop(7))
    assert content(b"".join(b"data: " + event + b"\n\n" for event in found)) == text(SEED, 24)
    assert found[-1] == b"[DONE]"
    assert call["finished"]


def test_an_error_event_is_the_last(upstream: DemoUpstream) -> None:
    reply, raw, call = struck(upstream, "error_event")
    assert content(raw) == text(SEED, 6)
    assert set(chunks(raw)[-1]["error"]) == {"message", "type", "param", "code"}
    assert (reply.whole, b"[DONE]" in raw, call["finished"]) == (True, False, False)


def test_a_null_error_is_in_every_chunk_and_changes_nothing_else(upstream: DemoUpstream) -> None:
    raw = Reply(upstream, body(demo={"fault": "null_error"})).read()
    assert all(chunk["error"] is None for chunk in chunks(raw))
    assert content(raw) == text(SEED, 24)
    assert events(raw)[-1] == b"[DONE]"


def test_a_stall_sends_nothing_until_it_is_over_and_then_continues(upstream: DemoUpstream) -> None:
    asked = {"rate": 1_000, "timestamps": True, "fault": {"kind": "stall", "at": 6, "seconds": 0.1}}
    raw = Reply(upstream, body(demo=asked)).read()
    sent = [chunk["t"] for chunk in chunks(raw)]
    assert sent[7] - sent[6] >= 0.1
    assert content(raw) == text(SEED, 24)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_during_a_stall_is_noticed(upstream: DemoUpstream, stream: bool) -> None:
    reply = Reply(upstream, body(stream=stream, demo={"fault": {"kind": "stall", "at": 6}}))
    reply.until(token(SEED, 5).encode() if stream else b"choices")
    assert upstream.calls()[0]["ended"] is None
    reply.leave()
    call = ended(upstream)[0]
    assert (call["client_gone"], call["finished"], call["tokens_sent"]) == (True, False, 6 if stream else 0)


@pytest.mark.parametrize("stream", [True, False])
def test_done_in_the_text_is_text(upstream: DemoUpstream, stream: bool) -> None:
    raw = Reply(upstream, body(stream=stream, demo={"fault": {"kind": "done_in_text", "at": 6}})).read()
    said = content(raw) if stream else json.loads(raw)["choices"][0]["message"]["content"]
    assert said == text(SEED, 6) + DONE_TEXT + text(SEED, 24).removeprefix(text(SEED, 6))
    assert "data: [DONE]" in DONE_TEXT
    if stream:
        assert (events(raw).count(b"[DONE]"), events(raw)[-1]) == (1, b"[DONE]")


@pytest.mark.parametrize("incompressible", [False, True])
def test_a_big_event_is_one_event(upstream: DemoUpstream, incompressible: bool) -> None:
    _, raw, _ = struck(upstream, "big_event", bytes=300_000, incompressible=incompressible)
    said = blob(SEED, 300_000, incompressible) + token(SEED, 6)
    assert chunks(raw)[7]["choices"][0]["delta"]["content"] == said
    assert len(content(raw)) == 300_000 + len(text(SEED, 24))


@pytest.mark.parametrize("kind", ["break", "close", "error_event"])
@pytest.mark.parametrize("at", [0, 24])
def test_a_fault_can_strike_before_the_first_token_and_after_the_last(
    upstream: DemoUpstream, kind: str, at: int
) -> None:
    _, raw, call = struck(upstream, kind, at=at)
    assert content(b"\n\n".join(raw.split(b"\n\n")[:-1])) == text(SEED, at)
    assert (call["tokens_sent"], call["finished"], finish_reasons(raw.rpartition(b"\n\n")[0])) == (at, False, [])


def test_a_fault_beyond_the_answer_never_strikes_and_one_without_a_place_always_does() -> None:
    assert Fault.read({"kind": "break", "at": 30}).place(24) == 30
    assert [Fault.read("break").place(steps) for steps in (0, 1, 7, 20, 400)] == [0, 0, 3, 10, 10]


# Faults of framing and of transport


@pytest.mark.parametrize("kind", ["crlf", "no_space", "multi_line", "comments", "split", "gzip"])
def test_another_framing_carries_the_same_answer(upstream: DemoUpstream, kind: str) -> None:
    raw = Reply(upstream, body(demo={"fault": kind})).read()
    raw = gzip.decompress(raw) if kind == "gzip" else raw
    assert content(raw) == text(SEED, 24)
    assert events(raw)[-1] == b"[DONE]"


def test_each_framing_is_really_in_the_bytes(upstream: DemoUpstream) -> None:
    def raw(kind: str) -> bytes:
        return Reply(upstream, body(demo={"fault": kind})).read()

    assert raw("crlf").count(b"\r\n\r\n") == 27
    assert b"\n" not in raw("crlf").replace(b"\r\n", b"")
    assert len(re.findall(rb"data:[{\[]", raw("no_space"))) == 27
    assert raw("comments").count(b": ping\n\n") == 27
    assert raw("multi_line").count(b"\ndata: ") > 100


def test_a_split_body_comes_in_pieces_of_the_size_asked_for(upstream: DemoUpstream) -> None:
    for size in (1, 7):
        pieces = _http_chunks(upstream, body(demo={"tokens": 4, "fault": {"kind": "split", "bytes": size}}))
        assert max(len(piece) for piece in pieces) == size
        assert content(b"".join(pieces)) == text(SEED, 4)


def _http_chunks(upstream: DemoUpstream, request: Json) -> list[bytes]:
    """The body's pieces as HTTP's own chunks show them."""
    raw = json.dumps(request).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: demo\r\nConnection: close\r\nContent-Length: {len(raw)}\r\n\r\n"
    )
    with socket.create_connection(address(upstream), timeout=60) as connection:
        connection.sendall(head.encode() + raw)
        with connection.makefile("rb") as reader:
            while reader.readline() != b"\r\n":
                pass
            pieces = []
            while size := int(reader.readline(), 16):
                pieces.append(reader.read(size))
                reader.readline()
    return pieces


def test_a_gzipped_stream_can_be_read_as_it_comes(upstream: DemoUpstream) -> None:
    reply = Reply(upstream, body(demo={"fault": "gzip", "rate": 200}))
    unpack = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    first = unpack.decompress(reply.response.read1(65_536))
    assert reply.headers["content-encoding"] == "gzip"
    assert first.endswith(b"\n\n")
    assert content(first + unpack.decompress(reply.read())) == text(SEED, 24)


def test_the_other_content_type_than_was_asked_for(upstream: DemoUpstream) -> None:
    whole = Reply(upstream, body(demo={"fault": "json_despite_stream"}))
    assert whole.headers["content-type"] == "application/json"
    assert whole.json()["choices"][0]["message"]["content"] == text(SEED, 24)
    stream = Reply(upstream, body(stream=False, demo={"fault": "stream_despite_json"}))
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert content(stream.read()) == text(SEED, 24)


def test_a_body_without_a_length_ends_with_its_connection(upstream: DemoUpstream) -> None:
    reply = Reply(upstream, body(stream=False, demo={"fault": "no_content_length"}))
    assert not {"content-length", "transfer-encoding"} & set(reply.headers)
    assert reply.headers["connection"] == "close"
    assert reply.json()["choices"][0]["message"]["content"] == text(SEED, 24)
    assert ended(upstream)[0]["finished"]


@pytest.mark.parametrize("kind", ["break", "close", "malformed_json", "invalid_utf8", "error_event"])
def test_a_fault_spoils_an_answer_in_one_piece_too(upstream: DemoUpstream, kind: str) -> None:
    reply = Reply(upstream, body(stream=False, demo={"fault": kind}))
    raw = reply.read()
    assert reply.whole == (kind != "break")
    if kind == "error_event":
        assert set(json.loads(raw)) == {"error"}
    else:
        with pytest.raises(ValueError):  # noqa: PT011 (each kind has its own)
            json.loads(raw)


@pytest.mark.parametrize("kind", ["stall", "gzip", "split", "null_error"])
def test_an_answer_in_one_piece_survives_what_only_delays_or_wraps_it(upstream: DemoUpstream, kind: str) -> None:
    fault = {"kind": kind, **({"seconds": 0.05} if kind == "stall" else {})}
    raw = Reply(upstream, body(stream=False, demo={"fault": fault})).read()
    completion = json.loads(gzip.decompress(raw) if kind == "gzip" else raw)
    assert completion["choices"][0]["message"]["content"] == text(SEED, 24)
    assert completion.get("error", "none") == (None if kind == "null_error" else "none")


# Continuation


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("characters", [0, 1, len(text(SEED, 10)), len(text(SEED, 10)) + 2, len(text(SEED, 24))])
def test_an_answer_begun_continues_where_it_ends(upstream: DemoUpstream, stream: bool, characters: int) -> None:
    begun = text(SEED, 24)[:characters]
    reply = Reply(upstream, body(stream=stream, messages=[*MESSAGES, {"role": "assistant", "content": begun}]))
    raw = reply.read()
    said = content(raw) if stream else json.loads(raw)["choices"][0]["message"]["content"]
    assert begun + said == text(SEED, 24)
    assert finish_reasons(raw) == ["stop"] if stream else True


def test_a_broken_answer_and_its_continuation_make_the_whole(upstream: DemoUpstream) -> None:
    demo = {"tokens": 50, "fault": {"kind": "break", "at": 20, "times": 2}}
    said = ""
    for _ in range(3):
        messages = [*MESSAGES, {"role": "assistant", "content": [{"type": "text", "text": said}]}]
        raw = Reply(upstream, body(demo=demo, messages=messages)).read()
        said += content(raw.rpartition(b"\n\n")[0])
    assert said == text(SEED, 50)
    assert [call["tokens_sent"] for call in ended(upstream, 3)] == [20, 20, 10]
    assert len({call["seed"] for call in upstream.calls()}) == 1


def test_a_continuation_counts_only_what_it_adds(upstream: DemoUpstream) -> None:
    begun = [*MESSAGES, {"role": "assistant", "content": text(SEED, 10)}]
    assert Reply(upstream, body(stream=False, messages=begun)).json()["usage"]["completion_tokens"] == 14
    assert ended(upstream)[0]["tokens_sent"] == 14


def test_a_continuation_has_the_requests_limit_to_itself(upstream: DemoUpstream) -> None:
    begun = [*MESSAGES, {"role": "assistant", "content": text(SEED, 10)}]
    raw = Reply(upstream, body(messages=begun) | {"max_tokens": 5}).read()
    assert text(SEED, 10) + content(raw) == text(SEED, 15)
    assert finish_reasons(raw) == ["length"]


@pytest.mark.parametrize(
    ("flags", "goes_on"),
    [
        ({}, False),
        ({"continue_final_message": True}, False),
        ({"continue_final_message": True, "add_generation_prompt": False}, True),
    ],
)
def test_as_vllm_it_starts_a_new_turn_unless_the_request_says_otherwise(
    upstream: DemoUpstream, flags: Json, goes_on: bool
) -> None:
    begun = text(SEED, 10)
    messages = [*MESSAGES, {"role": "assistant", "content": begun}]
    said = content(Reply(upstream, body(messages=messages, demo={"prefill": "vllm", "rate": 0}) | flags).read())
    assert ((begun if goes_on else "") + said) == text(SEED, 24)


def test_as_anthropic_it_refuses_white_space_at_the_end(upstream: DemoUpstream) -> None:
    messages = [*MESSAGES, {"role": "assistant", "content": text(SEED, 10).rstrip() + "\n"}]
    reply = Reply(upstream, body(messages=messages, demo={"prefill": "anthropic"}))
    assert reply.status == 400
    assert "trailing whitespace" in reply.json()["error"]["message"]


@pytest.mark.parametrize("demo", [{}, {"reasoning": 3}, {"refusal": True}, {"tool_calls": 2}])
def test_the_places_a_fault_can_have_are_as_many_as_the_deltas(demo: Json) -> None:
    answer = Order.read(body(demo=demo, tools=TOOLS)).answer
    assert len(list(answer.deltas(0))) == answer.steps


def test_a_beginning_that_is_not_this_answers_is_refused(upstream: DemoUpstream) -> None:
    doubled = token(SEED, 0) + token(SEED, 0)
    reply = Reply(upstream, body(messages=[*MESSAGES, {"role": "assistant", "content": doubled}]))
    assert reply.status == 400
    assert "token 1" in reply.json()["error"]["message"]


# What it refuses


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"demo": {"tokns": 5}}, "demo.tokns"),
        ({"demo": {"tokens": True}}, "demo.tokens"),
        ({"demo": {"tokens": -1}}, "demo.tokens"),
        ({"demo": {"rate": float("nan")}}, "demo.rate"),
        ({"demo": {"timestamps": 1}}, "demo.timestamps"),
        ({"demo": {"record": True, "tokens": 100_001}}, "demo.record"),
        ({"demo": {"seed": "two\nlines"}}, "demo.seed"),
        ({"demo": {"tool_calls": 17}}, "demo.tool_calls"),
        ({"demo": {"tokens": 1_000_000, "token_bytes": 1_000}}, "demo.tokens"),
        ({"n": 100, "demo": {"fault": {"kind": "big_event", "bytes": 16_000_000}}}, "demo.tokens"),
        ({"demo": []}, "demo"),
        ({"demo": {"fault": "brake"}}, "demo.fault"),
        ({"demo": {"fault": ["break"]}}, "demo.fault"),
        ({"demo": {"fault": {"kind": "break", "seconds": 1}}}, "demo.fault.seconds"),
        ({"demo": {"fault": {"kind": "stall", "seconds": 3_601}}}, "demo.fault.seconds"),
        ({"demo": {"fault": {"status": 302}}}, "demo.fault.status"),
        ({"demo": {"fault": {"kind": "redirect", "status": 503}}}, "demo.fault.status"),
        ({"demo": {"fault": {"kind": "redirect", "location": "/a\r\nSet-Cookie: b"}}}, "demo.fault.location"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"model": None}, "model"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"stream": False, "stream_options": {"include_usage": True}}, "stream_options"),
        ({"tools": [{"type": "function"}], "demo": {"tool_calls": 1}}, "tools"),
    ],
)
def test_a_field_that_cannot_be_is_refused_by_its_name(upstream: DemoUpstream, fields: Json, name: str) -> None:
    reply = Reply(upstream, body() | fields)
    error = reply.json()["error"]
    assert reply.status == 400
    assert error["param"] == name
    assert error["message"].startswith(f"{name}: ")
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"text"', b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(upstream: DemoUpstream, raw: bytes) -> None:
    reply = Reply(upstream, raw)
    assert (reply.status, reply.json()["error"]["param"]) == (400, "body")
    assert ended(upstream)[0]["seed"] is None


def test_every_fault_can_be_named_alone_and_has_no_parameter_that_is_unknown() -> None:
    for kind, parameters in FAULTS.items():
        assert Fault.read(kind) == Fault.read({"kind": kind, **parameters})
        with pytest.raises(BadField, match="colour"):
            Fault.read({"kind": kind, "colour": "red"})
        assert Order.read(body(demo={"fault": {"kind": kind, "times": 1}})).fault == Fault.read(
            {"kind": kind, "times": 1}
        )


def test_an_unknown_path_is_an_error_of_the_same_shape(upstream: DemoUpstream) -> None:
    status, raw = ask(upstream, "GET", "/v1/engines")
    assert status == 404
    assert set(json.loads(raw)["error"]) == {"message", "type", "param", "code"}


def test_with_a_key_only_those_who_have_it_may_call() -> None:
    with DemoUpstream(key="right") as upstream:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "right"}):
            reply = Reply(upstream, body(), **headers)
            assert (reply.status, reply.json()["error"]["code"]) == (401, "invalid_api_key")
            assert ask(upstream, "GET", "/v1/models", **headers)[0] == 401
        assert status_of(upstream, body(), Authorization="Bearer right") == 200
        assert ask(upstream, "GET", "/v1/models", Authorization="Bearer right")[0] == 200
        assert [call["status"] for call in ended(upstream, 4)] == [401, 401, 401, 200]


# The record of calls


def test_a_call_is_recorded_with_its_request_and_headers(upstream: DemoUpstream) -> None:
    asked = body()
    before = time.time()
    Reply(upstream, asked, Authorization="Bearer k", **{"X-Trace": "abc"}).read()
    status, raw = ask(upstream, "GET", "/demo/calls")
    (call,) = json.loads(raw)
    assert status == 200
    assert before <= call["started"] <= call["ended"] <= time.time()
    assert (call["headers"]["authorization"], call["headers"]["x-trace"]) == ("Bearer k", "abc")
    assert {name: call[name] for name in ("seed", "model", "stream", "status", "tokens_sent", "request")} == {
        "seed": SEED,
        "model": "demo",
        "stream": True,
        "status": 200,
        "tokens_sent": 24,
        "request": asked,
    }
    assert (call["finished"], call["client_gone"]) == (True, False)


def test_a_client_that_leaves_stops_its_stream(upstream: DemoUpstream) -> None:
    reply = Reply(upstream, body(demo={"tokens": 100_000, "rate": 200}))
    reply.until(token(SEED, 5).encode())
    reply.leave()
    call = ended(upstream)[0]
    assert (call["client_gone"], call["finished"]) == (True, False)
    assert 6 <= call["tokens_sent"] < 100_000


def test_a_client_that_does_not_read_holds_its_stream_back(upstream: DemoUpstream) -> None:
    reply = Reply(upstream, body(demo={"tokens": 1_000, "token_bytes": 50_000}))
    eventually(upstream.calls, lambda calls: calls[0]["tokens_sent"] > 0)
    reply.leave()
    call = ended(upstream)[0]
    assert (call["client_gone"], call["finished"]) == (True, False)
    assert call["tokens_sent"] < 1_000


def test_a_client_that_leaves_an_answer_in_one_piece_is_noticed(upstream: DemoUpstream) -> None:
    connection = socket.create_connection(address(upstream), timeout=60)
    raw = json.dumps(body(stream=False, demo={"rate": 0.01})).encode()
    connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: d\r\nContent-Length: %d\r\n\r\n" % len(raw) + raw)
    eventually(upstream.calls, lambda calls: len(calls) == 1)
    connection.close()
    assert ended(upstream)[0]["client_gone"]


def test_a_client_that_leaves_after_done_has_not_left_too_soon(upstream: DemoUpstream) -> None:
    for _ in range(10):
        reply = Reply(upstream, body(demo={"tokens": 2}))
        reply.until(b"[DONE]")
        reply.leave()
    calls = ended(upstream, 10)
    assert [(call["finished"], call["client_gone"]) for call in calls] == [(True, False)] * 10


def test_deleting_the_calls_empties_them(upstream: DemoUpstream) -> None:
    Reply(upstream, body()).read()
    assert ask(upstream, "DELETE", "/demo/calls")[0] == 204
    assert json.loads(ask(upstream, "GET", "/demo/calls")[1]) == []


def test_the_record_keeps_the_last_ten_thousand_calls_and_so_many_bytes() -> None:
    log = CallLog()
    for n in range(10_005):
        log.add(Call(seed=str(n)), 1)
    assert [call["seed"] for call in log.shown()] == [str(n) for n in range(5, 10_005)]
    log.add(Call(seed="large"), 60 << 20)
    log.add(Call(seed="too large"), 60 << 20)
    assert [call["seed"] for call in log.shown()] == ["too large"]


# As a thread and as a process


def test_leaving_the_block_ends_what_is_running_and_is_not_the_clients_doing() -> None:
    with DemoUpstream() as upstream:
        reply = Reply(upstream, body(demo={"rate": 1}))
        reply.until(b"data: ")
        calls = upstream._provider.calls  # the server can no longer be asked
    (call,) = calls.shown()
    assert (call["ended"] is None, call["client_gone"], call["finished"]) == (False, False, False)
    reply.leave()
    with pytest.raises(ConnectionRefusedError):
        ask(upstream, "GET", "/v1/models")


def process(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-m", "local.demo_upstream", *arguments]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.Popen(command, cwd=ROOT, env=buffered, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_says_where_it_is_and_ends_cleanly_in_the_middle_of_a_stream(number: signal.Signals) -> None:
    running = process("--port", "0", "--key", "k")
    watchdog = threading.Timer(20, running.kill)
    watchdog.start()
    try:
        assert running.stdout is not None
        ready = running.stdout.readline()
        assert re.fullmatch(r"ready http://127\.0\.0\.1:\d+\n", ready)
        remote = DemoUpstream()
        remote.url = ready.split()[1]
        assert ask(remote, "GET", "/v1/models")[0] == 401
        reply = Reply(remote, body(demo={"rate": 1}), Authorization="Bearer k")
        reply.until(b"data: ")
        running.send_signal(number)
        out, err = running.communicate(timeout=60)
        assert (running.returncode, out, err) == (0, "", "")
        reply.leave()
    finally:
        watchdog.cancel()
        running.kill()
        running.communicate()


def test_a_taken_port_is_one_clear_line_and_no_success(
    upstream: DemoUpstream, capsys: pytest.CaptureFixture[str]
) -> None:
    port = address(upstream)[1]
    assert main(["--port", str(port)]) == 1
    assert capsys.readouterr() == ("", f"demo upstream: port {port} on 127.0.0.1 is taken\n")


@pytest.mark.parametrize("port", ["65536", "-1", "http", ""])
def test_a_port_that_is_none_is_refused(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([f"--port={port}"])
    assert "is not a port from 0 to 65535" in capsys.readouterr().err


def test_the_demo_upstream_knows_nothing_of_the_service() -> None:
    for path in (ROOT / "local").glob("demo_*.py"):
        imports = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        names = {getattr(node, "module", None) or node.names[0].name for node in imports}
        assert not any(name == "lib" or name.startswith("lib.") for name in names)
