"""Folding chat completion events, compared with the official client's models."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from lib.dialects.chat_completions.completion import Completion, is_whole
from lib.dialects.chat_completions.dialect import ChatCompletions
from lib.dialects.protocol import Read
from lib.dialects.steps import Json, Reasoning, Text
from lib.domain.event import Event
from lib.domain.message import spill

CHAT = ChatCompletions()

HEADER: Json = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000, "model": "gpt-x"}
USAGE: Json = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
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


def event(payload: Json) -> Event:
    return Event(orjson.dumps(payload))


def reads(*chunks: Json) -> list[Read]:
    reading = CHAT.reading()
    return [reading.read(event(each)) for each in chunks]


def folded(*chunks: Json, wanted: int = 1) -> Completion:
    answer = Completion(wanted)
    for read in reads(*chunks):
        answer.add(read)
    return answer


def message(*chunks: Json, wanted: int = 1) -> Json:
    return folded(*chunks, wanted=wanted).said().fields


def first(answer: Completion) -> Json:
    """The first choice's message, as the unary body has it."""
    found: Json = answer.completion()["choices"][0]["message"]
    return found


def sdk_completion(*chunks: Json) -> ChatCompletion:
    """The official client's result for a stream of chunks."""
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


# What the chunks add up to


def test_the_pieces_of_a_content_are_one_text() -> None:
    answer = folded(
        chunk(role="assistant", content=""), chunk(content="Hel"), chunk(content="lo"), chunk(finish="stop")
    )
    assert answer.said().fields == {"content": "Hello", "finishReason": "stop"}
    assert (answer.events, answer.text_events) == (4, 2)
    assert folded(chunk(1, content="b"), chunk(reasoning="hm")).text_events == 0


def test_each_event_tells_the_visible_text_that_it_adds() -> None:
    found = reads(
        chunk(role="assistant"),
        chunk(content="a"),
        chunk(reasoning_content="hm"),
        chunk(index=1, content="other"),
        chunk(content=None),
        chunk(content="b", finish="stop"),
        {**HEADER, "choices": [], "usage": USAGE},
    )
    assert [read.text for read in found] == ["", "a", "", "", "", "b", ""]


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
    assert first(answer)["tool_calls"] == [
        {"function": {"arguments": '{"a":1}', "name": "look"}, "id": "call_a", "type": "function"},
        {"function": {"arguments": '{"b":2}', "name": "ask"}, "id": "call_b", "type": "function"},
    ]
    fields = answer.said().fields
    assert [each["id"] for each in fields["toolCalls"]] == ["call_a", "call_b"]
    assert fields["finishReason"] == "tool_calls"


def test_an_id_a_type_and_a_name_that_each_chunk_repeats_are_there_once() -> None:
    each = {"id": "call_a", "type": "function", "function": {"name": "look"}}
    answer = folded(chunk(role="assistant"), call(0, "{", **each), call(0, "}", **each), chunk(role="assistant"))
    assert first(answer) == {
        "role": "assistant",
        "tool_calls": [{"function": {"arguments": "{}", "name": "look"}, "id": "call_a", "type": "function"}],
    }


def test_several_tool_calls_in_one_chunk_and_without_an_index_are_all_there() -> None:
    whole = [{"id": name, "type": "function", "function": {"name": name, "arguments": "{}"}} for name in ("a", "b")]
    assert message(chunk(tool_calls=whole))["toolCalls"] == whole


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "reasoning_text"])
def test_reasoning_is_saved_apart_from_the_content(name: str) -> None:
    answer = folded(chunk(**{name: "hm, "}), chunk(**{name: "yes"}), chunk(content="42"), chunk(finish="stop"))
    assert answer.said().fields == {"content": "42", "reasoning": "hm, yes", "finishReason": "stop"}
    assert first(answer)[name] == "hm, yes"


