"""The attempts that run in this process, and how they are handed over at shutdown."""

from __future__ import annotations

import logging
import threading
import time

from lib.engine.attempt import Attempt, Ended, RetryLater

HAND_OVER_SECONDS = 6.0  # of the ten that a process has to end; the rest is for the last commits
_POLL_SECONDS = 0.1

log = logging.getLogger(__name__)


class Running:
    """Runs attempts, each in its caller's thread."""

    def __init__(self, hand_over_seconds: float = HAND_OVER_SECONDS) -> None:
        self._hand_over_seconds = hand_over_seconds
        self._attempts: set[Attempt] = set()
        self._lock = threading.Lock()
        self._over = False

    def run(self, attempt: Attempt) -> Ended | RetryLater:
        """Runs a claimed attempt to its end. Errors: as `Attempt.run`.

        If the hand-over is over already, the attempt is given up before it makes its call.
        """
        with self._lock:
            self._attempts.add(attempt)
            live, over = len(self._attempts), self._over
        try:
            attempt.claimed(live)
            if over:
                attempt.leave(at_once=True)
            return attempt.run()
        finally:
            with self._lock:
                self._attempts.discard(attempt)

    def hand_over(self) -> None:
        """Gives up the attempts that another process can continue at once, and the others when the time is over."""
        deadline = time.monotonic() + self._hand_over_seconds
        while self._leave(at_once=False) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        with self._lock:
            self._over = True
        self._leave(at_once=True)

    def _leave(self, *, at_once: bool) -> int:
        with self._lock:
            attempts = list(self._attempts)
        for attempt in attempts:
            try:
                attempt.leave(at_once=at_once)
            except Exception:
                log.exception("an attempt could not be told of the shutdown")  # it is told again
        return len(attempts)
