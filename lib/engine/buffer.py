"""What one call has read and nobody has committed yet, and how the call ended.

A bounded queue and an outcome that is written once. The reader puts events in, the committer takes them out, and
whoever learns first that the attempt is over says so.
"""

from __future__ import annotations

import threading
import time
from enum import Enum

from lib.domain.event import Event
from lib.journal.codec import Entry, record
from lib.journal.writer import BATCH_BYTES

HELD_BYTES = 32 << 20  # of records in memory while Firestore takes none; past it the upstream is read no further


class Signal(Enum):
    """How an attempt ends that did not fail."""

    WHOLE = "the upstream's answer is whole"
    STOPPED = "its user stopped it"
    DELETED = "it was deleted"
    SHUTDOWN = "the process is to end"


Outcome = Signal | Exception


class Closed(Exception):
    """The attempt is over: nothing more is taken in."""


class Buffer:
    """`last` is the number of the last event that is saved already; the next one put in is `last + 1`."""

    def __init__(self, last: int, held_bytes: int = HELD_BYTES):
        self.last = last
        self._held_bytes = held_bytes
        self._changed = threading.Condition()
        self._entries: list[Entry] = []
        self._bytes = 0
        self._outcome: Outcome | None = None

    def put(self, event: Event, text: str) -> None:
        """Numbers the event and keeps it, with the visible text that it adds. Errors: `Closed`."""
        kept = record(event)
        with self._changed:
            if self._outcome is not None:
                raise Closed
            self.last += 1
            self._entries.append(Entry(self.last, kept, text))
            self._bytes += len(kept)

    def take(self) -> list[Entry]:
        """Takes out the oldest entries, as many as one commit takes in."""
        with self._changed:
            size = count = 0
            while count < len(self._entries) and (count == 0 or size + len(self._entries[count].record) <= BATCH_BYTES):
                size += len(self._entries[count].record)
                count += 1
            taken = self._entries[:count]
            del self._entries[:count]
            if self._bytes > self._held_bytes:
                self._changed.notify_all()
            self._bytes -= size
            return taken

    @property
    def empty(self) -> bool:
        return not self._entries

    @property
    def full(self) -> bool:
        return self._bytes > self._held_bytes

    def close(self, outcome: Outcome) -> bool:
        """Says how the attempt ends, unless that was said before. Says whether this outcome is the one."""
        with self._changed:
            if self._outcome is not None:
                return False
            self._outcome = outcome
            self._changed.notify_all()
            return True

    @property
    def outcome(self) -> Outcome | None:
        return self._outcome

    def wait(self, seconds: float) -> bool:
        """Waits for the outcome; says whether it is there."""
        with self._changed:
            return self._changed.wait_for(lambda: self._outcome is not None, max(0.0, seconds))

    def wait_for_room(self, seconds: float) -> bool:
        """Waits until it is not full, or there is an outcome; says whether that came in time."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while self._bytes > self._held_bytes and self._outcome is None:
                if (left := deadline - time.monotonic()) <= 0:
                    return False
                self._changed.wait(left)
            return True
