"""What an attempt has read and not committed yet: the one place where the threads that work for it meet.

Who reads, be it the reading thread or the beat's, puts numbered frames in and never waits for a commit; where what is
held passes a bound, nobody reads. The committing thread takes them out, and is woken once for what gathers, not once an
event; mostly it is not woken at all, since the flusher takes them out for it. Of these two, one at a time has taken
what is not committed yet.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import Enum
from typing import TypeVar

from lib.dialects import chat_completions as chat
from lib.dialects import sse
from lib.journal.journal import BATCH_BYTES, Entry, Prepared
from lib.upstream.call import UpstreamFault

HELD_BYTES = 32 << 20  # of frames in memory while Firestore takes none; past it the upstream is read no further
LONGEST_GATHER_SECONDS = 0.25  # for which what a stream brings is left in its socket
LONGEST_BEAT_SECONDS = 2.0  # without a beat, after which the reading thread goes on by itself
FLUSHER_SECONDS = 1.0  # what is due is left to the flusher; what it has not begun after that is committed without it
LINGER_SECONDS = 0.025  # without a beat, for which what is due waits for the stream's next event, to take that along
EARLY_SECONDS = 0.005  # before that, from when on the stream is listened to
LONGEST_FLUSH_SECONDS = 60.0  # after which it is looked again whether a flush has ended


Seen = TypeVar("Seen")


class Stop(Enum):
    """Why an attempt ends although the upstream would go on."""

    BY_USER = "stopped"
    DELETED = "deleted"
    SHUTDOWN = "shutdown"


class Inbox:
    """What was read and is not committed yet, between who reads and who commits.

    `last` and `answer` are what is saved already: it goes on from there. `crowded` says whether the process keeps a
    beat: what is due is then left to the flusher.
    """

    def __init__(self, last: int, answer: chat.Answer, *, crowded: Callable[[], bool] = lambda: False):
        self.answer = answer
        self.heard = time.monotonic()
        self.opened = False
        self.last = last
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)  # for who commits
        self._wanted = threading.Condition(self._lock)  # for who reads
        self._crowded = crowded
        self._due = 0.0  # the moment of the monotonic clock when the next commit may be made
        self._beats = False  # the upstream is read at the beat, where its thread does not listen itself
        self._beat_at = 0.0  # the moment when it last was
        self._in_beat = False  # it is now, and what comes of that is flushed right after
        self._at_once = False  # an event came when a commit could have taken it
        self._busy = False  # somebody has the turn to commit
        self._awaited = False  # and who commits waits for it
        self._handed: Prepared | None = None
        self._entries: list[Entry] = []
        self._bytes = 0
        self._over = False
        self._fault: UpstreamFault | None = None
        self._stopped: Stop | None = None

    # The reading side

    def put(self, chunk: chat.Json, event: sse.Event | None) -> None:
        """Takes one event's JSON into the answer, and numbers and keeps the event, unless it is not to be passed on.

        Raises a fault, and takes nothing in, where the attempt is over.
        """
        with self._lock:
            if self._over or self._stopped is not None:
                raise UpstreamFault("cancelled", "The attempt is over.")
            text = self.answer.add(chunk)
            if event is None:
                return
            self.last += 1
            entry = Entry(self.last, sse.frame(self.last, event), text)
            self._entries.append(entry)
            self._bytes += len(entry.frame)
            if self._at_once or self._in_beat or (len(self._entries) > 1 and self._crowded()):
                return
            if time.monotonic() >= self._due:
                self._at_once = True
                self._changed.notify_all()

    def gather(self) -> None:
        """Waits, after something came, while what a stream brings can't be committed yet, or too much is held.

        With a beat, until one finds nothing; else until shortly before a commit is due. An event that a commit could
        take at once is never waited for.
        """
        with self._lock:
            self._beats, self._beat_at = self._crowded(), time.monotonic()
            while not self._over and self._stopped is None:
                now, full = time.monotonic(), self._bytes > HELD_BYTES
                self._beats = self._beats and now < self._beat_at + LONGEST_BEAT_SECONDS
                until = min(self._due - EARLY_SECONDS, self._beat_at + LONGEST_GATHER_SECONDS)
                if not self._beats and not full and now >= until:
                    break
                self._wanted.wait(LONGEST_BEAT_SECONDS if self._beats or full else until - now)
                if full:
                    self.heard = time.monotonic()  # who did not listen can't speak of silence
            self._beats = False

    def open(self) -> None:
        """The upstream has begun to answer: from now on another deadline holds."""
        with self._lock:
            self.opened = True
            self._changed.notify_all()

    def end(self, fault: UpstreamFault | None = None) -> None:
        """The upstream has ended, of itself or by a fault; what is said first stands, and so does a stop before it."""
        with self._lock:
            if not self._over and self._stopped is None:
                self._over, self._fault = True, fault
            self._notify_all()

    # The committing thread's side

    def stop(self, why: Stop) -> None:
        with self._lock:
            self._stopped = self._stopped or why
            self._notify_all()

    def wait(self, until: Callable[[], float]) -> bool:
        """Waits for the end, or an entry that can be committed, or the time `until`; says whether it is the end.

        Where it is not, the caller has the turn, and nobody else commits until it says `settle`. What is due is left to
        the flusher, where there is one, for a while; a commit that it has begun is waited for.
        """
        with self._lock:
            while True:
                patience = FLUSHER_SECONDS if self._crowded() else LINGER_SECONDS
                now, last, due = time.monotonic(), until(), self._due + patience
                if self._busy:
                    self._awaited = True
                    self._changed.wait(LONGEST_FLUSH_SECONDS)
                    continue
                self._awaited = False
                if self._handed is None and (self._over or self._stopped is not None):
                    return True
                ready = self._entries and (self._at_once or now >= due)
                if self._handed is not None or ready or now >= last:
                    self._busy = True
                    return False
                self._changed.wait((min(due, last) if now < due else last) - now)

    def take(self, due: float = 0.0) -> tuple[list[Entry], bool]:
        """The oldest entries, as many as one commit may have, and whether there are more.

        `due` is when the next commit may be made, as far as is known before this one.
        """
        with self._lock:
            return self._take(due), bool(self._entries)

    def handed(self) -> Prepared | None:
        """What the flusher has left to the committing thread."""
        with self._lock:
            handed, self._handed = self._handed, None
            return handed

    def settle(self, due: float | None) -> None:
        """The turn is over. The next commit is due at `due`, or when it was."""
        with self._lock:
            self._busy = False
            self._due = self._due if due is None else due

    # The flusher's side

    def begin_reading(self, until: float) -> bool:
        """Whether the upstream is to be read at this beat, for what is due by then. Say `end_reading` after it."""
        with self._lock:
            if self._beats and not self._crowded():
                self._listen()
            wanted = until >= min(self._due, self._beat_at + LONGEST_GATHER_SECONDS)
            self._in_beat = self._beats and wanted and self._bytes <= HELD_BYTES
            return self._in_beat

    def end_reading(self, *, nothing: bool) -> None:
        """It was read. Where there was `nothing`, its thread is to listen."""
        with self._lock:
            self._in_beat = False
            self._beat_at = time.monotonic()
            if nothing:
                self._listen()

    def begin(self, until: float, due: float) -> list[Entry]:
        """The oldest entries, where a commit is due by then and nobody else sees to it. Say `flushed` after it."""
        with self._lock:
            if not self._crowded():
                self._changed.notify_all()  # who commits sees to it from now on
                return []
            ready = self._entries and until >= self._due and self._handed is None
            if not ready or self._busy or self._over or self._stopped is not None:
                return []
            self._busy = True
            return self._take(due)

    def flushed(self, due: float, left: Prepared | None = None) -> None:
        """What was begun has ended, the next commit is due then, and `left` is left to the committing thread."""
        with self._lock:
            self._busy, self._due, self._handed = False, due, left
            if left is not None or self._awaited or self._over or self._stopped is not None:
                self._changed.notify_all()

    def _take(self, due: float) -> list[Entry]:
        size = count = 0
        while count < len(self._entries) and (count == 0 or size + len(self._entries[count].frame) <= BATCH_BYTES):
            size += len(self._entries[count].frame)
            count += 1
        taken = self._entries[:count]
        del self._entries[:count]
        if self._bytes > HELD_BYTES:
            self._wanted.notify_all()
        self._bytes -= size
        if taken:
            self._due, self._at_once = due, False
        return taken

    def look(self, at: Callable[[chat.Answer], Seen]) -> Seen:
        """What `at` sees in the answer, while nothing is added to it."""
        with self._lock:
            return at(self.answer)

    def _listen(self) -> None:
        self._beats = False
        self._wanted.notify_all()

    def _notify_all(self) -> None:
        self._changed.notify_all()
        self._wanted.notify_all()

    @property
    def over(self) -> bool:
        with self._lock:
            return self._over or self._stopped is not None

    @property
    def whole(self) -> bool:
        """Whether the upstream said that its answer is whole."""
        with self._lock:
            return self.answer.finished or (self._over and self._fault is None)

    @property
    def fault(self) -> UpstreamFault | None:
        return self._fault

    @property
    def stopped(self) -> Stop | None:
        return self._stopped