def test_the_same_reasoning_under_both_of_its_names_is_shown_and_saved_once() -> None:
    chunks = [chunk(reasoning=piece, reasoning_content=piece) for piece in ("hm, ", "yes")]
    assert [read.steps for read in reads(*chunks)] == [(Reasoning("hm, "),), (Reasoning("yes"),)]
    assert message(*chunks)["reasoning"] == "hm, yes"


def test_reasoning_that_comes_in_details_alone_is_reasoning() -> None:
    details = [{"type": "reasoning.text", "index": 0, "text": piece} for piece in ("hm, ", "yes")]
    fields = message(*[chunk(reasoning_details=[each]) for each in details])
    assert fields["reasoning"] == "hm, yes"
    assert fields["extra"] == {"reasoning_details": [{"type": "reasoning.text", "index": 0, "text": "hm, yes"}]}
    assert message(*[chunk(reasoning=each["text"], reasoning_details=[each]) for each in details])["reasoning"] == (
        "hm, yes"
    )


def test_the_format_of_signed_thinking_is_not_repeated_and_its_text_and_signature_are_joined() -> None:
    def details(**fields: Any) -> Json:
        return chunk(reasoning_details=[{"type": "reasoning.text", "index": 0, "format": "f-v1", **fields}])

    fields = message(details(text="Let "), details(text="me "), details(text="see", signature="sig"))
    assert fields["extra"]["reasoning_details"] == [
        {"type": "reasoning.text", "index": 0, "format": "f-v1", "text": "Let me see", "signature": "sig"}
    ]


def test_what_a_filter_adds_to_each_chunk_is_kept_once() -> None:
    filters = {"hate": {"filtered": False, "severity": "safe"}}
    answer = folded(*[chunk(content="a", more={"content_filter_results": filters}) for _ in range(3)])
    assert answer.said().fields["extra"] == {"content_filter_results": filters}
    assert answer.completion()["choices"][0]["content_filter_results"] == filters


def test_two_whole_tool_calls_in_two_chunks_of_the_same_index_are_two() -> None:
    def whole(own: str, arguments: str) -> Json:
        return call(0, arguments, id=own, type="function", function={"name": "look"})

    calls = message(whole("a", '{"a":1}'), whole("b", '{"b":2}'))["toolCalls"]
    assert [(each["id"], each["function"]["arguments"]) for each in calls] == [("a", '{"a":1}'), ("b", '{"b":2}')]


def test_another_id_without_a_name_continues_the_call_of_that_index() -> None:
    calls = message(call(0, "{", id="a", function={"name": "look"}), call(0, "}", id="b"))["toolCalls"]
    assert [(each["id"], each["function"]["arguments"]) for each in calls] == [("a", "{}")]


def test_arguments_without_index_id_or_name_continue_the_last_call() -> None:
    fields = message(
        chunk(tool_calls=[{"id": "fc", "function": {"name": "w", "arguments": '{"city":'}}]),
        chunk(tool_calls=[{"function": {"arguments": '"Oslo"}'}}]),
    )
    assert fields["toolCalls"] == [{"id": "fc", "function": {"name": "w", "arguments": '{"city":"Oslo"}'}}]


def test_thinking_parts_a_token_each_are_reasoning_and_the_strings_after_them_the_text() -> None:
    def thinking(text: str) -> Json:
        return chunk(content=[{"type": "thinking", "thinking": [{"type": "text", "text": text}]}])

    chunks = [thinking("The user "), thinking("greets"), chunk(content="Hi"), chunk(content=" there")]
    assert [read.steps for read in reads(*chunks)] == [
        (Reasoning("The user "),),
        (Reasoning("greets"),),
        (Text("Hi"),),
        (Text(" there"),),
    ]
    assert message(*chunks) == {"content": "Hi there", "reasoning": "The user greets", "finishReason": None}
    assert first(folded(*chunks))["content"] == [
        {"type": "thinking", "thinking": [{"type": "text", "text": "The user greets"}]},
        {"type": "text", "text": "Hi there"},
    ]


