"""The beat of a process: what its attempts have gathered is taken in, and goes to Firestore in one call for all.

Much of what a commit costs a process, and Firestore, is the call around it and the waking of a thread that makes it.
Each write in a call is done, or fails, by itself. What a plain write of a head can't do, and what failed, is left to
the attempt's own thread; so is an event that need not wait for the beat.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from lib.documents import Put, Version

PHASES = 2
WRITES_A_CALL = 16  # a document that is slow to write holds up no more; and they go while others are still read
CALLS_AT_ONCE = 4

Batch = Callable[[Sequence[Put]], Sequence[Version | Exception]]

log = logging.getLogger(__name__)


class Flushable(Protocol):
    def begin(self, now: float) -> Put | None:
        """What is due to be written at `now`, a moment of the monotonic clock; None where nothing is."""

    def settle(self, outcome: Version | Exception) -> None:
        """What became of it. It is said once for each write that was begun."""


class Flusher:
    """Asks whoever has joined once in every `seconds`, and rests where nobody has. `batch` is `Documents.batch`.

    They are spread over `PHASES` moments: the more, the sooner each is through, and the more wakings up there are.
    """

    def __init__(self, batch: Batch, seconds: float):
        self._batch = batch
        self._step = seconds / PHASES
        self._lock = threading.Lock()
        self._joined: tuple[list[Flushable], ...] = tuple([] for _ in range(PHASES))
        self._beating = False
        self._calls = ThreadPoolExecutor(CALLS_AT_ONCE, thread_name_prefix="flush")

    def join(self, flushable: Flushable) -> float:
        """From now on it is asked at the multiples of the beat plus so many seconds."""
        with self._lock:
            phase = min(range(PHASES), key=lambda phase: len(self._joined[phase]))
            self._joined[phase].append(flushable)
            if not self._beating:
                self._beating = True
                threading.Thread(target=self._run, name="beat", daemon=True).start()
            return phase * self._step

    def leave(self, flushable: Flushable) -> None:
        with self._lock:
            for joined in self._joined:
                if flushable in joined:
                    joined.remove(flushable)

    def _run(self) -> None:
        while (beat := self._next()) is not None:
            time.sleep(max(0.0, beat * self._step - time.monotonic()))
            with self._lock:
                joined = list(self._joined[beat % PHASES])
            self._ask(joined)

    def _next(self) -> int | None:
        """The number of the next step at which anybody is to be asked."""
        now = math.floor(time.monotonic() / self._step)
        with self._lock:
            coming = [now + step for step in range(1, PHASES + 1) if self._joined[(now + step) % PHASES]]
            self._beating = bool(coming)
            return min(coming, default=None)

    def _ask(self, joined: Sequence[Flushable]) -> None:
        now = time.monotonic()
        begun: list[tuple[Flushable, Put]] = []
        for each in joined:
            if (write := each.begin(now)) is not None:
                begun.append((each, write))
            if len(begun) == WRITES_A_CALL:
                self._calls.submit(self._call, begun)
                begun = []
        if begun:
            self._calls.submit(self._call, begun)

    def _call(self, begun: Sequence[tuple[Flushable, Put]]) -> None:
        outcomes: Sequence[Version | Exception]
        try:
            outcomes = self._batch([write for _, write in begun])
        except Exception as error:
            log.exception("the attempts' commits failed")
            outcomes = [error] * len(begun)
        for (each, _), outcome in zip(begun, outcomes, strict=True):
            each.settle(outcome)
