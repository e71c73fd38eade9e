"""Many documents over one stream, against a scripted source, because the emulator corrupts such streams."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from functools import partial
from itertools import count
from typing import Any

import pytest

from lib.cloud.documents import Change, Document, Target
from lib.cloud.listen import Listener, Watch
from lib.domain.errors import Unreachable

WAIT_SECONDS = 30.0


class Script:
    """Scripted listen streams, which record their requested targets."""

    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self.opened = threading.Semaphore(0)

    async def listen(self, targets: AsyncIterator[Target]) -> AsyncGenerator[Change]:
        stream = Stream()
        self.streams.append(stream)
        taking = asyncio.ensure_future(stream.take(targets))
        self.opened.release()
        try:
            while True:
                change = await stream.changes.get()
                if isinstance(change, Exception):
                    raise change
                yield change
        finally:
            taking.cancel()

    def next(self) -> Stream:
        assert self.opened.acquire(timeout=WAIT_SECONDS)
        return self.streams[-1]


class Changes:
    """A stream's script, from the test's thread to the listener's."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Change | Exception] = asyncio.Queue()

    def put(self, change: Change | Exception) -> None:
        self._loop.call_soon_threadsafe(self._queue.put_nowait, change)

    async def get(self) -> Change | Exception:
        return await self._queue.get()


class Stream:
    def __init__(self) -> None:
        self.changes = Changes()
        self.asked: list[Target] = []
        self.over = threading.Event()
        self._told = threading.Condition()

    async def take(self, targets: AsyncIterator[Target]) -> None:
        async for target in targets:
            with self._told:
                self.asked.append(target)
                self._told.notify_all()
        self.over.set()
        # As in the real one, the end of the targets ends the stream.
        self.changes.put(Unreachable("cancelled"))

    def until(self, paths: list[str | None]) -> list[int]:
        """Waits until these targets were requested in this order, and returns their ids."""
        with self._told:
            assert self._told.wait_for(lambda: [each.path for each in self.asked] == paths, WAIT_SECONDS), self.asked
            return [each.id for each in self.asked]

    def tell(self, target: int, n: int) -> None:
        self.changes.put(Change([target], Document("d", {"n": n}, None)))


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def seen() -> Callable[[], Any]:
    class Seen(queue.Queue[Any]):
        def __call__(self, document: Document | None) -> None:
            self.put(document.fields["n"] if document else None)

    return Seen


@pytest.fixture
def listener_of() -> Iterator[Callable[..., Listener]]:
    """Listeners whose streams have ended when the test has."""
    listeners: list[Listener] = []
    watches: list[Watch] = []

    class Kept(Listener):
        def __init__(self, *given: Any, **more: Any):
            super().__init__(*given, **more)
            listeners.append(self)

        def watch(self, path: str, on_change: Any) -> Watch:
            watches.append(super().watch(path, on_change))
            return watches[-1]

    yield partial(Kept, idle_seconds=0.05)
    for unwatch in watches:
        unwatch()
    deadline = time.monotonic() + WAIT_SECONDS
    for listener in listeners:
        while listener.streams:
            assert time.monotonic() < deadline, "a stream has not ended"
            time.sleep(0.01)


PATHS: list[str | None] = ["a", "b", "c"]


def watch_all(listener: Listener, stream_of: Callable[[], Stream], seen: Callable[[], Any]) -> tuple[Stream, list[Any]]:
    watchers = [seen() for _ in PATHS]
    for path, watcher in zip(PATHS, watchers, strict=True):
        listener.watch(str(path), watcher)
    return stream_of(), watchers


@pytest.mark.parametrize(
    "how",
    [Unreachable("broke"), RuntimeError("broke"), Change([], None, refused=True)],
    ids=["unreachable", "a mistake", "the server ends all targets"],
)
def test_a_stream_that_breaks_is_opened_again_with_everything_watched(
    script: Script, listener_of: Callable[..., Listener], seen: Callable[[], Any], how: Any
) -> None:
    first, watchers = watch_all(listener_of(script), script.next, seen)
    for target in first.until(PATHS):
        first.tell(target, 0)
    first.changes.put(how)
    second = script.next()
    for target in second.until(PATHS):
        second.tell(target, 1)
    assert [[watcher.get(timeout=WAIT_SECONDS) for _ in range(2)] for watcher in watchers] == [[0, 1]] * 3


