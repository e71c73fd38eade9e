"""How often an attempt commits: over an answer's life, by its viewers, and by what a commit takes.

The journals are real ones, over a Firestore in memory, and the clock is the test's.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from lib.domain.event import Event
from lib.engine.committer import SLACK, Committer
from lib.engine.interval import EASES_AFTER, Interval
from lib.journal.codec import Entry, record
from lib.journal.writer import Journal
from lib.runtime.settings import Settings
from tests.unit.engine.memory import LEASE, NEEDED, Claimed, MemoryDocuments, now

RATE = 50  # tokens a second
EVENT = record(Event(b'{"choices":[{"delta":{"content":"word "}}]}'.ljust(250)))
A_SECOND = timedelta(seconds=1)


class Time:
    def __init__(self) -> None:
        self.now = now()

    def __call__(self) -> datetime:
        return self.now


class Answer:
    """An answer that comes at `RATE`, and an attempt that commits it as often as its interval says."""

    def __init__(self, *, watchers: dict[str, Any] | None = None, **settings: str):
        self.documents = MemoryDocuments()
        self._claimed = Claimed(self.documents)
        self.clock = Time()
        self.watchers = {"a process": self.clock() + timedelta(hours=1)} if watchers is None else watchers
        self._settings = Settings.from_env(NEEDED | {"UPSTREAM_BASE_URL": "http://127.0.0.1:9/v1"} | settings)
        self._asked = self.clock()
        self._stretched = Committer(self.documents.batch, LEASE.total_seconds()).stretched
        self.claims = 1
        self.claim()

    def claim(self) -> None:
        """Another attempt claims it."""
        self.claims += 1
        generation = replace(self._claimed.generation, started_at=self._asked, watchers=self.watchers)
        found = self._claimed.store.read_head(generation)
        assert found is not None
        self.journal = Journal(
            self._claimed.store, generation, found, claims=self.claims, lease=LEASE, clock=self.clock
        )
        self.journal.claim()
        self.interval = Interval(
            self._settings, generation, found, self.journal, stretched=self._stretched, clock=self.clock
        )

    def comes(self, seconds: float) -> list[datetime]:
        """Commits what comes in so many seconds. Returns when each commit was made."""
        until, made = self.clock() + timedelta(seconds=seconds), []
        while self.clock() < until:
            there = 1 + int(RATE * (self.clock() - self._asked).total_seconds())
            self.journal.append([Entry(seq, EVENT, "word ") for seq in range(self.journal.last + 1, there + 1)])
            made.append(self.clock())
            seconds = self.interval()
            assert seconds > 0
            self.clock.now += timedelta(seconds=seconds)
        return made


def gaps(made: list[datetime]) -> list[float]:
    """The seconds from commit to commit, without the slack that few attempts have."""
    return [(after - before).total_seconds() / (1 + SLACK) for before, after in pairwise(made)]


def test_4000_tokens_at_50_a_second_take_less_than_400_writes_and_no_document_more_than_4_a_second() -> None:
    answer = Answer()
    before = len(answer.documents.calls)
    made = answer.comes(80)
    written = Counter(path for _, paths in answer.documents.calls[before:] for path in paths)
    assert answer.journal.last > 3_900
    assert max(written, key=written.__getitem__).endswith("/head")
    # Besides: nine when it is asked for, claimed and ends, and a viewer's lease every 15 seconds.
    assert 300 < written.total() + 9 + 80 / 15 < 400
    late = [each for each in made if each - made[0] > 2 * EASES_AFTER]
    assert 3.5 * 60 < len(late) <= 4 * 60
    assert gaps(late) == pytest.approx([0.25] * (len(late) - 1))


def test_an_answer_s_first_ten_seconds_are_as_they_would_be_without_it() -> None:
    eased, even = Answer(), Answer(EASED_FLUSH_SECONDS="0")
    assert gaps(eased.comes(10)) == pytest.approx(gaps(even.comes(10)))
    assert gaps(even.comes(10)) == pytest.approx([0.1] * 95)
    assert gaps(eased.comes(10)) == pytest.approx([0.25] * 38)


def test_the_time_before_the_first_token_is_not_the_answer_s_age() -> None:
    answer = Answer()
    answer.clock.now += timedelta(minutes=2)
    assert gaps(answer.comes(1)) == pytest.approx([0.1] * 9)


def test_an_attempt_that_goes_on_with_an_answer_goes_on_with_its_interval() -> None:
    answer = Answer()
    answer.comes(20)
    answer.claim()
    assert gaps(answer.comes(1)) == pytest.approx([0.25] * 3)


def test_an_attempt_after_one_that_brought_nothing_begins_anew() -> None:
    answer = Answer()
    answer.clock.now += timedelta(minutes=2)
    answer.claim()
    assert gaps(answer.comes(1)) == pytest.approx([0.1] * 9)


@pytest.mark.parametrize(
    ("settings", "late"),
    [
        ({"EASED_FLUSH_SECONDS": "0.4"}, 0.4),
        ({"FLUSH_SECONDS": "0.5"}, 0.5),
        ({"FLUSH_SECONDS": "0"}, 0.0),
        ({"FLUSH_SECONDS": "0", "EASED_FLUSH_SECONDS": "0.4"}, 0.0),
    ],
)
def test_it_eases_off_to_what_is_set_and_is_never_shortened_by_it(settings: dict[str, str], late: float) -> None:
    answer = Answer(**settings)
    answer.journal.append([Entry(1, EVENT, "word ")])
    answer.clock.now += EASES_AFTER
    answer.journal.commit_seconds = 0.0
    assert answer.interval() == pytest.approx(late * (1 + SLACK))


def test_nobody_s_interval_does_not_ease_off() -> None:
    answer = Answer(watchers={})
    assert gaps(answer.comes(30)) == pytest.approx([1.2 / (1 + SLACK)] * 24)


@pytest.mark.parametrize(
    ("watched", "took", "seconds"), [(True, 0.01, 0.105), (True, 0.3, 0.6), (False, 0.3, 1.2), (False, 0.8, 1.6)]
)
def test_the_interval_is_never_less_than_twice_the_time_that_a_commit_took(
    watched: bool, took: float, seconds: float
) -> None:
    answer = Answer()
    answer.journal.commit_seconds = took
    answer.interval.watched_by({"a process": answer.clock() + (1 if watched else -1) * A_SECOND}, {})
    assert answer.interval() == pytest.approx(seconds)


def test_an_interval_of_nothing_stays_nothing_however_slow_commits_are() -> None:
    answer = Answer(FLUSH_SECONDS="0")
    answer.journal.commit_seconds = 0.3
    assert answer.interval() == 0.0


@pytest.mark.parametrize(
    ("every", "seconds"),
    [
        ([0.5], 0.5),
        ([0.5, 0.8, 2.0], 0.5),
        ([0.5, None], 0.105),  # a lease of an api that knows no `every`
        ([0.05], 0.105),
        ([0.0], 0.105),
        ([5.0], 1.2),  # as if nobody watched
    ],
)
def test_the_viewer_that_asks_for_the_most_decides(every: list[float | None], seconds: float) -> None:
    answer = Answer()
    watchers = {f"{n}": answer.clock() + A_SECOND for n in range(len(every))}
    answer.interval.watched_by(watchers, {f"{n}": each for n, each in enumerate(every) if each is not None})
    assert answer.interval() == pytest.approx(seconds)


def test_a_lease_that_ran_out_asks_for_nothing() -> None:
    answer = Answer()
    leases = {"over": answer.clock() - A_SECOND, "live": answer.clock() + A_SECOND}
    answer.interval.watched_by(leases, {"over": 0.0, "live": 0.5})
    assert answer.interval() == pytest.approx(0.5)


def test_what_a_viewer_asks_for_is_no_reason_to_write_as_soon_as_the_last_is_through() -> None:
    answer = Answer(FLUSH_SECONDS="0")
    answer.interval.watched_by({"a": answer.clock() + A_SECOND}, {"a": 0.5})
    assert answer.interval() == pytest.approx(0.5)
    answer.interval.watched_by({"a": answer.clock() + A_SECOND}, {"a": 0.0})
    assert answer.interval() == 0.0


def test_4000_tokens_for_a_viewer_who_asks_for_half_a_second_take_160_commits() -> None:
    answer = Answer()
    answer.interval.watched_by(answer.watchers, dict.fromkeys(answer.watchers, 0.5))
    assert len(answer.comes(80)) == 160
