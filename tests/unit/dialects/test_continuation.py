"""The request that continues an interrupted answer, and how the rest is joined."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.dialects.chat_completions.completion import Completion
from lib.dialects.chat_completions.dialect import ChatCompletions
from lib.dialects.protocol import Rest
from lib.dialects.steps import Json
from lib.domain.event import Event
from lib.runtime.catalog import Prefill

CHAT = ChatCompletions()

REQUEST: Json = {
    "model": "m",
    "messages": [{"role": "user", "content": "Tell me."}],
    "stream": True,
    "temperature": 0.5,
}


def chunk(identity: str = "first", created: int = 1, **delta: Any) -> Json:
    return {"id": identity, "created": created, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


def event(payload: Json) -> Event:
    return Event(json.dumps(payload).encode())


def answered(*texts: str, **more: Any) -> Completion:
    answer = Completion()
    for delta in ({"role": "assistant", "content": ""}, *({"content": text} for text in texts), more):
        answer.add(CHAT.read(event(chunk(**delta))))
    return answer


def continued(request: Json, answer: Completion, style: Prefill | None) -> Rest | None:
    return CHAT.rest(request, answer, style)


def asked(answer: Completion, style: Prefill = Prefill.OPENROUTER, **fields: Any) -> Json:
    rest = continued({**REQUEST, **fields}, answer, style)
    assert rest is not None
    return rest.request


def test_the_saved_text_is_the_beginning_of_the_assistants_own_message() -> None:
    assert asked(answered("Once ", "upon")) == {
        **REQUEST,
        "messages": [*REQUEST["messages"], {"role": "assistant", "content": "Once upon"}],
    }
    assert REQUEST["messages"] == [{"role": "user", "content": "Tell me."}]


def test_vllm_is_told_not_to_open_a_new_turn_and_gets_white_space_as_it_is() -> None:
    rest = asked(answered("Once "), Prefill.VLLM)
    assert rest["continue_final_message"] is True
    assert rest["add_generation_prompt"] is False
    assert rest["messages"][-1]["content"] == "Once "


@pytest.mark.parametrize("style", [Prefill.OPENROUTER, Prefill.ANTHROPIC])
def test_others_get_no_white_space_at_the_end_and_no_field_they_do_not_know(style: Prefill) -> None:
    rest = asked(answered("Once \n"), style)
    assert rest["messages"][-1] == {"role": "assistant", "content": "Once"}
    assert rest.keys() == REQUEST.keys()


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_a_limit_on_tokens_is_lowered_by_what_was_said(limit: str) -> None:
    assert asked(answered("a", "b", "c"), **{limit: 10})[limit] == 7
    assert asked(answered("a", "b", "c"), **{limit: None})[limit] is None
    assert continued({**REQUEST, limit: 3}, answered("a", "b", "c"), Prefill.VLLM) is None


@pytest.mark.parametrize(
    "answer",
    [
        answered(" \n"),
        answered(reasoning_content="hm"),
        answered("a", tool_calls=[{"index": 0, "function": {"name": "look", "arguments": "{"}}]),
        answered("a", function_call={"name": "look"}),
        answered("a", refusal="no"),
    ],
    ids=["white space", "reasoning alone", "tool call", "function call", "refusal"],
)
def test_what_is_not_plain_text_is_not_continued(answer: Completion) -> None:
    assert continued(REQUEST, answer, Prefill.VLLM) is None


@pytest.mark.parametrize(
    "fields", [{"n": 2}, {"response_format": {"type": "json_object"}}, {"response_format": {"type": "json_schema"}}]
)
def test_several_choices_and_forced_json_are_not_continued(fields: Json) -> None:
    assert continued({**REQUEST, **fields}, answered("a"), Prefill.VLLM) is None


@pytest.mark.parametrize("fields", [{"n": 1}, {"n": None}, {"response_format": {"type": "text"}}])
def test_one_choice_of_text_is_continued_however_it_was_asked_for(fields: Json) -> None:
    assert continued({**REQUEST, **fields}, answered("a", reasoning="hm"), Prefill.VLLM) is not None


def joined(answer: Completion, style: Prefill, *chunks: Json) -> list[Json]:
    rest = continued(REQUEST, answer, style)
    assert rest is not None
    return [rest.reading.read(event(each)).payload for each in chunks]


def test_the_rest_has_the_id_and_time_of_the_beginning_and_no_second_role() -> None:
    (fitted,) = joined(answered("a"), Prefill.VLLM, chunk("second", 9, role="assistant", content="b", extra=1))
    assert fitted == chunk("first", 1, content="b", extra=1)


def test_the_event_is_what_its_payload_is_and_one_that_fits_is_the_same() -> None:
    rest = continued(REQUEST, answered("a"), Prefill.VLLM)
    assert rest is not None
    read = rest.reading.read(event(chunk("second", content="b")))
    assert json.loads(read.event.data) == read.payload == chunk("first", content="b")
    own = event(chunk("first", content="c"))
    assert rest.reading.read(own).event is own


def test_what_is_no_chunk_of_text_passes_as_it_is() -> None:
    strange: list[Json] = [
        {"usage": {"total_tokens": 3}, "choices": []},
        {"choices": [None, {"delta": None}]},
        {"x": 1},
    ]
    assert joined(answered("a "), Prefill.ANTHROPIC, *strange) == strange


def test_a_whole_completion_is_fitted_as_chunks_are() -> None:
    completion = {"id": "second", "choices": [{"index": 0, "message": {"role": "assistant", "content": " b"}}]}
    rest = continued(REQUEST, answered("a "), Prefill.ANTHROPIC)
    assert rest is not None
    (made,) = CHAT.events(json.dumps(completion).encode(), streamed=True)
    read = rest.reading.read(made)
    assert (read.payload["id"], read.payload["choices"]) == ("first", [{"index": 0, "delta": {"content": "b"}}])


def test_a_silent_answer_starts_over_and_stays_the_same_answer() -> None:
    for style in (None, Prefill.VLLM):
        rest = continued(REQUEST, answered(), style)
        assert rest is not None
        assert rest.request == REQUEST
        assert rest.reading.read(event(chunk("second", 9, role="assistant", content="b"))).payload == chunk(
            "first", 1, content="b"
        )


def test_an_answer_without_a_single_event_starts_as_a_new_one() -> None:
    rest = continued(REQUEST, Completion(), None)
    assert rest is not None
    own = event(chunk("second", 9, role="assistant", content="b"))
    assert rest.reading.read(own).event is own


def test_an_answer_is_continued_only_where_its_upstream_is_set_to() -> None:
    assert continued(REQUEST, answered("a"), None) is None
    assert continued(REQUEST, answered(), None) is not None


def test_a_message_at_the_end_of_the_rest_is_not_repeated() -> None:
    rest = continued(REQUEST, answered("a"), Prefill.VLLM)
    assert rest is not None
    last = {"id": "second", "choices": [{"index": 0, "delta": {}, "message": {"content": "a"}}]}
    assert rest.reading.read(event(last)).steps == ()


words = st.text(alphabet=st.sampled_from("ab \n\t"), max_size=20)


@given(
    before=words.map(lambda said: "a" + said),
    after=words,
    cuts=st.lists(st.integers(0, 30)),
    style=st.sampled_from(Prefill),
)
def test_an_upstream_that_continues_where_it_was_told_to_makes_the_same_text(
    before: str, after: str, cuts: list[int], style: Prefill
) -> None:
    """White space is neither lost nor repeated, wherever the answer was interrupted and however the rest is divided."""
    answer = answered(before)
    rest = continued(REQUEST, answer, style)
    assert rest is not None
    told = rest.request["messages"][-1]["content"]
    said = (before + after).removeprefix(told)
    places = sorted({0, len(said), *[cut for cut in cuts if cut < len(said)]})
    for start, end in pairwise(places):
        answer.add(rest.reading.read(event(chunk("second", content=said[start:end]))))
    assert answer.said().fields["content"] == answer.choices()[0]["message"]["content"] == before + after
