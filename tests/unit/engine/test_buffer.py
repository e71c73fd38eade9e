"""The buffer between the reader and the committer: a bounded queue, and an outcome that is written once."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from lib.domain.event import Event
from lib.engine.buffer import HELD_BYTES, Buffer, Closed, Signal
from lib.journal.codec import Entry, events_of
from lib.journal.writer import BATCH_BYTES
from lib.upstream.fault import UpstreamFault
from tests.unit.engine.memory import PATIENCE

LONG = 10 * PATIENCE  # seconds; no test waits this long
BROKEN = UpstreamFault("upstream_disconnected", "It broke off.", passing=True)


def put(buffer: Buffer, *events: bytes) -> None:
    for each in events:
        buffer.put(Event(each), "")


def data(entries: list[Entry]) -> list[bytes]:
    return [event.data for entry in entries for event in events_of(entry.record)]


class Waiter:
    """The result of a waiting function that runs in its own thread."""

    def __init__(self, wait: Callable[[], bool]):
        self._wait = wait
        self.answer: bool | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.answer = self._wait()

    def waits(self) -> bool:
        self._thread.join(0.05)
        return self._thread.is_alive()

    def ends(self) -> bool | None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        return self.answer


def test_numbers_continue_from_what_is_saved_already() -> None:
    buffer = Buffer(41)
    put(buffer, b"a", b"b")
    assert buffer.last == 43
    assert [entry.seq for entry in buffer.take()] == [42, 43]


def test_what_is_put_in_comes_out_as_a_record_with_its_text() -> None:
    buffer = Buffer(0)
    buffer.put(Event(b'{"a":1}', b"chunk"), "one")
    assert buffer.take() == [Entry(1, b'\x1echunk\n{"a":1}', "one")]


def test_nothing_is_taken_where_nothing_was_put() -> None:
    buffer = Buffer(0)
    assert buffer.empty
    assert buffer.take() == []


def test_what_is_taken_is_what_was_put_in_its_order_once() -> None:
    buffer = Buffer(0)
    put(buffer, b"a", b"b")
    taken = buffer.take()
    put(buffer, b"c")
    assert data(taken + buffer.take()) == [b"a", b"b", b"c"]
    assert buffer.take() == []
    assert buffer.empty


def test_one_take_is_as_much_as_one_commit_may_have() -> None:
    buffer = Buffer(0)
    put(buffer, *[b"x" * 300_000] * 10)
    batches = [buffer.take() for _ in range(4)]
    assert [len(batch) for batch in batches] == [3, 3, 3, 1]
    assert all(sum(len(entry.record) for entry in batch) <= BATCH_BYTES for batch in batches)
    assert [entry.seq for batch in batches for entry in batch] == list(range(1, 11))


def test_an_event_larger_than_a_commit_is_taken_alone() -> None:
    buffer = Buffer(0)
    put(buffer, b"a", b"x" * (BATCH_BYTES + 1), b"b")
    assert [[entry.seq for entry in buffer.take()] for _ in range(3)] == [[1], [2], [3]]


def test_the_first_outcome_stands() -> None:
    buffer = Buffer(0)
    assert buffer.outcome is None
    assert buffer.close(BROKEN)
    assert not buffer.close(Signal.STOPPED)
    assert buffer.outcome is BROKEN


@pytest.mark.parametrize("outcome", [*Signal, BROKEN, RuntimeError("mistake")])
def test_nothing_is_taken_in_after_the_outcome_and_what_is_there_stays(outcome: Signal | Exception) -> None:
    buffer = Buffer(0)
    put(buffer, b"a")
    buffer.close(outcome)
    with pytest.raises(Closed):
        put(buffer, b"late")
    assert buffer.last == 1
    assert data(buffer.take()) == [b"a"]


def test_who_waits_for_the_outcome_is_woken_by_it_and_by_nothing_else() -> None:
    buffer = Buffer(0)
    waiter = Waiter(lambda: buffer.wait(LONG))
    put(buffer, b"a")
    buffer.take()
    assert waiter.waits()
    buffer.close(Signal.STOPPED)
    assert waiter.ends()


def test_a_wait_for_the_outcome_is_bounded() -> None:
    buffer = Buffer(0)
    assert not buffer.wait(0.01)
    assert not buffer.wait(-1.0)
    buffer.close(Signal.WHOLE)
    assert buffer.wait(-1.0)


def test_it_is_full_once_it_holds_more_than_it_may() -> None:
    buffer = Buffer(0)
    put(buffer, *[b"x" * (1 << 20)] * (HELD_BYTES >> 20))
    assert buffer.full
    assert Buffer(0, held_bytes=10).wait_for_room(0.0)


def full() -> Buffer:
    buffer = Buffer(0, held_bytes=1)
    put(buffer, b"a")
    assert buffer.full
    return buffer


def test_what_is_held_counts_until_it_is_taken_out() -> None:
    buffer = Buffer(0, held_bytes=3)
    put(buffer, b"a")
    assert not buffer.full
    put(buffer, b"b")
    assert buffer.full
    buffer.take()
    assert not buffer.full


def test_a_wait_for_room_is_bounded() -> None:
    assert not full().wait_for_room(0.01)


def test_who_waits_for_room_is_woken_once_enough_is_taken_out() -> None:
    buffer = Buffer(0, held_bytes=BATCH_BYTES)
    put(buffer, *[b"x" * (BATCH_BYTES - 2)] * 3)
    waiter = Waiter(lambda: buffer.wait_for_room(LONG))
    buffer.take()
    assert waiter.waits(), "there was no room yet"
    buffer.take()
    assert waiter.ends()


def test_who_waits_for_room_is_woken_by_the_outcome() -> None:
    buffer = full()
    waiter = Waiter(lambda: buffer.wait_for_room(LONG))
    assert waiter.waits()
    buffer.close(Signal.SHUTDOWN)
    assert waiter.ends()


def test_two_threads_lose_nothing_between_them() -> None:
    buffer = Buffer(0, held_bytes=2000)

    def produce() -> None:
        for number in range(20_000):
            buffer.wait_for_room(PATIENCE)
            put(buffer, b"%d" % number)
        buffer.close(Signal.WHOLE)

    producer = threading.Thread(target=produce, daemon=True)
    producer.start()
    taken: list[Entry] = []
    while buffer.outcome is None:
        taken += buffer.take()
    taken += buffer.take()
    producer.join(PATIENCE)
    assert [entry.seq for entry in taken] == list(range(1, 20_001))
    assert data(taken) == [b"%d" % number for number in range(20_000)]


def test_of_outcomes_at_the_same_instant_exactly_one_is_the_one() -> None:
    for _ in range(200):
        buffer = Buffer(0)
        both = threading.Barrier(2)

        def close(outcome: Signal, buffer: Buffer = buffer, both: threading.Barrier = both) -> bool:
            both.wait(PATIENCE)
            return buffer.close(outcome)

        whole, stopped = Waiter(lambda: close(Signal.WHOLE)), Waiter(lambda: close(Signal.STOPPED))
        won = {Signal.WHOLE: whole.ends(), Signal.STOPPED: stopped.ends()}
        assert [outcome for outcome, first in won.items() if first] == [buffer.outcome]
