"""A feed that gets versions in any order: the events it has, and versions of another generation with the same id."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from lib.cloud.documents import Document
from lib.domain.end import End, State
from lib.domain.event import Event
from lib.domain.segment import Head, empty_head
from lib.journal.codec import Entry, record
from lib.journal.segments import Segmenter
from lib.serving.feed import Feed, Gone, Piece
from tests.unit.serving.test_viewer_lease import GENERATION, NOW, PATIENCE, Patches, lease_of


@pytest.fixture
def feed() -> Feed:
    lease = lease_of(Patches())
    return Feed(GENERATION, lease)


def events(first: int, last: int, word: str = "w") -> list[Event]:
    return [Event(b'{"%b":%d}' % (word.encode(), seq)) for seq in range(first, last + 1)]


class Written:
    """The versions of a growing head."""

    def __init__(self, created_at: datetime = NOW, word: str = "w", version: int = 1):
        self._created_at, self._word, self._version = created_at, word, version
        self._segmenter = Segmenter(empty_head(created_at, created_at), 1)

    def to(self, last: int, end: End | None = None) -> Document:
        first = self._segmenter.open.last + 1
        fresh = enumerate(events(first, last, self._word), first)
        self._segmenter.add([Entry(seq, record(event), "") for seq, event in fresh])
        segment = self._segmenter.open
        head: Head = replace(
            empty_head(self._created_at, self._created_at),
            first=segment.first,
            last=segment.last,
            events=segment.events,
            claims=1,
            end=end,
        )
        self._version += 1
        return Document("head", head.fields(), Timestamp(seconds=self._version))


def test_a_feed_holds_what_each_version_adds(feed: Feed) -> None:
    written = Written()
    assert feed.after(0) == Piece([], 0)
    for last in (2, 3, 7):
        assert feed.on_change(written.to(last))
    assert feed.after(0) == Piece(events(1, 7), 7)
    assert feed.after(5) == Piece(events(6, 7), 7)


def test_versions_that_come_twice_or_late_are_no_news(feed: Feed) -> None:
    written = Written()
    first, second, third = written.to(2), written.to(3), written.to(5)
    assert [feed.on_change(each) for each in (second, first, second, third, first)] == [True, False, False, True, False]
    assert feed.after(0) == Piece(events(1, 5), 5)


def test_an_event_s_number_is_told_from_the_last() -> None:
    assert [(piece.first, piece.last) for piece in (Piece(events(4, 6), 6), Piece([], 6))] == [(4, 6), (7, 6)]


def test_the_head_of_another_generation_under_the_same_id_is_the_end_of_this_one(feed: Feed) -> None:
    feed.on_change(Written().to(3))
    assert feed.on_change(Written(NOW + timedelta(seconds=1), word="other", version=9).to(5))
    assert feed.gone
    with pytest.raises(Gone):
        feed.wait(0, 1.0)


def test_the_head_of_the_one_before_it_that_comes_late_changes_nothing(feed: Feed) -> None:
    old = Written(NOW - timedelta(seconds=1), word="old").to(5)
    assert not feed.on_change(old)
    assert feed.after(0) == Piece([], 0)
    assert feed.on_change(Written(version=9).to(2))
    assert not feed.on_change(old)
    assert feed.after(0) == Piece(events(1, 2), 2)


def test_a_deletion_is_the_end(feed: Feed) -> None:
    feed.on_change(Written().to(3))
    assert feed.on_change(None)
    with pytest.raises(Gone):
        feed.wait(3, 1.0)


def test_a_viewer_who_has_all_is_woken_for_a_lease_that_is_due(feed: Feed) -> None:
    feed.on_change(Written().to(3))
    feed.lease.enter()
    began = time.monotonic()
    feed.wait(3, PATIENCE)
    assert time.monotonic() - began < PATIENCE


@pytest.mark.parametrize(
    ("change", "known_live", "live"),
    [
        (None, False, False),
        (Written().to(0), True, True),
        (Written().to(1, End(state=State.COMPLETED)), False, False),
    ],
    ids=["deleted", "begun", "ended"],
)
def test_a_feed_knows_whether_its_generation_is_live(feed: Feed, change: Any, known_live: bool, live: bool) -> None:
    assert (feed.known_live, feed.live) == (False, True)
    feed.on_change(change)
    assert (feed.known_live, feed.live) == (known_live, live)
