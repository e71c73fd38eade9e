"""Listening to many documents over few streams.

A connection to Firestore allows a hundred streams, and a process may have hundreds of viewers. So one listen stream
carries up to a hundred documents. One thread reads all streams, so that changes that arrive together cause one wake-up.

A stream that breaks, or does not answer for a document, is reopened with all its documents. Firestore then sends the
current state of each. A watcher may therefore see a version twice and may miss intermediate versions, but never the
last one. Nothing here may interpret a document.

The emulator writes to a stream from two threads at once when it answers for a new document while another one changes,
which corrupts the stream. So with the emulator, a stream carries one document in its lifetime.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from functools import cache, partial
from itertools import count
from typing import Protocol

from lib.cloud.documents import Change, Document, Target
from lib.domain.errors import Unreachable

TARGETS_PER_STREAM = 100
TARGETS_PER_EMULATOR_STREAM = 1
IDLE_SECONDS = 20.0  # a stream without documents is closed after this long
ANSWER_SECONDS = 5.0  # a stream counts as dead if a new document's first state takes longer
BACK_OFF_SECONDS = (0.05, 5.0)

OnChange = Callable[[Document | None], object]
_Requests = asyncio.Queue[Target | None]

log = logging.getLogger(__name__)


class Listenable(Protocol):
    def listen(self, targets: AsyncIterator[Target]) -> AsyncGenerator[Change]: ...


class Listener:
    """Calls back on every change of the watched documents, from one thread for all of them.

    A callback must not block. Its argument is None if the document does not exist.
    """

    def __init__(
        self,
        documents: Listenable,
        targets_per_stream: int = TARGETS_PER_STREAM,
        *,
        idle_seconds: float = IDLE_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
    ):
        self._new_stream = partial(
            _Stream,
            documents,
            targets_per_stream,
            idle_seconds=idle_seconds,
            answer_seconds=answer_seconds,
            on_end=self._forget,
        )
        self._lock = threading.Lock()
        self._streams: list[_Stream] = []
        self._ids = count(1)

    def watch(self, path: str, on_change: OnChange) -> Watch:
        """Starts listening. The first callback has the document's current state."""
        with self._lock:
            target = Target(next(self._ids), path)
            for stream in self._streams:
                if stream.add(target, on_change):
                    break
            else:
                stream = self._new_stream()
                stream.add(target, on_change)
                self._streams.append(stream)
                stream.start()
        return Watch(stream, target)

    @property
    def watching(self) -> int:
        """The number of documents watched."""
        with self._lock:
            return sum(len(stream) for stream in self._streams)

    @property
    def streams(self) -> int:
        """The number of open streams."""
        with self._lock:
            return len(self._streams)

    def _forget(self, stream: _Stream) -> None:
        with self._lock:
            self._streams.remove(stream)


_making_loop = threading.Lock()


@cache
def _made_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="listen", daemon=True).start()
    return loop


def listening_loop() -> asyncio.AbstractEventLoop:
    """The event loop of this process's one listening thread, which the first call starts.

    All listeners share it: gRPC has a single completion queue per process, and works best with one loop.
    """
    with _making_loop:
        return _made_loop()


class Watch:
    """One watched document. Call it to stop watching; calling it twice is safe."""

    def __init__(self, stream: _Stream, target: Target):
        self._stream = stream
        self._target = target

    def __call__(self) -> None:
        self._stream.remove(self._target)

    def restart(self) -> None:
        """Reopens the stream, for a caller that knows of a change the stream did not report."""
        self._stream.restart()


