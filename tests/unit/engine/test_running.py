"""What happens to running attempts at shutdown, with scripted attempts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast

import pytest

from lib.domain.end import State
from lib.engine.attempt import Attempt, Ended, RetryLater
from lib.engine.running import Running
from tests.unit.engine.memory import PATIENCE, eventually

MISTAKE = RuntimeError("a mistake")


class Played:
    """An attempt that ends when the test says so, or when it is asked to leave: at once, or as soon as it `can`."""

    def __init__(self, can: bool = False):
        self._can = can
        self._over = threading.Event()
        self._left = False
        self.live: int | None = None
        self.asked: list[bool] = []

    def claimed(self, live: int) -> None:
        self.live = live

    def leave(self, *, at_once: bool) -> None:
        self.asked.append(at_once)
        if at_once or self._can:
            self._left = True
            self._over.set()

    def end(self) -> None:
        self._over.set()

    def run(self) -> Ended | RetryLater:
        assert self._over.wait(PATIENCE)
        return RetryLater(0.0) if self._left else Ended(State.COMPLETED)


class Run:
    """A scripted attempt in its own thread."""

    def __init__(self, running: Running, played: Played):
        self.played = played
        self.outcome: Any = None
        self._running = running
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.outcome = self._running.run(cast(Attempt, self.played))

    def ends(self) -> Any:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        return self.outcome


def start(running: Running, *attempts: Played) -> list[Run]:
    runs = []
    for each in attempts:
        runs.append(Run(running, each))
        eventually(lambda each=each: each.live is not None)
    return runs


def in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_each_attempt_is_told_how_many_are_under_way() -> None:
    running = Running()
    first, second = start(running, Played(), Played())
    second.played.end()
    assert second.ends() == Ended(State.COMPLETED)
    (third,) = start(running, Played())
    assert [run.played.live for run in (first, second, third)] == [1, 2, 2]
    for run in (first, third):
        run.played.end()
        run.ends()


def test_what_another_can_continue_is_handed_over_soon_and_the_rest_when_the_time_is_over() -> None:
    running = Running(hand_over_seconds=0.3)
    can, can_not = start(running, Played(can=True), Played())
    running.hand_over()
    assert can.ends() == can_not.ends() == RetryLater(0.0)
    assert True not in can.played.asked[:1]
    assert can_not.played.asked[0] is False
    assert can_not.played.asked[-1] is True


def test_who_ends_by_itself_in_time_is_not_made_to_leave() -> None:
    running = Running(hand_over_seconds=PATIENCE)
    (run,) = start(running, Played())
    handing = in_thread(running.hand_over)
    eventually(lambda: run.played.asked)
    run.played.end()
    assert run.ends() == Ended(State.COMPLETED)
    handing.join(PATIENCE)
    assert not handing.is_alive()
    assert set(run.played.asked) == {False}


def test_a_process_without_attempts_ends_at_once() -> None:
    handing = in_thread(Running(hand_over_seconds=10 * PATIENCE).hand_over)
    handing.join(PATIENCE)
    assert not handing.is_alive()


def test_an_attempt_that_was_claimed_while_all_was_handed_over_is_given_up() -> None:
    running = Running()
    running.hand_over()
    late = Played()
    assert running.run(cast(Attempt, late)) == RetryLater(0.0)
    assert late.asked == [True]


def test_an_attempt_that_was_claimed_meanwhile_is_handed_over_with_the_others() -> None:
    running = Running(hand_over_seconds=0.5)
    (first,) = start(running, Played())
    handing = in_thread(running.hand_over)
    eventually(lambda: first.played.asked)
    (late,) = start(running, Played())
    handing.join(PATIENCE)
    assert first.ends() == late.ends() == RetryLater(0.0)


def test_an_attempt_that_can_not_be_asked_keeps_no_other_from_being_handed_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Bad(Played):
        def leave(self, *, at_once: bool) -> None:
            if not at_once:
                raise MISTAKE
            super().leave(at_once=at_once)

    running = Running(hand_over_seconds=0.3)
    runs = start(running, Bad(), Played(can=True), Bad())
    running.hand_over()
    assert [run.ends() for run in runs] == [RetryLater(0.0)] * 3
    assert {record.levelname for record in caplog.records} == {"ERROR"}


def test_an_attempt_that_fails_is_under_way_no_longer() -> None:
    class Failing(Played):
        def run(self) -> Ended | RetryLater:
            raise MISTAKE

    running = Running()
    with pytest.raises(RuntimeError, match="a mistake"):
        running.run(cast(Attempt, Failing()))
    (run,) = start(running, Played())
    assert run.played.live == 1
    run.played.end()
    run.ends()