def test_signed_thinking_among_the_parts_is_kept_as_it_came() -> None:
    part = {"type": "thinking", "thinking": "hm", "signature": "sig"}
    fields = message(chunk(content=[part, {"type": "text", "text": "Hi"}]))
    assert (fields["content"], fields["reasoning"], fields["extra"]) == ("Hi", "hm", {"content": [part]})


def test_what_stands_beside_the_choices_is_in_the_message() -> None:
    more = {"citations": ["u1", "u2"], "search_results": [{"url": "u1"}], "provider": "P", "obfuscation": "x7"}
    answer = folded(
        {**chunk(content="a"), "citations": ["u1"]}, {**chunk(content="b"), **more}, {**chunk(finish="stop"), **more}
    )
    assert answer.said().fields["extra"] == {
        "citations": ["u1", "u2"],
        "search_results": [{"url": "u1"}],
        "provider": "P",
    }
    assert answer.completion()["citations"] == ["u1", "u2"]
    assert "obfuscation" not in answer.completion()


def test_a_message_that_repeats_the_deltas_is_not_repeated() -> None:
    last = chunk(finish="stop", more={"message": {"role": "assistant", "content": "Hi", "annotations": [{"u": 1}]}})
    whole = {**HEADER, "choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}]}
    for end in (last, whole):
        chunks = [chunk(content="H"), chunk(content="i"), end]
        assert [read.text for read in reads(*chunks)] == ["H", "i", ""]
        answer = folded(*chunks)
        assert answer.said().fields["content"] == first(answer)["content"] == "Hi"
        assert answer.finished
        assert not answer.withdrawn
    assert message(chunk(content="Hi"), last)["extra"] == {"annotations": [{"u": 1}]}


def test_a_message_that_no_delta_has_said_counts_and_a_client_of_deltas_sees_it() -> None:
    last = chunk(finish="stop", more={"message": {"content": "Hi", "tool_calls": [{"id": "a"}]}})
    read = reads(chunk(role="assistant", content=""), last)[1]
    assert read.text == "Hi"
    assert orjson.loads(read.event.data)["choices"] == [
        {
            "index": 0,
            "delta": {"content": "Hi", "tool_calls": [{"index": 0, "id": "a"}]},
            "finish_reason": "stop",
        }
    ]
    assert message(chunk(role="assistant"), last)["content"] == "Hi"


def test_an_upstream_that_streams_messages_in_the_place_of_deltas_is_read() -> None:
    pieces = [{**HEADER, "choices": [{"index": 0, "message": {"content": each}}]} for each in ("H", "i")]
    answer = folded(*pieces)
    assert answer.said().fields["content"] == first(answer)["content"] == "Hi"
    assert orjson.loads(answer.body())["choices"][0]["message"]["content"] == "Hi"


def test_a_message_that_grows_beside_each_delta_is_not_repeated() -> None:
    chunks = [chunk(content=each, more={"message": {"content": so_far}}) for each, so_far in (("H", "H"), ("i", "Hi"))]
    answer = folded(*chunks)
    assert answer.said().fields["content"] == first(answer)["content"] == "Hi"


def test_a_refusal_is_saved_as_one() -> None:
    fields = message(chunk(content=None, refusal="I can"), chunk(refusal="not."), chunk(finish="stop"))
    assert fields == {"content": "", "refusal": "I cannot.", "finishReason": "stop"}


def test_each_of_several_choices_is_saved_and_the_first_is_the_message() -> None:
    fields = message(
        chunk(1, content="b"), chunk(0, content="a"), chunk(1, "length", content="B"), chunk(0, "stop"), wanted=2
    )
    assert fields == {
        "content": "a",
        "finishReason": "stop",
        "choices": [{"content": "bB", "finishReason": "length", "index": 1}],
    }


def test_logprobs_are_put_together_and_equal_tokens_are_not_one() -> None:
    tokens = [{"token": token, "logprob": -0.5, "bytes": [97], "top_logprobs": []} for token in ("a", "b", "b")]
    answer = folded(
        chunk(more={"logprobs": None}, role="assistant"),
        *[chunk(more={"logprobs": {"content": [token], "refusal": None}}, content=token["token"]) for token in tokens],
        chunk(more={"logprobs": None}, finish="stop"),
    )
    assert answer.completion()["choices"][0]["logprobs"] == {"content": tokens, "refusal": None}
    assert answer.said().fields["extra"] == {"logprobs": {"content": tokens, "refusal": None}}


def test_fields_that_are_not_known_are_kept() -> None:
    answer = folded(
        {**chunk(audio={"data": "QUJ", "id": "x"}), "x_vendor": {"id": "v"}},
        chunk(audio={"data": "D", "transcript": "hi"}, annotations=[{"url": "u"}]),
        chunk(more={"stop_reason": "eos"}, finish="stop", depth=3),
    )
    completion = answer.completion()
    assert completion["x_vendor"] == {"id": "v"}
    assert completion["choices"][0]["stop_reason"] == "eos"
    assert answer.said().fields["extra"] == {
        "audio": {"data": "QUJD", "id": "x", "transcript": "hi"},
        "annotations": [{"url": "u"}],
        "depth": 3,
        "stop_reason": "eos",
        "x_vendor": {"id": "v"},
    }


@pytest.mark.parametrize(
    "contents",
    [
        ["a", [{"type": "text", "text": "b"}], "c"],
        [[{"type": "text", "text": "a"}], [{"type": "text", "text": "b"}]],
        [[{"type": "text", "text": "a"}], "b", None, "c"],
        ["", [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}], "a"],
        [[{"type": "thinking", "thinking": "hm"}], [{"type": "text", "text": "a"}], "b"],
    ],
    ids=["text, parts, text", "parts", "parts, text", "thinking, text", "thinking, parts, text"],
)
def test_text_and_parts_of_a_content_in_turn_are_all_kept(contents: list[Any]) -> None:
    chunks = [chunk(content=content) for content in contents]
    visible = "".join(read.text for read in reads(*chunks))
    answer = folded(*chunks)
    assert answer.said().fields["content"] == visible != ""
    content = first(answer)["content"]
    texts = [part.get("text", "") for part in content] if isinstance(content, list) else [content]
    assert "".join(texts) == visible


