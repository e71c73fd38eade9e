"""The line that carries one call: it knows the socket in use, and any thread can cut it at any moment.

urllib3 implements HTTP, but can't end an exchange from another thread. So whatever waits on a socket for a call does so
for the call's line, which shuts that socket down when it is cut. Nothing is sent after that.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

carrying: ContextVar[Line] = ContextVar("carrying")
"""The line that this thread's connections belong to."""


class LineCut(OSError):
    """The line was cut, so nothing more may be sent."""


class Line:
    """The connection of one call, which any thread can cut at any moment.

    `send_timeout` is how long the upstream may take to accept the request's bytes, in seconds.
    """

    def __init__(self, send_timeout: float):
        self.send_timeout = send_timeout
        self._lock = threading.Lock()
        self._handle: socket.socket | None = None
        self._is_cut = False

    @property
    def is_cut(self) -> bool:
        return self._is_cut

    @contextmanager
    def carrying(self) -> Iterator[None]:
        """Inside this context, any connection that this thread uses belongs to this line."""
        token = carrying.set(self)
        try:
            yield
        finally:
            carrying.reset(token)

    def check(self) -> None:
        """Errors: `LineCut`."""
        if self._is_cut:
            raise LineCut("the line was cut")

    def hold(self, sock: socket.socket) -> None:
        """From now on, a cut shuts down this socket. Errors: `LineCut` if the line was cut already."""
        with self._lock:
            self.check()
            self._drop_handle()
            # A duplicate descriptor, because TLS detaches the original from its socket object.
            self._handle = socket.fromfd(sock.fileno(), socket.AF_INET, socket.SOCK_STREAM)

    def release(self) -> None:
        """From now on, a cut has no effect on the socket. The connection may serve another line."""
        with self._lock:
            self._drop_handle()

    def cut(self) -> None:
        """Shuts down the connection, wakes a thread that waits for it, and prevents new connections."""
        with self._lock:
            self._is_cut = True
            if self._handle is not None:
                with suppress(OSError):  # it is closed already
                    # Otherwise the kernel would still send the rest of the request.
                    self._handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self._handle.shutdown(socket.SHUT_RDWR)

    def _drop_handle(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None
