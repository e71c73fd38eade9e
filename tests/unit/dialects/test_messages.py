"""Anthropic's Messages: what requests ask for, what events mean, and how errors are read and written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lib.dialects import DIALECTS
from lib.dialects.conversation import Conversation, Role, Turn, Words
from lib.dialects.protocol import Asked, Malformed, Read, folded
from lib.dialects.steps import EndMark, Fault, Finish, Other, Reasoning, Refusal, Text, ToolCall, Usage
from lib.domain.end import End, State
from lib.domain.errors import InvalidRequest, NotFound, StillRunning, TooManyRequests, Unauthenticated
from lib.domain.event import Event
from lib.wires.failures import Interrupted, UpstreamRefusal

MESSAGES = DIALECTS["messages"]
ASKED = {"model": "claude", "max_tokens": 10, "messages": [{"role": "user", "content": "Hi"}]}
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-1",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {"input_tokens": 7, "output_tokens": 1},
}
Json = dict[str, Any]


def event(kind: str, **fields: Any) -> Event:
    return Event(json.dumps({"type": kind, **fields}).encode(), kind.encode())


def delta(kind: str, index: int = 0, **fields: Any) -> Event:
    return event("content_block_delta", index=index, delta={"type": kind, **fields})


def start(kind: str, index: int = 0, **fields: Any) -> Event:
    return event("content_block_start", index=index, content_block={"type": kind, **fields})


def end(reason: str, **fields: Any) -> Event:
    return event("message_delta", delta={"stop_reason": reason, **fields}, usage={"output_tokens": 9})


def read(event: Event) -> Read:
    return MESSAGES.reading().read(event)


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        (ASKED, Asked(model="claude", streamed=False, output_tokens=10)),
        ({**ASKED, "stream": True}, Asked(model="claude", streamed=True, output_tokens=10)),
        (
            {**ASKED, "stream": None, "system": "Be brief.", "unheard_of": [1]},
            Asked(model="claude", streamed=False, output_tokens=10),
        ),
    ],
)
def test_a_request_says_what_it_asks_for(body: Json, asked: Asked) -> None:
    assert MESSAGES.check(body) == asked


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ([], None),
        ({**ASKED, "model": ""}, "model"),
        ({**ASKED, "messages": []}, "messages"),
        ({**ASKED, "messages": [{"role": "user"}, "Hi"]}, "messages[1]"),
        ({**ASKED, "max_tokens": "10"}, "max_tokens"),
        ({**ASKED, "max_tokens": True}, "max_tokens"),
        ({**ASKED, "max_tokens": -1}, "max_tokens"),
        ({**ASKED, "stream": "yes"}, "stream"),
    ],
)
def test_a_wrong_request_is_refused_and_the_field_named(body: object, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as refused:
        MESSAGES.check(body)
    assert refused.value.param == param


def test_the_upstream_gets_the_request_with_a_version_unless_the_client_has_named_one() -> None:
    outgoing = MESSAGES.outgoing(ASKED, ask_usage=True)
    assert (outgoing.path, json.loads(outgoing.body)) == ("/messages", ASKED)
    assert outgoing.headers == (("anthropic-version", "2023-06-01"),)
    client = {"anthropic-version": "2030-01-01", "anthropic-beta": "a,b"}
    assert MESSAGES.outgoing(ASKED, ask_usage=False, headers=client).headers == tuple(client.items())
    assert client.keys() == set(MESSAGES.headers)


@pytest.mark.parametrize(
    ("model", "most"),
    [
        *[(name, 4_096) for name in ("claude-3-haiku-20240307", "anthropic.claude-v2:1", "anthropic/claude-3-opus")],
        *[(name, 8_192) for name in ("claude-3-5-sonnet-20241022", "anthropic/claude-3.5-haiku")],
        *[(f"claude-opus-4{rest}", 32_000) for rest in ("", "-0", "-1-20250805", "-20250514", "@20250514", ".1")],
        *[(f"claude-opus-4{rest}", 64_000) for rest in ("-5", "-5-20251101", ".6", "-7")],
        *[(name, 64_000) for name in ("claude-3-7-sonnet-20250219", "claude-sonnet-4-20250514", "claude-haiku-4-5")],
        *[(name, 64_000) for name in ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "Claude-Sonnet-9")],
        ("another", 4_096),
    ],
)
def test_a_conversation_without_a_limit_gets_one_that_its_model_takes(model: str, most: int) -> None:
    turn = Turn(role=Role.USER, parts=(Words(text="Hi"),))
    request = MESSAGES.written(Conversation(model=model, turns=(turn,)))
    assert MESSAGES.check(request).output_tokens is None
    assert json.loads(MESSAGES.outgoing(request, ask_usage=True).body)["max_tokens"] == most


def test_a_request_in_the_api_itself_is_sent_as_it_came_with_a_limit_or_without() -> None:
    without = {name: value for name, value in ASKED.items() if name != "max_tokens"}
    for asked in ({**ASKED, "max_tokens": 0}, without):
        assert json.loads(MESSAGES.outgoing(asked, ask_usage=True).body) == asked


def test_a_request_becomes_one_for_a_stream() -> None:
    assert MESSAGES.streaming({**ASKED, "stream": False}) == {**ASKED, "stream": True}


@pytest.mark.parametrize(
    ("event", "steps"),
    [
        (event("message_start", message=MESSAGE), (Usage({"input_tokens": 7, "output_tokens": 1}),)),
        (start("text", text=""), ()),
        (start("text", text="Hi"), (Text("Hi"),)),
        (start("thinking", thinking="", signature=""), ()),
        (start("redacted_thinking", data="abc"), (Other(),)),
        (start("tool_use", 1, id="t", name="look_up", input={}), (ToolCall(1, "t", "look_up", ""),)),
        (start("tool_use", 1, id="t", name="n", input={"a": 1}), (ToolCall(1, "t", "n", '{"a":1}'),)),
        (start("server_tool_use", 1, id="s", name="web_search", input={}), (Other(),)),
        (start("web_search_tool_result", 2, tool_use_id="s", content=[]), (Other(),)),
        (start("unheard_of", 3), (Other(),)),
        (delta("text_delta", text="Hi"), (Text("Hi"),)),
        (delta("text_delta", text=""), ()),
        (delta("thinking_delta", thinking="Hm."), (Reasoning("Hm."),)),
        (delta("signature_delta", signature="abc"), ()),
        (delta("input_json_delta", 1, partial_json='{"a'), (ToolCall(1, "", "", '{"a'),)),
        (delta("input_json_delta", 1, partial_json=""), ()),
        (delta("citations_delta", citation={"cited_text": "It is."}), (Other(),)),
        (delta("unheard_of", x=1), (Other(),)),
        (event("content_block_stop", index=0), ()),
        (event("unheard_of", text="Hi"), ()),
        *[
            (end(reason), (Finish(reason), Usage({"output_tokens": 9})))
            for reason in ("end_turn", "max_tokens", "stop_sequence", "tool_use", "pause_turn", "refusal", "unheard_of")
        ],
        (
            end("refusal", stop_details={"type": "refusal", "explanation": "No."}),
            (Refusal("No."), Finish("refusal"), Usage({"output_tokens": 9})),
        ),
        (event("message_delta", delta={"stop_reason": "null"}), ()),
        (event("message_delta", delta={"stop_reason": ""}, usage={"output_tokens": None}), ()),
    ],
)
def test_each_event_has_its_meaning_and_is_kept_as_it_came(event: Event, steps: tuple[Any, ...]) -> None:
    its = read(event)
    assert (its.steps, its.kept, its.event) == (steps, True, event)
    assert MESSAGES.read(event) == its


def test_a_ping_and_the_end_mark_are_not_kept() -> None:
    assert (read(event("ping")).steps, read(event("ping")).kept) == ((), False)
    assert MESSAGES.end_mark is not None
    for mark in (event("message_stop"), MESSAGES.end_mark):
        assert (read(mark).steps, read(mark).kept) == ((EndMark(),), False)
    assert MESSAGES.ping is not None
    assert read(MESSAGES.ping).kept is False


def test_an_event_without_its_name_gets_it() -> None:
    named = delta("text_delta", text="Hi")
    assert read(Event(named.data)).event == named
    assert read(Event(b'{"type":"un\\nheard"}')).event.name == b""


@pytest.mark.parametrize(
    "data",
    [
        b"[1]",
        b"no JSON",
        b'{"choices": [{"index": 0, "delta": {"content": "Hi"}}]}',
        b'{"type": ""}',
        b'{"type": "message_start", "message": null}',
        b'{"type": "message_start", "message": {"content": "Hi"}}',
        b'{"type": "content_block_start", "index": 0}',
        b'{"type": "content_block_delta", "index": 0, "delta": "Hi"}',
    ],
)
def test_what_is_no_event_of_this_api_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        read(Event(data))


OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}, "request_id": "req_1"}


@pytest.mark.parametrize(
    ("event", "message", "code", "status", "passing"),
    [
        (Event(json.dumps(OVERLOADED).encode(), b"error"), "Overloaded", "overloaded_error", 529, True),
        (Event(json.dumps(OVERLOADED).encode()), "Overloaded", "overloaded_error", 529, True),
        (Event(b"it broke", b"error"), "it broke", "upstream_error", None, False),
        (Event(b'{"error": {"message": "No.", "code": 503}}'), "No.", "503", 503, True),
        (Event(b'{"error": "No."}', b"error"), "No.", "upstream_error", None, False),
        (
            event("error", error={"type": "invalid_request_error", "message": "No."}),
            "No.",
            "invalid_request_error",
            400,
            False,
        ),
        (
            event("error", error={"type": "authentication_error", "message": "Whose?"}),
            "Whose?",
            "authentication_error",
            None,
            False,
        ),
        (delta("text_delta", text="", error={"message": "No."}), "No.", "upstream_error", None, False),
        (event("message_start", message={"error": {"message": "No."}}), "No.", "upstream_error", None, False),
        (end("error"), "The upstream reported an error.", "upstream_error", None, False),
    ],
)
def test_an_error_at_any_level_is_the_upstream_s_fault(
    event: Event, message: str, code: str, status: int | None, passing: bool
) -> None:
    its = read(event)
    (fault,) = its.steps
    assert isinstance(fault, Fault)
    assert (fault.message, fault.code, fault.status, fault.passing) == (message, code, status, passing)
    assert its.kept is False
    if fault.body:
        own = json.loads(fault.body)
        assert (own["type"], isinstance(own["error"], dict)) == ("error", True)


def test_an_error_is_kept_as_it_came() -> None:
    data = json.dumps(OVERLOADED, indent=1).encode()
    (fault,) = read(Event(data, b"error")).steps
    assert isinstance(fault, Fault)
    assert fault.body.encode() == data
    assert MESSAGES.error(StillRunning("x"), data) == Event(data, b"error")


def test_an_error_that_is_null_is_none() -> None:
    assert read(delta("text_delta", text="Hi", error=None)).steps == (Text("Hi"),)


def test_a_tool_s_error_is_no_error_of_the_answer() -> None:
    failed = {"type": "web_search_tool_result_error", "error_code": "unavailable"}
    assert read(start("web_search_tool_result", 1, content=failed)).steps == (Other(),)


def test_a_refusal_has_the_upstream_s_words_and_says_whether_it_passes() -> None:
    fault = MESSAGES.fault(529, json.dumps(OVERLOADED).encode())
    assert (fault.message, fault.code, fault.status, fault.passing) == ("Overloaded", "overloaded_error", 529, True)
    assert MESSAGES.fault(400, b"<html>").message == "The upstream answered with status 400."


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidRequest("No."), "invalid_request_error"),
        (Unauthenticated("Who?"), "authentication_error"),
        (NotFound("Where?"), "not_found_error"),
        (TooManyRequests("Later."), "rate_limit_error"),
        (StillRunning("On and on."), "timeout_error"),
        (
            Interrupted(End(state=State.INCOMPLETE, error={"message": "Broke off.", "type": "overloaded_error"})),
            "overloaded_error",
        ),
        (
            Interrupted(End(state=State.INCOMPLETE, error={"message": "Broke off.", "type": "server_error"})),
            "api_error",
        ),
        (UpstreamRefusal(End(state=State.FAILED, error={"message": "No.", "status": 529})), "overloaded_error"),
        (UpstreamRefusal(End(state=State.FAILED, error={"message": "No.", "status": 422})), "invalid_request_error"),
        (UpstreamRefusal(End(state=State.FAILED, error={"message": "No."})), "api_error"),
    ],
)
def test_an_error_of_ours_is_written_as_this_api_writes_it(error: Any, kind: str) -> None:
    written = MESSAGES.error(error)
    fields = json.loads(written.data)
    assert (written.name, fields["type"], fields["error"]["type"]) == (b"error", "error", kind)
    assert fields["error"]["message"] == error.message
    assert fields["error"]["details"]["error_code"] == error.code


def test_an_error_in_another_shape_is_written_anew() -> None:
    own = b'{"detail": "No."}'
    assert json.loads(MESSAGES.error(InvalidRequest("No.", param="model"), own).data)["error"] == {
        "type": "invalid_request_error",
        "message": "No.",
        "details": {"error_code": "invalid_request", "param": "model"},
    }


WHOLE = {
    **MESSAGE,
    "content": [
        {"type": "thinking", "thinking": "Hm.", "signature": "s"},
        {"type": "redacted_thinking", "data": "abc"},
        {"type": "text", "text": "It is so. ", "citations": [{"type": "char_location", "cited_text": "so"}]},
        {"type": "text", "text": "Look:"},
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "so"}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"type": "web_search_result", "url": "u"}]},
        {"type": "tool_use", "id": "t", "name": "look_up", "input": {"a": [1, {"b": None}]}},
        {"type": "unheard_of", "x": {"y": [1]}},
    ],
    "stop_reason": "tool_use",
    "container": {"id": "c"},
}


def test_a_whole_body_is_one_event_for_who_did_not_ask_for_a_stream() -> None:
    body = json.dumps(WHOLE, indent=1).encode()
    (event,) = MESSAGES.events(b"\xef\xbb\xbf" + body.replace(b"\n", b"\r\n"), streamed=False)
    assert event == Event(body)
    assert folded(MESSAGES, [event]).body() == body


def test_a_whole_body_becomes_the_events_of_a_stream_that_adds_up_to_it() -> None:
    events = MESSAGES.events(json.dumps(WHOLE).encode(), streamed=True)
    assert [each.name for each in events[:2]] == [b"message_start", b"content_block_start"]
    assert events[-1].name == b"message_delta"
    answer = folded(MESSAGES, events)
    assert json.loads(answer.body()) == WHOLE
    assert answer.finished
    assert answer.said() == folded(MESSAGES, MESSAGES.events(json.dumps(WHOLE).encode(), streamed=False)).said()


@pytest.mark.parametrize("body", [b"[]", b'"Hi"', b"{}", b'{"choices": []}', b'{"type": "message", "content": "Hi"}'])
def test_a_body_that_is_no_message_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        MESSAGES.events(body, streamed=True)


@pytest.mark.parametrize("body", [json.dumps(OVERLOADED).encode(), json.dumps([OVERLOADED]).encode()])
def test_a_body_that_is_an_error_is_one(body: bytes) -> None:
    (event,) = MESSAGES.events(body, streamed=True)
    (fault,) = read(event).steps
    assert isinstance(fault, Fault)
    assert fault.code == "overloaded_error"


def test_a_character_that_two_events_share_is_whole_in_the_second() -> None:
    reading = MESSAGES.reading()
    first = reading.read(
        Event(b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a\\ud83e"}}')
    )
    other = reading.read(Event(b'{"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"b"}}'))
    second = reading.read(
        Event(b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"\\udd8a"}}')
    )
    assert [each.text for each in (first, other, second)] == ["a", "b", "\U0001f98a"]
    assert second.event.name == b"content_block_delta"
