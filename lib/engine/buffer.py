"""The events that one call has read but that are not committed yet, and the call's outcome.

A bounded queue, and an outcome that is set once. The reader puts events in and the committer takes them out. The first
to notice that the attempt is over sets the outcome.
"""

from __future__ import annotations

import threading
import time
from enum import Enum

from lib.domain.event import Event
from lib.journal.codec import Entry, record
from lib.journal.writer import BATCH_BYTES

HELD_BYTES = 32 << 20  # of records buffered while Firestore accepts no commits; past it reading pauses


class Signal(Enum):
    """The outcomes of an attempt that did not fail."""

    WHOLE = "the upstream's answer is whole"
    STOPPED = "its user stopped it"
    DELETED = "it was deleted"
    SHUTDOWN = "the process is to end"


Outcome = Signal | Exception


class Closed(Exception):
    """The attempt is over, so no more events are accepted."""


class Buffer:
    """`last` is the number of the last event read, at first that of the last event saved by earlier attempts."""

    def __init__(self, last: int, held_bytes: int = HELD_BYTES):
        self.last = last
        self._held_bytes = held_bytes
        self._changed = threading.Condition()
        self._entries: list[Entry] = []
        self._bytes = 0
        self._outcome: Outcome | None = None

    def put(self, event: Event, text: str) -> None:
        """Numbers an event and buffers it. `text` is the visible text that it adds. Errors: `Closed`."""
        kept = record(event)
        with self._changed:
            if self._outcome is not None:
                raise Closed
            self.last += 1
            self._entries.append(Entry(self.last, kept, text))
            self._bytes += len(kept)

    def take(self) -> list[Entry]:
        """Removes and returns the oldest entries, as many as fit into one commit."""
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
        """Sets the outcome, unless it is set already. Returns whether it was set."""
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
        """Waits up to `seconds` for the outcome. Returns whether it is set."""
        with self._changed:
            return self._changed.wait_for(lambda: self._outcome is not None, max(0.0, seconds))

    def wait_for_room(self, seconds: float) -> bool:
        """Waits up to `seconds` until the buffer is no longer full or the outcome is set. Returns False on time-out."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while self._bytes > self._held_bytes and self._outcome is None:
                if (left := deadline - time.monotonic()) <= 0:
                    return False
                self._changed.wait(left)
            return True
