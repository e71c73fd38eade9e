"""The Cloud Tasks emulator's system throttling: a queue slows down on errors, recovers, and ramps up from idle."""

from __future__ import annotations

import pytest

from local.tasks_emulator.faults import Faults
from local.tasks_emulator.throttle import (
    IDLE_SECONDS,
    LOWERED_SECONDS,
    LOWEST_RATE,
    RAMP_SECONDS,
    Throttle,
)

LIMIT = 500.0
THROTTLING, RAMPING = Faults(throttle=4.0), Faults(ramp=20.0)
LASTING = Faults(throttle=3600.0)  # so slow to recover that nothing is seen of it here


def after(*statuses: int, faults: Faults = LASTING, every: float = 2 * LOWERED_SECONDS) -> Throttle:
    """A queue's throttle after responses, the last of them at 100 s."""
    throttle = Throttle()
    for number, status in enumerate(statuses, 1):
        throttle.settled(status, LIMIT, 100.0 - every * (len(statuses) - number), faults)
    return throttle


def rate(throttle: Throttle, now: float = 100.0, faults: Faults = LASTING) -> float:
    return throttle.rate(LIMIT, now, faults)


@pytest.mark.parametrize("status", [429, 503])
def test_each_response_that_says_overloaded_halves_the_queue_s_rate(status: int) -> None:
    assert rate(after(status)) == LIMIT / 2
    assert rate(after(status, status, 200, status)) == pytest.approx(LIMIT / 8, rel=0.01)


def test_responses_at_one_instant_are_one_sign_of_overload() -> None:
    assert rate(after(*[503] * 40, every=0.0)) == LIMIT / 2
    assert rate(after(*[503] * 40, every=LOWERED_SECONDS / 20)) == pytest.approx(LIMIT / 4, rel=0.01)


@pytest.mark.parametrize("status", [200, 204, 302, 400, 404, 500, 0])
def test_any_other_response_alone_leaves_the_rate_as_it_is(status: int) -> None:
    assert rate(after(status, status)) == LIMIT


def test_many_errors_of_any_kind_lower_the_rate() -> None:
    assert rate(after(*[500, 200] * 9)) == LIMIT
    assert rate(after(*[500, 200] * 10)) < LIMIT
    assert rate(after(*[0] * 10)) == LIMIT / 2


def test_the_rate_recovers_and_passes_the_queue_s_own_never() -> None:
    throttle = after(503, faults=THROTTLING)
    assert rate(throttle, 102.0, THROTTLING) == pytest.approx(LIMIT / 2**0.5)
    assert rate(throttle, 103.9, THROTTLING) < LIMIT
    assert rate(throttle, 1e9, THROTTLING) == LIMIT


def test_errors_that_come_while_it_recovers_lower_what_it_has_recovered_to() -> None:
    throttle = after(503, faults=THROTTLING)
    throttle.settled(503, LIMIT, 102.0, THROTTLING)
    assert rate(throttle, 102.0, THROTTLING) == pytest.approx(LIMIT / 2**1.5)


def test_a_queue_is_never_throttled_to_a_stop() -> None:
    assert rate(after(*[503] * 40)) == LOWEST_RATE
    assert after(*[503] * 40).rate(0.1, 100.0, LASTING) == 0.1


def test_a_new_queue_and_an_idle_one_ramp_up() -> None:
    throttle = Throttle()
    assert throttle.rate(LIMIT, 100.0, RAMPING) == 20.0
    throttle.dispatched(100.0)
    assert throttle.rate(LIMIT, 100.0 + RAMP_SECONDS, RAMPING) == 40.0
    throttle.dispatched(100.0 + 8 * RAMP_SECONDS)
    assert throttle.rate(LIMIT, 100.0 + 9 * RAMP_SECONDS, RAMPING) == LIMIT
    idle = 100.0 + 9 * RAMP_SECONDS + IDLE_SECONDS
    assert throttle.rate(LIMIT, idle, RAMPING) == 20.0


def test_without_these_faults_a_queue_has_its_own_rate() -> None:
    assert after(*[503] * 40, faults=Faults()).rate(LIMIT, 100.0, Faults()) == LIMIT
