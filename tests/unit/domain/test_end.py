"""Which states are final, and the round trip of an end's fields."""

from __future__ import annotations

from datetime import UTC

from hypothesis import given
from hypothesis import strategies as st

from lib.domain.end import LIVE, End, State

texts = st.text(max_size=8)
maps = st.dictionaries(texts, st.integers() | texts, max_size=3)
ends = st.builds(
    End,
    state=st.sampled_from(State),
    reason=st.none() | texts,
    error=st.none() | maps,
    usage=st.none() | maps,
    at=st.none() | st.datetimes(timezones=st.just(UTC)),
)


@given(ends)
def test_an_end_s_fields_give_back_the_end(end: End) -> None:
    assert (End.from_fields(end.fields()), End.from_fields(end.fields()).at) == (end, end.at)


def test_only_queued_and_streaming_are_live_and_all_others_are_final() -> None:
    assert set(LIVE) == {State.QUEUED, State.STREAMING}
    assert [state for state in State if state.terminal] == [
        State.COMPLETED,
        State.STOPPED,
        State.INCOMPLETE,
        State.FAILED,
    ]
    assert State("completed") is State.COMPLETED


def test_a_state_is_plain_text_in_a_document() -> None:
    assert type(End(state=State.FAILED).fields()["state"]) is str
