"""OpenAI's Responses: what requests ask for, what events mean, and how errors are read and written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lib.dialects import DIALECTS
from lib.dialects.finishing import Ending, ending
from lib.dialects.protocol import Answer, Asked, Malformed, Read, Rest, folded
from lib.dialects.responses.output import Output
from lib.dialects.steps import (
    EndMark,
    Fault,
    File,
    Finish,
    Other,
    Reasoning,
    Refusal,
    Source,
    Step,
    Text,
    ToolCall,
    Usage,
)
from lib.domain.errors import InvalidRequest, NotFound, StillRunning
from lib.domain.event import Event

RESPONSES = DIALECTS["responses"]
ASKED = {"model": "gpt", "input": "Hi"}
LIMIT = "max_output_tokens"
USAGE = {"input_tokens": 7, "output_tokens": 9, "total_tokens": 16}
RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "status": "in_progress",
    "error": None,
    "incomplete_details": None,
    "model": "gpt-1",
    "output": [],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "usage": None,
}
CITED = {"type": "url_citation", "url": "https://a.example", "title": "A", "start_index": 0, "end_index": 1}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "look_up", "arguments": ""}
PICTURE = {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "AAAA"}
Json = dict[str, Any]


def event(kind: str, **fields: Any) -> Event:
    return Event(json.dumps({"type": kind, **fields}).encode(), kind.encode())


def delta(stem: str, piece: Any, index: int = 0, **fields: Any) -> Event:
    return event(f"response.{stem}.delta", delta=piece, output_index=index, **fields)


def added(item: Json, index: int = 0) -> Event:
    return event("response.output_item.added", item=item, output_index=index)


def done(item: Json, index: int = 0) -> Event:
    return event("response.output_item.done", item=item, output_index=index)


def part(kind: str, **fields: Any) -> Event:
    return event("response.content_part.added", part={"type": kind, **fields}, output_index=0, content_index=0)


def told(kind: str, **fields: Any) -> Event:
    """An event with the whole response."""
    return event(f"response.{kind}", response={**RESPONSE, "status": kind, **fields})


def read(event: Event) -> Read:
    return RESPONSES.reading().read(event)


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        (ASKED, Asked(model="gpt", streamed=False, output_tokens_field=LIMIT)),
        ({**ASKED, "stream": True, "unheard_of": [1]}, Asked(model="gpt", streamed=True, output_tokens_field=LIMIT)),
        (
            {**ASKED, "input": [{"role": "user", "content": "Hi"}], "background": True, "max_output_tokens": 10},
            Asked(model="gpt", streamed=False, output_tokens=10, output_tokens_field=LIMIT),
        ),
    ],
)
def test_a_request_says_what_it_asks_for(body: Json, asked: Asked) -> None:
    assert RESPONSES.check(body) == asked


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ([], None),
        ({**ASKED, "model": ""}, "model"),
        ({**ASKED, "input": ""}, "input"),
        ({**ASKED, "input": []}, "input"),
        ({**ASKED, "input": None}, "input"),
        ({**ASKED, "input": [{"role": "user"}, "Hi"]}, "input[1]"),
        ({**ASKED, "max_output_tokens": "10"}, "max_output_tokens"),
        ({**ASKED, "max_output_tokens": True}, "max_output_tokens"),
        ({**ASKED, "max_output_tokens": 0}, "max_output_tokens"),
        ({**ASKED, "stream": "yes"}, "stream"),
        ({**ASKED, "background": "yes"}, "background"),
    ],
)
def test_a_wrong_request_is_refused_and_the_field_named(body: object, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as refused:
        RESPONSES.check(body)
    assert refused.value.param == param


def test_the_upstream_gets_the_request_but_for_the_background_which_is_this_service() -> None:
    outgoing = RESPONSES.outgoing({**ASKED, "background": True}, ask_usage=True)
    assert (outgoing.path, json.loads(outgoing.body), outgoing.headers) == ("/responses", ASKED, ())


def test_a_request_becomes_one_for_a_stream() -> None:
    assert RESPONSES.streaming({**ASKED, "stream": False}) == {**ASKED, "stream": True}


@pytest.mark.parametrize(
    ("event", "steps"),
    [
        *[(told(kind), ()) for kind in ("queued", "in_progress")],
        (event("response.created", response=RESPONSE), ()),
        (added({"type": "message", "id": "msg_1", "content": []}), ()),
        (added({"type": "reasoning", "id": "rs_1", "summary": []}), ()),
        (added(CALL, 1), (ToolCall(1, "call_1", "look_up", ""),)),
        *[
            (added({"type": kind, "id": "x"}), (Other(),))
            for kind in ("web_search_call", "image_generation_call", "custom_tool_call", "mcp_call", "unheard_of")
        ],
        (part("output_text", text="", annotations=[]), ()),
        (part("refusal", refusal=""), ()),
        (part("unheard_of"), (Other(),)),
        (delta("output_text", "Hi", content_index=0), (Text("Hi"),)),
        (delta("output_text", ""), ()),
        (delta("refusal", "No."), (Refusal("No."),)),
        (delta("reasoning_text", "Hm."), (Reasoning("Hm."),)),
        (delta("reasoning_summary_text", "Hm.", summary_index=0), (Reasoning("Hm."),)),
        (event("response.reasoning_summary_part.added", summary_index=0, part={}), ()),
        (event("response.reasoning_summary_part.added", summary_index=1, part={}), (Reasoning("\n\n"),)),
        (delta("function_call_arguments", '{"a', 1), (ToolCall(1, "", "", '{"a'),)),
        (delta("function_call_arguments", "", 1), ()),
        (event("response.output_text.annotation.added", annotation=CITED), (Source("https://a.example", "A"),)),
        (event("response.output_text.annotation.added", annotation={"type": "file_citation"}), ()),
        (event("response.output_text.done", text="Hi"), ()),
        (event("response.function_call_arguments.done", arguments="{}"), ()),
        (done({**CALL, "arguments": "{}"}), ()),
        (done(PICTURE), (File("data:image/png;base64,AAAA", "image/png"),)),
        (
            done({**PICTURE, "output_format": "webp"}),
            (File("data:image/webp;base64,AAAA", "image/webp"),),
        ),
        (event("response.web_search_call.searching", item_id="ws_1"), ()),
        (event("response.unheard_of.delta", delta={"x": 1}), ()),
        (event("unheard_of", text="Hi"), ()),
        (
            told("completed", usage=USAGE, output=[PICTURE]),
            (Finish("completed"), Usage(USAGE), EndMark()),
        ),
        (
            told("incomplete", incomplete_details={"reason": "max_output_tokens"}),
            (Finish("max_output_tokens"), EndMark()),
        ),
        (told("incomplete"), (Finish("incomplete"), EndMark())),
    ],
)
def test_each_event_has_its_meaning_and_is_kept_as_it_came(event: Event, steps: tuple[Step, ...]) -> None:
    its = read(event)
    assert (its.steps, its.kept, its.event) == (steps, True, event)
    assert RESPONSES.read(event) == its


def test_the_end_of_a_stream_is_kept_and_no_other_follows_it() -> None:
    assert (RESPONSES.end_mark, RESPONSES.ping) == (None, None)


@pytest.mark.parametrize(
    ("reason", "meaning"),
    [("completed", Ending.STOP), ("max_output_tokens", Ending.LENGTH), ("content_filter", Ending.FILTER)],
)
def test_a_finish_reason_has_a_meaning(reason: str, meaning: Ending) -> None:
    assert ending(reason) is meaning


def test_an_event_without_its_name_gets_it() -> None:
    named = delta("output_text", "Hi")
    assert read(Event(named.data)).event == named
    assert read(Event(b'{"type":"un\\nheard"}')).event.name == b""


@pytest.mark.parametrize(
    "data",
    [
        b"[1]",
        b"no JSON",
        b'{"choices": [{"index": 0, "delta": {"content": "Hi"}}]}',
        b'{"type": ""}',
        b'{"type": 1, "object": "response"}',
        b'{"type": "response.created"}',
        b'{"type": "response.completed", "response": null}',
        b'{"type": "response.completed", "response": {"output": "Hi"}}',
        b'{"type": "response.output_text.delta", "delta": {"text": "Hi"}}',
        b'{"type": "response.function_call_arguments.delta"}',
        b'{"type": "response.output_item.added", "item": "Hi"}',
        b'{"type": "response.output_item.done"}',
        b'{"type": "response.content_part.added", "part": null}',
    ],
)
def test_what_is_no_event_of_this_api_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        read(Event(data))


LIMITED = {"code": "rate_limit_exceeded", "message": "Later.", "param": None}


@pytest.mark.parametrize(
    ("event", "message", "code", "status", "passing"),
    [
        (event("error", sequence_number=3, **LIMITED), "Later.", "rate_limit_exceeded", 429, True),
        (event("error", error={**LIMITED, "type": "requests"}), "Later.", "rate_limit_exceeded", 429, True),
        (Event(json.dumps({"type": "error", **LIMITED}).encode()), "Later.", "rate_limit_exceeded", 429, True),
        (Event(b"it broke", b"error"), "it broke", "upstream_error", None, False),
        (Event(b'{"error": {"message": "No.", "code": 503}}'), "No.", "503", 503, True),
        (
            told("failed", error={"code": "server_error", "message": "It broke."}),
            "It broke.",
            "server_error",
            500,
            True,
        ),
        (told("failed", error={"code": "invalid_prompt", "message": "No."}), "No.", "invalid_prompt", 400, False),
        (
            told("failed", error={"code": "vector_store_timeout", "message": "Slow."}),
            "Slow.",
            "vector_store_timeout",
            504,
            True,
        ),
        (told("failed"), "The upstream reported an error.", "upstream_error", None, False),
        (told("cancelled"), "The upstream cancelled the answer.", "cancelled", None, False),
        (told("completed", error={"message": "No."}), "No.", "upstream_error", None, False),
        (
            Event(json.dumps({**RESPONSE, "status": "failed"}).encode()),
            "The upstream reported an error.",
            "upstream_error",
            None,
            False,
        ),
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
        assert (own["type"], own["error"]["message"]) == ("error", message)
        assert json.loads(RESPONSES.error(StillRunning("x"), fault.body.encode()).data)["error"] == own["error"]


def test_an_error_that_is_null_is_none() -> None:
    assert read(delta("output_text", "Hi", error=None)).steps == (Text("Hi"),)


def test_a_tool_s_error_is_no_error_of_the_answer() -> None:
    assert read(done({"type": "mcp_call", "id": "m", "error": {"message": "No."}, "status": "failed"})).kept is True


def test_a_refusal_has_the_upstream_s_words_and_says_whether_it_passes() -> None:
    fault = RESPONSES.fault(429, json.dumps({"error": LIMITED}).encode())
    assert (fault.message, fault.code, fault.status, fault.passing) == ("Later.", "rate_limit_exceeded", 429, True)
    assert RESPONSES.fault(400, b"<html>").message == "The upstream answered with status 400."


def test_an_error_of_ours_is_an_event_as_documented_and_as_the_sdks_raise_it() -> None:
    written = RESPONSES.error(NotFound("Where?", param="previous_response_id"))
    assert written.name == b"error"
    assert json.loads(written.data) == {
        "type": "error",
        "sequence_number": 0,
        "code": "not_found",
        "message": "Where?",
        "param": "previous_response_id",
        "error": {
            "type": "invalid_request_error",
            "code": "not_found",
            "message": "Where?",
            "param": "previous_response_id",
        },
    }


def test_an_error_in_another_shape_is_written_anew() -> None:
    assert json.loads(RESPONSES.error(InvalidRequest("No."), b'{"detail": "Nein."}').data)["message"] == "No."


WHOLE = {
    **RESPONSE,
    "status": "completed",
    "usage": USAGE,
    "output": [
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "Hm."}, {"type": "summary_text", "text": "So."}],
            "content": [{"type": "reasoning_text", "text": "I think."}],
            "encrypted_content": "abc",
        },
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [
                {"type": "refusal", "refusal": "No."},
                {"type": "output_text", "text": "It is so.", "annotations": [CITED], "logprobs": []},
                {"type": "unheard_of", "x": {"y": [1]}},
            ],
        },
        {**CALL, "arguments": '{"a":1}', "status": "completed"},
        {"type": "custom_tool_call", "id": "ctc_1", "call_id": "c", "name": "run", "input": "ls"},
        {"type": "mcp_call", "id": "mcp_1", "name": "n", "arguments": "{}", "output": None, "error": {"code": 1}},
        PICTURE,
    ],
}


def test_a_whole_body_is_one_event_for_who_did_not_ask_for_a_stream() -> None:
    body = json.dumps(WHOLE, indent=1).encode()
    (event,) = RESPONSES.events(b"\xef\xbb\xbf" + body.replace(b"\n", b"\r\n"), streamed=False)
    assert event == Event(body)
    assert folded(RESPONSES, [event]).body() == body
    assert read(event).steps == (
        Reasoning("I think."),
        Reasoning("Hm."),
        Reasoning("\n\nSo."),
        Refusal("No."),
        Text("It is so."),
        Source("https://a.example", "A"),
        Other(),
        ToolCall(2, "call_1", "look_up", '{"a":1}'),
        Other(),
        Other(),
        File("data:image/png;base64,AAAA", "image/png"),
        Finish("completed"),
        Usage(USAGE),
    )


@pytest.mark.parametrize("status", ["completed", "incomplete"])
def test_a_whole_body_becomes_the_events_of_a_stream_that_adds_up_to_it(status: str) -> None:
    whole = {**WHOLE, "status": status}
    events = RESPONSES.events(json.dumps(whole).encode(), streamed=True)
    names = [each.name.decode().removeprefix("response.") for each in events]
    assert names[:3] == ["created", "in_progress", "output_item.added"]
    assert names[-2:] == ["output_item.done", status]
    assert [json.loads(each.data)["sequence_number"] for each in events] == list(range(len(events)))
    answer = folded(RESPONSES, events)
    assert (json.loads(answer.body()), answer.finished) == (whole, True)
    unended = folded(RESPONSES, events[:-1])
    assert isinstance(unended, Output)
    assert unended.items() == WHOLE["output"]
    assert answer.said() == folded(RESPONSES, RESPONSES.events(json.dumps(whole).encode(), streamed=False)).said()


@pytest.mark.parametrize(
    "body", [b"[]", b'"Hi"', b"{}", b'{"choices": []}', b'{"object": "response", "output": "Hi"}', b'{"output": []}']
)
def test_a_body_that_is_no_response_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        RESPONSES.events(body, streamed=True)


@pytest.mark.parametrize(
    "value", [{"error": LIMITED}, [{"error": LIMITED}], {**RESPONSE, "status": "failed", "error": LIMITED}]
)
def test_a_body_that_is_an_error_is_one(value: Any) -> None:
    (event,) = RESPONSES.events(json.dumps(value).encode(), streamed=True)
    (fault,) = read(event).steps
    assert isinstance(fault, Fault)
    assert fault.code == "rate_limit_exceeded"


def test_a_character_that_two_events_share_is_whole_in_the_second() -> None:
    reading = RESPONSES.reading()
    first = reading.read(Event(b'{"type":"response.output_text.delta","output_index":0,"delta":"a\\ud83e"}'))
    other = reading.read(Event(b'{"type":"response.output_text.delta","output_index":1,"delta":"b"}'))
    second = reading.read(Event(b'{"type":"response.output_text.delta","output_index":0,"delta":"\\udd8a"}'))
    assert [each.text for each in (first, other, second)] == ["a", "b", "\U0001f98a"]
    assert second.event.name == b"response.output_text.delta"


def saved(*events: Event) -> Answer:
    return folded(RESPONSES, events)


def rest_of(answer: Answer) -> Rest | None:
    return RESPONSES.rest(ASKED, answer, None)


def test_an_answer_that_has_begun_is_not_continued() -> None:
    assert rest_of(saved(delta("output_text", "It is"))) is None
    assert rest_of(saved(added(CALL))) is None


def test_an_answer_without_an_event_is_asked_for_again_as_it_was() -> None:
    rest = rest_of(saved())
    assert rest is not None
    assert rest.request == ASKED
    assert rest.reading.read(told("queued")).kept is True


def numbered(*events: Event) -> list[Event]:
    return [
        Event(json.dumps({**json.loads(data), "sequence_number": n}).encode(), name)
        for n, (data, name) in enumerate(events)
    ]


def test_a_silent_answer_starts_again_after_what_is_saved_of_its_beginning() -> None:
    begun = numbered(told("queued"), told("in_progress"), added({"type": "reasoning", "id": "rs_1", "summary": []}))
    answer = saved(*begun)
    rest = rest_of(answer)
    assert rest is not None
    seen = []
    again = numbered(
        told("queued", id="resp_2"),
        told("in_progress", id="resp_2"),
        added({"type": "message", "id": "msg_2", "content": []}),
        delta("output_text", "Hi", content_index=0),
        told(
            "completed", id="resp_2", output=[{"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}]
        ),
    )
    for each in again:
        its = rest.reading.read(each)
        if its.kept:
            answer.add(its)
            seen.append(json.loads(its.event.data))
            assert its.event.name.decode() == seen[-1]["type"]
    assert [(each["type"], each.get("output_index"), each["sequence_number"]) for each in seen] == [
        ("response.output_item.added", 1, 3),
        ("response.output_text.delta", 1, 4),
        ("response.completed", None, 5),
    ]
    assert isinstance(answer, Output)
    assert (answer.id, answer.said().fields["content"], len(answer.items())) == ("resp_2", "Hi", 1)
