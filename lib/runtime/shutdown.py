"""Callbacks for a server process that is about to end.

Cloud Run sends SIGTERM and ten seconds later SIGKILL. gunicorn handles SIGTERM by letting requests finish, and has no
hook for the application. A handler of our own is impossible, because only the main thread can set one, and gunicorn
sets its own there. So each forked process blocks the signal, a thread waits for it, runs the callbacks, and then calls
gunicorn's handler.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Self

log = logging.getLogger(__name__)


class Shutdown:
    """Runs callbacks on SIGTERM, in order. All of them together must finish within the platform's ten seconds."""

    def __init__(self) -> None:
        self._begun = threading.Event()
        self._callbacks: list[Callable[[], object]] = []

    @classmethod
    def in_forks(cls, environ: Mapping[str, str]) -> Self:
        """Waits for SIGTERM in every process forked from this one, if functions-framework runs this process."""
        shutdown = cls()
        if "FUNCTION_TARGET" in environ:  # functions-framework sets it before it imports main.py
            os.register_at_fork(after_in_child=shutdown._watch)
        return shutdown

    @property
    def begun(self) -> bool:
        return self._begun.is_set()

    def add_callback(self, callback: Callable[[], object]) -> None:
        self._callbacks.append(callback)

    def begin(self) -> None:
        self._begun.set()
        for callback in self._callbacks:
            try:
                callback()
            except Exception:
                log.exception("a shutdown step failed")

    def _watch(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # threads started later inherit the mask
        threading.Thread(target=self._wait, name="shutdown", daemon=True).start()

    def _wait(self) -> None:
        signal.sigwait({signal.SIGTERM})
        self.begin()
        end = signal.getsignal(signal.SIGTERM)
        if callable(end):
            end(signal.SIGTERM, None)
        else:
            os._exit(0)
