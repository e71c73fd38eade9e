"""The end of a server process, told in time to whoever has something to save.

Cloud Run sends SIGTERM and ten seconds later SIGKILL. gunicorn takes the signal and lets requests run on, and tells
nobody: only the main thread may set a signal handler, and that one is gunicorn's. So in each process that it forks the
signal is blocked, a thread waits for it, and gunicorn's own handler is called once everybody was told.
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
    """Calls back when the process is told to end. A callback may take its time, within the platform's ten seconds."""

    def __init__(self) -> None:
        self._begun = threading.Event()
        self._callbacks: list[Callable[[], object]] = []

    @classmethod
    def of_forked(cls, environ: Mapping[str, str]) -> Self:
        """Waits for SIGTERM in every process that is forked from this one, where this is functions-framework."""
        shutdown = cls()
        if "FUNCTION_TARGET" in environ:  # which it sets before it imports a function's module
            os.register_at_fork(after_in_child=shutdown._watch)
        return shutdown

    @property
    def begun(self) -> bool:
        return self._begun.is_set()

    def call(self, callback: Callable[[], object]) -> None:
        self._callbacks.append(callback)

    def begin(self) -> None:
        self._begun.set()
        for callback in self._callbacks:
            try:
                callback()
            except Exception:
                log.exception("a shutdown step failed")

    def _watch(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # in all threads: they have it from this one
        threading.Thread(target=self._wait, name="shutdown", daemon=True).start()

    def _wait(self) -> None:
        signal.sigwait({signal.SIGTERM})
        self.begin()
        end = signal.getsignal(signal.SIGTERM)
        if callable(end):
            end(signal.SIGTERM, None)
        else:
            os._exit(0)
