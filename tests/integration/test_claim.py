"""Claims against the real emulator: only one worker holds a generation, and a takeover fences the previous one."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from lib.cloud.documents import Delete
from lib.cloud.store import RequestLost, Store
from lib.domain.end import End, State
from lib.domain.errors import Unreachable
from lib.domain.message import Said
from lib.domain.task import Created, Task
from lib.engine.claim import Claim, Exhausted, Held, RanOut, claim
from lib.journal.writer import Fenced

LEASE = timedelta(seconds=15)
COMPLETED = End(state=State.COMPLETED)


def task_of(generation):
    return Task(generation.id, generation.message_path)


def claimed(store, task, clock, max_attempts=5):
    """What a worker gets: where a lease ran out, once its worker was given time."""
    try:
        return claim(store, task, LEASE, clock, lambda *_: max_attempts)
    except RanOut as ran_out:
        return claim(store, task, LEASE, clock, lambda *_: max_attempts, ran_out.version)


class Together(Store):
    """A store whose readers all read the same head: each first read waits until everybody has read."""

    def __init__(self, documents, readers):
        super().__init__(documents, timedelta(days=7))
        self._barrier = threading.Barrier(readers)
        self._read = threading.local()

    def generation_and_head(self, generation_id, message_path):
        found = super().generation_and_head(generation_id, message_path)
        if not getattr(self._read, "once", False):
            self._read.once = True
            self._barrier.wait(30)
        return found


def outcome(work):
    try:
        return work()
    except Held as held:
        return held


def test_a_claim_makes_the_generation_stream_under_the_next_attempt(begin, store, clock, documents):
    generation = begin()
    held = claimed(store, task_of(generation), clock)

    kept = store.generation(generation.id)
    assert kept == held.generation
    assert (kept.state, kept.attempt, kept.started_at) == (State.STREAMING, 1, clock())
    head = store.read_head(generation)
    assert (head.claims, head.lease_until, head.first, head.last) == (1, clock() + LEASE, 1, 0)
    assert head.leased(clock())
    (said,) = documents.get(generation.message_path)
    assert (said.fields["state"], said.fields["updatedAt"]) == ("streaming", clock())
    assert (held.found.claims, held.journal.last) == (0, 0)


def test_each_claim_is_one_attempt_more_and_the_start_stays_what_it_was(begin, store, clock):
    generation = begin()
    began = clock()
    for attempt in (1, 2, 3):
        held = claimed(store, task_of(generation), clock)
        kept = store.generation(generation.id)
        assert held.generation == kept
        assert (kept.attempt, kept.started_at) == (attempt, began)
        assert store.read_head(generation).claims == attempt
        clock.advance(timedelta(seconds=16))


@pytest.mark.parametrize("rivals", [2, 5])
def test_of_claims_at_the_same_instant_exactly_one_gets_the_generation(
    begin, documents, store, clock, together, entries, rivals
):
    for _ in range(20 if rivals == 2 else 4):
        generation = begin()
        at_once = Together(documents, rivals)
        outcomes = together(
            *[partial(outcome, partial(claimed, at_once, task_of(generation), clock)) for _ in range(rivals)]
        )
        won = [each for each in outcomes if not isinstance(each, Held)]
        assert len(won) == 1
        assert sum(isinstance(each, Held) for each in outcomes) == rivals - 1
        assert store.generation(generation.id).attempt == store.read_head(generation).claims == 1
        won[0].journal.append(entries(1, 1))


def test_of_claims_at_the_same_instant_on_two_clocks_exactly_one_gets_the_generation(begin, documents, store, together):
    """As two workers have it: neither's clock says exactly the same."""
    now = partial(datetime.now, UTC)
    for _ in range(10):
        generation = begin()
        at_once = Together(documents, 2)
        outcomes = together(*[partial(outcome, partial(claimed, at_once, task_of(generation), now))] * 2)
        assert sum(isinstance(each, Held) for each in outcomes) == 1
        assert store.generation(generation.id).attempt == 1


def test_of_claims_of_a_lost_generation_at_the_same_instant_exactly_one_gets_it(
    begin, hold, documents, store, clock, together, entries
):
    generation = begin()
    hold(generation).journal.append(entries(1, 3))
    clock.advance(timedelta(minutes=1))
    at_once = Together(documents, 2)
    outcomes = together(*[partial(outcome, partial(claimed, at_once, task_of(generation), clock))] * 2)
    assert sum(isinstance(each, Held) for each in outcomes) == 1
    assert store.read_head(generation).claims == 2


