"""Decodes a body's content coding (RFC 9110, section 8.4.1).

urllib3 can decode too, but when it meets corrupt data it drops what it had decoded before that.
"""

from __future__ import annotations

import zlib
from contextlib import suppress
from typing import Any

PIECE_BYTES = 64 << 10
CODINGS = frozenset({"gzip", "x-gzip", "deflate"})

_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS  # as the first bytes say
_NO_HEADER = -zlib.MAX_WBITS


class Inflater:
    """Decodes one of `CODINGS`, in pieces of at most `PIECE_BYTES`."""

    def __init__(self, coding: str):
        self._zlib = zlib.decompressobj(_GZIP_OR_ZLIB)
        self._packed = b""
        self._more = False  # whether zlib has output that did not fit into the last piece
        self._begun = False
        self._flaw: zlib.error | None = None
        self._may_be_bare = coding == "deflate"  # many servers leave out the zlib header

    @property
    def unfinished(self) -> bool:
        """Whether the input so far ends in the middle of a compressed stream. Several streams may follow each other."""
        return self._begun

    def put(self, packed: bytes) -> None:
        """Adds input. All output of earlier input must have been taken with `get`."""
        self._packed = packed

    def get(self) -> bytes:
        """The next piece of output, empty if more input is needed.

        Errors: `zlib.error` for corrupt input, after all output before it was returned.
        """
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


def _before_the_flaw(inflate: Any, packed: bytes) -> bytes:
    content = []
    with suppress(zlib.error):
        for at in range(len(packed)):
            content.append(inflate.decompress(packed[at : at + 1]))
    return b"".join(content)
