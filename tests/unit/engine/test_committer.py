"""The committer: when an attempt is committed, which commits are batched, and that failures do not affect others.

The journals are real ones, over a Firestore in memory.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from lib.cloud.documents import COMMIT_SECONDS, Put, Refused, Version, Write
from lib.domain.errors import Unreachable
from lib.domain.event import Event
from lib.engine.buffer import Buffer, Signal
from lib.engine.committer import MANY, SHARE, SLACK, TICKS, WRITES_A_CALL, Commits, Committer
from lib.journal.codec import Entry
from lib.journal.ending import LOST_GRACE
from lib.journal.segments import SEAL_BYTES
from lib.journal.writer import LONGEST_OUTAGE_SECONDS, Fenced, Journal, Prepared
from tests.unit.engine.memory import PATIENCE, Claimed, MemoryDocuments, eventually

NEVER = 3600.0  # seconds
MISTAKE = RuntimeError("a mistake")


class Live(Claimed):
    """An attempt with a committer, and the test as its reader. It starts with the first event."""

    def __init__(
        self,
        committer: Committer,
        documents: MemoryDocuments,
        journal: type[Journal] = Journal,
        *,
        buffer: Buffer | None = None,
        interval: Callable[[], float] | None = None,
        **more: Any,
    ):
        super().__init__(documents, journal, **more)
        self.seconds = 0.0
        self.buffer = buffer or Buffer(0)
        self.commits: Commits = committer.join(self.buffer, self.journal, interval or (lambda: self.seconds))

    def put(self, data: bytes = b"{}") -> None:
        self.buffer.put(Event(data), "")
        self.commits.events_came()

    def committed(self) -> None:
        """Waits until all events are saved."""
        eventually(lambda: self.journal.last == self.buffer.last and not self.commits.in_flight)
        assert len(self.saved()) == self.buffer.last

    def outcome(self) -> Any:
        assert self.buffer.wait(PATIENCE), "nobody said that it is over"
        return self.buffer.outcome


class Gate:
    """Blocks a thread until it is opened."""

    def __init__(self) -> None:
        self._reached, self._open = threading.Event(), threading.Event()

    def __call__(self, *_: Any) -> None:
        self._reached.set()
        assert self._open.wait(PATIENCE)

    def reached(self) -> None:
        assert self._reached.wait(PATIENCE)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def documents() -> MemoryDocuments:
    return MemoryDocuments()


class Start:
    """Makes attempts, by default with one committer, and ends them with the test."""

    def __init__(self, documents: MemoryDocuments):
        self._documents = documents
        self._live: list[Live] = []
        self.committer = Committer(documents.batch, 2 * NEVER)

    def __call__(self, journal: type[Journal] = Journal, **more: Any) -> Live:
        self._live.append(Live(more.pop("committer", self.committer), self._documents, journal, **more))
        return self._live[-1]

    def end(self) -> None:
        for live in self._live:
            try:
                live.commits.leave()
            except Exception:
                assert live.buffer.outcome is not None


@pytest.fixture
def start(documents: MemoryDocuments) -> Iterator[Start]:
    start = Start(documents)
    yield start
    start.end()


def batches(documents: MemoryDocuments) -> list[list[str]]:
    return [paths for what, paths in documents.calls if what == "batch"]


def alone(documents: MemoryDocuments, live: Live) -> list[list[str]]:
    """The attempt's commits that were sent alone, after its creation and its claim."""
    return [paths for what, paths in documents.calls if what == "commit" and live.head_path in paths][2:]


def failing(path: str, error: Exception, *, lost: bool = False, times: int = 10**9) -> Callable[[str, Any], None]:
    """For `before` or `after`: makes the next writes of a path fail, but not the call for a whole batch."""
    left = [times]

    def fail(what: str, writes: Sequence[Write]) -> None:
        if what != "batch" and left[0] and any(write.path == path for write in writes):
            left[0] -= 1
            raise error

    return fail


