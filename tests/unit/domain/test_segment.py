"""Segments and the head: the round trip of their documents, and the head as a lease."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from lib.domain.end import End, State
from lib.domain.segment import Head, Segment, empty_head

NOW = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
END = End(state=State.INCOMPLETE, reason="worker_lost", error={"message": "It broke.", "code": "x"}, usage={"a": 1})

moments = st.datetimes(timezones=st.just(UTC))
texts = st.text(max_size=8)
maps = st.dictionaries(texts, st.integers() | texts, max_size=3)
ends = st.builds(
    End,
    state=st.sampled_from(State),
    reason=st.none() | texts,
    error=st.none() | maps,
    usage=st.none() | maps,
)
heads = st.builds(
    Head,
    first=st.integers(1, 10**9),
    last=st.integers(0, 10**9),
    events=st.binary(max_size=8),
    text=texts,
    attempt=st.integers(0, 9),
    lease_until=moments,
    created_at=moments,
    claims=st.integers(0, 9),
    released=st.booleans(),
    end=st.none() | ends,
    version=st.none() | texts,
)


@given(heads)
def test_a_head_s_document_gives_back_the_head(head: Head) -> None:
    assert Head.from_fields(head.fields(), head.version) == head


def test_a_head_s_document_has_what_a_sealed_segment_has_and_its_end() -> None:
    head = replace(
        empty_head(NOW, NOW), first=3, last=4, events=b"z", text="t", attempt=2, claims=3, holder="w", end=END
    )
    segment = Segment(first=3, last=4, events=b"z", text="t", attempt=2)
    lease = {"claims": 3, "leaseUntil": NOW, "holder": "w", "released": False}
    assert head.fields() == {**segment.fields(), **lease, "createdAt": NOW, "final": END.fields()}


def test_a_head_is_a_lease_only_while_it_lasts_and_only_of_an_attempt() -> None:
    head = replace(empty_head(NOW, NOW), claims=1)
    assert head.leased(NOW - timedelta(seconds=1))
    assert not head.leased(NOW)
    assert not replace(head, claims=0).leased(NOW - timedelta(seconds=1))


def test_an_empty_head_holds_no_event_and_is_not_leased() -> None:
    head = empty_head(NOW, NOW + timedelta(minutes=30))
    assert (head.first, head.last, head.claims, head.end) == (1, 0, 0, None)
    assert not head.leased(NOW)