def test_a_claim_that_failed_does_not_take_a_rivals_for_its_own(begin, hold, documents, store, clock, store_over):
    """The first commit fails before it takes effect; before it is tried again, another has claimed."""
    generation = begin()

    class ClaimedMeanwhile:
        armed = True

        def __getattr__(self, name):
            return getattr(documents, name)

        def commit(self, *writes):
            if self.armed:
                self.armed = False
                hold(generation)
                raise Unreachable("before it took effect")
            return documents.commit(*writes)

    with pytest.raises(Held):
        claimed(store_over(ClaimedMeanwhile()), task_of(generation), clock)
    assert store.generation(generation.id).attempt == 1


def test_a_live_lease_is_held_until_it_runs_out(begin, hold, store, clock):
    generation = begin()
    hold(generation)
    before = store.head_document(generation)
    for seconds in (0, 14.999):
        clock.advance(timedelta(seconds=seconds))
        with pytest.raises(Held):
            claimed(store, task_of(generation), clock)
    assert store.head_document(generation) == before
    clock.advance(timedelta(seconds=0.001))
    assert claimed(store, task_of(generation), clock).generation.attempt == 2


def test_a_commit_renews_the_lease(begin, hold, store, clock, entries):
    generation = begin()
    journal = hold(generation).journal
    for write in (lambda: journal.append(entries(1, 2)), lambda: journal.append([])):
        clock.advance(timedelta(seconds=10))
        write()
        assert store.read_head(generation).lease_until == clock() + LEASE
        clock.advance(timedelta(seconds=10))
        with pytest.raises(Held):
            claimed(store, task_of(generation), clock)


def test_an_expired_lease_is_taken_over_and_the_old_journal_is_fenced(begin, hold, store, clock, entries):
    generation = begin()
    old = hold(generation).journal
    old.append(entries(1, 3))
    clock.advance(timedelta(seconds=15))
    taken = claimed(store, task_of(generation), clock)
    assert taken.generation.attempt == 2
    assert (taken.found.last, taken.found.claims, taken.journal.last) == (3, 1, 3)

    for write in (lambda: old.append(entries(4, 5)), lambda: old.append([]), lambda: old.release()):
        with pytest.raises(Fenced):
            write()
    taken.journal.append(entries(4, 5))
    assert store.read_head(generation).last == 5


@pytest.mark.parametrize("state", [State.COMPLETED, State.STOPPED, State.INCOMPLETE, State.FAILED])
def test_what_has_ended_can_not_be_claimed(begin, hold, store, clock, documents, state):
    generation = begin()
    hold(generation).journal.finish([], End(state=state), Said(fields={"content": ""}))
    clock.advance(timedelta(minutes=1))
    before = documents.get(generation.path, generation.message_path, generation.head_path)
    assert claimed(store, task_of(generation), clock) is None
    assert documents.get(generation.path, generation.message_path, generation.head_path) == before


def test_what_was_deleted_can_not_be_claimed(begin, store, clock, under):
    generation = begin()
    store.delete(generation)
    assert claimed(store, task_of(generation), clock) is None
    assert under(generation.path) == under(generation.message_path) == []


def test_what_never_was_can_not_be_claimed(store, clock, uid):
    assert claimed(store, Task("no-such", f"users/{uid}/messages/no-such"), clock) is None


@pytest.mark.parametrize("lost", ["path", "head_path"])
def test_what_is_half_deleted_can_not_be_claimed(begin, store, clock, documents, lost):
    generation = begin()
    documents.commit(Delete(getattr(generation, lost)))
    assert claimed(store, task_of(generation), clock) is None


def test_what_is_deleted_while_it_is_claimed_is_not_brought_back(begin, documents, clock, under, store_over):
    generation = begin()
    deleting = store_over(documents)

    class DeletedMeanwhile(Store):
        def generation_and_head(self, generation_id, message_path):
            found = super().generation_and_head(generation_id, message_path)
            deleting.delete(generation)
            return found

    assert claimed(DeletedMeanwhile(documents, timedelta(days=7)), task_of(generation), clock) is None
    assert under(generation.path) == under(generation.message_path) == []


def test_a_released_generation_can_be_claimed_at_once(begin, hold, store, clock, entries):
    generation = begin()
    journal = hold(generation).journal
    journal.append(entries(1, 2))
    journal.release()
    assert not store.read_head(generation).leased(clock())
    taken = claimed(store, task_of(generation), clock)
    assert (taken.generation.attempt, taken.found.last) == (2, 2)
    with pytest.raises(Fenced):
        journal.append(entries(3, 3))


def test_who_takes_over_a_lease_that_ran_out_first_shows_that_commits_work(begin, hold, faulty, store_over, clock):
    """Where they don't, its worker may be waiting for just that, with events that nobody else has."""
    generation = begin()
    hold(generation)
    clock.advance(timedelta(minutes=1))
    faulty.fail()
    with pytest.raises(Unreachable):
        claim(store_over(faulty), task_of(generation), LEASE, clock, lambda *_: 5)
    assert faulty.asked["commit"] == 1


