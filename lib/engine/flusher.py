"""The beat of a process: what its attempts have gathered is taken in, and goes to Firestore in one call for all.

Much of what a commit costs a process, and Firestore, is the call around it and the waking of a thread that makes it.
Each write in a call is done, or fails, by itself. What a plain write of a head can't do, and what failed, is left to
the attempt's own thread; so is an event that need not wait for the beat. Few attempts gain nothing by a beat: they read
and commit when something comes, and use fewer writes so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Protocol

from lib.cloud.documents import Put, Version

PHASES = 2
CROWD = 4  # attempts, from which on they keep the beat
SLACK = 0.05  # of what is set, by which few wait longer: else chance decides whether an event just then is the last
CROWDING = 0.01  # of the beat, by which each attempt makes it longer
WRITES_A_CALL = 16  # a document that is slow to write holds up no more; and they go while others are still read
CALLS_AT_ONCE = 4

Batch = Callable[[Sequence[Put]], Sequence[Version | Exception]]

log = logging.getLogger(__name__)


class Flushable(Protocol):
    def begin(self, now: float, until: float) -> Put | None:
        """What is to be written at `now`: what is due before `until`, moments of the monotonic clock. None: nothing."""

    def settle(self, outcome: Version | Exception) -> None:
        """What became of it. It is said once for each write that was begun."""


class Flusher:
    """Asks whoever has joined once in a beat, and rests where too few have. `batch` is `Documents.batch`.

    The beat is what it is given, and longer where it is shared: what each costs the process is then spent less often.
    Who joins is spread over `PHASES` moments of it: the more, the sooner each is through, and the more wakings up.

    `crowded` says whether so many have joined that they keep the beat; `seconds` how long it is now, or where there is
    none, how long an attempt's commits are apart; and `early` how many seconds before it is due a write is taken, since
    the next beat would be late for it.
    """

    def __init__(self, batch: Batch, seconds: float):
        self._batch = batch
        self._seconds = seconds
        self._lock = threading.Lock()
        self._joined: tuple[list[Flushable], ...] = tuple([] for _ in range(PHASES))
        self._beating = False
        self._calls = ThreadPoolExecutor(CALLS_AT_ONCE, thread_name_prefix="flush")
        self._count()

    def join(self, flushable: Flushable) -> None:
        with self._lock:
            min(self._joined, key=len).append(flushable)
            self._count()
            if self.crowded and not self._beating:
                self._beating = True
                threading.Thread(target=self._run, name="beat", daemon=True).start()

    def leave(self, flushable: Flushable) -> None:
        with self._lock:
            for joined in self._joined:
                if flushable in joined:
                    joined.remove(flushable)
            self._count()

    def _count(self) -> None:
        attempts = sum(map(len, self._joined))
        self.crowded = attempts >= CROWD
        self.seconds = self._seconds * (1 + (CROWDING * attempts if self.crowded else SLACK))
        self.early = self.seconds / PHASES / 2 if self.crowded else 0.0

    def _run(self) -> None:
        """Beats until too few are left. These are asked once more, and learn that there is no beat."""
        beat, at = 0, time.monotonic()
        while True:
            at = max(at + self.seconds / PHASES, time.monotonic())
            time.sleep(max(0.0, at - time.monotonic()))
            beat += 1
            with self._lock:
                self._beating = beating = self.crowded
                joined = list(self._joined[beat % PHASES] if beating else chain(*self._joined))
            self._ask(joined)
            if not beating:
                return

    def _ask(self, joined: Sequence[Flushable]) -> None:
        now = time.monotonic()
        until = now + self.early
        begun: list[tuple[Flushable, Put]] = []
        for each in joined:
            if (write := each.begin(now, until)) is not None:
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