# When


def test_the_first_event_is_committed_at_once_and_the_next_one_after_the_interval(start: Start) -> None:
    live = start()
    live.seconds = NEVER
    live.put()
    live.committed()
    live.put()
    live.put()
    assert live.commits.until_due() > NEVER / 2
    assert live.journal.last == 1
    live.seconds = 0.0
    live.commits.hurry()
    live.committed()
    assert live.journal.metrics.commits.count == 3  # with the claim


def test_a_steady_stream_is_one_commit_an_interval(start: Start) -> None:
    live = start()
    live.seconds = 0.05
    began = time.monotonic()
    for _ in range(40):
        live.put()
        live.commits.buffer.wait(0.005)
    live.committed()
    passed = time.monotonic() - began
    assert live.journal.metrics.commits.count <= 2 + passed / live.seconds + 1


def test_with_no_interval_the_next_commit_is_made_as_soon_as_the_last_is_through(
    start: Start, documents: MemoryDocuments
) -> None:
    live = start()
    gate = Gate()
    documents.before = lambda what, _: gate() if what == "batch" else None
    live.put()
    gate.reached()
    live.put()
    live.put()
    gate.open()
    live.committed()
    assert [len(paths) for paths in batches(documents)] == [1, 1]


def test_an_event_after_a_long_silence_is_committed_at_once(start: Start) -> None:
    live = start()
    for _ in range(5):
        live.put()
        live.committed()
        eventually(lambda: live.commits.idle)


def test_a_viewer_that_comes_back_does_not_wait_for_the_longer_interval(start: Start) -> None:
    live = start()
    live.seconds = NEVER
    live.put()
    live.committed()
    live.put()
    live.commits.hurry()
    assert live.commits.until_due() > NEVER / 2, "nothing got shorter"
    live.seconds = 0.01
    live.commits.hurry()
    live.committed()


def test_an_interval_that_got_shorter_while_a_commit_is_in_flight_counts_for_the_next(
    start: Start, documents: MemoryDocuments
) -> None:
    live = start()
    live.seconds = NEVER
    gate = Gate()
    documents.before = lambda what, _: gate() if what == "batch" else None
    live.put()
    gate.reached()
    live.put()
    live.seconds = 0.0
    live.commits.hurry()
    gate.open()
    live.committed()


def test_the_lease_is_renewed_where_no_event_comes(documents: MemoryDocuments, start: Start) -> None:
    live = start(committer=Committer(documents.batch, 0.02))
    live.seconds = NEVER
    before = live.store.head_document(live.generation)
    eventually(lambda: live.journal.metrics.commits.count >= 5)
    after = live.store.head_document(live.generation)
    assert before is not None
    assert after is not None
    assert after.fields["leaseUntil"] > before.fields["leaseUntil"]
    assert live.saved() == []


def test_no_hurry_puts_a_renewal_off(documents: MemoryDocuments, start: Start) -> None:
    live = start(committer=Committer(documents.batch, 0.05))
    live.seconds = NEVER
    live.put()
    live.committed()

    def renewed() -> bool:
        live.commits.hurry()
        return live.journal.metrics.commits.count >= 5

    eventually(renewed)


def test_the_lease_is_not_renewed_before_its_time(start: Start, documents: MemoryDocuments) -> None:
    live, other = start(), start()
    other.put()
    other.committed()
    live.commits.hurry()
    eventually(lambda: live.commits.idle)
    assert live.journal.metrics.commits.count == 1


def test_who_reads_may_sleep_until_shortly_before_a_commit_is_due_and_not_where_none_is(start: Start) -> None:
    live = start()
    assert live.commits.until_due() == 0.0
    live.seconds = 60.0
    live.put()
    live.committed()
    assert 0.0 < live.commits.until_due() <= 60.0 - start.committer.early


