"""A proxy to the API whose connections break, like those of phones."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"


class BreakingProxy:
    """Breaks each of the first `times` connections before byte `after` of the response."""

    def __init__(self, port: int, *, after: int, times: int):
        self._port = port
        self._after = after
        self._times = times
        self.broken = 0
        self._listening = socket.create_server((HOST, 0))
        self.url = f"http://{HOST}:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(client, self._times > 0), daemon=True).start()
                self._times -= 1

    def _serve(self, client: socket.socket, breaks: bool) -> None:
        with contextlib.suppress(OSError), client, socket.create_connection((HOST, self._port)) as server:
            threading.Thread(target=_pass_on, args=(client, server), daemon=True).start()
            passed = 0
            while piece := server.recv(1024):
                passed += len(piece)
                if breaks and passed > self._after:
                    self.broken += 1
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(piece)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


def _pass_on(client: socket.socket, server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := client.recv(65536):
            server.sendall(piece)
