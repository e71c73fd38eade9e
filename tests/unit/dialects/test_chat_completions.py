"""What chat completion events mean and what they add up to, held against the official client's own models."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from lib.dialects.chat_completions import (
    Answer,
    Json,
    Malformed,
    UpstreamError,
    check_request,
    chunk_from,
    completion_from,
    is_completion,
    is_usage_chunk,
    read,
    wants_usage,
    well_formed,
    with_usage,
)
from lib.domain.errors import InvalidRequest
from lib.domain.message import spill

HEADER: Json = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000, "model": "gpt-x"}
USAGE: Json = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
REQUEST: Json = {"model": "gpt-x", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION: Json = {
    **HEADER,
    "object": "chat.completion",
    "system_fingerprint": "fp_1",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": None,
                "refusal": None,
                "tool_calls": [
                    {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}},
                    {"id": "call_2", "type": "function", "function": {"name": "ask", "arguments": "{}"}},
                ],
            },
            "logprobs": None,
            "finish_reason": "tool_calls",
        },
        {"index": 1, "message": {"role": "assistant", "content": "¡Hola! 😀"}, "finish_reason": "stop"},
    ],
    "usage": USAGE,
}


def chunk(index: int = 0, finish: str | None = None, more: Json | None = None, **delta: Any) -> Json:
    return {**HEADER, "choices": [{"index": index, "delta": delta, "finish_reason": finish, **(more or {})}]}


def call(index: int, arguments: str = "", **more: Any) -> Json:
    return chunk(
        tool_calls=[{"index": index, "function": {"arguments": arguments, **more.pop("function", {})}, **more}]
    )


def folded(*chunks: Json, wanted: int = 1) -> Answer:
    answer = Answer(wanted)
    for each in chunks:
        answer.add(each)
    return answer


def events(*chunks: Json) -> list[bytes]:
    return [*(orjson.dumps(each) for each in chunks), b"[DONE]"]


def sdk_completion(*chunks: Json) -> ChatCompletion:
    """What the official client makes of a stream of chunks."""
    state = ChatCompletionStreamState()
    for each in chunks:
        state.handle_chunk(ChatCompletionChunk.model_validate(each))
    return state.current_completion_snapshot


def summary(completion: ChatCompletion) -> list[Any]:
    """What a user of the official client sees of a completion."""
    choices = [
        (choice.index, choice.finish_reason, choice.message.role, choice.message.content, choice.message.refusal)
        for choice in completion.choices
    ]
    calls = [
        [(each.id, each.function.name, each.function.arguments) for each in choice.message.tool_calls or ()]
        for choice in completion.choices
    ]
    return [completion.id, completion.created, completion.model, completion.usage, choices, calls]


# Reading one event


@pytest.mark.parametrize("data", [b"[DONE]", b" [DONE]", b"[DONE]  ", b"[DONE]\n"])
def test_done_as_a_whole_payload_is_the_end(data: bytes) -> None:
    assert read(data) is None


def test_done_inside_of_a_payload_is_text() -> None:
    assert read(b'{"choices":[{"delta":{"content":"[DONE]"}}]}') == {"choices": [{"delta": {"content": "[DONE]"}}]}
    assert read(b'{"id":"data: [DONE]"}') == {"id": "data: [DONE]"}


@pytest.mark.parametrize("data", [b"[DONE]x", b'"[DONE]"', b"[DONE][DONE]", b"DONE", b"[done]", b'["[DONE]"]'])
def test_what_is_not_exactly_done_is_not_the_end(data: bytes) -> None:
    with pytest.raises(Malformed):
        read(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"[]",
        b"1",
        b"null",
        b"true",
        b'"text"',
        b"{",
        b'{"a":',
        b'{"a":1}}',
        b"{'a':1}",
        b"<html>",
        b'{"a":"\xff"}',
        b'{"a":"\xc3"}',
        b"\xff\xfe\xfd",
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
    ids=lambda data: repr(data[:12]),
)
def test_what_is_no_json_object_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        read(data)


def test_a_null_error_is_no_error() -> None:
    assert read(b'{"error":null,"choices":[]}') == {"error": None, "choices": []}


@pytest.mark.parametrize(
    ("data", "message", "code"),
    [
        (b'{"error":{"message":"Overloaded.","code":"overloaded","type":"server_error"}}', "Overloaded.", "overloaded"),
        (b'{"error":{"message":"Slow down.","type":"rate_limit","code":null}}', "Slow down.", "rate_limit"),
        (b'{"error":{"message":"No.","code":429}}', "No.", "429"),
        (b'{"error":"It broke."}', "It broke.", "upstream_error"),
        (b'{"error":{"code":"x"}}', "The upstream reported an error.", "x"),
        (b'{"error":{"message":"No."},"choices":[{"delta":{"content":"a"}}]}', "No.", "upstream_error"),
    ],
)
def test_a_real_error_is_one_with_the_upstream_s_own_words(data: bytes, message: str, code: str) -> None:
    with pytest.raises(UpstreamError) as raised:
        read(data)
    assert (raised.value.message, raised.value.code) == (message, code)


def test_an_error_as_text_or_deeper_down_is_no_error() -> None:
    assert read(b'{"choices":[{"delta":{"content":"{\\"error\\":1}"},"error":"x"}]}') is not None


# Half surrogates: JSON may escape one, UTF-8 can't hold it


def test_the_halves_of_a_character_in_two_events_become_that_character() -> None:
    one, two = (
        read(rb'{"choices":[{"delta":{"content":"a\ud83d"}}]}'),
        read(rb'{"choices":[{"delta":{"content":"\ude00b"}}]}'),
    )
    assert one is not None
    assert two is not None
    answer = folded(one, two)
    assert answer.message()["content"] == "a😀b"
    assert json.loads(orjson.dumps(answer.completion()))["choices"][0]["message"]["content"] == "a😀b"


def test_a_half_that_stays_alone_is_replaced_and_nothing_else_is_lost() -> None:
    assert well_formed("a\ud83db") == "a\ufffdb"
    assert well_formed("\ude00😀\ud83d") == "\ufffd😀\ufffd"
    assert well_formed("\ud83d\ude00") == "😀"


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_text_that_is_well_formed_stays_as_it_is(text: str) -> None:
    assert well_formed(text) == text


@settings(deadline=None)
@given(st.text(st.sampled_from(["a", "é", "😀", "\ud83d", "\ude00", "\udfff"])))
def test_what_is_made_well_formed_can_be_encoded(text: str) -> None:
    assert well_formed(text).encode().decode() == well_formed(text)


@pytest.mark.parametrize(
    "data",
    [
        rb'{"choices":[{"delta":{"content":"\ud83d"}}]}',
        rb'{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"\ud83d","function":{"name":"f\ud83d"}}]}}]}',
        rb'{"choices":[{"delta":{"content":[{"type":"text","text":"\ud83d"}]}}]}',
        rb'{"choices":[{"delta":{"tags":["\ud83d"]}}]}',
        rb'{"choices":[{"delta":{"\ud83d":1}}]}',
        rb'{"choices":[],"model":"m\ud83d","usage":{"note":"\ud83d"}}',
    ],
)
def test_half_a_character_anywhere_leaves_an_answer_that_can_be_saved_and_sent(data: bytes) -> None:
    payload = read(data)
    assert payload is not None
    answer = folded(payload)
    assert orjson.dumps(answer.completion())
    assert orjson.dumps(answer.message())
    assert orjson.dumps([answer.model, answer.usage])


# What the chunks add up to


def test_the_pieces_of_a_content_are_one_text() -> None:
    answer = folded(
        chunk(role="assistant", content=""), chunk(content="Hel"), chunk(content="lo"), chunk(finish="stop")
    )
    assert answer.message() == {"role": "assistant", "content": "Hello", "finishReason": "stop"}
    assert answer.events == 4


def test_each_event_gives_the_visible_text_that_it_adds() -> None:
    answer = Answer()
    added = [
        answer.add(each)
        for each in (
            chunk(role="assistant"),
            chunk(content="a"),
            chunk(reasoning_content="hm"),
            chunk(index=1, content="other"),
            chunk(content=None),
            chunk(content="b", finish="stop"),
            {**HEADER, "choices": [], "usage": USAGE},
        )
    ]
    assert added == ["", "a", "", "", "", "b", ""]


def test_parallel_tool_calls_are_put_together_by_their_index() -> None:
    answer = folded(
        call(0, id="call_a", type="function", function={"name": "look"}),
        call(1, id="call_b", type="function", function={"name": "ask"}),
        call(1, '{"b"'),
        call(0, '{"a"'),
        call(0, ":1}"),
        call(1, ":2}"),
        chunk(finish="tool_calls"),
    )
    assert answer.completion()["choices"][0]["message"]["tool_calls"] == [
        {"function": {"arguments": '{"a":1}', "name": "look"}, "id": "call_a", "type": "function"},
        {"function": {"arguments": '{"b":2}', "name": "ask"}, "id": "call_b", "type": "function"},
    ]
    assert [each["id"] for each in answer.message()["toolCalls"]] == ["call_a", "call_b"]
    assert answer.message()["finishReason"] == "tool_calls"


def test_an_id_a_type_and_a_name_that_each_chunk_repeats_are_there_once() -> None:
    each = {"id": "call_a", "type": "function", "function": {"name": "look"}}
    answer = folded(chunk(role="assistant"), call(0, "{", **each), call(0, "}", **each), chunk(role="assistant"))
    assert answer.completion()["choices"][0]["message"] == {
        "role": "assistant",
        "tool_calls": [{"function": {"arguments": "{}", "name": "look"}, "id": "call_a", "type": "function"}],
    }


def test_several_tool_calls_in_one_chunk_and_without_an_index_are_all_there() -> None:
    whole = [{"id": name, "type": "function", "function": {"name": name, "arguments": "{}"}} for name in ("a", "b")]
    assert folded(chunk(tool_calls=whole)).message()["toolCalls"] == whole


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_reasoning_is_saved_apart_from_the_content(name: str) -> None:
    answer = folded(chunk(**{name: "hm, "}), chunk(**{name: "yes"}), chunk(content="42"), chunk(finish="stop"))
    assert answer.message() == {"role": "assistant", "content": "42", "reasoning": "hm, yes", "finishReason": "stop"}
    assert answer.completion()["choices"][0]["message"][name] == "hm, yes"


def test_the_same_reasoning_under_both_of_its_names_is_saved_once() -> None:
    answer = folded(*[chunk(reasoning=piece, reasoning_content=piece) for piece in ("hm, ", "yes")])
    assert answer.message()["reasoning"] == "hm, yes"


def test_a_refusal_is_saved_as_one() -> None:
    answer = folded(chunk(content=None, refusal="I can"), chunk(refusal="not."), chunk(finish="stop"))
    assert answer.message() == {"role": "assistant", "content": "", "refusal": "I cannot.", "finishReason": "stop"}


def test_each_of_several_choices_is_saved_and_the_first_is_the_message() -> None:
    answer = folded(
        chunk(1, content="b"), chunk(0, content="a"), chunk(1, "length", content="B"), chunk(0, "stop"), wanted=2
    )
    assert answer.message() == {
        "role": "assistant",
        "content": "a",
        "finishReason": "stop",
        "choices": [{"content": "bB", "finishReason": "length", "index": 1}],
    }


def test_logprobs_are_put_together() -> None:
    tokens = [{"token": token, "logprob": -0.5, "bytes": [97], "top_logprobs": []} for token in ("a", "b")]
    answer = folded(
        chunk(more={"logprobs": None}, role="assistant"),
        *[chunk(more={"logprobs": {"content": [token], "refusal": None}}, content=token["token"]) for token in tokens],
        chunk(more={"logprobs": None}, finish="stop"),
    )
    assert answer.completion()["choices"][0]["logprobs"] == {"content": tokens, "refusal": None}


def test_fields_that_are_not_known_are_kept() -> None:
    answer = folded(
        {**chunk(audio={"data": "QUJ", "id": "x"}), "x_vendor": {"id": "v"}},
        chunk(audio={"data": "D", "transcript": "hi"}, annotations=[{"url": "u"}]),
        chunk(more={"stop_reason": "eos"}, finish="stop", depth=3),
    )
    completion = answer.completion()
    assert completion["x_vendor"] == {"id": "v"}
    assert completion["choices"][0]["stop_reason"] == "eos"
    assert answer.message()["extra"] == {
        "audio": {"data": "QUJD", "id": "x", "transcript": "hi"},
        "annotations": [{"url": "u"}],
        "depth": 3,
    }


@pytest.mark.parametrize(
    "contents",
    [
        ["a", [{"type": "text", "text": "b"}], "c"],
        [[{"type": "text", "text": "a"}], [{"type": "text", "text": "b"}]],
        [[{"type": "text", "text": "a"}], "b", None, "c"],
        ["", [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}], "a"],
    ],
    ids=["text, parts, text", "parts", "parts, text", "thinking, text"],
)
def test_text_and_parts_of_a_content_in_turn_are_all_kept(contents: list[Any]) -> None:
    answer = Answer()
    visible = "".join(answer.add(chunk(content=content)) for content in contents)
    assert answer.message()["content"] == visible


def test_parts_of_a_content_that_are_no_text_are_saved_too() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}
    answer = folded(chunk(content=[{"type": "text", "text": "See:"}, image]))
    assert answer.message()["content"] == "See:"
    assert "data:image/png;base64,QUJD" in json.dumps(answer.message())


def test_a_long_text_after_a_part_that_is_no_text_is_saved_in_what_documents_hold() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    answer = folded(chunk(content=[thinking]), *[chunk(content=" word") for _ in range(60_000)])
    kept, parts = spill(answer.message(), "1-")
    assert kept["content"] + "".join(part.text for part in parts if part.field == "content") == " word" * 60_000
    assert len(orjson.dumps(kept)) < 1 << 20


@pytest.mark.parametrize("last", [{"choices": []}, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}])
def test_usage_is_taken_from_an_extra_chunk_or_from_the_last_one(last: Json) -> None:
    answer = folded(
        {**chunk(content="a"), "usage": None},
        {**chunk(finish="stop"), "usage": None},
        {**HEADER, **last, "usage": USAGE},
        {**HEADER, "choices": [], "usage": None},
    )
    assert answer.usage == USAGE
    assert answer.completion()["usage"] == USAGE
    assert answer.completion()["choices"][0]["finish_reason"] == "stop"


def test_a_usage_that_each_chunk_repeats_is_the_last_one() -> None:
    answer = folded(*[{**chunk(content="a"), "usage": {"total_tokens": n}} for n in (1, 2, 3)])
    assert answer.usage == {"total_tokens": 3}


def test_an_empty_first_chunk_does_not_hide_the_id_and_model_of_those_after_it() -> None:
    filters = {"id": "", "object": "", "created": 0, "model": "", "choices": [], "prompt_filter_results": [{"a": 1}]}
    answer = folded(filters, chunk(content="a"), chunk(finish="stop"))
    completion = answer.completion()
    assert (completion["id"], completion["model"], completion["created"]) == ("chatcmpl-1", "gpt-x", 1700000000)
    assert answer.model == "gpt-x"
    assert completion["prompt_filter_results"] == [{"a": 1}]


def test_an_answer_has_finished_when_each_choice_that_was_asked_for_has() -> None:
    assert not folded().finished
    assert not folded(chunk(content="a")).finished
    assert folded(chunk(content="a", finish="length")).finished
    assert folded(chunk(finish="stop"), chunk(content=None), {**HEADER, "choices": [], "usage": USAGE}).finished
    assert not folded(chunk(finish="stop"), wanted=2).finished
    assert not folded(chunk(finish="stop"), chunk(1, content="b")).finished
    assert not folded(chunk(finish="stop"), chunk(1, content="b"), wanted=2).finished
    assert folded(chunk(finish="stop"), chunk(1, finish="stop"), wanted=2).finished


def test_a_finish_reason_stays_although_later_chunks_have_none() -> None:
    answer = folded(chunk(finish="stop"), chunk(content="late"))
    assert answer.choices()[0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    "strange",
    [
        {"choices": None},
        {"choices": [None, 1, "x"]},
        {"choices": [{}]},
        {"choices": [{"index": None, "delta": None}]},
        {"choices": [{"index": 0, "delta": "text"}]},
        {"choices": [{"index": 0, "delta": {"content": 3, "tool_calls": None}}]},
        {"choices": [{"index": 0, "delta": {"tool_calls": ["x", {"index": 0}]}}]},
        {"usage": "none"},
    ],
)
def test_a_chunk_of_a_strange_shape_takes_nothing_from_the_answer(strange: Json) -> None:
    answer = folded(chunk(content="a"), strange, chunk(content="b"), chunk(finish="stop"))
    assert answer.message()["content"] == "ab"
    assert orjson.dumps(answer.completion())
    assert "usage" not in answer.completion()
    assert answer.finished


def test_an_answer_without_events_is_an_empty_message() -> None:
    assert folded().message() == {"role": "assistant", "content": ""}
    assert (folded().model, folded().usage) == (None, None)


def test_what_is_asked_of_an_answer_does_not_change_it() -> None:
    answer = folded(call(0, "{", id="a", function={"name": "f"}), chunk(content="a"))
    before = (answer.message(), answer.completion())
    answer.completion()["choices"][0]["message"].clear()
    answer.message()["toolCalls"].clear()
    assert (answer.message(), answer.completion()) == before
    answer.add(call(0, "}"))
    assert answer.completion()["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == "{}"


words = st.text(max_size=6)


@st.composite
def cut_up(draw: st.DrawFn, most: int = 3) -> tuple[list[Json], list[Json]]:
    """The choices of an answer, and its chunks in an order an upstream may send them."""
    count = draw(st.integers(1, most))
    choices: list[Json] = []
    deltas: list[list[Json]] = []
    for index in range(count):
        content, reasoning = draw(st.lists(words, max_size=5)), draw(st.lists(words, max_size=3))
        calls = draw(st.lists(st.lists(words, max_size=3), max_size=3))
        finish = draw(st.sampled_from(["stop", "length", "tool_calls"]))
        message: Json = {"role": "assistant", "content": "".join(content)}
        own = [chunk(index, role="assistant", content="")]
        own += [chunk(index, reasoning_content=piece) for piece in reasoning]
        own += [chunk(index, content=piece) for piece in content]
        if reasoning:
            message["reasoning_content"] = "".join(reasoning)
        for at, arguments in enumerate(calls):
            named = {"id": f"call_{at}", "type": "function"}
            opened = {"index": at, **named, "function": {"name": f"f{at}", "arguments": ""}}
            own.append(chunk(index, tool_calls=[opened]))
            own += [chunk(index, tool_calls=[{"index": at, "function": {"arguments": piece}}]) for piece in arguments]
            whole = {**named, "function": {"name": f"f{at}", "arguments": "".join(arguments)}}
            message.setdefault("tool_calls", []).append(whole)
        own.append(chunk(index, finish))
        choices.append({"index": index, "message": message, "finish_reason": finish})
        deltas.append(own)
    chunks: list[Json] = []
    while any(deltas):
        chunks.append(draw(st.sampled_from([own for own in deltas if own])).pop(0))
    return choices, [*chunks, {**HEADER, "choices": [], "usage": USAGE}]


@settings(deadline=None)
@given(cut_up())
def test_any_answer_in_any_order_of_chunks_adds_up_to_itself(choices_and_chunks: tuple[list[Json], list[Json]]) -> None:
    choices, chunks = choices_and_chunks
    assert folded(*chunks, wanted=len(choices)).completion() == {
        **HEADER,
        "object": "chat.completion",
        "choices": choices,
        "usage": USAGE,
    }


@settings(deadline=None)
@given(cut_up())
def test_the_visible_texts_of_all_events_are_the_message_s_content(
    choices_and_chunks: tuple[list[Json], list[Json]],
) -> None:
    choices, chunks = choices_and_chunks
    answer = Answer(len(choices))
    visible = "".join(answer.add(each) for each in chunks)
    assert visible == answer.message()["content"] == choices[0]["message"]["content"]


# From a stream to a completion and back


@settings(deadline=None, max_examples=40)
@given(cut_up(most=1))
def test_the_completion_of_a_stream_is_what_the_official_client_makes_of_it(
    choices_and_chunks: tuple[list[Json], list[Json]],
) -> None:
    _, chunks = choices_and_chunks
    ours = ChatCompletion.model_validate_json(completion_from(events(*chunks)))
    assert summary(ours) == summary(sdk_completion(*chunks))
    assert ours.object == "chat.completion"


def test_the_upstream_s_own_body_is_given_byte_for_byte() -> None:
    body = json.dumps(COMPLETION, indent=2, ensure_ascii=True).encode() + b"\n"
    assert completion_from([body]) == body
    assert completion_from([body, b"[DONE]"]) == body


def test_a_whole_completion_with_more_events_after_it_is_put_together() -> None:
    one = {**COMPLETION, "choices": COMPLETION["choices"][1:]}
    made = orjson.loads(completion_from(events(one, chunk(1, content=" More."))))
    assert made["choices"][0]["message"]["content"] == "¡Hola! 😀 More."


def test_a_completion_of_no_events_is_an_empty_answer_that_the_official_client_takes() -> None:
    completion = ChatCompletion.model_validate(orjson.loads(completion_from([b"[DONE]"])))
    assert completion.choices[0].message.content == ""


def test_a_chunk_made_of_a_completion_is_one_that_the_official_client_takes() -> None:
    chunked = ChatCompletionChunk.model_validate(chunk_from(COMPLETION))
    assert chunked.object == "chat.completion.chunk"
    assert chunked.usage is not None
    assert chunked.usage.total_tokens == 7
    assert [call.index for call in chunked.choices[0].delta.tool_calls or ()] == [0, 1]
    assert chunked.choices[1].delta.content == "¡Hola! 😀"
    assert chunked.choices[1].finish_reason == "stop"


def test_a_chunk_made_of_a_completion_adds_up_to_the_same_answer() -> None:
    from_whole, from_chunk = folded(COMPLETION, wanted=2), folded(chunk_from(COMPLETION), wanted=2)
    assert from_chunk.completion() == from_whole.completion() == COMPLETION
    assert [{**each, "index": None} for each in from_chunk.message()["toolCalls"]] == [
        {**each, "index": None} for each in from_whole.message()["toolCalls"]
    ]
    assert from_chunk.usage == from_whole.usage == USAGE
    assert from_chunk.finished
    assert from_whole.finished
    assert from_chunk.add({}) == ""


@settings(deadline=None)
@given(cut_up())
def test_a_stream_made_whole_and_made_a_chunk_again_is_the_same_answer(
    choices_and_chunks: tuple[list[Json], list[Json]],
) -> None:
    choices, chunks = choices_and_chunks
    whole = folded(*chunks, wanted=len(choices)).completion()
    assert folded(chunk_from(whole), wanted=len(choices)).completion() == whole


def test_making_a_chunk_leaves_the_completion_as_it_was() -> None:
    before = orjson.dumps(COMPLETION)
    chunk_from(COMPLETION)
    assert orjson.dumps(COMPLETION) == before


def test_a_completion_is_told_from_a_chunk_by_its_message() -> None:
    assert is_completion(COMPLETION)
    assert not is_completion(chunk(content="a"))
    assert not is_completion({"choices": []})
    assert not is_completion({"choices": None})
    assert not is_completion({"object": "chat.completion", "data": []})


# The request


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": 3}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": {"role": "user"}}, "messages"),
        ({"messages": [{"role": "user"}, "hi"]}, "messages[1]"),
        ({"stream": "true"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"stream": True, "stream_options": []}, "stream_options"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": False, "stream_options": {}}, "stream_options"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": True}, "n"),
        ({"n": 1.5}, "n"),
        ({"n": "2"}, "n"),
    ],
)
def test_a_request_that_is_refused_is_told_which_field_is_wrong(change: Json, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_request({**REQUEST, **change})
    assert refused.value.param == param
    assert f"'{param}'" in refused.value.message
    assert refused.value.status == 400


@pytest.mark.parametrize("body", [None, [], "text", 1, [REQUEST]])
def test_a_body_that_is_no_object_is_refused(body: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_request(body)
    assert refused.value.code == "invalid_body"


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"stream": None, "stream_options": None, "n": None},
        {"stream": True, "stream_options": {"include_usage": False}, "n": 128},
        {"anything": {"an upstream": "knows"}},
    ],
)
def test_a_request_that_is_taken_stays_as_it_is(change: Json) -> None:
    request = {**REQUEST, **change}
    assert check_request(request) is request


def test_usage_is_asked_for_with_all_else_that_the_client_sent() -> None:
    asked = {**REQUEST, "stream": True, "stream_options": {"include_obfuscation": False, "include_usage": False}}
    before = json.dumps(asked)
    assert with_usage(asked) == {**asked, "stream_options": {"include_obfuscation": False, "include_usage": True}}
    assert with_usage({**REQUEST, "stream": True})["stream_options"] == {"include_usage": True}
    assert json.dumps(asked) == before


@pytest.mark.parametrize(
    "request_",
    [REQUEST, {**REQUEST, "stream": False}, {**REQUEST, "stream": True, "stream_options": {"include_usage": True}}],
)
def test_a_request_that_is_not_streamed_or_asks_for_usage_itself_is_sent_unchanged(request_: Json) -> None:
    assert with_usage(request_) == request_


def test_a_client_wants_usage_only_where_it_says_so() -> None:
    assert wants_usage({"stream_options": {"include_usage": True}})
    assert not wants_usage({"stream_options": {"include_usage": False}})
    assert not wants_usage({"stream_options": {}})
    assert not wants_usage({"stream_options": None})
    assert not wants_usage({})


def test_the_usage_chunk_is_the_one_with_a_usage_and_no_choice() -> None:
    assert is_usage_chunk({**HEADER, "choices": [], "usage": USAGE})
    assert is_usage_chunk({**HEADER, "usage": USAGE})
    assert not is_usage_chunk({**chunk(finish="stop"), "usage": USAGE})
    assert not is_usage_chunk({**chunk(content="a"), "usage": None})
    assert not is_usage_chunk({**HEADER, "choices": [], "usage": None})


def test_an_upstreams_words_of_an_error_and_its_usage_have_a_bound() -> None:
    with pytest.raises(UpstreamError) as raised:
        read(json.dumps({"error": {"message": "m" * 900_000, "code": "c" * 900_000}}).encode())
    assert (len(raised.value.message), len(raised.value.code)) == (2000, 2000)
    answer = Answer()
    answer.add({"usage": {"total_tokens": 3, "note": "n" * 900}})
    answer.add({"usage": {"total_tokens": 4, "note": "n" * 900_000}})
    assert answer.usage == {"total_tokens": 3, "note": "n" * 900}


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        ({"message": "m", "type": "server_error"}, True),
        ({"message": "m", "type": "overloaded_error", "code": None}, True),
        ({"message": "m", "code": 429}, True),
        ({"message": "m", "code": "503"}, True),
        ({"message": "m", "code": 400, "type": "invalid_request_error"}, False),
        ({"message": "m", "code": "content_filter"}, False),
        ("overloaded", False),
    ],
)
def test_an_error_event_may_pass_where_its_code_or_type_says_so(error: Any, passing: bool) -> None:
    with pytest.raises(UpstreamError) as raised:
        read(json.dumps({"error": error}).encode())
    assert raised.value.passing is passing


@pytest.mark.parametrize("choices", [7, "x", {"a": 1}, True])
def test_choices_that_are_no_list_are_malformed(choices: Any) -> None:
    with pytest.raises(Malformed):
        read(json.dumps({"choices": choices}).encode())


@pytest.mark.parametrize("around", ["[{}]", '{{"a": {}}}'], ids=["lists", "maps"])
def test_what_is_nested_beyond_reason_is_malformed_and_what_is_merely_long_is_not(around: str) -> None:
    deep = "1"
    for _ in range(99):
        deep = around.format(deep)
    assert read(f'{{"x": {deep}}}'.encode())
    with pytest.raises(Malformed):
        read(f'{{"x": {around.format(deep)}}}'.encode())
    assert read(json.dumps({"x": [[]] * 500}).encode())


@pytest.mark.parametrize("calls", [7, "x", [7], [None], {"a": 1}])
def test_tool_calls_of_a_shape_of_their_own_break_nothing(calls: Any) -> None:
    answer = Answer()
    completion = {"choices": [{"index": 0, "message": {"content": "a", "tool_calls": calls}, "finish_reason": "stop"}]}
    answer.add(completion)
    assert answer.completion()["choices"][0]["message"]["content"] == "a"
    assert answer.message()["content"] == "a"
    assert chunk_from(completion)["choices"][0]["delta"]["content"] == "a"


def test_an_answer_that_told_only_whose_it_is_has_said_nothing() -> None:
    answer = Answer()
    assert answer.silent
    answer.add({"id": "x", "choices": [{"index": 0, "delta": {"role": "assistant", "content": "", "refusal": None}}]})
    assert answer.silent
    for said in ({"content": " "}, {"reasoning": "hm"}, {"tool_calls": [{"index": 0, "id": "a"}]}, {"refusal": "no"}):
        spoken = Answer()
        spoken.add({"choices": [{"index": 0, "delta": said}]})
        assert not spoken.silent
    answer.add({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    assert not answer.silent


@pytest.mark.parametrize("usage", [{"a": {"b": {"c": {"d": {"e": {}}}}}}, {"a": [1]}, {"a" * 1500: 1}])
def test_a_usage_that_is_no_small_flat_thing_is_left_out(usage: Any) -> None:
    answer = Answer()
    answer.add({"usage": usage})
    assert answer.usage is None
