"""The beat: who is asked when, what goes together, and what each is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import pytest

from lib.cloud.documents import Put, Unreachable
from lib.engine.flusher import CALLS_AT_ONCE, CROWDING, PHASES, SLACK, WRITES_A_CALL, Flusher

BEAT = 0.04
WAIT_SECONDS = 30.0


class Writer:
    """Has something to write whenever it is asked, unless it waits for what became of the last."""

    def __init__(self, path: str):
        self._path = path
        self._waits = False
        self._told = threading.Condition()
        self.asked: list[tuple[float, float]] = []
        self.outcomes: list[Any] = []

    def begin(self, now: float, until: float) -> Put | None:
        with self._told:
            self.asked.append((now, until))
            if self._waits:
                return None
            self._waits = True
            return Put(self._path, {})

    def settle(self, outcome: Any) -> None:
        with self._told:
            assert self._waits
            self._waits = False
            self.outcomes.append(outcome)
            self._told.notify_all()

    def until(self, times: int) -> list[Any]:
        with self._told:
            assert self._told.wait_for(lambda: len(self.outcomes) >= times, WAIT_SECONDS)
            return self.outcomes


class Firestore:
    """Does what it is asked; each call, by its paths, as the test has it."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.does: Callable[[str], Any] = lambda path: f"version of {path}"

    def batch(self, writes: Sequence[Put]) -> list[Any]:
        self.calls.append([write.path for write in writes])
        return [self.does(write.path) for write in writes]


@pytest.fixture(autouse=True)
def crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    """One is enough for a beat, unless a test says otherwise."""
    monkeypatch.setattr("lib.engine.flusher.CROWD", 1)


@pytest.fixture
def firestore() -> Firestore:
    return Firestore()


@pytest.fixture
def flusher(firestore: Firestore) -> Iterator[Flusher]:
    flusher = Flusher(firestore.batch, BEAT)
    yield flusher
    for left in list(chain(*flusher._joined)):
        flusher.leave(left)


def joined(flusher: Flusher, number: int) -> list[Writer]:
    writers = [Writer(f"w{n}") for n in range(number)]
    for writer in writers:
        flusher.join(writer)
    return writers


def test_each_is_asked_again_and_again_and_told_what_became_of_its_own_write(flusher: Flusher) -> None:
    writers = joined(flusher, 3 * PHASES)
    for n, writer in enumerate(writers):
        assert writer.until(3)[:3] == [f"version of w{n}"] * 3


def test_those_of_one_moment_go_in_one_call(flusher: Flusher, firestore: Firestore) -> None:
    writers = joined(flusher, 3 * PHASES)
    for writer in writers:
        writer.until(2)
    together = [sorted(call) for call in firestore.calls]
    for phase in range(PHASES):
        assert sorted(f"w{n}" for n in range(phase, 3 * PHASES, PHASES)) in together


def test_they_are_spread_over_the_beat_and_each_is_asked_once_in_it(flusher: Flusher, firestore: Firestore) -> None:
    began = time.monotonic()
    writers = joined(flusher, 2 * PHASES)
    for writer in writers:
        writer.until(3)
        assert len(writer.asked) <= (time.monotonic() - began) / BEAT + 1
    assert not any({"w0", "w1"} <= set(call) for call in firestore.calls)


def test_what_is_due_before_the_next_moment_but_one_is_not_left_to_that(flusher: Flusher) -> None:
    for writer in joined(flusher, PHASES):
        writer.until(2)
        for now, until in writer.asked:
            assert 0 < until - now < flusher.seconds / PHASES


def test_the_beat_is_longer_for_many(flusher: Flusher) -> None:
    beats = []
    for _ in range(8):
        beats.append(flusher.seconds)
        joined(flusher, 1)
    longer = [SLACK, *(number * CROWDING for number in range(1, 8))]
    assert beats == [pytest.approx(BEAT * (1 + more)) for more in longer]


def test_there_is_a_beat_only_for_several_and_who_is_left_of_them_is_asked_once_more(
    flusher: Flusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.engine.flusher.CROWD", 3)
    left = joined(flusher, 2)
    time.sleep(3 * BEAT)
    assert not flusher.crowded
    assert [writer.asked for writer in left] == [[], []]
    (third,) = joined(flusher, 1)
    assert flusher.crowded
    third.until(2)
    flusher.leave(third)
    without_beat()
    asked = [writer.asked[-1] for writer in left]
    assert min(asked)[0] == max(asked)[0], "they were not asked together, after the others had left"
    for now, until in asked:
        assert now == until, "there is no beat after it"


def without_beat() -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while any(thread.name == "beat" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(BEAT)


def test_a_write_that_fails_fails_for_its_own_writer_alone(flusher: Flusher, firestore: Firestore) -> None:
    lost = Unreachable("w1")
    firestore.does = lambda path: lost if path == "w1" else path
    writers = joined(flusher, 3)
    assert writers[0].until(1)[0] == "w0"
    assert writers[1].until(1)[0] is lost
    assert writers[2].until(1)[0] == "w2"


def test_a_call_that_fails_is_told_to_all_that_are_in_it_and_the_beat_goes_on(
    flusher: Flusher, firestore: Firestore
) -> None:
    mistake = ValueError("a mistake of the call's")

    def fail(_path: str) -> Any:
        firestore.does = lambda path: path
        raise mistake

    firestore.does = fail
    (writer,) = joined(flusher, 1)
    assert writer.until(2)[:2] == [mistake, "w0"]


def test_a_call_that_takes_long_holds_up_none_but_those_in_it(flusher: Flusher, firestore: Firestore) -> None:
    go_on = threading.Event()

    def slowly(path: str) -> str:
        if path == "w0":
            go_on.wait(WAIT_SECONDS)
        return path

    firestore.does = slowly
    slow, other = joined(flusher, 2)
    other.until(5)
    assert slow.outcomes == []
    go_on.set()
    slow.until(1)


def test_a_call_has_no_more_writes_than_it_may(flusher: Flusher, firestore: Firestore) -> None:
    writers = joined(flusher, PHASES * (WRITES_A_CALL + 1))
    for writer in writers:
        writer.until(1)
    assert max(map(len, firestore.calls)) == WRITES_A_CALL
    assert CALLS_AT_ONCE > 1


def test_who_has_left_is_not_asked_and_a_flusher_that_nobody_has_joined_rests(flusher: Flusher) -> None:
    writers = joined(flusher, 2)
    for writer in writers:
        writer.until(1)
        flusher.leave(writer)
    flusher.leave(writers[0])
    without_beat()
    asked = [len(writer.asked) for writer in writers]
    time.sleep(3 * BEAT)
    assert [len(writer.asked) for writer in writers] == asked
    (again,) = joined(flusher, 1)
    again.until(2)
