"""Listening to many documents over few streams.

One listen stream carries up to a hundred documents, and one thread reads it, so a process with hundreds of viewers
stays far below the hundred streams that a connection to Firestore may have. A stream that breaks is opened again with
everything it carried: Firestore then sends each document as it is, so a watcher may see a version twice and may miss
versions in between, but not the last. What a document means is the watcher's matter.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from itertools import count
from typing import Protocol

from lib.documents import Change, Document, Target, Unreachable

TARGETS_PER_STREAM = 100
IDLE_SECONDS = 60.0
BACK_OFF_SECONDS = (0.05, 5.0)

OnChange = Callable[[Document | None], None]

log = logging.getLogger(__name__)


class Listenable(Protocol):
    def listen(self, targets: Iterator[Target]) -> Iterator[Change]: ...


class Listener:
    """Calls back on every change of the documents watched, from one thread a stream.

    A callback must not wait. It gets the document, or None where there is none.
    """

    def __init__(self, documents: Listenable):
        self._documents = documents
        self._lock = threading.Lock()
        self._streams: list[_Stream] = []
        self._ids = count(1)

    def watch(self, path: str, on_change: OnChange) -> Callable[[], None]:
        """Starts to listen; the document as it is comes first. What is returned ends it, and is safe to call twice."""
        with self._lock:
            target = Target(next(self._ids), path)
            for stream in self._streams:
                if stream.add(target, on_change):
                    break
            else:
                stream = _Stream(self._documents, on_end=self._forget)
                stream.add(target, on_change)
                self._streams.append(stream)
                stream.start()
        return lambda: stream.remove(target)

    @property
    def watching(self) -> int:
        """How many documents are listened to."""
        with self._lock:
            return sum(len(stream) for stream in self._streams)

    def _forget(self, stream: _Stream) -> None:
        with self._lock:
            self._streams.remove(stream)


class _Stream:
    """One listen stream and the thread that reads it, from the first document until a while after the last."""

    def __init__(self, documents: Listenable, on_end: Callable[[_Stream], None]):
        self._documents = documents
        self._on_end = on_end
        self._lock = threading.Lock()
        self._watches: dict[int, tuple[Target, OnChange]] = {}
        self._requests: queue.SimpleQueue[Target | None] = queue.SimpleQueue()
        self._closed = False

    def __len__(self) -> int:
        return len(self._watches)

    def start(self) -> None:
        threading.Thread(target=self._run, name="listen", daemon=True).start()

    def add(self, target: Target, on_change: OnChange) -> bool:
        with self._lock:
            if self._closed or len(self._watches) >= TARGETS_PER_STREAM:
                return False
            self._watches[target.id] = (target, on_change)
            self._requests.put(target)
            return True

    def remove(self, target: Target) -> None:
        with self._lock:
            if self._watches.pop(target.id, None) is not None:
                self._requests.put(Target(target.id, None))

    def _run(self) -> None:
        pause, longest = BACK_OFF_SECONDS
        while not self._closed:
            try:
                for change in self._documents.listen(self._targets(self._reopen())):
                    pause = BACK_OFF_SECONDS[0]
                    self._dispatch(change)
            except Unreachable as error:
                log.info("listen stream broke", extra={"cause": str(error)})
            except Exception:
                log.exception("listen stream failed")
            if not self._closed:
                threading.Event().wait(pause)
                pause = min(2 * pause, longest)
        self._on_end(self)

    def _reopen(self) -> queue.SimpleQueue[Target | None]:
        """A queue of requests that starts with everything watched; who still reads the last one is told to stop."""
        with self._lock:
            self._requests.put(None)
            self._requests = queue.SimpleQueue()
            for target, _ in self._watches.values():
                self._requests.put(target)
            return self._requests

    def _targets(self, requests: queue.SimpleQueue[Target | None]) -> Iterator[Target]:
        while True:
            try:
                target = requests.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    if self._watches or not requests.empty():
                        continue
                    self._closed = True
                return
            if target is None:
                return
            yield target

    def _dispatch(self, change: Change) -> None:
        if change.refused and not change.targets:
            raise Unreachable("all targets refused")
        for target_id in change.targets:
            watch = self._watches.get(target_id)
            if watch is None:
                continue
            target, on_change = watch
            if change.refused:
                raise Unreachable("target refused")
            try:
                on_change(change.document)
            except Exception:
                log.exception("a watcher failed", extra={"path": target.path})
