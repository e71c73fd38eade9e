"""The client's connection: whether the client is still there, and limits for the time that reading from it may take.

The server puts the socket into the request's environment. Without one, as in tests without a server, no client ever
leaves and no read is limited.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from flask import request

TICK_SECONDS = 0.2  # how exactly a deadline is kept
# Linux reports the end of the client's data even behind bytes that nobody has read (POLLRDHUP in poll(2)).
_HUNG_UP = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR


def connections() -> list[Any]:
    """The current request's sockets: one, or none without a server."""
    return [request.environ[name] for name in ("gunicorn.socket", "werkzeug.socket") if name in request.environ]


def departure() -> Callable[[], bool]:
    """Returns a function that tells, from any thread, whether the current request's client has hung up."""
    sockets = connections()
    return lambda: any(map(_hung_up, sockets))


def _hung_up(connection: socket.socket) -> bool:
    number = connection.fileno()
    if number < 0:
        return True
    poll = select.poll()
    poll.register(number, _HUNG_UP)
    return bool(poll.poll(0))


@dataclass(slots=True)
class Deadline:
    """When a read must be over, on the monotonic clock. `passed`: it was cut short."""

    at: float
    passed: bool = False


class Deadlines:
    """Ends reads from clients that take too long.

    A socket's own time-out is for one call, and the server calls once for each piece that comes: a byte now and then
    would hold a thread for ever. So a thread shuts down the reading side of a connection whose time is up. What waits
    for its data then gets its end, and a response can still be written.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open: dict[socket.socket, Deadline] = {}
        self._thread: threading.Thread | None = None

    @contextmanager
    def limit(self, seconds: float) -> Iterator[Deadline]:
        """Limits what the current request reads in this block."""
        deadline = Deadline(time.monotonic() + seconds)
        sockets = connections()
        self._watch(sockets, deadline)
        try:
            yield deadline
        finally:
            with self._changed:  # from here on the connection may be another request's
                for each in sockets:
                    self._open.pop(each, None)

    def _watch(self, sockets: list[socket.socket], deadline: Deadline) -> None:
        if not sockets:
            return
        with self._changed:
            self._open.update(dict.fromkeys(sockets, deadline))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="deadlines", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._open)
                now = time.monotonic()
                for connection, deadline in list(self._open.items()):
                    if deadline.at <= now:
                        deadline.passed = True
                        del self._open[connection]
                        with suppress(OSError):  # it is closed already
                            connection.shutdown(socket.SHUT_RD)
            time.sleep(TICK_SECONDS)