class _Stream:
    """One listen stream. It ends some time after its last document was removed, or at once if its capacity is one.

    Documents are added and removed from any thread. Everything else runs on the loop's thread.
    """

    def __init__(
        self,
        documents: Listenable,
        capacity: int,
        *,
        idle_seconds: float,
        answer_seconds: float,
        on_end: Callable[[_Stream], None],
    ):
        self._documents = documents
        self._capacity = capacity
        self._loop = listening_loop()
        self._idle_seconds = idle_seconds
        self._answer_seconds = answer_seconds
        self._on_end = on_end
        self._lock = threading.Lock()
        self._watches: dict[int, tuple[Target, OnChange]] = {}
        self._unanswered: dict[int, float] = {}  # target id → when its answer is overdue
        self._requests: _Requests | None = None  # until it is opened, which asks for everything watched
        self._closed = False

    def __len__(self) -> int:
        return len(self._watches)

    def start(self) -> None:
        asyncio.run_coroutine_threadsafe(self._run(), self._loop)

    def add(self, target: Target, on_change: OnChange) -> bool:
        with self._lock:
            if self._closed or len(self._watches) >= self._capacity:
                return False
            self._watches[target.id] = (target, on_change)
            self._await_answer(target)
            self._put(target)
            return True

    def remove(self, target: Target) -> None:
        with self._lock:
            if self._watches.pop(target.id, None) is None:
                return
            if self._capacity == 1:
                self._closed = True
                self._put(None)
                return
            # An unanswered target stays overdue: the stream may be dead, and the next document must not wait again.
            self._put(Target(target.id, None))

    def restart(self) -> None:
        with self._lock:
            self._put(None)

    def _put(self, target: Target | None) -> None:
        if self._requests is not None:
            self._loop.call_soon_threadsafe(self._requests.put_nowait, target)

    async def _run(self) -> None:
        pause, longest = BACK_OFF_SECONDS
        while not self._closed:
            try:
                async with aclosing(self._documents.listen(self._targets(self._reopen()))) as changes:
                    async for change in changes:
                        pause = BACK_OFF_SECONDS[0]
                        self._dispatch(change)
            except Unreachable as error:
                if not self._closed:
                    log.warning("listen stream broke", extra={"cause": error.cause})
            except Exception:
                log.exception("listen stream failed")
            if not self._closed:
                await asyncio.sleep(pause)
                pause = min(2 * pause, longest)
        self._on_end(self)

    def _reopen(self) -> _Requests:
        """A new request queue that starts with everything watched. The reader of the old queue is stopped."""
        with self._lock:
            if self._requests is not None:
                self._requests.put_nowait(None)
            requests = self._requests = _Requests()
            for target, _ in self._watches.values():
                self._await_answer(target)
                requests.put_nowait(target)
            return requests

    def _await_answer(self, target: Target) -> None:
        self._unanswered[target.id] = time.monotonic() + self._answer_seconds

    async def _targets(self, requests: _Requests) -> AsyncIterator[Target]:
        """Yields targets to add or remove. Returns, which ends the stream, if it is idle, used up, dead or replaced."""
        while not self._closed:
            overdue = min(self._unanswered.copy().values(), default=float("inf"))
            try:
                async with asyncio.timeout(max(0.0, min(self._idle_seconds, overdue - time.monotonic()))):
                    target = await requests.get()
            except TimeoutError:
                with self._lock:
                    overdue = min(self._unanswered.values(), default=float("inf"))
                    dead = time.monotonic() >= overdue
                    if dead:
                        self._unanswered.clear()
                    idle = not self._watches and requests.empty()
                    self._closed = self._closed or idle
                if idle or dead:
                    return
                continue
            if target is None:
                return
            yield target

    def _dispatch(self, change: Change) -> None:
        if change.refused and not change.targets:
            raise Unreachable("all targets refused")
        with self._lock:
            # Any change proves that the stream is alive, so answers for removed documents are no longer awaited.
            for target_id in [known for known in self._unanswered if known not in self._watches]:
                del self._unanswered[target_id]
            for target_id in change.targets:
                self._unanswered.pop(target_id, None)
        for target_id in change.targets:
            watch = self._watches.get(target_id)
            if watch is None:
                continue
            _, on_change = watch
            if change.refused:
                raise Unreachable("target refused")
            try:
                on_change(change.document)
            except Exception:
                log.exception("a listener's callback failed")
