"""The events of Anthropic's Messages add up to the message, however they are divided."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lib.dialects import DIALECTS
from lib.dialects.protocol import Answer, folded
from lib.domain.event import Event
from tests.unit.dialects.test_messages import MESSAGE, delta, end, event, start

MESSAGES = DIALECTS["messages"]
Json = dict[str, Any]
WORDS = st.text(max_size=12)
JSON = st.dictionaries(
    st.text(max_size=4),
    st.recursive(st.integers(-(1 << 63), (1 << 64) - 1) | WORDS, st.lists, max_leaves=4),
    max_size=3,
)
CITATIONS = st.lists(st.fixed_dictionaries({"type": st.just("char_location"), "cited_text": WORDS}), max_size=3)
BLOCKS = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": WORDS}),
    st.fixed_dictionaries({"type": st.just("text"), "text": WORDS, "citations": st.none()}),
    st.fixed_dictionaries({"type": st.just("text"), "text": WORDS, "citations": CITATIONS.filter(bool)}),
    st.fixed_dictionaries({"type": st.just("thinking"), "thinking": WORDS, "signature": WORDS}),
    st.fixed_dictionaries({"type": st.just("redacted_thinking"), "data": WORDS}),
    st.fixed_dictionaries({"type": st.sampled_from(["tool_use", "server_tool_use"]), "id": WORDS, "input": JSON}),
    st.fixed_dictionaries({"type": st.just("web_search_tool_result"), "content": st.lists(JSON, max_size=2)}),
    st.fixed_dictionaries({"type": st.just("unheard_of"), "what": JSON}),
)
DELTAS = {
    "thinking": ("thinking_delta", "thinking"),
    "signature": ("signature_delta", "signature"),
    "text": ("text_delta", "text"),
}


@st.composite
def streams(draw: st.DrawFn) -> tuple[Json, list[Event]]:
    """A whole message, and events that it could have come in."""
    blocks = draw(st.lists(BLOCKS, max_size=5))
    events = [event("message_start", message=MESSAGE)]
    for index, block in enumerate(blocks):
        begun, pieces = dict(block), []
        for field in DELTAS:
            if block["type"] in ("text", "thinking") and field in block:
                begun[field] = ""
                kind, name = DELTAS[field]
                pieces += [delta(kind, index, **{name: piece}) for piece in draw(divided(block[field]))]
        for citation in block.get("citations") or ():
            begun["citations"] = []
            pieces.append(delta("citations_delta", index, citation=citation))
        if "input" in block:
            begun["input"] = {}
            text = json.dumps(block["input"], ensure_ascii=False, separators=(",", ":"))
            pieces += [delta("input_json_delta", index, partial_json=piece) for piece in draw(divided(text))]
        events += [start(begun.pop("type"), index, **begun), *pieces, event("content_block_stop", index=index)]
    events.append(end("end_turn"))
    usage = {"input_tokens": 7, "output_tokens": 9}
    return {**MESSAGE, "content": blocks, "stop_reason": "end_turn", "usage": usage}, events


@st.composite
def divided(draw: st.DrawFn, text: str) -> list[str]:
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[left:right] for left, right in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def added(*events: Event) -> Answer:
    answer, reading = MESSAGES.answer(), MESSAGES.reading()
    for each in events:
        answer.add(reading.read(each))
    return answer


@given(streams())
def test_any_division_into_deltas_adds_up_to_the_message(stream: tuple[Json, list[Event]]) -> None:
    message, events = stream
    answer = added(*events)
    assert json.loads(answer.body()) == message
    assert answer.said().fields["content"] == "".join(b["text"] for b in message["content"] if b["type"] == "text")
    assert answer.finished


@given(streams())
def test_a_message_in_one_piece_says_the_same_as_its_events(stream: tuple[Json, list[Event]]) -> None:
    message, events = stream
    whole = folded(MESSAGES, MESSAGES.events(json.dumps(message).encode(), streamed=False)).said()
    assert added(*events).said() == whole


def test_usage_is_that_of_the_beginning_with_what_is_counted_later() -> None:
    more = {"output_tokens": 5, "input_tokens": None, "server_tool_use": {"web_search_requests": 1}, "odd": [1]}
    first = {"input_tokens": 7, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 20, "output_tokens": 1}
    answer = added(
        event("message_start", message={**MESSAGE, "usage": first}),
        event("message_delta", delta={"stop_reason": None}, usage={"output_tokens": 3}),
        event("message_delta", delta={"stop_reason": "end_turn"}, usage=more),
    )
    said = answer.said()
    assert said.usage == {**first, "output_tokens": 5, "server_tool_use": {"web_search_requests": 1}}
    assert (said.input_tokens, said.output_tokens) == (127, 5)


def test_usage_that_can_t_be_stored_is_left_out() -> None:
    answer = added(event("message_start", message={**MESSAGE, "usage": {"input_tokens": 1, "x": "x" * 2000}}))
    assert answer.usage == {"input_tokens": 1}
    assert added(event("message_start", message={**MESSAGE, "usage": "many"})).usage is None


def test_an_application_s_message_has_tool_calls_as_of_any_api() -> None:
    answer = added(
        event("message_start", message=MESSAGE),
        start("text", text="Look."),
        start("tool_use", 1, id="t", name="look_up", input={}),
        delta("input_json_delta", 1, partial_json='{"a": '),
        delta("input_json_delta", 1, partial_json="1}"),
        start("tool_use", 2, id="u", name="rest", input={}),
        end("tool_use"),
    )
    assert answer.said().fields == {
        "content": "Look.",
        "toolCalls": [
            {"id": "t", "type": "function", "function": {"name": "look_up", "arguments": '{"a": 1}'}},
            {"id": "u", "type": "function", "function": {"name": "rest", "arguments": "{}"}},
        ],
        "finishReason": "tool_use",
    }
    assert answer.said().model == "claude-1"


def test_what_an_application_s_message_has_no_field_for_is_in_extra_in_its_place() -> None:
    answer = added(
        event("message_start", message=MESSAGE),
        start("thinking", thinking="", signature=""),
        delta("thinking_delta", thinking="Hm."),
        delta("signature_delta", signature="abc"),
        start("text", 1, text=""),
        delta("text_delta", 1, text="So."),
        event("message_delta", delta={"stop_reason": "stop_sequence", "stop_sequence": "!"}, usage={}, odd={"x": 1}),
    )
    said = answer.said().fields
    assert (said["content"], said["reasoning"], said["finishReason"]) == ("So.", "Hm.", "stop_sequence")
    assert said["extra"] == {
        "stop_sequence": "!",
        "odd": {"x": 1},
        "content": [{"type": "thinking", "thinking": "Hm.", "signature": "abc"}, {"type": "text", "text": "So."}],
    }


def test_an_input_that_broke_off_is_kept_as_text() -> None:
    answer = added(start("tool_use", id="t", name="n", input={}), delta("input_json_delta", partial_json='{"a": '))
    assert json.loads(answer.body())["content"][0]["input"] == {"INVALID_JSON": '{"a": '}
    assert answer.said().fields["toolCalls"][0]["function"]["arguments"] == '{"a": '


def test_deltas_without_a_start_or_an_index_are_not_lost() -> None:
    answer = added(delta("thinking_delta", 0, thinking="Hm."), delta("text_delta", 1, text="a"))
    data = json.dumps({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "b"}}).encode()
    answer.add(MESSAGES.read(Event(data)))
    assert json.loads(answer.body())["content"] == [
        {"type": "thinking", "thinking": "Hm."},
        {"type": "text", "text": "ab"},
    ]


def test_a_block_at_the_place_of_one_that_is_over_is_another_one() -> None:
    answer = added(
        start("text", text="a"),
        event("content_block_stop", index=0),
        start("text", text="b"),
        start("tool_use", id="t", name="n", input={}),
        delta("input_json_delta", partial_json="{}"),
    )
    assert [block["type"] for block in json.loads(answer.body())["content"]] == ["text", "text", "tool_use"]


def test_text_after_a_stop_reason_withdraws_it() -> None:
    answer = added(event("message_start", message=MESSAGE), delta("text_delta", text="a"), end("end_turn"))
    assert (answer.finished, answer.withdrawn) == (True, False)
    answer.add(MESSAGES.read(delta("text_delta", text="b")))
    assert (answer.finished, answer.withdrawn) == (False, True)


def test_a_beginning_alone_is_silent() -> None:
    answer = added(
        event("message_start", message=MESSAGE), start("text", text=""), event("content_block_stop", index=0)
    )
    assert answer.silent
    answer.add(MESSAGES.read(end("refusal")))
    assert not answer.silent
