"""The answer of an upstream that speaks OpenAI's Responses, passed on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lib.dialects.responses.dialect import Responses
from lib.dialects.responses.output import BLANK
from lib.domain.end import End, State
from lib.domain.event import Event
from lib.wires.responses.passed import PassedStream
from lib.wires.responses.request import SHOWN
from lib.wires.responses.stream import Numbered

Json = dict[str, Any]
ABOUT: Json = {**SHOWN, "id": "resp_g1", "object": "response", "created_at": 7, "model": "demo", "background": True}
KEY = "g1"
HERE = "msg_g1_0"
DONE = End(state=State.COMPLETED)
THEIRS: Json = {"id": "resp_up", "object": "response", "status": "in_progress", "output": [], "further": 1}
ITEM: Json = {"id": "msg_up", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
PART: Json = {"type": "output_text", "text": "", "annotations": []}
AT: Json = {"item_id": "msg_up", "output_index": 0, "content_index": 0}
WHOLE: Json = {**ITEM, "status": "completed", "content": [{**PART, "text": "Hi"}]}
END: Json = {
    **THEIRS,
    "status": "completed",
    "output": [WHOLE],
    "background": False,
    "previous_response_id": "resp_up0",
}


def event(kind: str, number: int | None = None, **fields: Any) -> Event:
    payload = {"type": f"response.{kind}", **({} if number is None else {"sequence_number": number}), **fields}
    return Event(json.dumps(payload).encode(), payload["type"].encode())


CREATED = event("created", 0, response=THEIRS)
ADDED = event("output_item.added", 1, output_index=0, item=ITEM)
PART_ADDED = event("content_part.added", 2, **AT, part=PART)
DELTA = event("output_text.delta", 3, **AT, delta="Hi", logprobs=[])
COMPLETED = event("completed", 4, response=END)
ALL = (CREATED, ADDED, PART_ADDED, DELTA, COMPLETED)


def passed(*events: Event, end: End = DONE) -> list[Numbered]:
    stream = PassedStream(ABOUT, KEY, Responses())
    return stream.begin() + [each for event in events for each in stream.take(event)] + stream.end(end)


def ended(*events: Event, end: End = DONE) -> Json:
    stream = PassedStream(ABOUT, KEY, Responses())
    for each in events:
        stream.take(each)
    return stream.ended(end)


def data(numbered: Numbered) -> Json:
    return json.loads(numbered[1].data)


def renamed(each: Event) -> Event:
    """The event as it passes: under the item's id here."""
    return Event(each.data.replace(b"msg_up", HERE.encode()), each.name)


def test_events_pass_as_they_are_but_for_what_names_the_response_or_an_item() -> None:
    first, *inner, last = passed(*ALL)
    shown = [(number, data((number, each)), each.name) for number, each in inner]
    assert shown == [
        (number, json.loads(renamed(each).data), each.name)
        for number, each in ((1, ADDED), (2, PART_ADDED), (3, DELTA))
    ]
    assert data(first) == {"type": "response.created", "sequence_number": 0, "response": {**THEIRS, "id": "resp_g1"}}
    names = {"id": "resp_g1", "background": True, "previous_response_id": None}
    assert data(last)["response"] == {**END, **names, "output": [{**WHOLE, "id": HERE}]}
    assert [number for number, _ in passed(*ALL)] == [0, 1, 2, 3, 4]


def test_the_end_is_not_told_before_all_is_saved() -> None:
    stream = PassedStream(ABOUT, KEY, Responses())
    assert [len(stream.take(each)) for each in ALL] == [1, 1, 1, 1, 0]
    assert len(stream.end(DONE)) == 1


@pytest.mark.parametrize("number", [None, 0, "7"])
def test_a_number_that_is_missing_or_does_not_rise_is_put_in(number: Any) -> None:
    delta = event("output_text.delta", number, **AT, delta="Hi")
    assert [
        (number, data((number, each))["sequence_number"]) for number, each in passed(CREATED, ADDED, delta)[:3]
    ] == [
        (0, 0),
        (1, 1),
        (2, 2),
    ]


def test_a_number_that_leaves_some_out_is_the_upstream_s_own() -> None:
    delta = event("output_text.delta", 9, **AT, delta="Hi")
    (_, (number, passed_on), _) = passed(CREATED, delta)
    assert (number, json.loads(passed_on.data)) == (9, json.loads(renamed(delta).data))


def test_a_cancelled_answer_has_what_was_said() -> None:
    *_, (number, last) = passed(*ALL[:4], end=End(state=State.STOPPED))
    payload = json.loads(last.data)
    assert (number, payload["sequence_number"], last.name) == (4, 4, b"response.incomplete")
    assert (payload["response"]["status"], payload["response"]["id"]) == ("cancelled", "resp_g1")
    assert payload["response"]["output"][0]["content"][0]["text"] == "Hi"


@pytest.mark.parametrize("state", [State.FAILED, State.INCOMPLETE])
def test_an_answer_that_failed_or_broke_off_says_why(state: State) -> None:
    end = End(state=state, reason="upstream_error", error={"message": "It broke.", "code": "E9"})
    *_, (_, last) = passed(*ALL[:4], end=end)
    response = json.loads(last.data)["response"]
    assert (last.name, response["status"]) == (b"response.failed", "failed")
    assert response["error"] == {"code": "E9", "message": "It broke."}


def test_an_answer_that_never_began_begins_here() -> None:
    events = passed(end=End(state=State.FAILED, reason="upstream_status"))
    assert [(number, each.name) for number, each in events] == [
        (0, b"response.created"),
        (1, b"response.in_progress"),
        (2, b"response.failed"),
    ]
    assert data(events[0])["response"]["model"] == data(events[2])["response"]["model"] == "demo"


def test_the_whole_response_is_the_upstream_s_own() -> None:
    response = ended(*ALL)
    blank = {name: response[name] for name in BLANK}
    output = [{**WHOLE, "id": HERE}]
    names = {"id": "resp_g1", "background": True, "previous_response_id": None}
    assert response == {**blank, **END, **names, "output": output}


def test_an_event_that_can_t_be_read_is_passed_over() -> None:
    assert PassedStream(ABOUT, KEY, Responses()).take(Event(b"{")) == []