def test_a_stream_that_breaks_is_a_warning_with_its_cause(
    script: Script, listener_of: Callable[..., Listener], seen: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    first, _ = watch_all(listener_of(script), script.next, seen)
    first.until(PATHS)
    first.changes.put(Unreachable("a corrupt message"))
    script.next().until(PATHS)
    (record,) = caplog.records
    assert (record.levelname, record.message) == ("WARNING", "listen stream broke")
    assert vars(record)["cause"] == "a corrupt message"


def test_a_target_that_the_server_ends_is_asked_for_again(
    script: Script, listener_of: Callable[..., Listener], seen: Callable[[], Any]
) -> None:
    first, watchers = watch_all(listener_of(script), script.next, seen)
    targets = first.until(PATHS)
    first.changes.put(Change(targets[1:2], None, refused=True))
    second = script.next()
    second.tell(second.until(PATHS)[1], 7)
    assert watchers[1].get(timeout=WAIT_SECONDS) == 7


def test_a_stream_that_leaves_a_document_unanswered_is_opened_again(
    script: Script, listener_of: Callable[..., Listener], seen: Callable[[], Any]
) -> None:
    first, watchers = watch_all(listener_of(script, answer_seconds=0.2), script.next, seen)
    first.tell(first.until(PATHS)[0], 0)
    second = script.next()
    for target in second.until(PATHS):
        second.tell(target, 1)
    assert [watcher.get(timeout=WAIT_SECONDS) for watcher in watchers] == [0, 1, 1]


def test_viewers_that_come_and_go_do_not_put_off_the_reopening_of_a_stream_that_never_answers(
    script: Script, listener_of: Callable[..., Listener], seen: Callable[[], Any]
) -> None:
    """Each document is removed long before the stream has to answer for it, but there is always one."""
    listener = listener_of(script, answer_seconds=1.0)
    numbers = count()
    leave = listener.watch(f"{next(numbers)}", seen())
    script.next()
    deadline = time.monotonic() + WAIT_SECONDS
    while not script.opened.acquire(timeout=0.02):
        come = listener.watch(f"{next(numbers)}", seen())
        leave()
        leave = come
        assert time.monotonic() < deadline, "the stream was not opened again"


def test_a_document_that_was_left_unanswered_does_not_have_a_stream_opened_again_that_lives(
    script: Script, listener_of: Callable[..., Listener], seen: Callable[[], Any]
) -> None:
    listener = listener_of(script, answer_seconds=0.2)
    watcher = seen()
    listener.watch("a", watcher)
    leave = listener.watch("b", seen())
    stream = script.next()
    (stays, _) = stream.until(["a", "b"])
    leave()
    stream.tell(stays, 0)
    assert watcher.get(timeout=WAIT_SECONDS) == 0
    assert not script.opened.acquire(timeout=0.6)


def test_who_was_not_told_of_a_change_can_have_the_stream_opened_again(
    script: Script, listener_of: Callable[..., Listener], seen: Callable[[], Any]
) -> None:
    listener = listener_of(script)
    watcher = seen()
    watch = listener.watch("a", watcher)
    first = script.next()
    first.tell(first.until(["a"])[0], 0)
    assert watcher.get(timeout=WAIT_SECONDS) == 0
    watch.restart()
    second = script.next()
    second.tell(second.until(["a"])[0], 1)
    assert watcher.get(timeout=WAIT_SECONDS) == 1


def test_what_is_no_longer_watched_is_not_asked_for_again(
    script: Script, listener_of: Callable[..., Listener], seen: Callable[[], Any]
) -> None:
    listener = listener_of(script)
    unwatch = listener.watch("a", seen())
    listener.watch("b", seen())
    first = script.next()
    (gone, _) = first.until(["a", "b"])
    unwatch()
    assert first.until(["a", "b", None])[2] == gone
    first.changes.put(Unreachable("broke"))
    assert script.next().until(["b"])
    assert listener.watching == 1


def test_a_full_stream_is_followed_by_another(
    script: Script, listener_of: Callable[..., Listener], seen: Callable[[], Any]
) -> None:
    listener = listener_of(script, targets_per_stream=2)
    for path in PATHS:
        listener.watch(str(path), seen())
    script.next()
    script.next()
    asked = sorted(sorted(str(each.path) for each in stream.asked) for stream in script.streams)
    deadline = threading.Event()
    while asked != [["a", "b"], ["c"]] and not deadline.wait(0.05):
        asked = sorted(sorted(str(each.path) for each in stream.asked) for stream in script.streams)
    assert listener.watching == 3


@pytest.mark.parametrize("answered", [False, True], ids=["before an answer", "after it"])
def test_a_stream_for_one_document_ends_at_once_when_its_viewer_leaves(
    script: Script, listener_of: Callable[..., Listener], seen: Callable[[], Any], answered: bool
) -> None:
    listener = listener_of(script, 1, idle_seconds=WAIT_SECONDS, answer_seconds=WAIT_SECONDS)
    watcher = seen()
    leave = listener.watch("a", watcher)
    stream = script.next()
    (target,) = stream.until(["a"])
    if answered:
        stream.tell(target, 0)
        assert watcher.get(timeout=WAIT_SECONDS) == 0
    leave()
    assert stream.over.wait(WAIT_SECONDS / 2)
    assert not script.opened.acquire(timeout=0.2)


def test_a_stream_for_one_document_takes_no_other_after_it(
    script: Script, listener_of: Callable[..., Listener], seen: Callable[[], Any]
) -> None:
    """As with the emulator, which may corrupt a stream when a document is added."""
    listener = listener_of(script, 1)
    leave = listener.watch("a", seen())
    first = script.next()
    first.until(["a"])
    leave()
    listener.watch("b", seen())
    script.next().until(["b"])
    assert [each.path for each in first.asked] == ["a"]
