"""How many tasks of a process claim their generations at the same time.

An attempt's beginning takes much more CPU than its going on, so a hundred tasks at once would make the running answers
late. What may begin is a rate, and how many are under way at a rate is how long each takes (Little's law): more where
Firestore is far away, as a claim waits for it and takes no more CPU.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

AT_ONCE = 4  # at least, however near Firestore is
MOST = 20  # as where it is 100 ms away: a process's first claim also connects, and takes longer than its distance
A_SECOND = 200.0
WAIT_SECONDS = 2.0  # after which a task claims anyway


class Admission:
    """The places of a process for claims. A task waits for one for `wait_seconds` at most."""

    def __init__(self, wait_seconds: float = WAIT_SECONDS, clock: Callable[[], float] = time.monotonic):
        self.wait_seconds = wait_seconds
        self._clock = clock
        self._changed = threading.Condition()
        self._claiming = 0
        self._shortest: float | None = None  # in seconds

    @property
    def places(self) -> int:
        """How many may claim at the same time.

        The shortest claim tells how far away Firestore is. Longer ones waited for the CPU, which more places only make
        scarcer.
        """
        return AT_ONCE if self._shortest is None else min(max(AT_ONCE, round(A_SECOND * self._shortest)), MOST)

    @contextmanager
    def place(self) -> Iterator[Callable[[], None]]:
        """Waits for a place and has it in the block. What it yields is called there once a claim has been made."""
        with self._changed:
            self._changed.wait_for(lambda: self._claiming < self.places, self.wait_seconds)
            self._claiming += 1
        began = self._clock()

        def claimed() -> None:
            with self._changed:
                taken = self._clock() - began
                self._shortest = taken if self._shortest is None else min(taken, self._shortest)

        try:
            yield claimed
        finally:
            with self._changed:
                self._claiming -= 1
                self._changed.notify(max(1, self.places - self._claiming))
