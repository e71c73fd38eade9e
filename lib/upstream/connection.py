"""Connections that can be cut at any moment, and the pools that keep them.

urllib3 speaks HTTP here. What it leaves out is another thread that wants the exchange to end: a `Line` carries one
call, knows the connection that serves it, and shuts that connection's socket when it is cut. Nothing is sent after
that. So no step may wait on a socket that the line does not hold, nor wait for longer than a moment without asking the
line.
"""

from __future__ import annotations

import errno
import http.client
import io
import os
import re
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import urllib3.connection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util.ssl_ import create_urllib3_context, resolve_cert_reqs

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BUFFER_BYTES = 16 << 10  # as much as a TLS record holds
INTERIM_RESPONSES = 20
_LOOK_SECONDS = 0.2  # how often a connect looks whether the line was cut

_carrying: ContextVar[Line] = ContextVar("carrying")


class LineCut(OSError):
    """The line was cut: nothing may be sent any more."""


class Line:
    """What carries one call. Any thread can cut it at any moment.

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
        """Within it, whatever connection this thread uses serves this line."""
        token = _carrying.set(self)
        try:
            yield
        finally:
            _carrying.reset(token)

    def check(self) -> None:
        """Errors: `LineCut`."""
        if self._is_cut:
            raise LineCut("the line was cut")

    def hold(self, sock: socket.socket) -> None:
        """From now on, a cut shuts this socket. Errors: `LineCut`, where it was cut before."""
        with self._lock:
            self.check()
            self._drop_handle()
            # A descriptor of its own, since TLS takes the original away from its socket object.
            self._handle = socket.fromfd(sock.fileno(), socket.AF_INET, socket.SOCK_STREAM)

    def release(self) -> None:
        """From now on, a cut shuts nothing. The connection may serve another line."""
        with self._lock:
            self._drop_handle()

    def cut(self) -> None:
        """Shuts the connection, and lets no other be made. The thread that waits for it is woken."""
        with self._lock:
            self._is_cut = True
            if self._handle is not None:
                with suppress(OSError):  # it has ended already
                    # Else the kernel goes on to send what it has of the request.
                    self._handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self._handle.shutdown(socket.SHUT_RDWR)

    def _drop_handle(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None


class Arriving(io.BufferedReader):
    """A connection's bytes as they arrive: one wait gives all that is there.

    At its end it tells `line` that the connection is free. A connection on which more came than the answer is shut:
    the rest would be taken for the next answer.
    """

    def __init__(self, sock: socket.socket, raw: io.RawIOBase):
        self._records = _Records(sock, raw)
        super().__init__(self._records, BUFFER_BYTES)
        self._sock = sock
        self.line: Line | None = None

    def close(self) -> None:
        line, self.line = self.line, None
        if line is not None:
            self._records.stop()
            if self.peek():
                with suppress(OSError):
                    self._sock.shutdown(socket.SHUT_RDWR)
            line.release()
        super().close()


class _Records(io.RawIOBase):
    """Reads a socket. TLS gives one record a read, however many there are, and upstreams send one a token."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase):
        self._sock = sock
        self._raw = raw
        self._gathers = isinstance(sock, ssl.SSLSocket)
        self._ended = False
        self._error: OSError | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        if self._ended:
            return 0
        size = self._raw.readinto(buffer)
        if size and self._gathers:
            return self._gather(memoryview(buffer), size)
        return size

    def _gather(self, buffer: memoryview, size: int) -> int:
        timeout = self._sock.gettimeout()
        self._sock.settimeout(0.0)
        try:
            while size < len(buffer):
                more = self._raw.readinto(buffer[size:])
                if not more:
                    self._ended = more == 0
                    break
                size += more
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass  # that was all
        except OSError as error:
            self._error = error  # after what came before it
        finally:
            self._sock.settimeout(timeout)
        return size

    def stop(self) -> None:
        """From now on there is nothing to read."""
        self._ended = True

    def close(self) -> None:
        self._raw.close()
        super().close()


