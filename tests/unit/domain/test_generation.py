"""The domain's values: what an id may be, which states are final, and that a document gives back what was put in it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.domain.errors import InvalidRequest
from lib.domain.generation import (
    LISTED_FIELDS,
    LIVE,
    MAX_ID_BYTES,
    End,
    Generation,
    Head,
    Segment,
    State,
    document_id,
    message_path,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
QUEUED = Generation(
    id="g1",
    owner="alice",
    message_path="users/alice/chats/c1/messages/m1",
    chat_id="c1",
    message_id="m1",
    model="gpt",
    upstream="default",
    request=b'{"model":"gpt"}',
    request_hash="abc",
    usage_wanted=True,
    created_at=NOW,
    expire_at=NOW + timedelta(days=7),
)
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
generations = st.builds(
    Generation,
    id=texts,
    owner=texts,
    message_path=texts,
    chat_id=st.none() | texts,
    message_id=texts,
    model=texts,
    upstream=texts,
    request=st.binary(max_size=8),
    request_parts=st.integers(0, 20),
    request_hash=texts,
    usage_wanted=st.booleans(),
    created_at=moments,
    expire_at=moments,
    state=st.sampled_from(State),
    reason=st.none() | texts,
    error=st.none() | maps,
    usage=st.none() | maps,
    attempt=st.integers(0, 9),
    last_seq=st.integers(0, 10**9),
    started_at=st.none() | moments,
    finished_at=st.none() | moments,
    stop_requested_at=st.none() | moments,
    watchers=st.dictionaries(texts, moments, max_size=2),
)
heads = st.builds(
    Head,
    first=st.integers(1, 10**9),
    last=st.integers(0, 10**9),
    frames=st.binary(max_size=8),
    text=texts,
    attempt=st.integers(0, 9),
    lease_until=moments,
    end=st.none() | ends,
    version=st.none() | texts,
)


@pytest.mark.parametrize(
    "value",
    [
        "a",
        "abc-DEF_123",
        "0",
        "with space",
        "día 漢字 😀",
        "...",
        ".a",
        "_",
        "__",
        "___",
        "__a",
        "a__",
        "__a__b",
        "%2F",
        "a" * MAX_ID_BYTES,
        "é" * (MAX_ID_BYTES // 2),
    ],
)
def test_an_id_that_firestore_and_a_path_take_is_taken_as_it_is(value: str) -> None:
    assert document_id(value, "X-Chat-Id") == value


@pytest.mark.parametrize(
    "value",
    [
        "",
        ".",
        "..",
        "/",
        "a/b",
        "____",
        "__a__",
        "__día__",
        "a\nb",
        "a\x00",
        "\u2028",
        "\ud83d",
        "\u200b",
        "a" * (MAX_ID_BYTES + 1),
        "é" * (MAX_ID_BYTES // 2) + "a",
    ],
)
def test_an_id_that_they_do_not_take_is_refused_with_the_name_of_what_it_was_given_for(value: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        document_id(value, "X-Chat-Id")
    assert (refused.value.status, refused.value.code, refused.value.param) == (400, "invalid_id", "X-Chat-Id")
    assert refused.value.message.startswith("X-Chat-Id ")
    assert refused.value.message.isprintable()


@settings(deadline=None)
@given(st.text() | st.from_regex(r"_*[a./]?_*", fullmatch=True))
def test_no_id_that_is_taken_can_break_a_path_or_be_refused_by_firestore(value: str) -> None:
    try:
        taken = document_id(value, "id")
    except InvalidRequest:
        return
    assert 1 <= len(taken.encode()) <= 1500
    assert "/" not in taken
    assert taken not in (".", "..")
    assert not (len(taken) >= 4 and taken.startswith("__") and taken.endswith("__"))


@settings(deadline=None)
@given(generations)
def test_a_generation_s_document_gives_back_the_generation(generation: Generation) -> None:
    assert Generation.from_fields(generation.id, generation.fields()) == generation


@settings(deadline=None)
@given(heads)
def test_a_head_s_document_gives_back_the_head(head: Head) -> None:
    assert Head.from_fields(head.fields(), head.version) == head


@settings(deadline=None)
@given(ends)
def test_an_end_s_fields_give_back_the_end(end: End) -> None:
    assert End.from_fields(end.fields()) == end


def test_a_document_with_fields_of_another_s_making_can_still_be_read() -> None:
    fields = {**QUEUED.fields(), "addedByHand": 1}
    assert Generation.from_fields("g1", fields) == QUEUED


def test_fields_are_named_in_camel_case_and_the_state_is_plain_text() -> None:
    fields = QUEUED.fields()
    assert {"messagePath", "chatId", "createdAt", "expireAt", "lastSeq", "stopRequestedAt", "state"} <= fields.keys()
    assert "id" not in fields
    assert [name for name in fields if "_" in name] == []
    assert type(fields["state"]) is str
    assert type(END.fields()["state"]) is str


def test_a_head_s_document_has_what_a_sealed_segment_has_and_its_end() -> None:
    head = Head(first=3, last=4, frames=b"z", text="t", attempt=2, lease_until=NOW, holder="w", end=END)
    segment = Segment(first=3, last=4, frames=b"z", text="t", attempt=2)
    assert head.fields() == {**segment.fields(), "leaseUntil": NOW, "holder": "w", "final": END.fields()}


def test_a_list_reads_everything_but_the_request() -> None:
    assert set(LISTED_FIELDS) == QUEUED.fields().keys() - {"request"}


def test_only_queued_and_streaming_are_live_and_all_others_are_final() -> None:
    assert set(LIVE) == {State.QUEUED, State.STREAMING}
    assert [state for state in State if state.terminal] == [
        State.COMPLETED,
        State.STOPPED,
        State.INCOMPLETE,
        State.FAILED,
    ]
    assert State("completed") is State.COMPLETED


def test_an_ended_generation_has_its_end_and_is_otherwise_what_it_was() -> None:
    ended = QUEUED.ended(END, 9, NOW)
    assert (ended.state, ended.reason, ended.error, ended.usage) == (END.state, END.reason, END.error, END.usage)
    assert (ended.last_seq, ended.finished_at) == (9, NOW)
    was = replace(ended, state=State.QUEUED, reason=None, error=None, usage=None, last_seq=0, finished_at=None)
    assert was == QUEUED


def test_a_head_is_a_lease_only_while_it_lasts_and_only_of_an_attempt() -> None:
    head = Head(first=1, last=0, frames=b"", text="", attempt=1, lease_until=NOW)
    assert head.leased(NOW - timedelta(seconds=1))
    assert not head.leased(NOW)
    assert not replace(head, attempt=0).leased(NOW - timedelta(seconds=1))


def test_a_generation_is_watched_while_one_viewer_s_lease_lasts() -> None:
    watched = replace(QUEUED, watchers={"a": NOW - timedelta(seconds=9), "b": NOW + timedelta(seconds=9)})
    assert watched.watched(NOW)
    assert not watched.watched(NOW + timedelta(seconds=9))
    assert not QUEUED.watched(NOW)


def test_a_message_lies_in_its_chat_or_where_there_is_none_with_its_user() -> None:
    assert message_path("alice", "c1", "m1") == "users/alice/chats/c1/messages/m1"
    assert message_path("alice", None, "m1") == "users/alice/messages/m1"
    assert QUEUED.path == "generations/g1"
    assert QUEUED.head_path == "users/alice/chats/c1/messages/m1/journal/head"