def test_parts_of_a_content_that_are_no_text_are_saved_too() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}
    fields = message(chunk(content=[{"type": "text", "text": "See:"}, image]))
    assert (fields["content"], fields["extra"]) == ("See:", {"content": [image]})


@pytest.mark.parametrize("numbered", [True, False])
def test_two_images_in_two_chunks_are_two(numbered: bool) -> None:
    images = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{each}"}} for each in ("QUJD", "REVG")]
    sent = [{"index": 0, **image} if numbered else image for image in images]
    assert message(*[chunk(images=[image]) for image in sent])["extra"] == {"images": sent}


def test_a_long_text_after_a_part_that_is_no_text_is_saved_in_what_documents_hold() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    fields = message(chunk(content=[thinking]), *[chunk(content=" word") for _ in range(60_000)])
    kept, parts = spill(fields, "1-")
    assert kept["content"] + "".join(part.text for part in parts if part.field == "content") == " word" * 60_000
    assert len(orjson.dumps(kept)) < 1 << 20


# Usage


@pytest.mark.parametrize("last", [{"choices": []}, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}])
def test_usage_is_taken_from_an_extra_chunk_or_from_the_last_one(last: Json) -> None:
    answer = folded(
        {**chunk(content="a"), "usage": None},
        {**chunk(finish="stop"), "usage": None},
        {**HEADER, **last, "usage": USAGE},
        {**HEADER, "choices": [], "usage": None},
    )
    assert answer.usage == answer.said().usage == USAGE
    assert (answer.said().input_tokens, answer.said().output_tokens) == (3, 4)
    assert answer.completion()["usage"] == USAGE
    assert answer.completion()["choices"][0]["finish_reason"] == "stop"


usages = st.none() | st.just({}) | st.builds(lambda n: {"total_tokens": n}, st.integers(0, 99))


