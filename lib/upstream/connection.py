"""Connections that can be cut at any moment, and the pools that keep them.

No code here may wait on a socket that the call's line does not hold, or wait for longer than a moment without checking
the line.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
import time
from collections.abc import Sequence
from typing import Any

import urllib3.connection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util.ssl_ import create_urllib3_context, resolve_cert_reqs

from lib.upstream.line import Line, LineCut, carrying
from lib.upstream.response import Response

_LOOK_SECONDS = 0.2  # how often a connect checks whether the line was cut


class _Connection(urllib3.connection.HTTPConnection):
    """A connection that belongs to the line of the thread that uses it."""

    response_class = Response

    def _new_conn(self) -> socket.socket:
        """Connects, and regularly checks whether the line was cut.

        urllib3's SOCKS connection overrides the same method: it is the hook for creating sockets differently.
        """
        line = carrying.get()
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
        line = carrying.get()
        line.check()
        if self.sock is None:
            self.connect()
        line.hold(self.sock)
        self.timeout = line.send_timeout  # the base class sets it on the socket; so far it was the connect time-out
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
    """A connected socket. The remaining time is divided evenly among the host's addresses.

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
