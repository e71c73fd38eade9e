"""The events of OpenAI's Responses add up to the response, however they are divided."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lib.dialects import DIALECTS
from lib.dialects.protocol import folded
from lib.dialects.responses.output import Output
from lib.domain.event import Event
from tests.unit.dialects.test_responses import CALL, CITED, PICTURE, RESPONSE, USAGE, delta, done, event, told
from tests.unit.dialects.test_responses import added as begun

RESPONSES = DIALECTS["responses"]
Json = dict[str, Any]
WORDS = st.text(max_size=12)
LOGPROBS = st.lists(st.fixed_dictionaries({"token": WORDS, "logprob": st.just(0)}), max_size=3)
TEXTS = st.fixed_dictionaries(
    {
        "type": st.just("output_text"),
        "text": WORDS,
        "annotations": st.lists(st.just(CITED), max_size=2),
        "logprobs": LOGPROBS,
    }
)
REFUSALS = st.fixed_dictionaries({"type": st.just("refusal"), "refusal": WORDS})
SUMMARIES = st.fixed_dictionaries({"type": st.just("summary_text"), "text": WORDS})
THOUGHTS = st.fixed_dictionaries({"type": st.just("reasoning_text"), "text": WORDS})
ITEMS = st.one_of(
    st.fixed_dictionaries(
        {
            "type": st.just("message"),
            "role": st.just("assistant"),
            "status": st.just("completed"),
            "content": st.lists(st.one_of(TEXTS, REFUSALS), max_size=3),
        }
    ),
    st.fixed_dictionaries({"type": st.just("reasoning"), "summary": st.lists(SUMMARIES, max_size=3)}),
    st.fixed_dictionaries(
        {
            "type": st.just("reasoning"),
            "summary": st.just([]),
            "content": st.lists(THOUGHTS, max_size=2),
            "encrypted_content": WORDS,
        }
    ),
    st.fixed_dictionaries(
        {"type": st.just("function_call"), "call_id": WORDS, "name": WORDS, "arguments": WORDS, "status": st.just("ok")}
    ),
    st.fixed_dictionaries({"type": st.just("custom_tool_call"), "call_id": WORDS, "name": WORDS, "input": WORDS}),
    st.fixed_dictionaries({"type": st.just("web_search_call"), "action": st.just({"query": "so"})}),
)
STEMS = {
    "output_text": "output_text",
    "refusal": "refusal",
    "summary_text": "reasoning_summary_text",
    "reasoning_text": "reasoning_text",
}


@st.composite
def streams(draw: st.DrawFn) -> tuple[Json, list[Event]]:
    """A whole response, and events that it could have come in. What is said whole at the end may be left out."""
    items = draw(st.lists(ITEMS, max_size=4))
    events = [event("response.created", response=RESPONSE)]
    for index, item in enumerate(items):
        blank, pieces = dict(item), []
        for name, place in (("content", "content_index"), ("summary", "summary_index")):
            if name in item:
                blank[name] = []
                for at, part in enumerate(item[name]):
                    pieces += draw(of_part(part, name, {place: at, "output_index": index}))
        for name, stem in (("arguments", "function_call_arguments"), ("input", "custom_tool_call_input")):
            if name in item:
                blank[name] = ""
                pieces += [delta(stem, piece, index) for piece in draw(divided(item[name]))]
                if draw(st.booleans()):
                    pieces.append(event(f"response.{stem}.done", output_index=index, **{name: item[name]}))
        events += [begun(blank, index), *pieces]
        if draw(st.booleans()):
            events.append(done(item, index))
    return {**RESPONSE, "output": items}, events


@st.composite
def of_part(draw: st.DrawFn, part: Json, name: str, at: Json) -> list[Event]:
    kind = "response.reasoning_summary_part" if name == "summary" else "response.content_part"
    field = "refusal" if "refusal" in part else "text"
    blank = {**part, field: "", **({"annotations": [], "logprobs": []} if "annotations" in part else {})}
    events = []
    if blank != {"type": part["type"], field: ""} or draw(st.booleans()):
        events.append(event(f"{kind}.added", part=blank, **at))
    stem, logprobs = STEMS[part["type"]], list(part.get("logprobs", ()))
    for piece in draw(divided(part[field])) or [""]:
        count = draw(st.integers(0, len(logprobs)))
        logged, logprobs = logprobs[:count], logprobs[count:]
        events.append(event(f"response.{stem}.delta", delta=piece, logprobs=logged, **at))
    if logprobs or draw(st.booleans()):
        events.append(event(f"response.{stem}.done", logprobs=part.get("logprobs", []), **{field: part[field]}, **at))
    for note in part.get("annotations", ()):
        events.append(event("response.output_text.annotation.added", annotation=note, **at))
    if draw(st.booleans()):
        events.append(event(f"{kind}.done", part=part, **at))
    return events


@st.composite
def divided(draw: st.DrawFn, text: str) -> list[str]:
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[left:right] for left, right in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def added(*events: Event) -> Output:
    answer, reading = RESPONSES.answer(), RESPONSES.reading()
    for each in events:
        answer.add(reading.read(each))
    assert isinstance(answer, Output)
    return answer


@given(streams())
def test_any_division_into_deltas_adds_up_to_the_output(stream: tuple[Json, list[Event]]) -> None:
    response, events = stream
    answer = added(*events)
    assert answer.items() == response["output"]
    assert answer.response() == response
    assert not answer.finished


@given(streams(), st.booleans())
def test_a_response_in_one_piece_says_the_same_as_its_events(stream: tuple[Json, list[Event]], told_last: bool) -> None:
    response, events = stream
    whole = {**response, "status": "completed", "usage": USAGE}
    last = told("completed", usage=USAGE, output=whole["output"] if told_last else [])
    answer = added(*events, last)
    assert json.loads(answer.body()) == whole
    assert answer.said() == folded(RESPONSES, RESPONSES.events(json.dumps(whole).encode(), streamed=False)).said()
    assert answer.finished


def test_usage_is_that_of_the_end() -> None:
    answer = added(told("in_progress"), told("completed", usage={**USAGE, "odd": [1]}))
    said = answer.said()
    assert (said.usage, said.input_tokens, said.output_tokens) == (USAGE, 7, 9)
    assert json.loads(answer.body())["usage"] == {**USAGE, "odd": [1]}


def test_an_application_s_message_has_tool_calls_as_of_any_api_and_the_upstream_s_id() -> None:
    answer = added(
        told("in_progress"),
        delta("output_text", "Look.", 0, content_index=0),
        begun(CALL, 1),
        delta("function_call_arguments", '{"a": ', 1),
        delta("function_call_arguments", "1}", 1),
        event("response.completed", response={"status": "completed"}),
    )
    assert answer.said().fields == {
        "content": "Look.",
        "toolCalls": [
            {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": '{"a": 1}'}},
        ],
        "finishReason": "completed",
        "extra": {"id": "resp_1"},
    }
    assert (answer.said().model, answer.id) == ("gpt-1", "resp_1")


def test_what_an_application_s_message_has_no_field_for_is_in_extra_in_its_place() -> None:
    thinking = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "abc"}
    answer = added(done(thinking), done(PICTURE, 1), told("incomplete", odd={"x": 1}, instructions="Be brief."))
    said = answer.said().fields
    assert (said["content"], said["finishReason"]) == ("", "incomplete")
    assert said["extra"] == {"odd": {"x": 1}, "id": "resp_1", "output": [thinking, PICTURE]}


def test_the_paragraphs_of_a_summary_are_apart() -> None:
    answer = added(
        delta("reasoning_summary_text", "One.", summary_index=0),
        event("response.reasoning_summary_part.added", output_index=0, summary_index=1, part={"type": "summary_text"}),
        delta("reasoning_summary_text", "Two.", summary_index=1),
    )
    assert answer.said().fields["reasoning"] == "One.\n\nTwo."


def test_deltas_without_a_beginning_or_an_index_are_not_lost() -> None:
    answer = added(delta("reasoning_text", "Hm.", 0, content_index=0), delta("output_text", "a", 1, item_id="msg_1"))
    answer.add(RESPONSES.read(event("response.output_text.delta", delta="b")))
    assert answer.items() == [
        {"type": "reasoning", "id": None, "content": [{"type": "reasoning_text", "text": "Hm."}]},
        {"type": "message", "id": "msg_1", "content": [{"type": "output_text", "text": "ab"}]},
    ]


def test_a_beginning_alone_is_silent() -> None:
    answer = added(told("in_progress"), begun({"type": "message", "content": []}))
    assert (answer.silent, answer.next_index) == (True, 1)
    answer.add(RESPONSES.read(told("incomplete")))
    assert not answer.silent


def test_events_are_counted_by_the_upstream_s_own_numbers() -> None:
    assert added().next_sequence == 0
    assert added(event("response.in_progress", response=RESPONSE, sequence_number=7)).next_sequence == 8
