"""OpenAI's Responses in the background: an answer is read on at the upstream's cursor, and can be cancelled."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.dialects import DIALECTS
from lib.dialects.protocol import Answer, Outgoing, folded
from lib.domain.event import Event
from tests.unit.dialects.test_messages import MESSAGES
from tests.unit.dialects.test_responses import ASKED, RESPONSE, delta, event, numbered, told

RESPONSES = DIALECTS["responses"]
BACKGROUND = RESPONSES.background
assert BACKGROUND is not None
TEXT = {"type": "message", "content": [{"type": "output_text", "text": "a b c "}]}
STREAM = numbered(
    event("response.created", response={**RESPONSE, "background": True}),
    told("in_progress"),
    *[delta("output_text", f"{word} ", content_index=0) for word in "abc"],
    told("completed", output=[TEXT]),
)


def saved(*events: Event) -> Answer:
    return folded(RESPONSES, events)


@pytest.mark.parametrize("asked", [{}, {"background": False, "stream": False}, {"background": True, "store": True}])
def test_an_answer_is_asked_for_in_the_background_and_as_a_stream(asked: dict[str, Any]) -> None:
    outgoing = BACKGROUND.outgoing({**ASKED, **asked}, ask_usage=True, headers={"a": "b"})
    assert (outgoing.method, outgoing.path, outgoing.headers) == ("POST", "/responses", (("a", "b"),))
    assert json.loads(outgoing.body) == {**ASKED, **asked, "background": True, "stream": True}


def test_one_that_must_not_be_stored_is_asked_for_as_usual() -> None:
    request = {**ASKED, "store": False, "background": True}
    assert BACKGROUND.outgoing(request, ask_usage=True) == RESPONSES.outgoing(request, ask_usage=True)


@given(st.integers(1, len(STREAM) - 1), st.integers(0, len(STREAM)))
def test_wherever_it_broke_off_it_goes_on_after_the_last_event_that_was_saved(at: int, repeated: int) -> None:
    """An upstream that repeats events is no harm."""
    answer = saved(*STREAM[:at])
    resumption = BACKGROUND.resumption(answer)
    assert resumption is not None
    path = f"/responses/resp_1?stream=true&starting_after={at - 1}"
    assert resumption.outgoing == Outgoing(method="GET", path=path, body=b"")
    seen = list(STREAM[:at])
    for each in STREAM[max(0, at - repeated) :]:
        read = resumption.reading.read(each)
        if read.kept:
            seen.append(read.event)
            answer.add(read)
    assert seen == STREAM
    assert (answer.said().fields["content"], answer.finished) == ("a b c ", True)


@pytest.mark.parametrize(
    "events",
    [
        [],
        [event("response.created", response={**RESPONSE, "background": False}, sequence_number=0)],
        [event("response.created", response=RESPONSE)],
        [event("response.created", response={**RESPONSE, "id": ""}, sequence_number=0)],
    ],
)
def test_without_a_cursor_there_is_nothing_to_go_on_from_and_nothing_to_cancel(events: list[Event]) -> None:
    assert BACKGROUND.resumption(saved(*events)) is None
    assert BACKGROUND.cancelling(saved(*events)) is None


def test_an_answer_is_cancelled_by_its_id_which_can_lead_nowhere_else() -> None:
    assert BACKGROUND.cancelling(saved(*STREAM[:3])) == Outgoing(path="/responses/resp_1/cancel")
    elsewhere = saved(*numbered(event("response.created", response={**RESPONSE, "id": "../files?x#"})))
    cancelling, resumption = BACKGROUND.cancelling(elsewhere), BACKGROUND.resumption(elsewhere)
    assert cancelling is not None
    assert resumption is not None
    assert cancelling.path == "/responses/..%2Ffiles%3Fx%23/cancel"
    assert resumption.outgoing.path == "/responses/..%2Ffiles%3Fx%23?stream=true&starting_after=0"


def test_other_apis_have_none() -> None:
    assert {name for name, dialect in DIALECTS.items() if dialect.background} == {"responses"}


def test_an_answer_of_another_dialect_is_a_mistake() -> None:
    with pytest.raises(TypeError):
        BACKGROUND.resumption(MESSAGES.answer())
