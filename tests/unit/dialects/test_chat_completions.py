"""The chat completions dialect: the meaning of events and bodies, validation of requests, and errors."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.dialects import DIALECTS
from lib.dialects.chat_completions.completion import Completion
from lib.dialects.protocol import Dialect, Malformed, Read
from lib.dialects.steps import EndMark, Fault, Finish, Json, Other, Reasoning, Refusal, Text, ToolCall, Usage
from lib.domain.errors import InvalidRequest
from lib.domain.event import Event
from lib.domain.text import well_formed

CHAT: Dialect = DIALECTS["chat_completions"]
HEADER: Json = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000, "model": "gpt-x"}
USAGE: Json = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
REQUEST: Json = {"model": "gpt-x", "messages": [{"role": "user", "content": "hi"}]}


def chunk(index: int = 0, finish: str | None = None, more: Json | None = None, **delta: Any) -> Json:
    return {**HEADER, "choices": [{"index": index, "delta": delta, "finish_reason": finish, **(more or {})}]}


def read(payload: Json | bytes, name: bytes = b"") -> Read:
    """Reads an event of a call, and again as an event of the journal, which must mean the same."""
    event = Event(payload if isinstance(payload, bytes) else json.dumps(payload).encode(), name)
    found = CHAT.reading().read(event)
    assert CHAT.read(found.event) == found
    return found


def fault(found: Read) -> Fault:
    """The fault that an event ends with."""
    last = found.steps[-1]
    assert isinstance(last, Fault)
    assert not any(isinstance(step, Fault | Finish) for step in found.steps[:-1])
    return last


# One event


@pytest.mark.parametrize("data", [b"[DONE]", b" [DONE]", b"[DONE]  ", b"[DONE]\n"])
def test_done_as_a_whole_payload_is_the_end(data: bytes) -> None:
    assert read(data) == Read(Event(data), {}, (EndMark(),), kept=False)
    assert CHAT.end_mark is not None
    assert read(CHAT.end_mark.data).steps == (EndMark(),)


def test_done_inside_of_a_payload_is_text() -> None:
    assert read(b'{"choices":[{"delta":{"content":"[DONE]"}}]}').steps == (Text("[DONE]"),)
    assert read(b'{"id":"data: [DONE]"}').steps == ()


@pytest.mark.parametrize("data", [b"[DONE]x", b'"[DONE]"', b"[DONE][DONE]", b"DONE", b"[done]", b'["[DONE]"]'])
def test_what_is_not_exactly_done_is_not_the_end(data: bytes) -> None:
    with pytest.raises(Malformed):
        CHAT.read(Event(data))


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
    for reader in (CHAT, CHAT.reading()):
        with pytest.raises(Malformed):
            reader.read(Event(data))
    with pytest.raises(Malformed):
        CHAT.events(data, streamed=True)


@pytest.mark.parametrize("choices", [7, 0, "x", "", {"a": 1}, {}, True, False])
def test_choices_that_are_no_list_are_malformed(choices: Any) -> None:
    with pytest.raises(Malformed):
        CHAT.read(Event(json.dumps({"choices": choices}).encode()))


@pytest.mark.parametrize("around", ["[{}]", '{{"a": {}}}'], ids=["lists", "maps"])
@pytest.mark.parametrize("half", ["", ', "y": "\\ud83d"'])
def test_what_is_nested_beyond_reason_is_malformed_and_what_is_merely_long_is_not(around: str, half: str) -> None:
    deep = "1"
    for _ in range(99):
        deep = around.format(deep)
    assert CHAT.read(Event(f'{{"x": {deep}{half}}}'.encode())).payload
    for _ in range(3):
        deep = around.format(deep)
        body = f'{{"x": {deep}{half}}}'.encode()
        for reader in (CHAT, CHAT.reading()):
            with pytest.raises(Malformed):
                reader.read(Event(body))
        with pytest.raises(Malformed):
            CHAT.events(body.replace(b"x", b"choices"), streamed=True)
        assert CHAT.fault(400, body.replace(b"x", b"error")).code == "upstream_status"
        for _ in range(200):
            deep = around.format(deep)
    assert CHAT.read(Event(json.dumps({"x": [[]] * 500}).encode())).payload


@pytest.mark.parametrize(
    ("delta", "steps"),
    [
        ({"role": "assistant", "content": "", "refusal": None}, ()),
        ({"content": "a"}, (Text("a"),)),
        ({"content": "a", "reasoning": "hm"}, (Reasoning("hm"), Text("a"))),
        ({"content": [{"type": "text", "text": "a"}, "b", {"type": "image"}]}, (Text("a"), Text("b"), Other())),
        ({"content": [{"type": "refusal", "refusal": "no"}]}, (Refusal("no"),)),
        ({"content": [{"type": "thinking", "thinking": "hm"}]}, (Reasoning("hm"),)),
        ({"content": [{"type": "thinking", "signature": "s"}]}, (Other(),)),
        ({"content": 3}, (Other(),)),
        ({"refusal": "no"}, (Refusal("no"),)),
        ({"thinking_blocks": [{"type": "thinking", "thinking": "hm"}]}, (Reasoning("hm"),)),
        ({"reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]}, (Other(),)),
        ({"function_call": {"name": "f", "arguments": "{"}}, (ToolCall(0, "", "f", "{"),)),
        ({"tool_calls": [{"index": 2, "id": "a", "function": {"name": "f"}}]}, (ToolCall(2, "a", "f", ""),)),
        (
            {"tool_calls": [{"function": {"name": "f"}}, {"function": {"name": "g", "arguments": {"a": 1}}}]},
            (ToolCall(0, "", "f", ""), ToolCall(1, "", "g", '{"a":1}')),
        ),
        ({"tool_calls": [{"function": {"arguments": "}"}}]}, (ToolCall(-1, "", "", "}"),)),
        ({"tool_calls": [{"index": 0, "custom": {"name": "f", "input": "x"}}]}, (ToolCall(0, "", "f", "x"),)),
        ({"tool_calls": ["x"]}, (Other(),)),
        ({"audio": {"data": "QUJD"}}, (Other(),)),
        ({"images": []}, ()),
    ],
)
def test_a_delta_means_its_steps(delta: Json, steps: tuple[object, ...]) -> None:
    assert read(chunk(**delta)).steps == steps


def test_output_comes_before_the_finish_of_its_choice_and_each_choice_has_its_own() -> None:
    both = {
        "choices": [
            {"index": 1, "finish_reason": "length", "delta": {"content": "b"}},
            {"index": 0, "finish_reason": "stop", "delta": {"content": "a"}},
        ],
        "usage": USAGE,
    }
    found = read(both)
    assert found.steps == (Text("b", 1), Finish("length", 1), Text("a"), Finish("stop"), Usage(USAGE))
    assert found.text == "a"


@pytest.mark.parametrize("reason", ["null", "", None, 7])
def test_a_finish_reason_that_is_none_is_no_step_and_the_event_stays_as_it_is(reason: Any) -> None:
    event = Event(json.dumps(chunk(finish=reason, content="a")).encode())
    found = CHAT.reading().read(event)
    assert found.steps == (Text("a"),)
    assert found.event is event


def test_the_usage_chunk_is_the_one_with_a_usage_and_no_choice() -> None:
    assert read({**HEADER, "choices": [], "usage": USAGE}) == Read(
        Event(json.dumps({**HEADER, "choices": [], "usage": USAGE}).encode()),
        {**HEADER, "choices": [], "usage": USAGE},
        (Usage(USAGE),),
        usage_only=True,
    )
    assert read({**HEADER, "usage": USAGE}).usage_only
    assert not read({**chunk(finish="stop"), "usage": USAGE}).usage_only
    assert not read({**chunk(content="a"), "usage": None}).usage_only
    assert not read({**HEADER, "choices": [], "usage": None}).usage_only
    empty = read({**HEADER, "choices": [], "usage": {}})
    assert (empty.usage_only, empty.steps) == (True, ())


def test_an_event_that_nothing_has_to_be_changed_in_is_passed_on_as_it_came() -> None:
    event = Event(
        b'{"choices" : [ {"index":0, "delta":{"content":"\\u00e9 \\"message\\" error"}} ] , "x":1e2}', b"chunk"
    )
    assert CHAT.reading().read(event).event is event


@settings(max_examples=60)
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["content", "reasoning", "tool_calls", "refusal", "role", "x", "error"]),
            st.recursive(
                st.none() | st.booleans() | st.integers(0, 2) | st.sampled_from(["", "a", "\ud83e", "\udd8a", "error"]),
                lambda inner: (
                    st.lists(inner, max_size=2)
                    | st.dictionaries(st.sampled_from(["index", "id", "type", "text", "name", "function"]), inner)
                ),
                max_leaves=5,
            ),
        ),
        max_size=4,
    ),
    st.sampled_from(["delta", "message"]),
    st.sampled_from([None, "stop", "error", "null"]),
)
def test_whatever_a_delta_is_the_journal_s_events_mean_what_the_call_s_did(
    deltas: list[Json], place: str, finish: str | None
) -> None:
    reading, answer, replayed = CHAT.reading(), CHAT.answer(), CHAT.answer()
    for delta in deltas:
        payload = {"choices": [{"index": 0, place: delta, "finish_reason": finish}]}
        found = reading.read(Event(json.dumps(payload).encode()))
        again = CHAT.read(found.event)
        assert again == found
        if found.kept:
            answer.add(found)
            replayed.add(again)
    assert replayed.said() == answer.said()
    assert orjson.dumps(answer.said().fields)
    assert json.loads(answer.body())


# Half surrogates: JSON may escape one, UTF-8 can't hold it


def test_a_half_that_stays_alone_is_replaced_and_nothing_else_is_lost() -> None:
    assert well_formed("a\ud83db") == "a\ufffdb"
    assert well_formed("\ude00😀\ud83d") == "\ufffd😀\ufffd"
    assert well_formed("\ud83d\ude00") == "😀"


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_text_that_is_well_formed_stays_as_it_is(text: str) -> None:
    assert well_formed(text) == text


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
        rb'{"error":{"message":"\ud83d","code":"\ud83d"}}',
    ],
)
@pytest.mark.parametrize("live", [True, False])
def test_half_a_character_anywhere_leaves_what_can_be_saved_and_sent(data: bytes, live: bool) -> None:
    found = (CHAT.reading() if live else CHAT).read(Event(data))
    answer = CHAT.answer()
    answer.add(found)
    said = answer.said()
    assert orjson.dumps([found.payload, said.fields, said.model, said.usage])
    assert orjson.loads(answer.body())
    assert all(orjson.dumps(str(step)) for step in found.steps)


# The upstream's errors


def test_a_null_error_is_no_error() -> None:
    assert read(b'{"error":null,"choices":[]}').steps == ()
    assert read(chunk(content="a", error=None, more={"error": None})).steps == (Text("a"),)


@pytest.mark.parametrize(
    "payload",
    [
        {"error": {"message": "It broke.", "code": "E9"}},
        {"error": "It broke.", "code": "E9"},
        {"error": True, "message": "It broke.", "code": "E9"},
        {"object": "error", "message": "It broke.", "code": "E9"},
        {"type": "error", "message": "It broke.", "code": "E9"},
        {"type": "error", "error": {"message": "It broke.", "type": "E9"}},
        {"error": {"message": "It broke.", "code": "E9"}, "choices": [{"delta": {"content": ""}}], "id": "x"},
        {**chunk(finish="error", content=""), "error": {"message": "It broke.", "code": "E9"}},
    ],
)
def test_an_error_at_the_top_is_the_upstream_s_own(payload: Json) -> None:
    found = read(payload)
    assert not found.kept
    assert found.steps == (fault(found),)
    assert (fault(found).message, fault(found).code) == ("It broke.", "E9")
    assert json.loads(fault(found).body)["error"]["message"] == "It broke."


@pytest.mark.parametrize(
    "data",
    [
        b'{"message":"It broke.","code":"E9"}',
        b'{"error":{"message":"It broke.","code":"E9"}}',
        b'[{"error":{"message":"It broke.","code":"E9"}}]',
        b"It broke.",
        b' "It broke." ',
        b"It broke.\n",
    ],
)
def test_an_event_named_error_is_one_whatever_its_data_is(data: bytes) -> None:
    found = read(data, b"error")
    assert not found.kept
    assert found.steps == (fault(found),)
    assert fault(found).message == "It broke."
    assert fault(found).code == ("E9" if b"E9" in data else "upstream_error")


def test_an_event_named_error_that_says_nothing_is_an_error_as_well() -> None:
    for data in (b"", b"{}", b"[DONE]x", b"\xff"):
        assert fault(read(data, b"error")).code == "upstream_error"
    assert fault(read(b"", b"error")).message == "The upstream reported an error."


@pytest.mark.parametrize(
    "choice",
    [
        {"delta": {"content": "a"}, "finish_reason": "error", "error": {"code": 502, "message": "Provider gone"}},
        {"delta": {"content": "a", "error": {"code": 502, "message": "Provider gone"}}, "finish_reason": "stop"},
        {"message": {"content": "a"}, "finish_reason": "error", "error": {"code": 502, "message": "Provider gone"}},
        {"message": {"content": "a", "error": {"code": "502", "message": "Provider gone"}}, "finish_reason": None},
    ],
)
def test_an_error_in_a_choice_is_kept_with_what_it_says_and_ends_the_answer(choice: Json) -> None:
    found = read({**HEADER, "choices": [{"index": 0, **choice}]})
    assert (found.kept, found.text) == (True, "a")
    told = fault(found)
    assert (told.message, told.code, told.status, told.passing) == ("Provider gone", "502", 502, True)
    answer = Completion()
    answer.add(found)
    assert not answer.finished


def test_a_finish_reason_error_alone_is_an_error() -> None:
    found = read(chunk(finish="error", content="a"))
    assert found.kept
    assert found.steps == (Text("a"), Fault(message="The upstream reported an error.", code="upstream_error"))


def test_text_beside_an_error_at_the_top_is_kept() -> None:
    found = read({**chunk(content="a", finish="stop"), "error": {"message": "It broke."}})
    assert found.kept
    assert found.steps == (Text("a"), fault(found))


def test_an_error_that_the_text_only_speaks_of_is_none() -> None:
    assert read(chunk(content='{"error": {"message": "m"}}', name="error")).steps[0] == (
        Text('{"error": {"message": "m"}}')
    )
    assert read({**HEADER, "choices": [], "x": {"error": {"message": "m"}}}).steps == ()


def test_a_body_with_an_error_is_one_event_that_is_its_fault() -> None:
    for body in (
        b'{"error":{"message":"Resource has been exhausted","code":429}}',
        b'\xef\xbb\xbf{"error":\r\n {"message":"Resource has been exhausted","code":429}}\r\n',
        b'[{"error":{"message":"Resource has been exhausted","code":429,"status":"RESOURCE_EXHAUSTED"}}]',
        b'{"object":"error","message":"Resource has been exhausted","code":429}',
    ):
        for streamed in (True, False):
            (event,) = CHAT.events(body, streamed=streamed)
            told = fault(CHAT.read(event))
            assert (told.message, told.code, told.status) == ("Resource has been exhausted", "429", 429)
            assert told.passing


def test_a_whole_body_with_an_error_in_its_choice_is_kept_with_its_fault() -> None:
    body = {"choices": [{"message": {"content": "a"}, "finish_reason": "error", "error": {"code": 502}}]}
    for streamed in (True, False):
        (event,) = CHAT.events(json.dumps(body).encode(), streamed=streamed)
        found = CHAT.read(event)
        assert (found.kept, found.text, fault(found).status) == (True, "a", 502)


@pytest.mark.parametrize("body", [b"{}", b'{"choices":null}', b'{"message":"hi"}', b'{"data":[]}', b"[1]", b"[DONE]"])
def test_a_body_that_is_neither_an_answer_nor_an_error_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        CHAT.events(body, streamed=False)


def test_a_body_of_a_chunk_stays_as_it_is() -> None:
    body = json.dumps(chunk(content="a", finish="stop")).encode()
    assert CHAT.events(body, streamed=True) == [Event(body)]


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
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": True}, "max_completion_tokens"),
        ({"max_completion_tokens": 1e9}, "max_completion_tokens"),
    ],
)
def test_a_request_that_is_refused_is_told_which_field_is_wrong(change: Json, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        CHAT.check({**REQUEST, **change})
    assert refused.value.param == param
    assert f"'{param}'" in refused.value.message
    assert refused.value.status == 400


@pytest.mark.parametrize("body", [None, [], "text", 1, [REQUEST]])
def test_a_body_that_is_no_object_is_refused(body: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        CHAT.check(body)
    assert refused.value.code == "invalid_body"


@pytest.mark.parametrize(
    ("change", "streamed", "choices", "usage_shown"),
    [
        ({}, False, 1, True),
        ({"stream": None, "stream_options": None, "n": None}, False, 1, True),
        ({"stream": True}, True, 1, False),
        ({"stream": True, "stream_options": {}}, True, 1, False),
        ({"stream": True, "stream_options": {"include_usage": False}, "n": 128}, True, 128, False),
        ({"stream": True, "stream_options": {"include_usage": True}}, True, 1, True),
        ({"anything": {"an upstream": "knows"}, "n": 2}, False, 2, True),
    ],
)
def test_a_request_says_what_it_asks_for(change: Json, streamed: bool, choices: int, usage_shown: bool) -> None:
    asked = CHAT.check({**REQUEST, **change})
    assert (asked.model, asked.streamed, asked.choices, asked.usage_shown) == ("gpt-x", streamed, choices, usage_shown)


@pytest.mark.parametrize(
    ("change", "tokens", "field"),
    [
        ({}, None, "max_completion_tokens"),
        ({"max_tokens": None, "max_completion_tokens": None}, None, "max_completion_tokens"),
        ({"max_tokens": 7}, 7, "max_tokens"),
        ({"max_completion_tokens": 8}, 8, "max_completion_tokens"),
        ({"max_tokens": 9, "max_completion_tokens": 8}, 9, "max_tokens"),
    ],
)
def test_a_request_says_how_many_tokens_it_asks_for_and_in_which_field(
    change: Json, tokens: int | None, field: str
) -> None:
    asked = CHAT.check({**REQUEST, **change})
    assert (asked.output_tokens, asked.output_tokens_field) == (tokens, field)


def sent(request: Json, *, ask_usage: bool) -> Json:
    outgoing = CHAT.outgoing(request, ask_usage=ask_usage)
    assert outgoing.path == "/chat/completions"
    body: Json = orjson.loads(outgoing.body)
    return body


def test_a_stream_is_asked_for_its_usage_with_all_else_that_the_client_sent() -> None:
    request = {**REQUEST, "stream": True, "stream_options": {"include_obfuscation": False}}
    before = json.dumps(request)
    assert sent(request, ask_usage=True)["stream_options"] == {"include_obfuscation": False, "include_usage": True}
    assert sent({**REQUEST, "stream": True}, ask_usage=True) == {
        **REQUEST,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert sent({**request, "stream_options": None}, ask_usage=True)["stream_options"] == {"include_usage": True}
    assert json.dumps(request) == before


@pytest.mark.parametrize("ask_usage", [True, False])
@pytest.mark.parametrize(
    "request_",
    [
        REQUEST,
        {**REQUEST, "stream": False},
        {**REQUEST, "stream": True, "stream_options": {"include_usage": True}},
        {**REQUEST, "stream": True, "stream_options": {"include_usage": False}},
    ],
)
def test_a_request_that_is_not_streamed_or_speaks_of_usage_itself_is_sent_unchanged(
    request_: Json, ask_usage: bool
) -> None:
    assert sent(request_, ask_usage=ask_usage) == request_


def test_an_upstream_that_is_not_to_be_asked_gets_what_the_client_sent() -> None:
    assert sent({**REQUEST, "stream": True}, ask_usage=False) == {**REQUEST, "stream": True}


def test_a_request_becomes_one_for_a_stream_and_stays_what_it_was() -> None:
    assert CHAT.streaming(REQUEST) == {**REQUEST, "stream": True}
    assert "stream" not in REQUEST
