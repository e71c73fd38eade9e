"""The events and the object of OpenAI's Responses that an answer's steps become."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel

from lib.dialects import DIALECTS
from lib.dialects.steps import File, Finish, Other, Reasoning, Refusal, Source, Step, Text, ToolCall, Usage
from lib.domain.end import End, State
from lib.domain.errors import Unreachable
from lib.domain.event import Event
from lib.serving.feed import Piece
from lib.wires.responses.request import SHOWN
from lib.wires.responses.stream import Numbered, ResponseStream
from lib.wires.responses.wire import chunks
from tests.unit.wires.scripted_tail import ScriptedTail, chunk

Json = dict[str, Any]
ABOUT: Json = {"id": "resp_g1", "object": "response", "created_at": 7, "model": "demo", **SHOWN}
USED = {"prompt_tokens": 3, "completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 1}}
DONE = End(state=State.COMPLETED, usage=USED, at=datetime.fromtimestamp(9, UTC))
BROKEN = {"message": "It broke.", "code": "E9"}
CHAT = DIALECTS["chat_completions"]
EVENTS: dict[str, type[BaseModel]] = {
    get_args(each.model_fields["type"].annotation)[0]: each for each in get_args(get_args(ResponseStreamEvent)[0])
}


def stream(*, queued: bool = False) -> ResponseStream:
    return ResponseStream(ABOUT, "g1", CHAT, queued=queued)


def payloads(events: list[Numbered]) -> list[Json]:
    """The events' data, each checked to be one that OpenAI's SDK has a type for, with its name and number."""
    read = [json.loads(event.data) for _, event in events]
    for payload, (number, event) in zip(read, events, strict=True):
        assert (payload["type"].encode(), payload["sequence_number"]) == (event.name, number)
        if payload["type"] != "response.failed":  # the SDK's type lists OpenAI's own codes
            EVENTS[payload["type"]].model_validate(payload)
    return read


def rendered(*steps: Step, end: End = DONE, queued: bool = False) -> list[Json]:
    """All events; each step is an event of the journal."""
    rendering = stream(queued=queued)
    events = rendering.begin()
    for step in steps:
        events += rendering.add([step])
    return payloads(events + rendering.end(end))


def brief(events: list[Json]) -> list[Json]:
    """The events between the beginning and the end, without what they all have."""
    inner = [event for event in events if "response" not in event]
    return [
        {"type": event["type"].removeprefix("response."), **{name: event[name] for name in event if name not in _ALL}}
        for event in inner
    ]


_ALL = ("type", "sequence_number", "item_id", "output_index")


def text_part(text: str, *annotations: Json) -> Json:
    return {"type": "output_text", "text": text, "annotations": list(annotations), "logprobs": []}


def message(text: str, status: str = "completed", number: int = 0) -> Json:
    about = {"id": f"msg_g1_{number}", "type": "message", "status": status, "role": "assistant"}
    return {**about, "content": [text_part(text)] if text else []}


def test_text_is_one_message() -> None:
    events = rendered(Text("Hel"), Text("lo"), Usage({}), Finish("stop"))
    assert [event["sequence_number"] for event in events] == list(range(10))
    assert {event["item_id"] for event in events if "item_id" in event} == {"msg_g1_0"}
    assert {event["output_index"] for event in events if "output_index" in event} == {0}
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    assert brief(events) == [
        {"type": "output_item.added", "item": message("", "in_progress")},
        {"type": "content_part.added", "content_index": 0, "part": text_part("")},
        {"type": "output_text.delta", "content_index": 0, "delta": "Hel", "logprobs": []},
        {"type": "output_text.delta", "content_index": 0, "delta": "lo", "logprobs": []},
        {"type": "output_text.done", "content_index": 0, "text": "Hello", "logprobs": []},
        {"type": "content_part.done", "content_index": 0, "part": text_part("Hello")},
        {"type": "output_item.done", "item": message("Hello")},
    ]
    assert events[-1] == {
        "type": "response.completed",
        "sequence_number": 9,
        "response": {
            **ABOUT,
            "status": "completed",
            "completed_at": 9,
            "error": None,
            "incomplete_details": None,
            "output": [message("Hello")],
            "usage": {
                "input_tokens": 3,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": 2,
                "output_tokens_details": {"reasoning_tokens": 1},
                "total_tokens": 5,
            },
        },
    }
    assert Response.model_validate(events[-1]["response"]).output_text == "Hello"


def test_a_response_begins_with_no_output_in_the_state_that_it_is_in() -> None:
    begun = {**ABOUT, "completed_at": None, "error": None, "incomplete_details": None, "output": [], "usage": None}
    first, second, *_ = rendered(Text("a"))
    assert [first["response"], second["response"]] == [{**begun, "status": "in_progress"}] * 2
    kinds = [(event["type"], event["response"]["status"]) for event in rendered(Text("a"), queued=True)[:3]]
    assert kinds == [
        ("response.created", "queued"),
        ("response.queued", "queued"),
        ("response.in_progress", "in_progress"),
    ]


def test_thinking_is_an_item_of_its_own_before_the_text() -> None:
    events = rendered(Reasoning("hm"), Reasoning("m"), Text("a"), Reasoning("oh"), Text("b"))
    part = {"type": "summary_text", "text": "hmm"}
    assert brief(events)[:7] == [
        {"type": "output_item.added", "item": {"id": "rs_g1_0", "type": "reasoning", "summary": []}},
        {"type": "reasoning_summary_part.added", "summary_index": 0, "part": {**part, "text": ""}},
        {"type": "reasoning_summary_text.delta", "summary_index": 0, "delta": "hm"},
        {"type": "reasoning_summary_text.delta", "summary_index": 0, "delta": "m"},
        {"type": "reasoning_summary_text.done", "summary_index": 0, "text": "hmm"},
        {"type": "reasoning_summary_part.done", "summary_index": 0, "part": part},
        {"type": "output_item.done", "item": {"id": "rs_g1_0", "type": "reasoning", "summary": [part]}},
    ]
    output = events[-1]["response"]["output"]
    assert [item["id"] for item in output] == ["rs_g1_0", "msg_g1_1", "rs_g1_2", "msg_g1_3"]


def test_a_refusal_is_a_part_of_the_message() -> None:
    events = rendered(Text("Well. "), Refusal("I "), Refusal("won't."), Finish("refusal"))
    assert brief(events)[4:9] == [
        {"type": "content_part.done", "content_index": 0, "part": text_part("Well. ")},
        {"type": "content_part.added", "content_index": 1, "part": {"type": "refusal", "refusal": ""}},
        {"type": "refusal.delta", "content_index": 1, "delta": "I "},
        {"type": "refusal.delta", "content_index": 1, "delta": "won't."},
        {"type": "refusal.done", "content_index": 1, "refusal": "I won't."},
    ]
    response = events[-1]["response"]
    assert response["status"] == "completed"
    assert response["output"][0]["content"] == [text_part("Well. "), {"type": "refusal", "refusal": "I won't."}]


def call(number: int, call_id: str, name: str, arguments: str, status: str = "completed") -> Json:
    about = {"id": f"fc_g1_{number}", "type": "function_call", "status": status}
    return {**about, "arguments": arguments, "call_id": call_id, "name": name}


def test_calls_come_in_pieces_even_in_turns_and_end_whole() -> None:
    events = rendered(
        Text("I look."),
        ToolCall(0, "t1", "look", '{"a":'),
        ToolCall(1, "t2", "leap", ""),
        ToolCall(0, "", "", "1}"),
        ToolCall(2, "", "nap", "{}"),
        Finish("tool_calls"),
    )
    calls = [event for event in events if event.get("output_index")]
    assert [(event["type"].removeprefix("response."), event["output_index"]) for event in calls] == [
        ("output_item.added", 1),
        ("function_call_arguments.delta", 1),
        ("output_item.added", 2),
        ("function_call_arguments.delta", 1),
        ("output_item.added", 3),
        ("function_call_arguments.delta", 3),
        ("function_call_arguments.done", 1),
        ("output_item.done", 1),
        ("function_call_arguments.delta", 2),  # of a call without arguments, which clients parse
        ("function_call_arguments.done", 2),
        ("output_item.done", 2),
        ("function_call_arguments.done", 3),
        ("output_item.done", 3),
    ]
    assert calls[0]["item"] == call(1, "t1", "look", "", "in_progress")
    assert (calls[6]["name"], calls[6]["arguments"]) == ("look", '{"a":1}')
    assert events[-1]["response"]["output"][1:] == [
        call(1, "t1", "look", '{"a":1}'),
        call(2, "t2", "leap", "{}"),
        call(3, "call_g1_3", "nap", "{}"),
    ]
    assert events[-1]["type"] == "response.completed"


def test_what_belongs_to_no_call_of_the_client_s_is_not_shown() -> None:
    assert brief(rendered(ToolCall(0, "s1", "", "{}"), Other(), Text("b", 1))) == []


def test_a_source_is_cited_at_the_end_of_the_text_so_far() -> None:
    cited = {"type": "url_citation", "url": "https://a.example", "title": "A", "start_index": 2, "end_index": 2}
    events = rendered(Text("Hi"), Source("https://a.example", "A"), Text("!"))
    added = brief(events)[3]
    assert added == {
        "type": "output_text.annotation.added",
        "content_index": 0,
        "annotation_index": 0,
        "annotation": cited,
    }
    assert events[-1]["response"]["output"][0]["content"] == [text_part("Hi!", cited)]


def test_a_picture_is_an_item_and_of_another_file_there_is_the_address() -> None:
    events = rendered(File("data:image/png;base64,AA", "image/png"), File("https://a.example/a.mp4", "video/mp4"))
    picture = {"id": "ig_g1_0", "type": "image_generation_call", "status": "completed", "result": "AA"}
    assert brief(events)[:2] == [
        {"type": "output_item.added", "item": {**picture, "status": "in_progress", "result": None}},
        {"type": "output_item.done", "item": picture},
    ]
    output = events[-1]["response"]["output"]
    assert (output[0], output[1]["content"][0]["annotations"][0]["url"]) == (picture, "https://a.example/a.mp4")


@pytest.mark.parametrize(
    ("reason", "shortfall"),
    [("length", "max_output_tokens"), ("max_tokens", "max_output_tokens"), ("SAFETY", "content_filter")],
)
def test_an_answer_that_the_model_would_have_gone_on_with_is_incomplete(reason: str, shortfall: str) -> None:
    *_, item, last = rendered(Text("a"), Finish(reason))
    assert (last["type"], last["response"]["status"]) == ("response.incomplete", "incomplete")
    assert (last["response"]["incomplete_details"], last["response"]["completed_at"]) == ({"reason": shortfall}, None)
    assert item["item"]["status"] == "incomplete"


@pytest.mark.parametrize("state", [State.FAILED, State.INCOMPLETE])
def test_an_answer_that_failed_or_broke_off_says_why_in_the_upstream_s_words(state: State) -> None:
    *_, item, last = rendered(Text("a"), end=End(state=state, reason="upstream_error", error={**BROKEN, "status": 500}))
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert (last["response"]["error"], last["response"]["usage"]) == (BROKEN, None)
    assert last["response"]["output"] == [item["item"]] == [message("a", "incomplete")]


def test_an_answer_that_failed_without_words_has_the_reason() -> None:
    *_, last = rendered(end=End(state=State.FAILED, reason="worker_lost"))
    assert last["response"]["error"] == {"code": "worker_lost", "message": "The answer broke off."}


def test_an_answer_that_was_cancelled_has_what_was_said() -> None:
    steps = (Text("a"), ToolCall(0, "t1", "look", '{"a'))
    *_, last = rendered(*steps, end=End(state=State.STOPPED))
    assert (last["type"], last["response"]["status"]) == ("response.incomplete", "cancelled")
    assert last["response"]["output"] == [message("a"), call(1, "t1", "look", '{"a', "incomplete")]


def test_an_event_that_can_t_be_read_and_an_answer_of_an_unknown_dialect_are_passed_over() -> None:
    assert stream().take(Event(b"{")) == []
    assert ResponseStream(ABOUT, "g1", None).take(Event(chunk(1))) == []


def sent(tail: ScriptedTail, after: int = -1, *, queued: bool = False, bare: bool = False) -> list[str]:
    """The frames of a stream."""
    rendering = stream(queued=queued)
    read = chunks(tail.tail, tail.next(0), rendering, after, keepalive=1.0, seconds=100.0, bare=bare)
    return [frame for frame in b"".join(read).decode().split("\n\n") if frame]


PIECES = [
    Piece([Event(chunk(n)) for n in range(first, first + 3)], first + 2, DONE if first == 7 else None)
    for first in (1, 4, 7)
]


@given(queued=st.booleans(), data=st.data())
def test_whoever_comes_back_after_any_event_gets_exactly_the_rest(queued: bool, data: st.DataObject) -> None:
    whole = sent(ScriptedTail(*PIECES), queued=queued)
    after = data.draw(st.integers(0, len(whole) - 1))
    assert sent(ScriptedTail(*PIECES), after, queued=queued) == whole[after + 1 :]


def test_each_frame_has_its_number_and_its_name_and_the_last_has_no_number() -> None:
    *frames, last = sent(ScriptedTail(*PIECES))
    for number, frame in enumerate(frames):
        numbered, name, read = frame.split("\n")
        assert numbered == f"id: {number + 1}"
        assert name.removeprefix("event: ") == json.loads(read.removeprefix("data: "))["type"]
    assert last.startswith("event: response.completed\ndata: {")


def test_bare_frames_have_no_numbers() -> None:
    assert all(frame.startswith("event: ") for frame in sent(ScriptedTail(*PIECES), bare=True))


def test_a_cursor_beyond_the_end_is_an_error() -> None:
    (frame,) = sent(ScriptedTail(*PIECES), 100)
    assert frame.startswith('event: error\ndata: {"type":"error","sequence_number":16,"code":"invalid_cursor"')


def test_a_silence_is_filled_and_a_stream_that_can_t_go_on_says_where_it_was() -> None:
    quiet = [Piece([Event(chunk(1))], 1), Piece([], 1), Unreachable("Aborted")]
    *_, said, last = sent(ScriptedTail(*quiet))
    assert '"delta":"w1"' in said
    assert last.startswith(": keep-alive\nevent: error\ndata: ")
    error = json.loads(last.rpartition("data: ")[2])
    assert (error["code"], error["sequence_number"]) == ("unavailable", 4)
    assert error["error"]["message"] == error["message"]
    assert "starting_after=4" in error["message"]


def test_a_response_that_has_lasted_as_long_as_it_may_is_no_end_of_the_answer() -> None:
    tail = ScriptedTail(Piece([Event(chunk(1))], 1))
    tail.closing = True
    *_, last = sent(tail)
    assert '"code":"still_running"' in last
    assert "starting_after=4" in last
