"""How many tasks of a process claim their generations at the same time.

To begin an attempt takes much more CPU than to go on with one, so a hundred tasks at once would make the running
answers late. Therefore the rate of claims is limited. By Little's law, as many are under way as the rate times what one
takes: more where Firestore is far away, since a claim that waits for it needs no CPU meanwhile.
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

    def __init__(self, wait_seconds: float = WAIT_SECONDS, monotonic: Callable[[], float] = time.monotonic):
        self.claiming = 0
        self._wait_seconds = wait_seconds
        self._monotonic = monotonic
        self._changed = threading.Condition()
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
        """Waits for a place and holds it during the block, which calls what it is given when it has made a claim."""
        with self._changed:
            self._changed.wait_for(lambda: self.claiming < self.places, self._wait_seconds)
            self.claiming += 1
        began = self._monotonic()

        def claimed() -> None:
            with self._changed:
                taken = self._monotonic() - began
                self._shortest = taken if self._shortest is None else min(taken, self._shortest)

        try:
            yield claimed
        finally:
            with self._changed:
                self.claiming -= 1
                self._changed.notify(max(1, self.places - self.claiming))
