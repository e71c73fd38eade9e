"""A generation: the round trip of its document."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from lib.domain.end import End, State
from lib.domain.generation import LISTED_FIELDS, Generation

NOW = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
QUEUED = Generation(
    id="g1",
    owner="alice",
    message_path="users/alice/chats/c1/messages/m1",
    chat_id="c1",
    message_id="m1",
    model="gpt",
    dialect="chat_completions",
    upstream="default",
    request=b'{"model":"gpt"}',
    request_hash="abc",
    created_at=NOW,
    expire_at=NOW + timedelta(days=7),
)
END = End(state=State.INCOMPLETE, reason="worker_lost", error={"message": "It broke.", "code": "x"}, usage={"a": 1})

moments = st.datetimes(timezones=st.just(UTC))
texts = st.text(max_size=8)
maps = st.dictionaries(texts, st.integers() | texts, max_size=3)
generations = st.builds(
    Generation,
    id=texts,
    owner=texts,
    message_path=texts,
    chat_id=st.none() | texts,
    message_id=texts,
    model=texts,
    dialect=texts,
    upstream=texts,
    request=st.binary(max_size=8),
    need_approval=st.lists(texts, max_size=2),
    request_parts=st.integers(0, 20),
    own_request=st.binary(max_size=8),
    own_request_parts=st.integers(0, 20),
    request_hash=texts,
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
    outbox=st.dictionaries(texts, maps, max_size=2),
)


@given(generations)
def test_a_generation_s_document_gives_back_the_generation(generation: Generation) -> None:
    assert Generation.from_fields(generation.id, generation.fields()) == generation


def test_a_document_with_fields_of_another_s_making_can_still_be_read() -> None:
    fields = {**QUEUED.fields(), "addedByHand": 1}
    assert Generation.from_fields("g1", fields) == QUEUED


def test_fields_are_named_in_camel_case_and_the_state_is_plain_text() -> None:
    fields = QUEUED.fields()
    assert {"messagePath", "chatId", "createdAt", "expireAt", "lastSeq", "stopRequestedAt", "state"} <= fields.keys()
    assert "id" not in fields
    assert [name for name in fields if "_" in name] == []
    assert type(fields["state"]) is str


def test_a_list_reads_everything_but_the_request() -> None:
    assert set(LISTED_FIELDS) == QUEUED.fields().keys() - {"request", "ownRequest"}


def test_an_ended_generation_has_its_end_and_is_otherwise_what_it_was() -> None:
    ended = QUEUED.ended(END, 9, NOW)
    assert (ended.state, ended.reason, ended.error, ended.usage) == (END.state, END.reason, END.error, END.usage)
    assert (ended.last_seq, ended.finished_at) == (9, NOW)
    was = replace(ended, state=State.QUEUED, reason=None, error=None, usage=None, last_seq=0, finished_at=None)
    assert was == QUEUED


def test_a_generation_is_watched_while_one_viewer_s_lease_lasts() -> None:
    watched = replace(QUEUED, watchers={"a": NOW - timedelta(seconds=9), "b": NOW + timedelta(seconds=9)})
    assert watched.watched(NOW)
    assert not watched.watched(NOW + timedelta(seconds=9))
    assert not QUEUED.watched(NOW)


def test_a_generation_s_documents_lie_below_its_own_and_its_message_s() -> None:
    assert QUEUED.path == "holdfastGenerations/g1"
    assert QUEUED.head_path == "users/alice/chats/c1/messages/m1/holdfastJournal/head"


def test_a_chat_s_document_is_the_one_above_its_messages_wherever_they_lie() -> None:
    assert QUEUED.chat_path == "users/alice/chats/c1"
    assert replace(QUEUED, message_path="conversations/c1/turns/m1").chat_path == "conversations/c1"
    assert replace(QUEUED, chat_id=None, message_path="users/alice/messages/m1").chat_path is None
