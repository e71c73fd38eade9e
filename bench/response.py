"""The load client: one connection per response. It stores each read with its time.

It must cost as little as possible while others are measured, so nothing is parsed until `events` or `body` is called.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from typing import cast
from urllib.parse import urlsplit

_HEAD_END = b"\r\n\r\n"


class Response(asyncio.Protocol):
    """What a server sends on one connection. Times are in nanoseconds on the monotonic clock."""

    def __init__(self, request: bytes):
        self.sent = 0
        self.reads: list[tuple[int, bytes]] = []
        loop = asyncio.get_running_loop()
        self.begun: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self._request = request
        self._head = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.sent = time.monotonic_ns()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.reads.append((time.monotonic_ns(), data))
        if not self.begun.done():
            self._head += data
            if _HEAD_END in self._head:
                self.begun.set_result(None)

    def connection_lost(self, _: Exception | None) -> None:
        for future in (self.begun, self.ended):
            if not future.done():
                future.set_result(None)

    def leave(self) -> None:
        """Drops the connection, like a phone that locks."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def status(self) -> int:
        """The HTTP status, or 0 if the server closed the connection without a response."""
        line = self._head.split(b"\r\n", 1)[0].split()
        return int(line[1]) if len(line) > 1 else 0

    def header(self, name: str) -> str:
        """A response header, or an empty string."""
        for line in self._head.partition(_HEAD_END)[0].split(b"\r\n")[1:]:
            known, _, value = line.partition(b":")
            if known.decode().lower() == name.lower():
                return value.strip().decode()
        return ""

    def events(self) -> Iterator[tuple[int, bytes]]:
        """The `data` of each server-sent event, with the time at which its last byte was read."""
        rest = b""
        for at, data in self.body():
            *frames, rest = (rest + data).split(b"\n\n")
            for frame in frames:
                for line in frame.split(b"\n"):
                    if line.startswith(b"data: "):
                        yield at, line.removeprefix(b"data: ")

    def body(self) -> Iterator[tuple[int, bytes]]:
        """The pieces of the body, without the framing of chunks."""
        chunked = self.header("Transfer-Encoding").lower() == "chunked"
        head = len(self._head.partition(_HEAD_END)[0]) + len(_HEAD_END)
        chunks = _Chunks()
        for at, data in self.reads:
            fresh, head = data[head:], max(0, head - len(data))
            if fresh:
                yield at, chunks.feed(fresh) if chunked else fresh


class _Chunks:
    """Decodes the chunked transfer coding (RFC 9112, section 7.1), read by read."""

    def __init__(self) -> None:
        self._rest = b""
        self._left = 0  # of the current chunk, including its line end

    def feed(self, data: bytes) -> bytes:
        self._rest += data
        out = bytearray()
        while self._rest:
            if self._left > 2:
                piece = self._rest[: self._left - 2]
                out += piece
                self._left -= len(piece)
                self._rest = self._rest[len(piece) :]
            elif self._left:
                dropped = min(self._left, len(self._rest))
                self._left -= dropped
                self._rest = self._rest[dropped:]
            else:
                size, end, rest = self._rest.partition(b"\r\n")
                if not end:
                    break
                self._left = int(size.partition(b";")[0], 16) + 2
                self._rest = rest
        return bytes(out)


async def ask(
    url: str, *, method: str = "GET", headers: Mapping[str, str] | None = None, body: bytes = b""
) -> Response:
    """Sends a request on its own connection, which the server closes at the response's end.

    Errors: `OSError`, if nothing listens there.
    """
    parts = urlsplit(url)
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    fields = {"Host": parts.netloc, "Connection": "close", "Content-Length": str(len(body)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    request = f"{method} {path or '/'} HTTP/1.1\r\n{head}\r\n".encode() + body
    loop = asyncio.get_running_loop()
    _, response = await loop.create_connection(lambda: Response(request), parts.hostname or "", parts.port or 80)
    return response
