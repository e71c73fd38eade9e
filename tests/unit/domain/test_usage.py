"""The arithmetic of usage: periods, prices, and what is settled."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.domain.end import End, State
from lib.domain.generation import Generation
from lib.domain.ids import document_id
from lib.domain.usage import Account, Booking, Budget, Charge, Price, Spent, Usage, charged

NOW = datetime(2026, 12, 31, 23, 30, tzinfo=UTC)
PRICE = Price(input=2.5, output=10.0, cached_input=1.25)
BOOKING = Booking(accounts=("alice.day.2026-12-31",), input_tokens=100, output_tokens=1000, price=PRICE)


@pytest.mark.parametrize(
    ("budget", "period", "resets"),
    [
        (Budget.DAY, "2026-12-31", datetime(2027, 1, 1, tzinfo=UTC)),
        (Budget.MONTH, "2026-12", datetime(2027, 1, 1, tzinfo=UTC)),
        (Budget.SERVICE, "2026-12-31", datetime(2027, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_period_is_of_utc_and_resets_when_the_next_one_begins(budget: Budget, period: str, resets: datetime) -> None:
    here = NOW.astimezone(timezone(timedelta(hours=9)))  # where it is next year already
    account = Account.at("alice", budget, here)
    assert (account.period, account.resets) == (period, resets)


@pytest.mark.parametrize("month", range(1, 13))
def test_each_month_ends_with_its_last_day(month: int) -> None:
    resets = Account("alice", Budget.MONTH, f"2028-{month:02}").resets
    assert resets.day == 1
    assert (resets - timedelta(days=1)).month == month


@given(st.text(min_size=1, max_size=50).filter(lambda uid: uid.isprintable() and "/" not in uid))
def test_an_account_s_id_is_a_valid_one_of_its_own_whatever_the_user_is_called(uid: str) -> None:
    accounts = [Account.at(uid, budget, NOW) for budget in Budget]
    assert [Account.of(each.id) for each in accounts] == accounts
    for each in accounts:
        assert document_id(each.id, "id") == each.id


def test_money_is_counted_in_millionths_and_rounded_up() -> None:
    assert PRICE.of(Spent(1000, 100)) == 2500 + 1000
    assert PRICE.of(Spent(1, 0)) == 3
    assert PRICE.of(Spent(1000, 0, cached=400)) == 600 * 2.5 + 400 * 1.25
    assert PRICE.of(Spent(10, 0, cached=400)) == 13, "no more is cached than was read"
    assert Price(input=0.1, output=0.2, cached_input=0.1).of(Spent(3, 0)) == 1


def test_what_calls_said_is_added_up() -> None:
    charge = BOOKING.charge([Spent(50, 7), Spent(60, 3, cached=20)])
    assert charge == Charge(input_tokens=110, output_tokens=10, cost=90 * 2.5 + 20 * 1.25 + 10 * 10)
    assert charge.tokens == 120


def test_an_input_that_was_not_said_is_estimated_with_what_was_answered_before() -> None:
    assert BOOKING.charge([Spent(0, 7)]).input_tokens == 100
    assert BOOKING.charge([Spent(0, 7), Spent(0, 3)]).input_tokens == 100 + 107


def test_a_call_that_brought_nothing_takes_nothing() -> None:
    assert BOOKING.charge([]) == BOOKING.charge([Spent()]) == Charge()
    assert BOOKING.charge([Spent(), Spent(30, 5)]) == Charge(input_tokens=30, output_tokens=5, cost=125)


def test_a_booking_is_kept_as_it_is() -> None:
    for booking in (BOOKING, replace(BOOKING, price=None)):
        assert Booking.from_fields(booking.fields()) == booking
    assert (BOOKING.tokens, BOOKING.cost, replace(BOOKING, price=None).cost) == (1100, 10_250, 0)


def test_only_what_is_booked_is_charged_and_a_failure_without_output_is_not() -> None:
    calls = (Spent(50, 7),)
    counted = generation(booked=BOOKING.fields())
    assert charged(counted.ended(End(state=State.STOPPED), 1, NOW), calls).tokens == 57
    assert charged(counted.ended(End(state=State.INCOMPLETE), 1, NOW), calls).tokens == 57
    assert charged(counted.ended(End(state=State.FAILED), 0, NOW), calls) == Charge()
    assert charged(counted, calls).tokens == 57, "as one that is deleted while it runs"
    assert charged(generation(), calls) == Charge()


def test_an_account_that_is_not_there_has_nothing() -> None:
    account = Account.at("alice", Budget.DAY, NOW)
    assert Usage.from_fields(account, {}) == Usage(account=account)
    usage = Usage.from_fields(account, {"inputTokens": 3, "outputTokens": 4, "takenTokens": 9, "owner": "alice"})
    assert (usage.tokens, usage.taken_tokens) == (7, 9)


def generation(**more: object) -> Generation:
    return Generation(
        id="a" * 32,
        owner="alice",
        message_path="users/alice/messages/m",
        chat_id=None,
        message_id="m",
        model="demo",
        dialect="chat_completions",
        upstream="default",
        request=b"{}",
        request_hash="0" * 64,
        created_at=NOW,
        expire_at=NOW + timedelta(days=7),
        **more,  # type: ignore[arg-type]
    )