def test_a_reader_rests_while_its_commit_is_in_flight(start: Start, documents: MemoryDocuments) -> None:
    live = start()
    live.seconds = NEVER
    gate = Gate()
    documents.before = lambda what, _: gate() if what == "batch" else None
    live.put()
    gate.reached()
    assert live.commits.until_due() > NEVER / 2
    gate.open()
    live.committed()


@pytest.mark.parametrize("attempts", [MANY - 1, MANY])
def test_of_many_attempts_a_reader_reads_once_before_a_commit_and_then_rests_until_the_next(
    start: Start, attempts: int
) -> None:
    live, *_ = (start() for _ in range(attempts))
    live.seconds = NEVER
    live.put()
    live.committed()
    live.commits.due = time.monotonic()  # it is to be committed just now
    if attempts == MANY:
        assert live.commits.until_due() > NEVER / 2
    else:
        assert live.commits.until_due() < 0.0


def test_the_interval_is_a_little_longer_for_few_and_more_so_for_many(start: Start) -> None:
    stretched = []
    for _ in range(8):
        start()
        stretched.append(start.committer.stretched(0.1))
    longer = [SLACK if live < MANY else SHARE * live for live in range(1, 9)]
    assert stretched == [pytest.approx(0.1 * (1 + more)) for more in longer]


def dues(start: Start, number: int, interval: float) -> list[Commits]:
    lives = []
    for _ in range(number):
        lives.append(start())
        lives[-1].seconds = interval
    for live in lives:
        live.put()
        live.committed()
    return [live.commits for live in lives]


def test_the_commits_of_many_attempts_are_due_at_the_same_moments(start: Start) -> None:
    tick = NEVER / TICKS
    for commits in dues(start, 2 * MANY, NEVER):
        ticks = commits.due / tick
        assert ticks == pytest.approx(round(ticks), abs=1e-9)
        assert abs(commits.due - commits.began - NEVER) <= tick / 2


def test_the_commits_of_few_are_due_an_interval_after_their_last(start: Start) -> None:
    for commits in dues(start, MANY - 1, NEVER):
        assert commits.due == commits.began + NEVER


# What goes together


def held_up(start: Start) -> Gate:
    """Blocks the scheduling thread, so that all events put meanwhile are due at the same time."""
    gate = Gate()

    class Slow(Journal):
        def plain(self, prepared: Prepared) -> Put | None:
            gate()
            return super().plain(prepared)

    start(Slow).put()
    gate.reached()
    return gate


def test_what_is_due_together_goes_in_calls_of_no_more_writes_than_a_call_may_have(
    start: Start, documents: MemoryDocuments
) -> None:
    lives = [start() for _ in range(2 * WRITES_A_CALL + 3)]
    gate = held_up(start)
    for live in lives:
        live.put()
    gate.open()
    for live in lives:
        live.committed()
    assert sorted(len(paths) for paths in batches(documents)) == [1, 3, WRITES_A_CALL, WRITES_A_CALL]


def test_each_attempt_is_committed_again_and_again_and_has_its_own_events(start: Start) -> None:
    lives = [start() for _ in range(3 * MANY)]
    for turn in range(5):
        for number, live in enumerate(lives):
            live.put(b"%d.%d" % (number, turn))
        for live in lives:
            live.committed()
    for number, live in enumerate(lives):
        assert [event.data for event in live.saved()] == [b"%d.%d" % (number, turn) for turn in range(5)]


def test_what_seals_a_segment_goes_alone(start: Start, documents: MemoryDocuments) -> None:
    live, other = start(), start()
    live.put(b"x" * SEAL_BYTES)
    live.committed()
    gate = held_up(start)
    live.put()
    other.put()
    gate.open()
    live.committed()
    other.committed()
    assert alone(documents, live) == [[live.head_path, f"{live.generation.journal_path}/1"]]
    assert [other.head_path] in batches(documents)