@settings(max_examples=60)
@given(st.lists(usages, max_size=8))
def test_the_usage_is_the_last_that_says_anything(told: list[Json | None]) -> None:
    real = [usage for usage in told if usage]
    assert folded(*[{**chunk(content="a"), "usage": usage} for usage in told]).usage == (real[-1] if real else None)
    assert folded(*[{**HEADER, "choices": [], "usage": usage} for usage in told]).usage == (real[-1] if real else None)


def test_a_usage_beyond_its_bound_is_left_out() -> None:
    small = {"total_tokens": 3, "note": "n" * 900}
    answer = folded({**HEADER, "usage": small}, {**HEADER, "usage": {"total_tokens": 4, "note": "n" * 900_000}})
    assert answer.usage == small


@pytest.mark.parametrize(
    "usage", [{"a": {"b": {"c": {"d": {"e": {}}}}}}, {"a": [1]}, {"a" * 1500: 1}, "none", [1], True]
)
def test_a_usage_that_is_no_small_flat_thing_is_left_out(usage: Any) -> None:
    assert folded({**HEADER, "usage": usage}).usage is None


@pytest.mark.parametrize("count", [True, -1, 1.5, "3", None, 1 << 54])
def test_tokens_that_are_no_count_are_not_told(count: Any) -> None:
    said = folded({**HEADER, "usage": {"prompt_tokens": count, "completion_tokens": 1}}).said()
    assert (said.input_tokens, said.output_tokens) == (None, 1)


# How it ends


def test_an_empty_first_chunk_does_not_hide_the_id_and_model_of_those_after_it() -> None:
    filters = {"id": "", "object": "", "created": 0, "model": "", "choices": [], "prompt_filter_results": [{"a": 1}]}
    answer = folded(filters, chunk(content="a"), chunk(finish="stop"))
    completion = answer.completion()
    assert (completion["id"], completion["model"], completion["created"]) == ("chatcmpl-1", "gpt-x", 1700000000)
    assert answer.said().model == "gpt-x"
    assert answer.said().fields["extra"] == {"prompt_filter_results": [{"a": 1}]}
    assert answer.identity == {"id": "chatcmpl-1", "created": 1700000000}


def test_an_answer_has_finished_when_each_choice_that_was_asked_for_has() -> None:
    assert not folded().finished
    assert not folded(chunk(content="a")).finished
    assert folded(chunk(content="a", finish="length")).finished
    assert folded(chunk(finish="stop"), chunk(content=None), {**HEADER, "choices": [], "usage": USAGE}).finished
    assert not folded(chunk(finish="stop"), wanted=2).finished
    assert not folded(chunk(finish="stop"), chunk(1, content="b")).finished
    assert not folded(chunk(finish="stop"), chunk(1, content="b"), wanted=2).finished
    assert folded(chunk(finish="stop"), chunk(1, finish="stop"), wanted=2).finished


@pytest.mark.parametrize("reason", ["null", "", None])
def test_a_finish_reason_that_is_none_finishes_nothing(reason: str | None) -> None:
    answer = folded(chunk(content="a", finish=reason))
    assert (answer.finished, answer.said().fields["finishReason"]) == (False, None)


def test_text_after_a_finish_reason_withdraws_it() -> None:
    answer = folded(chunk(reasoning="hm", finish="stop"))
    assert (answer.finished, answer.withdrawn) == (True, False)
    answer = folded(chunk(reasoning="hm", finish="stop"), chunk(content="a"))
    assert (answer.finished, answer.withdrawn) == (False, True)
    assert answer.said().fields["finishReason"] == "stop"


def test_a_finish_reason_in_every_chunk_proves_nothing() -> None:
    answer = folded(*[chunk(content=each, finish="stop") for each in "abc"])
    assert (answer.finished, answer.withdrawn) == (True, True)


def test_what_is_no_output_after_a_finish_reason_leaves_it_as_it_is() -> None:
    after = [chunk(content="", role="assistant"), {**HEADER, "choices": [], "usage": USAGE}, chunk(tool_calls=[])]
    answer = folded(chunk(content="a", finish="stop"), *after, chunk(1, content="b", finish="stop"))
    assert (answer.finished, answer.withdrawn) == (True, False)


