"""Budgets against the real emulators: whatever is lost, tried again or done by two at once, the sums are right."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from lib.cloud.accounts import Accounts
from lib.cloud.documents import Delete
from lib.domain.end import End, State
from lib.domain.errors import BudgetReached, NotFound, Unavailable, Unreachable
from lib.domain.message import Said
from lib.domain.usage import Account, Booking, Budget, Spent
from lib.journal import ending
from lib.journal.ending import LOST_GRACE
from lib.journal.writer import Fenced
from lib.serving.budgets import input_tokens
from tests.integration.test_generations import START_GRACE, Line, body, request, service_over, settings_of

__all__ = ["service_over", "settings_of"]

COMPLETED = End(state=State.COMPLETED)
SAID = Said(fields={"content": "four"}, calls=(Spent(30, 7),))
BUDGET = {"BUDGET_USER_DAY_TOKENS": "10000", "BUDGET_OUTPUT_TOKENS": "3000"}


@pytest.fixture
def line():
    return Line()


@pytest.fixture
def of(documents, clock):
    """What is taken and used of a user's day."""

    def of(uid):
        (usage,) = Accounts(documents).read([Account.at(uid, Budget.DAY, clock())])
        return usage.taken_tokens, usage.tokens, usage.answers

    return of


@pytest.fixture
def booked(begin, uid, clock):
    """A generation that has reserved 1,100 tokens."""
    account = Account.at(uid, Budget.DAY, clock()).id
    return begin(booked=Booking(accounts=(account,), input_tokens=100, output_tokens=1000).fields())


def ends(writes):
    """Whether it is the commit that ends a generation."""
    return any(getattr(write, "fields", {}).get("finishedAt") for write in writes)


def test_an_end_whose_answer_was_lost_is_settled_once(booked, hold, faulty, store_over, entries, of, uid):
    assert of(uid) == (1100, 0, 0)
    journal = hold(booked, over=store_over(faulty)).journal
    journal.append(entries(1, 2))
    faulty.fail(having=ends, lost=True)
    ended = journal.finish(entries(3, 4), COMPLETED, SAID)
    assert faulty.failed == 1
    assert ended.charge == {"inputTokens": 30, "outputTokens": 7, "cost": 0}
    assert of(uid) == (37, 37, 1)


def test_an_end_that_failed_and_was_tried_again_is_settled_once(booked, hold, faulty, store_over, entries, of, uid):
    journal = hold(booked, over=store_over(faulty)).journal
    faulty.fail(having=ends, times=2)
    journal.finish(entries(1, 4), COMPLETED, SAID)
    assert faulty.failed == 2
    assert of(uid) == (37, 37, 1)


def test_of_two_that_end_it_one_settles(booked, hold, store, clock, entries, of, uid):
    journal = hold(booked).journal
    journal.append(entries(1, 2))
    known, head = store.generation(booked.id), store.read_head(booked)
    ending.end_unworked(store, known, head, ending.stopped(), SAID, clock, patience=0.0)
    with pytest.raises(Fenced):
        journal.finish(entries(3, 4), COMPLETED, SAID)
    assert of(uid) == (37, 37, 1)


def test_a_failure_gives_back_all_that_was_reserved(booked, hold, of, uid):
    hold(booked).journal.finish([], End(state=State.FAILED, reason="upstream_status"), SAID)
    assert of(uid) == (0, 0, 0)


@pytest.fixture
def service(service_over):
    return service_over(**BUDGET)


@pytest.fixture
def started(service, uid):
    def started(on=service, **asked):
        begun = on.start(uid, request(**asked))
        begun.tail.close()
        return begun.generation

    return started


RESERVED = input_tokens(body("Hello")) + 3000