def test_a_slow_call_holds_up_none_but_those_in_it(start: Start, documents: MemoryDocuments) -> None:
    slow, other = start(), start()
    gate = Gate()
    documents.before = lambda what, writes: gate() if slow.head_path in [each.path for each in writes] else None
    slow.put()
    gate.reached()
    for _ in range(5):
        other.put()
        other.committed()
    assert slow.journal.last == 0
    gate.open()
    slow.committed()


def test_an_attempt_has_one_commit_in_flight_at_a_time(start: Start, documents: MemoryDocuments) -> None:
    live, other = start(), start()
    gate = Gate()
    documents.before = lambda what, writes: gate() if live.head_path in [each.path for each in writes] else None
    live.put()
    gate.reached()
    for _ in range(3):
        live.put()
        live.commits.hurry()
        other.put()
        other.committed()
    assert sum(live.head_path in paths for paths in batches(documents)) == 1
    gate.open()
    live.committed()


# Failures


class BadPrepare(Journal):
    def prepare(self, entries: Sequence[Entry]) -> Prepared:
        raise MISTAKE


class BadPlain(Journal):
    def plain(self, prepared: Prepared) -> Put | None:
        raise MISTAKE


class BadCommitted(Journal):
    def committed(self, prepared: Prepared, version: Version, seconds: float, writes: int = 1) -> None:
        if prepared.segment.last:  # the claim is none of the committer's
            raise MISTAKE
        super().committed(prepared, version, seconds, writes)


class BadFailed(Journal):
    def failed(self, error: Unreachable) -> None:
        raise MISTAKE


def go_on(lives: Sequence[Live]) -> None:
    """The other attempts' commits continue, alone and in batches."""
    for _ in range(3):
        for live in lives:
            live.put()
        for live in lives:
            live.committed()


@pytest.mark.parametrize("journal", [BadPrepare, BadPlain, BadCommitted])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_one_attempt_s_commit_raises_is_its_own_outcome_and_nobody_else_s_commits_stop(
    start: Start, journal: type[Journal], place: int
) -> None:
    lives = [start(journal if number == place else Journal) for number in range(3)]
    gate = held_up(start)
    for live in lives:
        live.put()
    gate.open()
    bad = lives.pop(place)
    assert bad.outcome() is MISTAKE
    go_on(lives)
    with pytest.raises(RuntimeError, match="a mistake"):
        bad.commits.leave()
    go_on(lives)


@pytest.mark.parametrize("asked", ["at its first event", "when its commit is done", "by a viewer"])
def test_what_an_interval_raises_is_its_own_attempt_s_outcome(start: Start, asked: str) -> None:
    given: list[float] = (
        [] if asked == "at its first event" else [0.0] if asked == "when its commit is done" else [0.0] * 2
    )

    def interval() -> float:
        if not given:
            raise MISTAKE
        given.pop()
        return NEVER

    bad, other = start(interval=interval), start()
    other.put()
    bad.put()
    if asked == "by a viewer":
        bad.committed()
        bad.commits.hurry()
    assert bad.outcome() is MISTAKE
    go_on([other])


def test_a_batch_that_fails_as_a_whole_is_made_up_for_by_each_of_those_in_it(
    start: Start, documents: MemoryDocuments
) -> None:
    lives = [start() for _ in range(5)]
    gate = held_up(start)
    failed = []

    def fail(what: str, _: Sequence[Write]) -> None:
        if what == "batch" and len(failed) < 2:  # those of the held up one and of the others
            failed.append(what)
            raise MISTAKE

    documents.before = fail
    for live in lives:
        live.put()
    gate.open()
    for live in lives:
        live.committed()
        assert len(alone(documents, live)) == 1
    go_on(lives)


def test_a_batch_with_an_outcome_too_few_is_no_batch(start: Start, documents: MemoryDocuments) -> None:
    short = Committer(lambda writes: documents.batch(writes)[:-1], NEVER)
    lives = [start(committer=short) for _ in range(3)]
    for live in lives:
        live.put()
    for live in lives:
        live.committed()
    go_on(lives)