@pytest.mark.parametrize(
    "strange",
    [
        {"choices": None},
        {"choices": [None, 1, "x"]},
        {"choices": [{}]},
        {"choices": [{"index": None, "delta": None}]},
        {"choices": [{"index": True, "delta": None}]},
        {"choices": [{"index": 0, "delta": "text"}]},
        {"choices": [{"index": 0, "delta": {"content": 3, "tool_calls": None}}]},
        {"choices": [{"index": 0, "delta": {"tool_calls": ["x", {"index": 0, "id": [1], "type": {}}]}}]},
        {"choices": [{"index": 0, "delta": {}, "message": "text"}]},
        {"usage": "none"},
    ],
)
def test_a_chunk_of_a_strange_shape_takes_nothing_from_the_answer(strange: Json) -> None:
    answer = folded(chunk(content="a"), strange, chunk(content="b"), chunk(finish="stop"))
    assert answer.said().fields["content"] == first(answer)["content"] == "ab"
    assert "usage" not in orjson.loads(answer.body())
    assert answer.finished


def test_an_answer_without_events_is_an_empty_message_and_a_completion_without_choices() -> None:
    said = folded().said()
    assert (said.fields, said.model, said.usage) == ({"content": ""}, None, None)
    body = orjson.loads(folded().body())
    assert body["choices"] == []
    assert ChatCompletion.model_validate(body).choices == []


def test_what_is_asked_of_an_answer_does_not_change_it() -> None:
    answer = folded(call(0, "{", id="a", function={"name": "f"}), chunk(content="a"))
    before = (answer.said(), answer.completion())
    answer.completion()["choices"][0]["message"].clear()
    answer.said().fields["toolCalls"].clear()
    assert (answer.said(), answer.completion()) == before
    answer.add(reads(call(0, "}"))[0])
    assert first(answer)["tool_calls"][0]["function"]["arguments"] == "{}"


def test_folding_an_event_leaves_its_payload_as_it_was() -> None:
    payloads = [
        chunk(content=[{"type": "note", "x": {"y": [1]}}], more={"logprobs": {"content": [{"token": "a"}]}}),
        {**chunk(content=[{"type": "note", "x": {"y": [2]}, "text": "t"}]), "citations": ["u"]},
        chunk(content=[{"text": "u"}], annotations=[{"a": 1}]),
    ]
    answer = Completion()
    before = orjson.dumps(payloads)
    for payload in payloads:
        answer.add(Read(event(payload), payload))
    assert orjson.dumps(payloads) == before


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


@settings(max_examples=60)
@given(cut_up())
def test_any_answer_in_any_order_of_chunks_adds_up_to_itself(choices_and_chunks: tuple[list[Json], list[Json]]) -> None:
    choices, chunks = choices_and_chunks
    assert folded(*chunks, wanted=len(choices)).completion() == {
        **HEADER,
        "object": "chat.completion",
        "choices": choices,
        "usage": USAGE,
    }


@settings(max_examples=60)
@given(cut_up())
def test_the_visible_texts_of_all_events_are_the_message_s_content(
    choices_and_chunks: tuple[list[Json], list[Json]],
) -> None:
    choices, chunks = choices_and_chunks
    visible = "".join(read.text for read in reads(*chunks))
    assert visible == message(*chunks)["content"] == choices[0]["message"]["content"]


# From a stream to a completion and back


@settings(max_examples=30)
@given(cut_up(most=1))
def test_the_completion_of_a_stream_is_what_the_official_client_makes_of_it(
    choices_and_chunks: tuple[list[Json], list[Json]],
) -> None:
    _, chunks = choices_and_chunks
    ours = ChatCompletion.model_validate_json(folded(*chunks).body())
    assert summary(ours) == summary(sdk_completion(*chunks))
    assert ours.object == "chat.completion"


