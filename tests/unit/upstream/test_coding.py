"""A body's content coding: the same content wherever the bytes were cut, and a flaw after all before it."""

from __future__ import annotations

import gzip
import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.upstream.coding import PIECE_BYTES, Inflater

CONTENT = b"data: a\n\n" + bytes(range(256)) * 10 + b"0\r\n\r\n"


def bare(content: bytes) -> bytes:
    compress = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compress.compress(content) + compress.flush()


def take(inflater: Inflater, received: list[bytes], into: list[bytes]) -> None:
    for packed in received:
        inflater.put(packed)
        while piece := inflater.get():
            into.append(piece)


@given(at=st.lists(st.integers(2, 10_000), max_size=30))
def test_a_packed_body_is_the_same_wherever_it_was_cut(at: list[int]) -> None:
    for coding, packed in (
        ("gzip", gzip.compress(CONTENT)),
        ("x-gzip", gzip.compress(CONTENT[:100]) + gzip.compress(CONTENT[100:])),
        ("deflate", zlib.compress(CONTENT)),
        ("deflate", bare(CONTENT)),
    ):
        inflater = Inflater(coding)
        bounds = [0, *sorted(max(2, position % (len(packed) + 1)) for position in at), len(packed)]
        got: list[bytes] = []
        take(inflater, [packed[start:end] for start, end in pairwise(bounds)], got)
        assert b"".join(got) == CONTENT
        assert not inflater.unfinished


def test_a_body_is_unfinished_until_its_last_byte() -> None:
    inflater = Inflater("gzip")
    packed = gzip.compress(CONTENT)
    assert not inflater.unfinished
    for at in range(len(packed) - 1):
        take(inflater, [packed[at : at + 1]], [])
        assert inflater.unfinished
    take(inflater, [packed[-1:]], [])
    assert not inflater.unfinished


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_what_is_not_packed_as_it_says_is_a_flaw(coding: str) -> None:
    inflater = Inflater(coding)
    inflater.put(b"\xff\xff\xff not packed")
    for _ in range(2):
        with pytest.raises(zlib.error):
            inflater.get()


def test_what_was_unpacked_before_a_flaw_comes_before_it() -> None:
    compress = zlib.compressobj(wbits=31)
    sound = compress.compress(CONTENT) + compress.flush(zlib.Z_SYNC_FLUSH)
    got: list[bytes] = []
    with pytest.raises(zlib.error):
        take(Inflater("gzip"), [sound + b"\xff" * 100], got)
    assert b"".join(got) == CONTENT


@pytest.mark.parametrize("extra", [0, 1, 257, PIECE_BYTES - 1])
def test_what_unpacks_to_very_much_comes_in_pieces_of_a_bounded_size_and_whole(extra: int) -> None:
    content = b"\0" * ((4 << 20) + extra)
    got: list[bytes] = []
    inflater = Inflater("gzip")
    take(inflater, [gzip.compress(content)], got)
    assert b"".join(got) == content
    assert max(len(piece) for piece in got) <= PIECE_BYTES
    assert not inflater.unfinished


@pytest.mark.parametrize("size", [PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, PIECE_BYTES + 200])
def test_content_whose_bytes_have_all_come_is_not_kept_back_for_want_of_room(size: int) -> None:
    packed = gzip.compress(b"\0" * size)
    for came in range(2, len(packed)):
        got: list[bytes] = []
        take(Inflater("gzip"), [packed[:came]], got)
        assert b"".join(got) == zlib.decompressobj(31).decompress(packed[:came])
