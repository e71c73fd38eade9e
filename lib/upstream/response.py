"""The upstream's answer as its bytes arrive: a read gives all that is there, and waits only if there is nothing."""

from __future__ import annotations

import http.client
import io
import re
import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING

from lib.upstream.line import Line, carrying

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BUFFER_BYTES = 16 << 10  # the size of a TLS record
INTERIM_RESPONSES = 20


class Arriving(io.BufferedReader):
    """Buffers a connection's bytes as they arrive: one wait returns all that has arrived.

    When closed, it releases the connection from its line. A connection that received more than the response is shut
    down, because the rest would be taken for the next response.
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
    """Reads all available TLS records at once. A plain read returns only one, and upstreams send one per token."""

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
            self._error = error  # raised by the next read, after these bytes
        finally:
            self._sock.settimeout(timeout)
        return size

    def stop(self) -> None:
        """From now on, reads return the end of the stream."""
        self._ended = True

    def close(self) -> None:
        self._raw.close()
        super().close()


class Response(http.client.HTTPResponse):
    """A response that skips interim responses, and returns all chunks that have arrived at once."""

    def __init__(self, sock: socket.socket, debuglevel: int = 0, method: str | None = None, url: str | None = None):
        super().__init__(sock, debuglevel, method, url)
        self._arriving = Arriving(sock, self.fp.detach())
        self.fp = self._arriving

    def begin(self) -> None:
        """Reads the head of the final response.

        RFC 9110, section 15.2: a client must skip unexpected interim responses. RFC 8297 defines one of them.
        """
        for _ in range(INTERIM_RESPONSES):
            super().begin()
            if not 100 <= self.status < 200 or self.status == http.client.SWITCHING_PROTOCOLS:
                self._arriving.line = carrying.get()
                return
            self.headers = self.msg = None  # type: ignore[assignment]  # the base class skips `begin` if they are set
        raise http.client.HTTPException(f"more than {INTERIM_RESPONSES} interim responses")

    def read1(self, n: int = -1) -> bytes:
        """The bytes of the body that have arrived, at most `n`. Waits only if there are none."""
        if self.chunked and not self.chunk_left and self.fp is not None:
            whole = self._whole_chunks(n)
            if whole:
                return whole
        return super().read1(n)

    def _whole_chunks(self, n: int) -> bytes:
        """The complete chunks that have arrived, if they have the usual framing. Others are left to the base class."""
        there = self.fp.peek()
        at = 0
        if self.chunk_left == 0:  # the previous chunk's line end is still unread
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
