"""The Cloud Tasks emulator's system throttling: a queue slows down on errors, recovers, and ramps up from idle."""

from __future__ import annotations

import pytest

from local.tasks_emulator.faults import Faults
from local.tasks_emulator.throttle import IDLE_SECONDS, LOWEST_RATE, RAMP_SECONDS, Throttle

LIMIT = 500.0
THROTTLING, RAMPING = Faults(throttle=4.0), Faults(ramp=20.0)


def after(*statuses: int, faults: Faults = THROTTLING) -> Throttle:
    throttle = Throttle()
    for status in statuses:
        throttle.settled(status, LIMIT, 100.0, faults)
    return throttle


@pytest.mark.parametrize("status", [429, 503])
def test_each_response_that_says_overloaded_halves_the_queue_s_rate(status: int) -> None:
    assert after(status).rate(LIMIT, 100.0, THROTTLING) == LIMIT / 2
    assert after(status, status, 200, status).rate(LIMIT, 100.0, THROTTLING) == LIMIT / 8


@pytest.mark.parametrize("status", [200, 204, 302, 400, 404, 500, 0])
def test_any_other_response_alone_leaves_the_rate_as_it_is(status: int) -> None:
    assert after(status, status).rate(LIMIT, 100.0, THROTTLING) == LIMIT


def test_many_errors_of_any_kind_lower_the_rate() -> None:
    assert after(*[500, 200] * 9).rate(LIMIT, 100.0, THROTTLING) == LIMIT
    assert after(*[500, 200] * 10).rate(LIMIT, 100.0, THROTTLING) < LIMIT
    assert after(*[0] * 10).rate(LIMIT, 100.0, THROTTLING) == LIMIT / 2


def test_the_rate_recovers_and_passes_the_queue_s_own_never() -> None:
    throttle = after(503, 503, 503)
    assert throttle.rate(LIMIT, 104.0, THROTTLING) == LIMIT / 4
    assert throttle.rate(LIMIT, 110.0, THROTTLING) < LIMIT
    assert throttle.rate(LIMIT, 1e9, THROTTLING) == LIMIT


def test_errors_that_come_while_it_recovers_lower_what_it_has_recovered_to() -> None:
    throttle = after(503, 503, 503)
    throttle.settled(503, LIMIT, 104.0, THROTTLING)
    assert throttle.rate(LIMIT, 104.0, THROTTLING) == LIMIT / 8


def test_a_queue_is_never_throttled_to_a_stop() -> None:
    assert after(*[503] * 40).rate(LIMIT, 100.0, THROTTLING) == LOWEST_RATE
    assert after(*[503] * 40).rate(0.1, 100.0, THROTTLING) == 0.1


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