class Response(http.client.HTTPResponse):
    """An answer that passes interim responses over, and gives all chunks that have arrived at once."""

    def __init__(self, sock: socket.socket, debuglevel: int = 0, method: str | None = None, url: str | None = None):
        super().__init__(sock, debuglevel, method, url)
        self._arriving = Arriving(sock, self.fp.detach())
        self.fp = self._arriving

    def begin(self) -> None:
        """Reads the head of the final response. RFC 9110, section 15.2: a client skips the interim ones it never
        asked for; RFC 8297 has an example of such."""
        for _ in range(INTERIM_RESPONSES):
            super().begin()
            if not 100 <= self.status < 200 or self.status == http.client.SWITCHING_PROTOCOLS:
                self._arriving.line = _carrying.get()
                return
            self.headers = self.msg = None  # type: ignore[assignment]  # else it would not begin again
        raise http.client.HTTPException(f"more than {INTERIM_RESPONSES} interim responses")

    def read1(self, n: int = -1) -> bytes:
        """What is there of the body, at most `n` bytes; it waits only where there is nothing."""
        if self.chunked and not self.chunk_left and self.fp is not None:
            whole = self._whole_chunks(n)
            if whole:
                return whole
        return super().read1(n)

    def _whole_chunks(self, n: int) -> bytes:
        """The chunks that are there from end to end, framed as most are; any other framing is left to the base."""
        there = self.fp.peek()
        at = 0
        if self.chunk_left == 0:  # the end of the chunk before is still to come
            if not there.startswith(b"\r\n"):
                return b""
            at = 2
        content = []
        size = 0
        while head := _CHUNK_HEAD.match(there, at):
            start = head.end()
            end = start + int(head[1], 16)
            size += end - start
            if end == start or size > n >= 0 or not there.startswith(b"\r\n", end):
                break
            content.append(there[start:end])
            at = end + 2
        if content:
            self.fp.read(at)
            self.chunk_left = None
        return b"".join(content)


_CHUNK_HEAD = re.compile(rb"([0-9a-fA-F]{1,7})\r\n")


class _Connection(urllib3.connection.HTTPConnection):
    """A connection that serves the line of the thread that uses it."""

    response_class = Response

    def _new_conn(self) -> socket.socket:
        """Connects, looking now and then whether the line was cut.

        Overridden as urllib3's own SOCKS connection does it: this is the hook for other ways to get a socket.
        """
        line = _carrying.get()
        timeout = self.timeout
        try:
            sock = _connected(line, self.host.strip("[]"), self.port, timeout, self.socket_options or ())
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except TimeoutError as error:
            raise ConnectTimeoutError(self, f"no connection within {timeout} s") from error
        except LineCut:
            raise
        except (OSError, UnicodeError) as error:
            raise NewConnectionError(self, f"no connection: {error}") from error
        try:
            line.hold(sock)
        except OSError:
            sock.close()
            raise
        return sock

    def request(self, *args: Any, **kwargs: Any) -> None:
        """Sends a request for the line. Errors: `LineCut`, and what urllib3 raises."""
        line = _carrying.get()
        line.check()
        if self.sock is None:
            self.connect()
        line.hold(self.sock)
        self.timeout = line.send_timeout  # the base hands it to the socket; until here it was the connect's
        super().request(*args, **kwargs)


class _TlsConnection(_Connection, urllib3.connection.HTTPSConnection):
    """The same over TLS."""

    def connect(self) -> None:
        if self.ssl_context is None:
            self.ssl_context = create_urllib3_context(cert_reqs=resolve_cert_reqs(self.cert_reqs))
            self.ssl_context.sslsocket_class = TlsSocket
        super().connect()


class TlsSocket(ssl.SSLSocket):
    """A TLS socket that is closed where its connection has ended before the handshake, as a cut may have it.

    The ssl module asks for the peer's name before it begins. Where there is no peer any more, it raises without closing
    what it has taken over, or even gives back a socket that was never secured.
    """

    def getpeername(self) -> Any:
        try:
            return super().getpeername()
        except OSError as error:
            self.close()
            raise ConnectionAbortedError("the connection ended before its handshake") from error


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


POOLS: dict[str, type[HTTPConnectionPool]] = {"http": _Pool, "https": _TlsPool}
"""By scheme, as urllib3's pool managers want them."""


def _connected(
    line: Line, host: str, port: int, timeout: float | None, options: Sequence[tuple[int, int, int | bytes]]
) -> socket.socket:
    """A connected socket. Each of the host's addresses gets an even share of the time that is left.

    Errors: `LineCut`, `TimeoutError`, `OSError`.
    """
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    ends = time.monotonic() + timeout if timeout is not None else float("inf")
    failed: OSError | None = None
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        now = time.monotonic()
        if number and now >= ends:
            raise TimeoutError("no time left for the host's other addresses") from failed
        until = now + (ends - now) / (len(addresses) - number)
        sock = socket.socket(family, kind, protocol)
        try:
            for option in options:
                sock.setsockopt(*option)
            _connect(line, sock, address, until)
            sock.settimeout(timeout)
            return sock
        except LineCut:
            sock.close()
            raise
        except OSError as error:
            sock.close()
            failed = error
    raise failed or OSError("the host has no address")


def _connect(line: Line, sock: socket.socket, address: Any, until: float) -> None:
    line.check()
    sock.setblocking(False)
    error = sock.connect_ex(address)
    if error == errno.EINPROGRESS:
        poll = select.poll()
        poll.register(sock, select.POLLOUT)
        while not poll.poll(1000 * max(0.0, min(_LOOK_SECONDS, until - time.monotonic()))):
            line.check()
            if time.monotonic() >= until:
                raise TimeoutError("no answer to the connect")
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))