def test_a_stream_for_a_client_that_wants_one_body_has_its_usage() -> None:
    answer = folded(chunk(content="Hi"), chunk(finish="stop"), {**HEADER, "choices": [], "usage": USAGE})
    assert orjson.loads(answer.body())["usage"] == USAGE


def body_of(body: bytes, *more: Json, streamed: bool = False) -> Completion:
    reading, answer = CHAT.reading(), Completion(2)
    for each in (*CHAT.events(body, streamed=streamed), *map(event, more)):
        answer.add(reading.read(each))
    return answer


def test_the_upstream_s_own_body_is_given_byte_for_byte() -> None:
    body = json.dumps(COMPLETION, indent=2, ensure_ascii=True).encode() + b"\n"
    assert body_of(body).body() == body
    assert body_of(body.replace(b"\n", b"\r\n")).body() == body


def test_a_whole_completion_with_more_events_after_it_is_put_together() -> None:
    one = {**COMPLETION, "choices": COMPLETION["choices"][1:]}
    made = orjson.loads(body_of(orjson.dumps(one), chunk(1, content=" More.")).body())
    assert made["choices"][0]["message"]["content"] == "¡Hola! 😀 More."


def test_a_chunk_made_of_a_completion_is_one_that_the_official_client_takes() -> None:
    (made,) = CHAT.events(orjson.dumps(COMPLETION), streamed=True)
    chunked = ChatCompletionChunk.model_validate_json(made.data)
    assert chunked.object == "chat.completion.chunk"
    assert chunked.usage is not None
    assert chunked.usage.total_tokens == 7
    assert [call.index for call in chunked.choices[0].delta.tool_calls or ()] == [0, 1]
    assert chunked.choices[1].delta.content == "¡Hola! 😀"
    assert chunked.choices[1].finish_reason == "stop"


def test_a_chunk_made_of_a_completion_adds_up_to_the_same_answer() -> None:
    from_whole, from_chunk = (body_of(orjson.dumps(COMPLETION), streamed=streamed) for streamed in (False, True))
    assert from_chunk.completion() == from_whole.completion() == COMPLETION
    assert from_chunk.usage == from_whole.usage == USAGE
    assert from_chunk.finished
    assert from_whole.finished


@settings(max_examples=40)
@given(cut_up())
def test_a_stream_made_whole_and_made_a_chunk_again_is_the_same_answer(
    choices_and_chunks: tuple[list[Json], list[Json]],
) -> None:
    choices, chunks = choices_and_chunks
    whole = folded(*chunks, wanted=len(choices)).completion()
    assert body_of(orjson.dumps(whole), streamed=True).completion() == whole


def test_a_completion_is_told_from_a_chunk_by_its_message() -> None:
    assert is_whole(COMPLETION)
    assert not is_whole(chunk(content="a"))
    assert not is_whole(chunk(more={"message": {"content": "a"}}))
    assert not is_whole({"choices": []})
    assert not is_whole({"choices": None})
    assert not is_whole({"object": "chat.completion", "data": []})


@pytest.mark.parametrize("calls", [7, "x", [7], [None], {"a": 1}])
def test_tool_calls_of_a_shape_of_their_own_break_nothing(calls: Any) -> None:
    completion = {"choices": [{"index": 0, "message": {"content": "a", "tool_calls": calls}, "finish_reason": "stop"}]}
    answer = body_of(orjson.dumps(completion), streamed=True)
    assert first(answer)["content"] == answer.said().fields["content"] == "a"
    assert orjson.loads(body_of(orjson.dumps(completion)).body()) == completion


def test_an_answer_that_told_only_whose_it_is_has_said_nothing() -> None:
    assert folded().silent
    opening = chunk(role="assistant", content="", refusal=None)
    assert folded(opening).silent
    for said in ({"content": " "}, {"reasoning": "hm"}, {"tool_calls": [{"index": 0, "id": "a"}]}, {"refusal": "no"}):
        assert not folded(opening, chunk(**said)).silent
    assert not folded(opening, chunk(finish="stop")).silent