def test_a_write_that_fails_in_a_batch_is_tried_again_alone_and_those_beside_it_are_done(
    start: Start, documents: MemoryDocuments
) -> None:
    lives = [start() for _ in range(3)]
    gate = held_up(start)
    documents.before = failing(lives[1].head_path, Unreachable("as the test asked"), times=1)
    for live in lives:
        live.put()
    gate.open()
    for live in lives:
        live.committed()
    assert [len(alone(documents, live)) for live in lives] == [0, 1, 0]
    assert lives[1].journal.metrics.errors == 1
    go_on(lives)


@pytest.mark.parametrize("error", [Unreachable("its answer was lost"), MISTAKE])
def test_a_write_that_was_done_and_whose_answer_was_lost_is_saved_once(
    start: Start, documents: MemoryDocuments, error: Exception
) -> None:
    live = start()
    documents.after = failing(live.head_path, error, times=1)
    live.put(b"1")
    live.committed()
    live.put(b"2")
    live.committed()
    assert [event.data for event in live.saved()] == [b"1", b"2"]


def test_what_comes_while_a_commit_is_tried_again_waits_for_it(start: Start, documents: MemoryDocuments) -> None:
    live = start()
    documents.before = failing(live.head_path, Unreachable("as the test asked"), times=3)
    for number in range(6):
        live.put(b"%d" % number)
    live.committed()
    assert [event.data for event in live.saved()] == [b"%d" % number for number in range(6)]


def test_where_firestore_stays_away_for_longer_than_a_writer_is_patient_that_is_the_outcome(
    start: Start, documents: MemoryDocuments
) -> None:
    live, other = start(patience=0.05), start()
    away = Unreachable("as the test asked")
    documents.before = failing(live.head_path, away)
    live.put()
    assert live.outcome() is away
    assert live.journal.metrics.errors > 1
    go_on([other])
    with pytest.raises(Unreachable):
        live.commits.leave()


def test_patience_is_for_a_run_of_failures_and_not_for_all_of_them(start: Start, documents: MemoryDocuments) -> None:
    live = start()
    for _ in range(2):
        documents.before = failing(live.head_path, Unreachable("as the test asked"), times=2)
        live.put()
        live.committed()
        assert live.journal._failing_since is None
    assert live.journal.metrics.errors == 4


def test_who_lost_its_generation_to_a_rival_is_told_and_writes_no_more(
    start: Start, documents: MemoryDocuments
) -> None:
    live, other = start(), start()
    live.put(b"1")
    live.committed()
    head = live.store.read_head(live.generation)
    assert head is not None
    fields = {**head.fields(), "holder": "a rival", "claims": 2}
    documents.commit(Put(live.head_path, fields, head.version))
    live.put(b"2")
    assert isinstance(live.outcome(), Fenced)
    with pytest.raises(Fenced):
        live.commits.leave()
    head = live.store.read_head(live.generation)
    assert head is not None
    assert (head.holder, head.last) == ("a rival", 1)
    go_on([other])


def test_what_firestore_refuses_is_the_attempt_s_own_fault(start: Start, documents: MemoryDocuments) -> None:
    live, other = start(), start()
    documents.before = failing(live.head_path, Refused())
    live.put()
    assert isinstance(live.outcome(), Refused)
    go_on([other])


def test_nothing_is_committed_after_a_commit_that_could_not_be_prepared(start: Start) -> None:
    class BadOnce(Journal):
        def prepare(self, entries: Sequence[Entry]) -> Prepared:
            if entries and entries[0].seq == 1:
                late.put(Event(b"2"), "")
                raise MISTAKE
            return super().prepare(entries)

    late = Buffer(0)
    live = start(BadOnce, buffer=late)
    live.put(b"1")
    assert live.outcome() is MISTAKE
    live.commits.hurry()
    with pytest.raises(RuntimeError, match="a mistake"):
        live.commits.leave()
    assert live.saved() == []