def test_a_worker_that_was_given_time_and_used_it_keeps_its_generation(begin, hold, store, clock, entries):
    generation = begin()
    journal = hold(generation).journal
    clock.advance(timedelta(minutes=1))
    with pytest.raises(RanOut) as ran_out:
        claim(store, task_of(generation), LEASE, clock, lambda *_: 5)
    journal.append(entries(1, 3))
    with pytest.raises(Held):
        claim(store, task_of(generation), LEASE, clock, lambda *_: 5, ran_out.value.version)
    journal.append(entries(4, 5))


def test_a_released_generation_is_claimed_without_waiting(begin, hold, store, clock):
    generation = begin()
    hold(generation).journal.release()
    assert isinstance(claim(store, task_of(generation), LEASE, clock, lambda *_: 5), Claim)


@pytest.mark.parametrize("given_up", ["released", "lost"])
def test_no_generation_is_claimed_more_often_than_it_may_be(begin, hold, store, clock, given_up):
    generation = begin()
    for attempt in (1, 2, 3):
        held = claimed(store, task_of(generation), clock, max_attempts=3)
        assert held.generation.attempt == attempt
        if given_up == "released":
            held.journal.release()
        else:
            clock.advance(timedelta(minutes=1))
    before = store.head_document(generation)
    exhausted = claimed(store, task_of(generation), clock, max_attempts=3)
    assert isinstance(exhausted, Exhausted)
    assert store.head_document(generation) == before


def test_a_claim_that_firestore_does_not_take_is_given_up_soon(begin, faulty, store_over, clock):
    """Its task comes again: to insist could take the lease from a worker that insists as well."""
    generation = begin()
    faulty.fail(times=50)
    with pytest.raises(Unreachable):
        claim(store_over(faulty), task_of(generation), LEASE, clock, lambda *_: 5)
    assert 1 < faulty.failed < 50


def created_task(generation, store):
    """The task that a start makes."""
    version = store.head_document(generation).version.ToNanoseconds()
    return Task(generation.id, generation.message_path, Created(replace(generation, request=b""), version))


class Unread(Store):
    """A store that does not read what a task says already."""

    def generation_and_head(self, generation_id, message_path):
        raise AssertionError("the generation was read before it was claimed")


@pytest.mark.parametrize("size", [10, 3 << 20], ids=["small", "in parts"])
def test_a_new_generation_is_claimed_before_it_is_read(begin, documents, store, clock, size):
    generation = begin(request=b"x" * size)
    held = claimed(Unread(documents, timedelta(days=7)), created_task(generation, store), clock)

    kept = store.generation(generation.id)
    assert replace(kept, request=b"", request_parts=0) == held.generation
    assert (kept.state, kept.attempt, kept.started_at) == (State.STREAMING, 1, clock())
    assert held.request() == (b"x" * size, None)
    head = store.read_head(generation)
    assert (head.claims, head.created_at, head.lease_until) == (1, generation.created_at, clock() + LEASE)


def test_a_task_of_a_new_generation_that_comes_twice_finds_it_held(begin, store, clock):
    task = created_task(begin(), store)
    assert isinstance(claimed(store, task, clock), Claim)
    with pytest.raises(Held):
        claimed(store, task, clock)
    clock.advance(LEASE + timedelta(seconds=1))
    assert claimed(store, task, clock).generation.attempt == 2


def test_a_new_generation_that_ended_or_was_made_again_is_claimed_as_it_is_now(begin, store, clock):
    generation = begin()
    task = created_task(generation, store)
    claimed(store, task, clock).journal.finish([], COMPLETED, Said(fields={"content": "whole"}))
    assert claimed(store, task, clock) is None
    store.delete(generation)
    assert claimed(store, task, clock) is None
    clock.advance(timedelta(seconds=1))
    begin(id=generation.id, message_path=generation.message_path, request=b"another")
    held = claimed(store, task, clock)
    assert (held.generation.created_at, held.request().body) == (clock(), b"another")


def test_a_request_that_is_gone_when_a_new_generation_was_claimed_is_lost(begin, store, clock):
    generation = begin()
    held = claimed(store, created_task(generation, store), clock)
    store.delete(generation)
    with pytest.raises(RequestLost):
        replace(held, request=store.reading_request(generation)).request()


def test_a_stop_that_was_written_before_a_new_generation_is_claimed_is_read_with_the_request(begin, store, clock):
    generation = begin()
    task = created_task(generation, store)
    store.patch(generation, {"stopRequestedAt": clock()})
    assert claimed(store, task, clock).request().stop_requested_at == clock()
