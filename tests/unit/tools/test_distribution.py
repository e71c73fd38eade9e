"""Waits that are drawn from a distribution have its median, its tail and a bound."""

from __future__ import annotations

import random
from statistics import median, quantiles
from typing import Any

import pytest

from local.distribution import Distribution, distribution


def test_the_waits_have_the_median_and_the_99th_percentile_that_were_asked_for() -> None:
    chance = random.Random(7)
    waits = [Distribution(0.02, 0.2).draw(chance) for _ in range(20_000)]
    assert median(waits) == pytest.approx(0.02, rel=0.05)
    assert quantiles(waits, n=100)[-1] == pytest.approx(0.2, rel=0.15)
    assert max(waits) <= 2.0


def test_a_distribution_without_a_tail_is_one_wait() -> None:
    assert {Distribution(0.5, 0.5).draw(random.Random(7)) for _ in range(10)} == {0.5}


def test_the_same_seed_draws_the_same_waits() -> None:
    of = Distribution(0.02, 0.2)
    assert of.draw(random.Random(7)) == of.draw(random.Random(7)) != of.draw(random.Random(8))


@pytest.mark.parametrize(
    "given",
    [{"p50": 0, "p99": 1}, {"p50": 2, "p99": 1}, {"p50": 1, "p99": 9999}, {"p50": "1", "p99": 1}, {"p50": 1}, 3],
)
def test_a_distribution_that_is_misspelt_is_refused(given: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        distribution(given)


def test_null_is_no_wait() -> None:
    assert distribution(None) is None