def test_what_goes_wrong_after_an_outcome_is_told_to_who_leaves(start: Start, documents: MemoryDocuments) -> None:
    live = start(BadPrepare)
    live.buffer.put(Event(b"1"), "")
    live.buffer.close(Signal.WHOLE)
    live.commits.events_came()
    eventually(lambda: live.commits.error)
    assert live.buffer.outcome is Signal.WHOLE
    with pytest.raises(RuntimeError, match="a mistake"):
        live.commits.leave()


class Reluctant(ThreadPoolExecutor):
    """Sometimes fails to start a thread."""

    refusals = 1

    def submit(self, work: Any, /, *args: Any, **named: Any) -> Future[Any]:
        given = super().submit(work, *args, **named)
        if self.refusals:
            self.refusals -= 1
            raise RuntimeError("can't start new thread")
        return given


def test_where_no_thread_can_be_started_the_commits_continue_once_there_is_one(
    start: Start, documents: MemoryDocuments, caplog: pytest.LogCaptureFixture
) -> None:
    committer = Committer(documents.batch, NEVER, calls=Reluctant(2))
    lives = [start(committer=committer) for _ in range(2)]
    go_on(lives)
    assert [record.levelname for record in caplog.records] == ["ERROR"]


@pytest.mark.parametrize("lease", [0.5, 15.0, 600.0])
def test_nobody_may_end_a_generation_whose_worker_may_still_be_sitting_an_outage_out(lease: float) -> None:
    """Its head was renewed last when the outage began; the first try that fails is the next renewal."""
    first_failure = lease / 3 + COMMIT_SECONDS
    assert lease + LOST_GRACE.total_seconds() > first_failure + LONGEST_OUTAGE_SECONDS


def test_no_try_of_an_attempt_waits_for_a_slow_one_of_another(start: Start, documents: MemoryDocuments) -> None:
    lives = [start() for _ in range(40)]  # as many as a worker has, unless it is set up for more
    gate, waiting = Gate(), threading.Semaphore(0)

    def hold(what: str, writes: Sequence[Write]) -> None:
        if what == "write":
            raise Unreachable("as the test asked")  # so that each is tried again alone
        if what == "commit":
            waiting.release()
            gate()

    documents.before = hold
    for live in lives:
        live.put()
    for _ in lives:
        assert waiting.acquire(timeout=PATIENCE)
    gate.open()
    for live in lives:
        live.committed()


# Leaving


def left(live: Live) -> Future[Prepared | None]:
    """What a leave gives, in a thread of its own."""
    given: Future[Prepared | None] = Future()
    threading.Thread(target=lambda: given.set_result(live.commits.leave()), daemon=True).start()
    return given


def test_who_leaves_waits_for_what_is_in_flight(start: Start, documents: MemoryDocuments) -> None:
    live = start()
    gate = Gate()
    documents.before = lambda what, _: gate() if what == "batch" else None
    live.put(b"1")
    gate.reached()
    live.put(b"2")
    leaving = left(live)
    with pytest.raises(TimeoutError):
        leaving.result(0.05)
    gate.open()
    assert leaving.result(PATIENCE) is None
    assert [event.data for event in live.saved()] == [b"1"]
    assert [entry.seq for entry in live.buffer.take()] == [2], "it is for who left to commit"


def test_who_leaves_gets_what_is_to_be_committed_before_anything_else(start: Start, documents: MemoryDocuments) -> None:
    live = start()
    documents.before = failing(live.head_path, Unreachable("as the test asked"))
    live.put(b"1")
    eventually(lambda: live.journal.metrics.errors >= 2)
    live.put(b"2")
    pending = live.commits.leave()
    assert pending is not None
    documents.before = lambda _what, _writes: None
    live.journal.commit(pending)
    live.journal.append(live.buffer.take())
    assert [event.data for event in live.saved()] == [b"1", b"2"]


