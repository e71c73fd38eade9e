"""Claims against the real emulator: one worker holds a generation, and who took it over keeps the other out."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from lib.cloud.documents import Delete, Unreachable
from lib.cloud.store import Store
from lib.dialects.chat_completions import Answer
from lib.domain.generation import End, State
from lib.domain.task import Task
from lib.engine.lease import Held, claim
from lib.journal.journal import Fenced

LEASE = timedelta(seconds=15)
COMPLETED = End(state=State.COMPLETED)


def task_of(generation):
    return Task(generation.id, generation.message_path)


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
    held = claim(store, task_of(generation), LEASE, clock)

    kept = store.generation(generation.id)
    assert kept == held.generation
    assert (kept.state, kept.attempt, kept.started_at) == (State.STREAMING, 1, clock())
    head = store.read_head(generation)
    assert (head.attempt, head.lease_until, head.first, head.last) == (1, clock() + LEASE, 1, 0)
    assert head.leased(clock())
    (said,) = documents.get(generation.message_path)
    assert (said.fields["state"], said.fields["updatedAt"]) == ("streaming", clock())
    assert (held.found.attempt, held.journal.last) == (0, 0)


def test_each_claim_is_one_attempt_more_and_the_start_stays_what_it_was(begin, store, clock):
    generation = begin()
    began = clock()
    for attempt in (1, 2, 3):
        held = claim(store, task_of(generation), LEASE, clock)
        kept = store.generation(generation.id)
        assert held.generation == kept
        assert (kept.attempt, kept.started_at) == (attempt, began)
        assert store.read_head(generation).attempt == attempt
        clock.advance(timedelta(seconds=16))


@pytest.mark.parametrize("rivals", [2, 5])
def test_of_claims_at_the_same_instant_exactly_one_gets_the_generation(
    begin, documents, store, clock, together, entries, rivals
):
    for _ in range(20 if rivals == 2 else 4):
        generation = begin()
        at_once = Together(documents, rivals)
        outcomes = together(
            *[partial(outcome, partial(claim, at_once, task_of(generation), LEASE, clock)) for _ in range(rivals)]
        )
        won = [each for each in outcomes if not isinstance(each, Held)]
        assert len(won) == 1
        assert sum(isinstance(each, Held) for each in outcomes) == rivals - 1
        assert store.generation(generation.id).attempt == store.read_head(generation).attempt == 1
        won[0].journal.append(entries(1, 1))


def test_of_claims_at_the_same_instant_on_two_clocks_exactly_one_gets_the_generation(begin, documents, store, together):
    """As two workers have it: neither's clock says exactly the same."""
    now = partial(datetime.now, UTC)
    for _ in range(10):
        generation = begin()
        at_once = Together(documents, 2)
        outcomes = together(*[partial(outcome, partial(claim, at_once, task_of(generation), LEASE, now))] * 2)
        assert sum(isinstance(each, Held) for each in outcomes) == 1
        assert store.generation(generation.id).attempt == 1


def test_of_claims_of_a_lost_generation_at_the_same_instant_exactly_one_gets_it(
    begin, hold, documents, store, clock, together, entries
):
    generation = begin()
    hold(generation).journal.append(entries(1, 3))
    clock.advance(timedelta(minutes=1))
    at_once = Together(documents, 2)
    outcomes = together(*[partial(outcome, partial(claim, at_once, task_of(generation), LEASE, clock))] * 2)
    assert sum(isinstance(each, Held) for each in outcomes) == 1
    assert store.read_head(generation).attempt == 2


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
        claim(store_over(ClaimedMeanwhile()), task_of(generation), LEASE, clock)
    assert store.generation(generation.id).attempt == 1


def test_a_live_lease_is_held_until_it_runs_out(begin, hold, store, clock):
    generation = begin()
    hold(generation)
    before = store.head_document(generation)
    for seconds in (0, 14.999):
        clock.advance(timedelta(seconds=seconds))
        with pytest.raises(Held):
            claim(store, task_of(generation), LEASE, clock)
    assert store.head_document(generation) == before
    clock.advance(timedelta(seconds=0.001))
    assert claim(store, task_of(generation), LEASE, clock).generation.attempt == 2


def test_a_commit_renews_the_lease(begin, hold, store, clock, entries):
    generation = begin()
    journal = hold(generation).journal
    for write in (lambda: journal.append(entries(1, 2)), lambda: journal.append([])):
        clock.advance(timedelta(seconds=10))
        write()
        assert store.read_head(generation).lease_until == clock() + LEASE
        clock.advance(timedelta(seconds=10))
        with pytest.raises(Held):
            claim(store, task_of(generation), LEASE, clock)


def test_an_expired_lease_is_taken_over_and_the_old_journal_is_fenced(begin, hold, store, clock, entries):
    generation = begin()
    old = hold(generation).journal
    old.append(entries(1, 3))
    clock.advance(timedelta(seconds=15))
    taken = claim(store, task_of(generation), LEASE, clock)
    assert taken.generation.attempt == 2
    assert (taken.found.last, taken.found.attempt, taken.journal.last) == (3, 1, 3)

    for write in (lambda: old.append(entries(4, 5)), lambda: old.append([]), lambda: old.release([])):
        with pytest.raises(Fenced):
            write()
    taken.journal.append(entries(4, 5))
    assert store.read_head(generation).last == 5


@pytest.mark.parametrize("state", [State.COMPLETED, State.STOPPED, State.INCOMPLETE, State.FAILED])
def test_what_has_ended_can_not_be_claimed(begin, hold, store, clock, documents, state):
    generation = begin()
    hold(generation).journal.finish([], End(state=state), Answer())
    clock.advance(timedelta(minutes=1))
    before = documents.get(generation.path, generation.message_path, generation.head_path)
    assert claim(store, task_of(generation), LEASE, clock) is None
    assert documents.get(generation.path, generation.message_path, generation.head_path) == before


def test_what_was_deleted_can_not_be_claimed(begin, store, clock, under):
    generation = begin()
    store.delete(generation)
    assert claim(store, task_of(generation), LEASE, clock) is None
    assert under(generation.path) == under(generation.message_path) == []


def test_what_never_was_can_not_be_claimed(store, clock, uid):
    assert claim(store, Task("no-such", f"users/{uid}/messages/no-such"), LEASE, clock) is None


@pytest.mark.parametrize("lost", ["path", "head_path"])
def test_what_is_half_deleted_can_not_be_claimed(begin, store, clock, documents, lost):
    generation = begin()
    documents.commit(Delete(getattr(generation, lost)))
    assert claim(store, task_of(generation), LEASE, clock) is None


def test_what_is_deleted_while_it_is_claimed_is_not_brought_back(begin, documents, clock, under, store_over):
    generation = begin()
    deleting = store_over(documents)

    class DeletedMeanwhile(Store):
        def generation_and_head(self, generation_id, message_path):
            found = super().generation_and_head(generation_id, message_path)
            deleting.delete(generation)
            return found

    assert claim(DeletedMeanwhile(documents, timedelta(days=7)), task_of(generation), LEASE, clock) is None
    assert under(generation.path) == under(generation.message_path) == []


def test_a_released_generation_can_be_claimed_at_once(begin, hold, store, clock, entries):
    generation = begin()
    journal = hold(generation).journal
    journal.append(entries(1, 2))
    journal.release([])
    assert not store.read_head(generation).leased(clock())
    taken = claim(store, task_of(generation), LEASE, clock)
    assert (taken.generation.attempt, taken.found.last) == (2, 2)
    with pytest.raises(Fenced):
        journal.append(entries(3, 3))
