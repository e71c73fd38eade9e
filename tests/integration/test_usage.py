"""`operations.usage` against the emulator: a user's periods, and a day of the service with who took most."""

from __future__ import annotations

import pytest

from lib.cloud.accounts import reserving, settling
from lib.domain.usage import Account, Booking, Budget, Charge, Price
from local.token import PROJECT
from operations.usage import main

PRICE = Price(input=2.5, output=10, cached_input=2.5)


@pytest.fixture
def took(documents, clock):
    """An answer of a user's, on the user's accounts and on one of the service's. A running one has only reserved."""

    def took(uid, shard, tokens, *, running=False):
        owners = {Budget.DAY: uid, Budget.MONTH: uid, Budget.SERVICE: shard}
        accounts = tuple(Account.at(owner, budget, clock()).id for budget, owner in owners.items())
        booked = Booking(accounts=accounts, input_tokens=10, output_tokens=90, price=PRICE).fields()
        documents.commit(*reserving(booked))
        if not running:
            charge = Charge(input_tokens=10, output_tokens=tokens, cost=25 + 10 * tokens)
            documents.commit(*settling(booked, charge))

    return took


@pytest.fixture
def run(stack, monkeypatch, capsys):
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", stack.functions_firestore_host)

    def run(*given):
        status = main([*given, "--project", PROJECT])
        printed = capsys.readouterr()
        return status, [line.split() for line in printed.out.splitlines()], printed.err

    return run


def test_a_user_s_days_and_months_are_shown_the_newest_first(took, run, uid, clock):
    took(uid, "0", 1000)
    took(uid, "0", 0, running=True)
    status, (header, *rows), _ = run("--uid", uid)
    assert (status, header) == (0, ["answers", "input", "output", "reserved", "cost", "period"])
    day, month = clock().strftime("%Y-%m-%d"), clock().strftime("%Y-%m")
    assert rows == [["1", "10", "1,000", "100", "0.0100", period] for period in (day, month)]
    assert run("--uid", uid, "--day", day)[1][1:] == rows[:1]
    assert run("--uid", f"not-{uid}")[1] == [["Nothing."]]


def test_a_day_shows_the_service_and_who_took_most(took, run, uid, documents, clock):
    day = clock().strftime("%Y-%m-%d")
    before = [[*row] for row in run("--day", day, "--most", "10000")[1][1:] if row[-1] == "service)"]
    took(f"{uid}-a", "0", 5)
    took(f"{uid}-b", "1", 70)
    status, rows, _ = run("--day", day, "--most", "10000")
    assert status == 0
    users = [row for row in rows if row[-1].startswith(uid)]
    assert [(row[-1], row[2]) for row in users] == [(f"{uid}-b", "70"), (f"{uid}-a", "5")]
    answers = int(before[0][0].replace(",", "")) if before else 0
    assert rows[1][-2:] == ["(the", "service)"]
    assert int(rows[1][0].replace(",", "")) == answers + 2, "of all its shards together"


def test_what_is_asked_wrongly_is_told(run, capsys):
    for given in ((), ("--day", "today"), ("--uid", "a/b")):
        with pytest.raises(SystemExit):
            run(*given)
    said = capsys.readouterr().err
    assert "give --uid, --day, or both" in said
    assert "'today' is not a day such as 2026-11-28" in said
