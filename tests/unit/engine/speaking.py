"""An upstream on a socket, which sends its pieces when the test tells it to."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

from tests.unit.engine.memory import PATIENCE
from tests.unit.upstream.peer import Peer


class Speaking:
    """A server for any number of calls, each of which gets the same answer.

    `pieces` wait until `go_on` is released, one each. After the last, the connection is closed.
    """

    def __init__(self, *pieces: bytes, status: str = "200 OK", content_type: str = "text/event-stream"):
        self._pieces = pieces
        self._head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nConnection: close\r\n\r\n".encode()
        self.go_on = threading.Semaphore(0)
        self.head_too = threading.Event()  # the head waits for it
        self.head_too.set()
        self.called = threading.Event()
        self.left = threading.Event()  # who called has closed the connection
        self.requests: list[bytes] = []
        self._over = False
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.base_url = f"http://127.0.0.1:{self._listening.getsockname()[1]}/v1"
        threading.Thread(target=self._accept, daemon=True).start()

    def say(self, pieces: int = 1000) -> None:
        if pieces:
            self.go_on.release(pieces)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._over = True
        self.head_too.set()
        self.say()
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.settimeout(PATIENCE)
            self.requests.append(request_of(connection))
            self.called.set()
            threading.Thread(target=self._watch, args=[connection], daemon=True).start()
            assert self.head_too.wait(PATIENCE)
            connection.sendall(self._head)
            for piece in self._pieces:
                self.go_on.acquire()
                if self._over:
                    return
                connection.sendall(piece)
            # To close at once could be a reset, which throws away what was not sent yet.
            connection.shutdown(socket.SHUT_WR)
            self.left.wait(PATIENCE)

    def _watch(self, connection: socket.socket) -> None:
        with suppress(OSError):
            while connection.recv(65536):
                pass
        self.left.set()


def request_of(connection: socket.socket) -> bytes:
    """The body of a request, read to its end. Errors: `ConnectionError`, if the connection ends before."""
    return Peer(connection, threading.Event()).request().partition(b"\r\n\r\n")[2]
