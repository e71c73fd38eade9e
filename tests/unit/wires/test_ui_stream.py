"""The chunks that an answer's steps become."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lib.dialects.steps import File, Finish, Other, Reasoning, Refusal, Source, Step, Text, ToolCall, Usage
from lib.wires.ai_sdk.stream import UiStream


def read(data: bytes) -> list[Any]:
    frames = [frame.removeprefix("data: ") for frame in data.decode().split("\n\n") if frame]
    return [frame if frame == "[DONE]" else json.loads(frame) for frame in frames]


def rendered(*steps: Step, need_approval: frozenset[str] = frozenset()) -> list[Any]:
    """The chunks between the start and the end, each event a step."""
    stream = UiStream("m1", need_approval)
    return [chunk for step in steps for chunk in read(stream.add([step]))] + read(stream.finished({"state": "x"}))


def types(chunks: list[Any]) -> list[str]:
    return [chunk if isinstance(chunk, str) else chunk["type"] for chunk in chunks]


def test_a_stream_begins_with_the_message_s_id_and_a_step() -> None:
    start = {"type": "start", "messageId": "m1", "messageMetadata": {"generationId": "g1"}}
    assert read(UiStream("m1").begin({"generationId": "g1"})) == [start, {"type": "start-step"}]


def test_an_answer_that_goes_on_with_the_client_s_message_names_none() -> None:
    assert "messageId" not in read(UiStream(None).begin({}))[0]


def test_text_is_one_block_and_ends_with_the_reason_and_the_metadata() -> None:
    assert rendered(Text("Hel"), Text("lo"), Usage({}), Finish("stop")) == [
        {"type": "text-start", "id": "1"},
        {"type": "text-delta", "id": "1", "delta": "Hel"},
        {"type": "text-delta", "id": "1", "delta": "lo"},
        {"type": "text-end", "id": "1"},
        {"type": "finish-step"},
        {"type": "finish", "finishReason": "stop", "messageMetadata": {"state": "x"}},
        "[DONE]",
    ]


def test_reasoning_and_text_are_blocks_of_their_own() -> None:
    chunks = rendered(Reasoning("a"), Text("b"), Reasoning("c"), Refusal("d"))
    assert types(chunks)[:12] == [
        *["reasoning-start", "reasoning-delta", "reasoning-end"],
        *["text-start", "text-delta", "text-end"],
        *["reasoning-start", "reasoning-delta", "reasoning-end"],
        *["text-start", "text-delta", "text-end"],
    ]
    assert [chunk["id"] for chunk in chunks[:12:3]] == ["1", "2", "3", "4"]


def test_a_tool_call_comes_in_pieces_and_then_whole() -> None:
    chunks = rendered(
        ToolCall(0, "t1", "look", '{"a":'),
        ToolCall(0, "", "", "1}"),
        ToolCall(1, "t2", "leap", ""),
        Finish("tool_calls"),
    )
    assert chunks[:-3] == [
        {"type": "tool-input-start", "toolCallId": "t1", "toolName": "look"},
        {"type": "tool-input-delta", "toolCallId": "t1", "inputTextDelta": '{"a":'},
        {"type": "tool-input-delta", "toolCallId": "t1", "inputTextDelta": "1}"},
        {"type": "tool-input-start", "toolCallId": "t2", "toolName": "leap"},
        {"type": "tool-input-available", "toolCallId": "t1", "toolName": "look", "input": {"a": 1}},
        {"type": "tool-input-available", "toolCallId": "t2", "toolName": "leap", "input": {}},
    ]
    assert chunks[-2]["finishReason"] == "tool-calls"


def test_a_piece_without_a_place_is_of_the_call_with_its_id_or_of_the_last() -> None:
    chunks = rendered(
        ToolCall(-1, "t1", "a", "{"),
        ToolCall(-1, "t2", "b", "["),
        ToolCall(-1, "t1", "", "}"),
        ToolCall(-1, "", "", "]"),
    )
    whole = {chunk["toolCallId"]: chunk["input"] for chunk in chunks if types([chunk]) == ["tool-input-available"]}
    assert whole["t1"] == {}
    assert [chunk["inputTextDelta"] for chunk in chunks if types([chunk]) == ["tool-input-delta"]] == [
        "{",
        "[",
        "}",
        "]",
    ]


def test_another_id_with_a_name_at_the_same_place_is_another_call() -> None:
    chunks = rendered(ToolCall(0, "t1", "a", "{}"), ToolCall(0, "t2", "a", "{}"))
    assert [chunk["toolCallId"] for chunk in chunks if types([chunk]) == ["tool-input-available"]] == ["t1", "t2"]


def test_a_piece_without_a_name_where_no_call_began_is_of_no_call() -> None:
    assert types(rendered(ToolCall(3, "", "", "{}"))) == ["finish-step", "finish", "[DONE]"]


def test_arguments_that_are_no_json_are_an_input_error_and_not_a_broken_stream() -> None:
    chunks = rendered(ToolCall(0, "t1", "look", '{"a":'))
    assert chunks[2] == {
        "type": "tool-input-error",
        "toolCallId": "t1",
        "toolName": "look",
        "input": '{"a":',
        "errorText": "The model wrote arguments that are not valid JSON.",
    }


def test_a_tool_that_needs_approval_asks_for_it_once_its_arguments_are_whole() -> None:
    chunks = rendered(ToolCall(0, "t1", "pay", "{}"), need_approval=frozenset({"pay"}))
    assert types(chunks)[2:4] == ["tool-input-available", "tool-approval-request"]
    assert chunks[3] == {"type": "tool-approval-request", "approvalId": "approve-t1", "toolCallId": "t1"}


def test_pictures_are_files_and_citations_are_sources() -> None:
    chunks = rendered(File("data:image/png;base64,AA", "image/png"), Source("https://a.example", "A"), Other())
    assert chunks[:2] == [
        {"type": "file", "url": "data:image/png;base64,AA", "mediaType": "image/png"},
        {"type": "source-url", "sourceId": "source-1", "url": "https://a.example", "title": "A"},
    ]


def test_only_the_first_choice_is_shown() -> None:
    assert types(rendered(Text("b", 1), Finish("stop", 1))) == ["finish-step", "finish", "[DONE]"]


def test_a_stop_is_an_abort_and_a_failure_an_error_and_both_close_what_is_open() -> None:
    stream = UiStream("m1")
    stream.add([Text("a")])
    assert types(read(stream.stopped({}))) == ["text-end", "message-metadata", "abort", "[DONE]"]
    stream = UiStream("m1")
    stream.add([Reasoning("a")])
    assert read(stream.failed("It broke off."))[-2:] == [{"type": "error", "errorText": "It broke off."}, "[DONE]"]


@given(st.lists(st.tuples(st.sampled_from([Text, Reasoning, Refusal]), st.text(min_size=1))))
def test_whatever_is_said_each_block_is_opened_and_closed_once_and_in_order(said: list[Any]) -> None:
    chunks = rendered(*[kind(text) for kind, text in said])
    open_block: str | None = None
    for chunk in chunks[:-3]:
        kind, _, event = chunk["type"].partition("-")
        assert (event == "start") == (open_block is None)
        open_block = None if event == "end" else kind + chunk["id"]
    assert open_block is None
    shown = "".join(chunk["delta"] for chunk in chunks[:-3] if "delta" in chunk)
    assert shown == "".join(text for _, text in said)
