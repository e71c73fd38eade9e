"""An interrupted turn of Anthropic's Messages goes on where it broke off, as one message."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.dialects import DIALECTS
from lib.dialects.protocol import Answer, Rest
from lib.domain.event import Event
from lib.runtime.catalog import Prefill
from tests.unit.dialects.test_messages import ASKED, MESSAGE, delta, end, event, start

MESSAGES = DIALECTS["messages"]
BEGUN = (event("message_start", message=MESSAGE), start("text", text=""))
OTHER = {**MESSAGE, "id": "msg_2", "usage": {"input_tokens": 20, "output_tokens": 1}}
Json = dict[str, Any]


def saved(*events: Event) -> Answer:
    answer = MESSAGES.answer()
    for each in events:
        answer.add(MESSAGES.read(each))
    return answer


def rest_of(answer: Answer, **request: Any) -> Rest | None:
    return MESSAGES.rest({**ASKED, **request}, answer, Prefill.ANTHROPIC)


def followed(answer: Answer, rest: Rest, *events: Event) -> list[Json]:
    """The rest's events, as clients see them; they are added to the answer."""
    seen = []
    for each in events:
        read = rest.reading.read(each)
        if read.kept:
            answer.add(read)
            seen.append(json.loads(read.event.data))
            assert read.event.name.decode() == seen[-1]["type"]
    return seen


def test_the_saved_text_is_the_assistant_s_last_turn_and_is_taken_from_the_limit() -> None:
    answer = saved(*BEGUN, delta("text_delta", text="It "), delta("text_delta", text="was \n"))
    rest = rest_of(answer)
    assert rest is not None
    assert rest.request == {
        **ASKED,
        "max_tokens": 8,
        "messages": [*ASKED["messages"], {"role": "assistant", "content": "It was"}],
    }


@given(st.sampled_from(["a", "a b", "a \n", "a b "]), st.sampled_from(["", "c", "c \nd "]), st.data())
def test_wherever_it_broke_off_the_turn_is_whole_and_once(said: str, unsaid: str, data: st.DataObject) -> None:
    answer = saved(*BEGUN, delta("text_delta", text=said))
    rest = rest_of(answer)
    assert rest is not None
    repeated = said[len(said.rstrip()) :] if data.draw(st.booleans()) else ""
    cut = data.draw(st.integers(0, len(repeated + unsaid)))
    followed(
        answer,
        rest,
        event("message_start", message=OTHER),
        start("text", text=""),
        delta("text_delta", text=(repeated + unsaid)[:cut]),
        delta("text_delta", text=(repeated + unsaid)[cut:]),
        event("content_block_stop", index=0),
        end("end_turn"),
    )
    message = json.loads(answer.body())
    assert message["content"] == [{"type": "text", "text": said + unsaid}]
    assert (message["id"], message["stop_reason"]) == ("msg_1", "end_turn")


def test_clients_see_one_beginning_and_one_block() -> None:
    answer = saved(*BEGUN, delta("text_delta", text="a"))
    rest = rest_of(answer)
    assert rest is not None
    seen = followed(
        answer,
        rest,
        event("message_start", message=OTHER),
        start("text", text="b"),
        delta("text_delta", text="c"),
        event("content_block_stop", index=0),
        start("tool_use", 1, id="t", name="n", input={}),
        event("content_block_stop", index=1),
        end("tool_use"),
    )
    assert [each["type"] for each in seen] == [
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "content_block_start",
        "content_block_stop",
        "message_delta",
    ]
    assert seen[0] == {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "b"}}
    assert [each.get("index") for each in seen[:-1]] == [0, 0, 0, 1, 1]
    assert [block["type"] for block in json.loads(answer.body())["content"]] == ["text", "tool_use"]


def test_after_a_block_that_was_over_the_rest_is_a_further_one() -> None:
    answer = saved(*BEGUN, delta("text_delta", text="a"), event("content_block_stop", index=0))
    rest = rest_of(answer)
    assert rest is not None
    seen = followed(answer, rest, start("text", text=""), delta("text_delta", text="b"))
    assert [each["index"] for each in seen] == [1, 1]
    assert answer.said().fields["content"] == "ab"


def test_a_block_of_another_kind_is_a_further_one() -> None:
    answer = saved(*BEGUN, delta("text_delta", text="a"))
    rest = rest_of(answer)
    assert rest is not None
    seen = followed(answer, rest, start("tool_use", id="t", name="n", input={}), delta("input_json_delta"))
    assert [each["index"] for each in seen] == [1, 1]


def test_a_silent_answer_is_asked_for_again_and_begins_once() -> None:
    assert rest_of(saved()) is not None
    answer = saved(*BEGUN)
    for style in (None, Prefill.ANTHROPIC):
        rest = MESSAGES.rest(ASKED, answer, style)
        assert rest is not None
        assert rest.request == ASKED
    assert rest is not None
    seen = followed(answer, rest, *BEGUN, delta("text_delta", text="a"), end("end_turn"))
    assert [each["type"] for each in seen] == ["content_block_delta", "message_delta"]


PLAIN = (*BEGUN, delta("text_delta", text="a"))


@pytest.mark.parametrize(
    ("events", "request_"),
    [
        ((*BEGUN, delta("text_delta", text=" ")), {}),
        (PLAIN, {"max_tokens": 1}),
        (PLAIN, {"thinking": {"type": "enabled", "budget_tokens": 1024}}),
        (PLAIN, {"output_config": {"format": {"type": "json_schema", "schema": {}}}}),
        (PLAIN, {"output_format": {"type": "json_schema", "schema": {}}}),
        ((*PLAIN, delta("citations_delta", citation={"cited_text": "a"})), {}),
        ((*PLAIN, start("tool_use", 1, id="t", name="n", input={})), {}),
        ((start("thinking", thinking="Hm.", signature="s"), start("text", 1, text="a")), {}),
    ],
)
def test_what_no_prefill_can_continue_is_not_continued(events: tuple[Event, ...], request_: Json) -> None:
    assert rest_of(saved(*events), **request_) is None


def test_nothing_is_continued_unless_the_catalog_says_so() -> None:
    assert rest_of(saved(*PLAIN), thinking={"type": "disabled"}, output_config={"effort": "low"}) is not None
    assert MESSAGES.rest(ASKED, saved(*PLAIN), None) is None


def test_the_answer_of_another_dialect_is_none_of_this_one() -> None:
    with pytest.raises(TypeError):
        rest_of(DIALECTS["chat_completions"].answer())