def test_a_failure_of_what_was_in_flight_is_left_to_who_leaves(start: Start, documents: MemoryDocuments) -> None:
    live = start()
    gate = Gate()

    def fail(what: str, _: Sequence[Write]) -> None:
        if what == "write":
            gate()
            raise Unreachable("as the test asked")

    documents.before = fail
    live.put(b"1")
    gate.reached()
    leaving = left(live)
    gate.open()
    assert leaving.result(PATIENCE) is not None


def test_a_second_leave_gives_nothing_and_does_not_wait(start: Start, documents: MemoryDocuments) -> None:
    live = start()
    documents.before = failing(live.head_path, Unreachable("as the test asked"))
    live.put()
    eventually(lambda: live.journal.metrics.errors)
    assert live.commits.leave() is not None
    assert live.commits.leave() is None


def test_after_a_leave_nothing_is_begun(start: Start) -> None:
    live, other = start(), start()
    live.commits.leave()
    live.put()
    live.commits.hurry()
    go_on([other])
    assert live.saved() == []
    assert not live.buffer.empty


def test_who_leaves_does_not_wait_for_ever(start: Start, documents: MemoryDocuments) -> None:
    live = start(committer=Committer(documents.batch, NEVER, in_flight_seconds=0.05))
    gate = Gate()
    documents.before = lambda what, _: gate() if what == "batch" else None
    live.put()
    gate.reached()
    with pytest.raises(Unreachable):
        live.commits.leave()
    gate.open()


def threads(committer: Committer) -> bool:
    return committer._running


def test_its_thread_ends_when_nobody_is_left_and_starts_again(start: Start) -> None:
    committer = start.committer
    for _ in range(3):
        lives = [start(), start()]
        go_on(lives)
        assert threads(committer)
        for live in lives:
            live.commits.leave()
        eventually(lambda: not threads(committer))


# Nothing is lost


def test_an_event_that_comes_exactly_while_the_committer_finds_nothing_is_committed(start: Start) -> None:
    class Exact(Buffer):
        """Puts its one late event right after it was found empty."""

        late = True

        def take(self) -> list[Entry]:
            taken = super().take()
            if not taken and self.late:
                self.late = False
                live.put(b"2")
            return taken

    live = start(buffer=Exact(0))
    live.put(b"1")
    eventually(lambda: live.journal.last == 2)
    live.committed()


def test_of_events_that_come_whenever_the_committer_looks_none_waits_for_another(start: Start) -> None:
    """Each event is put as soon as the one before is saved, which is when the committer checks for more."""
    lives = [start() for _ in range(3)]

    def produce(live: Live) -> None:
        pause = threading.Event()
        for number in range(150):
            live.put(b"%d" % number)
            deadline = time.monotonic() + PATIENCE
            while live.journal.last <= number and time.monotonic() < deadline:
                pause.wait(0.0005)

    producers = [threading.Thread(target=produce, args=[live], daemon=True) for live in lives]
    for producer in producers:
        producer.start()
    for producer in producers:
        producer.join(PATIENCE)
    for live in lives:
        live.committed()
        assert [event.data for event in live.saved()] == [b"%d" % number for number in range(150)]


def test_many_streams_lose_nothing_while_every_third_commit_fails(start: Start, documents: MemoryDocuments) -> None:
    lives = [start() for _ in range(8)]
    count = [0]
    lock = threading.Lock()

    def flaky(what: str, writes: Sequence[Write]) -> None:
        with lock:
            count[0] += what != "batch"
            if what != "batch" and count[0] % 3 == 0:
                raise Unreachable("now and then")

    documents.before = documents.after = flaky
    for turn in range(12):
        for live in lives:
            live.put(b"%d" % turn)
        if turn % 4 == 0:
            eventually(lambda live=lives[turn // 4]: live.journal.last)
    for live in lives:
        eventually(lambda live=live: live.journal.last == 12)
    documents.before = documents.after = lambda _what, _writes: None
    for live in lives:
        assert [event.data for event in live.saved()] == [b"%d" % turn for turn in range(12)]
