"""An HTTP/1.1 message's body as its bytes come in: the framing taken off, the content coding undone.

It does no I/O, so that who reads a socket need not wait for it. Rules: RFC 9112, sections 6.3 and 7.1; RFC 9110,
section 8.4.1.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from enum import Enum

PIECE_BYTES = 64 << 10  # of what is unpacked at one go, however small it was packed
LINE_BYTES = 8 << 10  # of a line between chunks
TRAILER_BYTES = 64 << 10
CODINGS = ("gzip", "x-gzip", "deflate")

_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;.*)?")
_PLAIN_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})\r\n")


class BadBody(Exception):
    """The bytes are no body of the kind that its head announced, or end in the middle of one."""


class _Next(Enum):
    """What comes next in a chunked body."""

    SIZE = 1
    DATA = 2
    DATA_END = 3
    TRAILER = 4


class Body:
    """Is fed with what comes in. It is `chunked`, or of `length` bytes, or else lasts until the connection ends.

    `ended` tells whether all of it came, and `surplus` whether more came than that.
    """

    def __init__(self, *, chunked: bool, length: int | None, coding: str = ""):
        self._chunked = chunked
        self._known = not chunked and length is not None
        self._left = length or 0  # of the body, where that is known, or of a chunk
        self._next = _Next.SIZE
        self._line = b""  # what there is of one, between chunks
        self._trailer = 0
        self._unpack = _unpacker() if coding.strip().lower() in CODINGS else None
        self.ended = not chunked and length == 0
        self.surplus = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What `data` adds to the content, in pieces. Errors: `BadBody`, after all that came before the flaw."""
        content = self._chunks(data) if self._chunked else self._counted(data)
        return content if self._unpack is None else self._unpacked(content)

    def close(self) -> None:
        """The connection has ended. Errors: `BadBody`, where the body had not."""
        if not self.ended and (self._chunked or self._known):
            raise BadBody("it was cut off")
        self.ended = True

    def _counted(self, data: bytes) -> Iterator[bytes]:
        content = data
        if self._known:
            content = data[: self._left]
            self._left -= len(content)
            self.ended = self._left == 0
            self.surplus = len(content) < len(data)
        if content:
            yield content

    def _chunks(self, data: bytes) -> Iterator[bytes]:
        content: list[bytes] = []
        flaw = None
        data, self._line = self._line + data, b""
        at, size = 0, len(data)
        while at < size and not self.ended:
            if self._next is _Next.SIZE and (whole := _whole_chunk(data, at)):
                content.append(data[whole])
                at = whole.stop + 2
                continue
            if self._next is _Next.DATA:
                part = data[at : at + self._left]
                content.append(part)
                at += len(part)
                self._left -= len(part)
                if not self._left:
                    self._next = _Next.DATA_END
                continue
            end = data.find(b"\n", at)
            if end < 0 and size - at <= LINE_BYTES:
                self._line = data[at:]
                break
            try:
                self._take_line(data[at:end].rstrip(b"\r") if end >= 0 else data[at:])
            except BadBody as error:
                flaw = error
                break
            at = end + 1
        self.surplus = self.ended and at < size
        if content:
            yield b"".join(content)
        if flaw is not None:
            raise flaw

    def _take_line(self, line: bytes) -> None:
        if len(line) > LINE_BYTES:
            raise BadBody("a line between its chunks is too long")
        if self._next is _Next.SIZE:
            head = _SIZE.fullmatch(line)
            if head is None:
                raise BadBody("a chunk has no size")
            self._left = int(head[1], 16)
            self._next = _Next.DATA if self._left else _Next.TRAILER
        elif self._next is _Next.DATA_END:
            if line:
                raise BadBody("a chunk is longer than it says")
            self._next = _Next.SIZE
        elif line:
            self._trailer += len(line)
            if self._trailer > TRAILER_BYTES:
                raise BadBody("its trailer is too long")
        else:
            self.ended = True

    def _unpacked(self, packed: Iterator[bytes]) -> Iterator[bytes]:
        for data in packed:
            left = data
            while left and self._unpack is not None:
                before = self._unpack.copy()
                try:
                    piece = self._unpack.decompress(left, PIECE_BYTES)
                except zlib.error as error:
                    yield _up_to_the_flaw(before, left)
                    raise BadBody("it is not packed as it says") from error
                left = self._unpack.unconsumed_tail
                if self._unpack.eof:  # a packed body may be several, one after the other
                    left = self._unpack.unused_data
                    self._unpack = _unpacker()
                if piece:
                    yield piece


def _whole_chunk(data: bytes, at: int) -> slice | None:
    """Where the data of the chunk at `at` is, if that is all there and framed as chunks mostly are."""
    head = _PLAIN_SIZE.match(data, at)
    if head is None:
        return None
    start = head.end()
    end = start + int(head[1], 16)
    return slice(start, end) if end > start and data.startswith(b"\r\n", end) else None


def _unpacker() -> zlib._Decompress:
    return zlib.decompressobj(32 + zlib.MAX_WBITS)  # of either coding, as its head says


def _up_to_the_flaw(unpack: zlib._Decompress, data: bytes) -> bytes:
    content = b""
    with suppress(zlib.error):
        for at in range(len(data)):
            content += unpack.decompress(data[at : at + 1])
    return content
