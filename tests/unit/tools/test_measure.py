"""What `make measure` makes of what it has measured."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest

from operations.commit_rate import Measured, suggested
from operations.latency import Latency
from operations.measure import main
from operations.task_delay import SILENT

GOOD = Measured(10, 60, Latency([0.02] * 600), Latency([0.05] * 600))


def at(rate: float, **changes: object) -> Measured:
    return replace(GOOD, rate=rate, **changes)  # type: ignore[arg-type]


def test_a_percentile_is_the_smallest_that_is_not_below_that_share() -> None:
    hundred = Latency([n / 1000 for n in range(100, 0, -1)])
    assert [hundred.percentile(each) for each in (50, 95, 100)] == [0.05, 0.095, 0.1]
    assert [Latency([3.0]).percentile(each) for each in (50, 95, 100)] == [3.0] * 3
    assert [Latency([1.0, 2.0]).percentile(each) for each in (50, 51, 95)] == [1.0, 2.0, 2.0]
    assert str(hundred).split() == ["50", "95", "100"]


def test_of_nothing_there_is_no_percentile() -> None:
    assert Latency([]).percentile(95) == inf
    assert str(Latency([])).split() == ["-", "-", "-"]


def test_the_shortest_interval_that_holds_is_suggested() -> None:
    assert suggested([at(1), at(20), at(10)]) == 0.05
    assert suggested([at(1), at(10), at(20, aborted=60)]) == 0.1
    assert suggested([]) is None


def test_where_a_rate_does_not_hold_no_higher_one_is_suggested() -> None:
    assert suggested([at(1), at(2, missed=1), at(5)]) == 1.0
    assert suggested([at(1, missed=1), at(2)]) is None


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({}, True),
        ({"aborted": 6}, True),
        ({"aborted": 7}, False),
        ({"failed": 7}, False),
        ({"aborted": 4, "failed": 4}, False),
        ({"missed": 1}, False),
        ({"commit": Latency([0.02] * 570 + [9.0] * 30)}, True),
        ({"commit": Latency([0.02] * 569 + [9.0] * 31)}, False),
        ({"commit": Latency([0.05] * 600)}, True),
        ({"commit": Latency([0.051] * 600)}, False),
        ({"delivery": Latency([1.01] * 600)}, False),
        ({"commit": Latency([]), "delivery": Latency([]), "failed": 600}, False),
    ],
)
def test_a_rate_holds_while_commits_are_done_in_half_an_interval_and_seldom_fail(
    changes: dict[str, object], holds: bool
) -> None:
    assert at(10, **changes).keeps_up is holds


def test_tasks_go_to_an_address_that_nobody_has() -> None:
    assert SILENT == "http://192.0.2.1/"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "--project"),
        (["--project", "p", "--seconds", "0"], "--seconds: '0' is not a number above 0"),
        (["--project", "p", "--rates", "1,x"], "--rates: 'x' is not a number above 0"),
        (["--project", "p", "--tasks", "1001"], "--tasks: '1001' is not a whole number from 1 to 1000"),
    ],
)
def test_a_wrong_option_is_named(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(argv, {})
    assert said in capsys.readouterr().err
