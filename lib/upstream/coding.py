"""A body's content coding, undone. RFC 9110, section 8.4.1.

urllib3 undoes it too, but drops what it had decoded of a piece before a flaw.
"""

from __future__ import annotations

import zlib
from contextlib import suppress

PIECE_BYTES = 64 << 10
CODINGS = frozenset({"gzip", "x-gzip", "deflate"})

_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS  # as the first bytes say
_NO_HEADER = -zlib.MAX_WBITS


class Inflater:
    """Decodes one of `CODINGS`. What is put in comes out in pieces of at most `PIECE_BYTES`."""

    def __init__(self, coding: str):
        self._zlib = zlib.decompressobj(_GZIP_OR_ZLIB)
        self._packed = b""
        self._more = False  # whether zlib keeps content for which the last piece had no room
        self._begun = False
        self._flaw: zlib.error | None = None
        self._may_be_bare = coding == "deflate"  # many send it without the header that it should have

    @property
    def unfinished(self) -> bool:
        """Whether it is in the middle of a compressed stream. Several may follow one another."""
        return self._begun

    def put(self, packed: bytes) -> None:
        """Takes more in. All that was put in before must have been taken out."""
        self._packed = packed

    def get(self) -> bytes:
        """The next piece of the content; empty where more must be put in. Errors: `zlib.error`, after all content
        before the flaw."""
        if self._flaw is not None:
            raise self._flaw
        while self._packed or self._more:
            piece = self._inflate()
            if piece:
                return piece
            if self._flaw is not None:
                raise self._flaw
        return b""

    def _inflate(self) -> bytes:
        before = self._zlib.copy()
        try:
            piece = self._zlib.decompress(self._packed, PIECE_BYTES)
        except zlib.error as error:
            if self._may_be_bare:
                self._may_be_bare = False
                self._zlib = zlib.decompressobj(_NO_HEADER)
                return b""
            self._flaw = error
            return _before_the_flaw(before, self._packed)
        self._begun, self._may_be_bare = True, False
        self._more = len(piece) == PIECE_BYTES
        self._packed = self._zlib.unconsumed_tail
        if self._zlib.eof:
            self._packed = self._zlib.unused_data
            self._zlib = zlib.decompressobj(_GZIP_OR_ZLIB)
            self._begun = self._more = False
        return piece


def _before_the_flaw(inflate: zlib._Decompress, packed: bytes) -> bytes:
    content = []
    with suppress(zlib.error):
        for at in range(len(packed)):
            content.append(inflate.decompress(packed[at : at + 1]))
    return b"".join(content)
