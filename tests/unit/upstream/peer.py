"""A minimal server that sends exactly the bytes a test wants, and shared code for tests of calls.

It continues only after the test has seen what was sent before, so that what arrives together does not depend on timing.
"""

from __future__ import annotations

import os
import queue
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from lib.cloud.credentials import GoogleTokens
from lib.dialects.protocol import Outgoing
from lib.runtime.catalog import Deadlines, Upstream
from lib.upstream.call import Call, Session
from lib.upstream.credential import Credential
from lib.upstream.fault import UpstreamFault

WAIT_SECONDS = 20.0  # for what is sure to come; nothing is asserted of it
BODY = b'{"model":"gpt","messages":[{"role":"user","content":"d\xc3\xada"}]}'
BASE_URL = "http://upstream.example/v1"
PATH = "/chat/completions"


class Peer:
    """One connection of a server, as its script sees it."""

    def __init__(self, connection: socket.socket, go_on: threading.Event):
        self._connection = connection
        self._go_on = go_on

    def request(self) -> bytes:
        """The next request, head and body."""
        got = b""
        while b"\r\n\r\n" not in got:
            got += self.read()
        head, _, body = got.partition(b"\r\n\r\n")
        lengths = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-l")]
        while len(body) < sum(lengths):
            body += self.read()
        return head + b"\r\n\r\n" + body

    def read(self) -> bytes:
        got = self._connection.recv(65536)
        if not got:
            raise ConnectionError
        return got

    def send(self, data: bytes) -> None:
        self._connection.sendall(data)

    def send_below_tls(self, data: bytes) -> None:
        os.write(self._connection.fileno(), data)

    def reset(self) -> None:
        """Ends the connection with a RST in the place of a FIN."""
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._connection.close()

    def wait(self) -> None:
        """Waits until the test has seen what was sent."""
        assert self._go_on.wait(WAIT_SECONDS)
        self._go_on.clear()

    def until_end(self) -> int:
        """Waits until the other side ends the connection; how many bytes came before."""
        size = 0
        with suppress(ConnectionError):
            while True:
                size += len(self.read())
        return size

    def speak_tls(self, context: ssl.SSLContext) -> socket.socket:
        self._connection = context.wrap_socket(self._connection, server_side=True)
        return self._connection


Script = Callable[[Peer], None]


class Server:
    """Listens on a port of its own. Its script runs once a request, or, if it is `raw`, once a connection."""

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None, *, raw: bool = False, scheme: str = ""):
        self._tls = tls
        self._raw = raw
        self._scheme = scheme or ("https" if tls else "http")
        self.requests: queue.Queue[bytes] = queue.Queue()
        self.connections = 0
        self.ended: queue.Queue[None] = queue.Queue()
        """Has one for each connection that is over."""
        self._go_on = threading.Event()
        self._script = script
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def port(self) -> int:
        port: int = self._listening.getsockname()[1]
        return port

    @property
    def base_url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}/v1"

    def go_on(self) -> None:
        self._go_on.set()

    def sees_the_end(self) -> bool:
        """Whether a connection ends, whoever ended it."""
        try:
            self.ended.get(timeout=WAIT_SECONDS)
        except queue.Empty:
            return False
        return True

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open.append(connection)
            self.connections += 1
            self._threads.append(threading.Thread(target=self._serve, args=(connection,), daemon=True))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        peer = Peer(connection, self._go_on)
        try:
            if self._tls is not None:
                connection = peer.speak_tls(self._tls)
                self._open.append(connection)
            if self._raw:
                self._script(peer)
            while not self._raw:
                self.requests.put(peer.request())
                self._script(peer)
        except OSError:
            pass
        finally:
            connection.close()
            self.ended.put(None)

    def close(self) -> None:
        self._go_on.set()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(WAIT_SECONDS)


Serve = Callable[..., Server]


class Reader(threading.Thread):
    """Makes a call in its own thread and keeps the result."""

    def __init__(self, made: Call):
        super().__init__(daemon=True)
        self._made = made
        self.arrived: queue.Queue[bytes] = queue.Queue()
        self.fault: UpstreamFault | None = None
        self.opened = False
        self.start()

    def run(self) -> None:
        try:
            self._made.open()
            self.opened = True
            while piece := self._made.read():
                self.arrived.put(piece)
        except UpstreamFault as fault:
            self.fault = fault
        finally:
            self._made.close()

    def ends(self) -> bool:
        self.join(WAIT_SECONDS)
        return not self.is_alive()


def call(
    session: Session,
    base_url: str = BASE_URL,
    key: str | None = None,
    silence: float = WAIT_SECONDS,
    outgoing: Outgoing | None = None,
    connect: float = WAIT_SECONDS,
    tokens: GoogleTokens | None = None,
    **catalog: Any,
) -> Call:
    deadlines = Deadlines(connect=connect, first_byte=silence, idle=silence)
    upstream = Upstream(name="one", base_url=base_url, deadlines=deadlines, **catalog)
    credential = Credential(upstream, key, tokens or GoogleTokens())
    return Call(session, upstream, credential, outgoing or Outgoing(path=PATH, body=BODY))


def head(*headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode()


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def rest(made: Call) -> bytes:
    """All that is still to be read of a call."""
    got = b""
    while piece := made.read():
        got += piece
    return got


def answer(made: Call) -> bytes:
    """Opens a call, reads it to its end and closes it."""
    made.open()
    got = rest(made)
    made.close()
    return got


def fault_of(made: Call) -> UpstreamFault:
    """The fault that opening or reading a call ends with."""
    with pytest.raises(UpstreamFault) as raised:
        answer(made)
    made.close()
    return raised.value


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def eventually(holds: Callable[[], bool]) -> bool:
    ends = time.monotonic() + WAIT_SECONDS
    while not holds() and time.monotonic() < ends:
        time.sleep(0.005)
    return holds()


class Blackhole:
    """A port that answers no connect: nobody accepts there, and its queue is full."""

    def __enter__(self) -> Blackhole:
        self._listening = socket.socket()
        self._listening.bind(("127.0.0.1", 0))
        self._listening.listen(0)
        self.port: int = self._listening.getsockname()[1]
        self._waiting = [socket.socket() for _ in range(4)]
        for each in self._waiting:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", self.port))
        return self

    def __exit__(self, *_: object) -> None:
        for each in (*self._waiting, self._listening):
            each.close()
