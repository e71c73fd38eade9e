"""A TCP proxy that forgets its connections, like a NAT gateway: they stay open, and nothing passes any more."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"


class BlackHole:
    """Passes everything on to `target` (host:port), on each connection until `forget` is called."""

    def __init__(self, target: str):
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._generation = 0
        self._open: list[socket.socket] = []
        self.connections = 0
        self._listening = socket.create_server((HOST, 0))
        self.host = f"{HOST}:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def forget(self) -> None:
        """From now on, what is sent on the present connections arrives nowhere."""
        self._generation += 1

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(self._target)
                self.connections += 1
                self._open += [client, server]
                for one, other in ((client, server), (server, client)):
                    threading.Thread(target=self._pass, args=(one, other, self._generation), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket, generation: int) -> None:
        with contextlib.suppress(OSError):
            while piece := one.recv(65536):
                if generation == self._generation:
                    other.sendall(piece)
            if generation == self._generation:
                other.shutdown(socket.SHUT_WR)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in (self._listening, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
