"""What an attempt has read and not committed yet: the one place where its two threads meet.

The reading thread puts numbered frames in and never waits for a commit, until what is held passes a bound. The
committing thread takes them out, and is woken once for what gathers, not once an event.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import Enum
from typing import TypeVar

from lib import chat, sse
from lib.journal import BATCH_BYTES, Entry
from lib.upstream import UpstreamFault

HELD_BYTES = 32 << 20  # of frames in memory while Firestore takes none; past it the upstream is read no further
READ_AHEAD_SECONDS = 0.01  # before a commit is due, the reading thread reads what there is
LONGEST_GATHER_SECONDS = 0.25


Seen = TypeVar("Seen")


class Stop(Enum):
    """Why an attempt ends although the upstream would go on."""

    BY_USER = "stopped"
    DELETED = "deleted"
    SHUTDOWN = "shutdown"


class Inbox:
    """What was read and is not committed yet, between the reading thread and the committing one.

    `last` and `answer` are what is saved already: it goes on from there.
    """

    def __init__(self, last: int, answer: chat.Answer):
        self.answer = answer
        self.heard = time.monotonic()
        self.opened = False
        self.last = last
        self._changed = threading.Condition()
        self._due = 0.0  # the moment of the monotonic clock when the next commit may be made
        self._entries: list[Entry] = []
        self._bytes = 0
        self._over = False
        self._fault: UpstreamFault | None = None
        self._stopped: Stop | None = None

    # The reading thread's side

    def put(self, chunk: chat.Json, event: sse.Event | None) -> None:
        """Takes one event's JSON into the answer, and numbers and keeps the event, unless it is not to be passed on.

        Waits where too much is held; raises a fault, and takes nothing in, where the attempt is over.
        """
        with self._changed:
            while self._bytes > HELD_BYTES and self._stopped is None and not self._over:
                self._changed.wait(1.0)
            if self._stopped is not None or self._over:
                raise UpstreamFault("cancelled", "The attempt is over.")
            text = self.answer.add(chunk)
            if event is None:
                return
            self.last += 1
            entry = Entry(self.last, sse.frame(self.last, event), text)
            self._entries.append(entry)
            self._bytes += len(entry.frame)
            if len(self._entries) == 1 and time.monotonic() >= self._due:
                self._changed.notify_all()

    def gather(self) -> None:
        """Waits while nobody wants more: until shortly before the next commit is due, or the attempt is over.

        What the upstream sends meanwhile waits in the socket and is then read at one go, which costs a fraction of
        waking up for each event. An event that a commit could take at once is never waited for.
        """
        with self._changed:
            longest = time.monotonic() + LONGEST_GATHER_SECONDS
            while not self._over and self._stopped is None:
                left = min(self._due - READ_AHEAD_SECONDS, longest) - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            self.heard = time.monotonic()  # who did not listen can't speak of silence

    def open(self) -> None:
        """The upstream has begun to answer: from now on another deadline holds."""
        with self._changed:
            self.opened = True
            self._changed.notify_all()

    def end(self, fault: UpstreamFault | None = None) -> None:
        """The upstream has ended, of itself or by a fault; what is said first stands, and so does a stop before it."""
        with self._changed:
            if not self._over and self._stopped is None:
                self._over, self._fault = True, fault
            self._changed.notify_all()

    # The committing thread's side

    def stop(self, why: Stop) -> None:
        with self._changed:
            self._stopped = self._stopped or why
            self._changed.notify_all()

    def wait(self, due: float, until: Callable[[], float]) -> bool:
        """Waits for the end, or an entry and the time `due`, or the time `until`; says whether it is the end."""
        with self._changed:
            self._due = due
            while True:
                if self._over or self._stopped is not None:
                    return True
                now, last = time.monotonic(), until()
                if now >= last or (self._entries and now >= due):
                    return False
                self._changed.wait((min(due, last) if now < due else last) - now)

    def take(self) -> tuple[list[Entry], bool]:
        """The oldest entries, as many as one commit may have, and whether there are more."""
        with self._changed:
            size = count = 0
            while count < len(self._entries) and (count == 0 or size + len(self._entries[count].frame) <= BATCH_BYTES):
                size += len(self._entries[count].frame)
                count += 1
            taken = self._entries[:count]
            del self._entries[:count]
            self._bytes -= size
            self._changed.notify_all()
            return taken, bool(self._entries)

    def look(self, at: Callable[[chat.Answer], Seen]) -> Seen:
        """What `at` sees in the answer, while nothing is added to it."""
        with self._changed:
            return at(self.answer)

    @property
    def whole(self) -> bool:
        """Whether the upstream said that its answer is whole."""
        with self._changed:
            return self.answer.finished or (self._over and self._fault is None)

    @property
    def fault(self) -> UpstreamFault | None:
        return self._fault

    @property
    def stopped(self) -> Stop | None:
        return self._stopped
