"""How many tasks of a process claim at the same time."""

from __future__ import annotations

import threading
from contextlib import ExitStack, suppress

import pytest

from lib.engine.admission import A_SECOND, AT_ONCE, Admission

PATIENCE = 30.0


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def claim(admission: Admission, clock: Clock, seconds: float) -> None:
    with admission.place() as claimed:
        clock.seconds += seconds
        claimed()


def test_until_a_claim_was_made_there_are_few_places(clock: Clock) -> None:
    assert Admission(monotonic=clock).places == AT_ONCE


@pytest.mark.parametrize(("seconds", "places"), [(0.0, AT_ONCE), (0.005, AT_ONCE), (0.04, 8), (0.1, 20), (0.8, 20)])
def test_there_are_as_many_places_as_a_rate_of_claims_takes(clock: Clock, seconds: float, places: int) -> None:
    admission = Admission(monotonic=clock)
    claim(admission, clock, seconds)
    assert A_SECOND == 200.0
    assert admission.places == places


def test_only_the_shortest_claim_counts(clock: Clock) -> None:
    admission = Admission(monotonic=clock)
    found = []
    for seconds in (0.1, 0.5, 0.05, 0.1):
        claim(admission, clock, seconds)
        found.append(admission.places)
    assert found == [20, 20, 10, 10]


def test_what_made_no_claim_tells_nothing_of_the_distance(clock: Clock) -> None:
    admission = Admission(monotonic=clock)
    claim(admission, clock, 0.1)
    with admission.place():
        clock.seconds += 0.01
    with suppress(RuntimeError), admission.place():
        raise RuntimeError
    assert admission.places == 20


def inside(admission: Admission, leave: threading.Event) -> tuple[threading.Thread, threading.Event]:
    entered = threading.Event()

    def stay() -> None:
        with admission.place():
            entered.set()
            assert leave.wait(PATIENCE)

    thread = threading.Thread(target=stay, daemon=True)
    thread.start()
    return thread, entered


def test_who_finds_no_place_waits_for_one_that_is_left() -> None:
    admission, leave = Admission(2 * PATIENCE), threading.Event()
    with ExitStack() as there:
        for _ in range(AT_ONCE):
            there.enter_context(admission.place())
        thread, entered = inside(admission, leave)
        assert not entered.wait(0.05)
    assert entered.wait(PATIENCE)
    leave.set()
    thread.join(PATIENCE)


def test_all_places_that_a_claim_brings_are_taken_at_once(clock: Clock) -> None:
    admission, leave = Admission(2 * PATIENCE, clock), threading.Event()
    with ExitStack() as there:
        for _ in range(AT_ONCE - 1):
            there.enter_context(admission.place())
        with admission.place() as claimed:
            waiting = [inside(admission, leave) for _ in range(5)]
            assert not any(entered.wait(0.02) for _, entered in waiting)
            clock.seconds += 0.04
            claimed()
        assert all(entered.wait(PATIENCE) for _, entered in waiting)
        leave.set()
    for thread, _ in waiting:
        thread.join(PATIENCE)


def test_who_has_waited_for_long_claims_anyway_and_gives_nobody_s_place_back() -> None:
    admission = Admission(0.01)
    with ExitStack() as there:
        for _ in range(2 * AT_ONCE):
            there.enter_context(admission.place())
        assert admission.claiming == 2 * AT_ONCE
    assert admission.claiming == 0