def test_what_is_deleted_while_it_runs_is_charged_what_is_saved(started, service, hold, entries, of, uid, store):
    generation = started()
    assert of(uid) == (RESERVED, 0, 0)
    journal = hold(generation).journal
    written = entries(1, 20)
    journal.append(written)
    service.delete(uid, generation.id)
    taken, used, answers = of(uid)
    words = sum(len(each.text) for each in written)
    assert taken == used == input_tokens(body("Hello")) + max(20, -(-words // 4))
    assert answers == 1
    with pytest.raises(Fenced):
        journal.finish(entries(21, 22), COMPLETED, SAID)
    with pytest.raises(NotFound):
        service.delete(uid, generation.id)
    assert of(uid) == (taken, used, 1)


@pytest.mark.parametrize("lost", [False, True], ids=["not done", "done"])
def test_a_deletion_that_is_tried_again_settles_once(service_over, faulty, line, started, of, uid, lost, store):
    service = service_over(faulty, **BUDGET)
    generation = started(on=service)
    faulty.fail(having=lambda writes: any(isinstance(write, Delete) for write in writes), lost=lost)
    service.delete(uid, generation.id)
    assert faulty.failed == 1
    assert of(uid) == (0, 0, 0)
    assert store.generation(generation.id) is None


def test_an_end_that_comes_between_is_what_counts(started, service_over, faulty, hold, of, uid, store):
    service = service_over(faulty, **BUDGET)
    generation = started(on=service)
    journal = hold(generation).journal
    between = [partial(journal.finish, [], COMPLETED, SAID)]

    def end_first(writes):
        if between and any(isinstance(write, Delete) for write in writes):
            between.pop()()
        return False

    faulty.fail(having=end_first)
    service.delete(uid, generation.id)
    assert not between
    assert of(uid) == (37, 37, 1)
    assert store.generation(generation.id) is None


def test_a_start_that_can_not_be_queued_gives_back_what_it_reserved(service_over, of, uid):
    class Away(Line):
        def enqueue(self, generation, version=None):
            raise Unavailable("away")

    with pytest.raises(Unavailable):
        service_over(queue=Away(), **BUDGET).start(uid, request())
    assert of(uid) == (0, 0, 0)


def test_a_start_whose_answer_was_lost_is_checked_too(service_over, faulty, started, of, uid):
    service = service_over(faulty, **BUDGET)
    for taken in (1, 2, 3):
        faulty.fail(lost=True)
        started(on=service, content=str(taken))
        assert of(uid)[0] > taken * 3000
    faulty.fail(lost=True)
    with pytest.raises(BudgetReached):
        service.start(uid, request("4"))
    assert 9000 < of(uid)[0] < 9100


def test_starts_that_are_aborted_by_contention_are_tried_again(service_over, faulty, started, of, uid):
    service = service_over(faulty, **BUDGET)
    faulty.fail(error=Unreachable("Aborted"), times=7)
    started(on=service)
    assert (faulty.failed, of(uid)) == (7, (RESERVED, 0, 0))
    faulty.fail(error=Unreachable("Aborted"), times=8)
    with pytest.raises(Unreachable):
        service.start(uid, request("again"))
    assert of(uid) == (RESERVED, 0, 0)


def test_a_failed_answer_that_is_started_anew_reserves_anew(started, hold, of, uid):
    failed = started(key="once")
    error = {"message": "busy", "code": "busy", "status": 503, "retryable": True}
    hold(failed).journal.finish([], End(state=State.FAILED, reason="upstream_status", error=error), Said(fields={}))
    assert of(uid) == (0, 0, 0)
    again = started(key="once")
    assert again.id == failed.id
    assert of(uid) == (RESERVED, 0, 0)
    hold(again).journal.finish([], COMPLETED, SAID)
    assert of(uid) == (37, 37, 1)


def test_a_lost_answer_that_holds_the_rest_is_ended_so_that_the_next_start_passes(service, started, clock, of, uid):
    clock.now = clock().replace(hour=12)  # so that all of it is of one day
    for name in "abc":
        started(content=name)
    clock.advance(START_GRACE + LOST_GRACE + timedelta(seconds=1))
    with pytest.raises(BudgetReached, match="Running answers hold the rest"):
        service.start(uid, request("d"))
    assert of(uid) == (0, 0, 0)
    started(content="d")


def test_of_two_budgets_the_one_that_resets_later_is_told(service_over, uid):
    more = {"BUDGET_USER_MONTH_TOKENS": "100", "BUDGET_SERVICE_DAY_TOKENS": "100"}
    with pytest.raises(BudgetReached) as reached:
        service_over(**BUDGET, **more).start(uid, request())
    month = Account.at(uid, Budget.MONTH, datetime.now(UTC))
    assert reached.value.details["resets"] == month.resets.isoformat().replace("+00:00", "Z")


def test_each_shard_has_its_share_and_together_they_pass_no_budget(service_over, uid, documents, clock):
    service = service_over(BUDGET_SERVICE_DAY_TOKENS="13000", BUDGET_SHARDS="4", BUDGET_OUTPUT_TOKENS="3000")
    before = shards(documents, clock)
    refused = 0
    for n in range(30):
        try:
            service.start(f"{uid}-{n}", request()).tail.close()
        except BudgetReached:
            refused += 1
    assert refused >= 26
    after = shards(documents, clock)
    assert all(taken <= 3250 or taken == before[n] for n, taken in enumerate(after))


def shards(documents, clock):
    accounts = [Account.at(str(n), Budget.SERVICE, clock()) for n in range(4)]
    return [usage.taken_tokens for usage in Accounts(documents).read(accounts)]


def test_a_picture_is_estimated_by_its_number_and_not_by_its_bytes():
    picture = b"/9j/" + b"A" * 400_000
    assert input_tokens(body("x" * 4000)) == pytest.approx(1000, abs=30)
    assert input_tokens(body(f"data:image/jpeg;base64,{picture.decode()}")) == pytest.approx(2000, abs=30)
    assert input_tokens(b"") == 0


def test_a_generation_that_was_created_before_anything_was_counted_is_not_charged(begin, hold, store, of, uid):
    old = begin()
    assert store.generation(old.id).booked == {}
    hold(old).journal.finish([], COMPLETED, SAID)
    assert of(uid) == (0, 0, 0)
    assert replace(old, booked={}) == old
