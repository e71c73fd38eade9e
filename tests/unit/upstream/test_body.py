"""An HTTP body's framing and coding: the same content wherever the bytes were cut, and a flaw after all before it."""

from __future__ import annotations

import gzip
import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.upstream.body import LINE_BYTES, PIECE_BYTES, TRAILER_BYTES, BadBody, Body

CONTENT = b"data: a\n\n" + bytes(range(256)) * 10 + b"0\r\n\r\n"


def chunked(content: bytes, sizes: list[int], end: bytes = b"0\r\n\r\n") -> bytes:
    out = b""
    while content:
        size = sizes[len(out) % len(sizes)]
        out += b"%x\r\n%b\r\n" % (len(content[:size]), content[:size])
        content = content[size:]
    return out + end


def cut(data: bytes, at: list[int]) -> list[bytes]:
    bounds = [0, *sorted(position % (len(data) + 1) for position in at), len(data)]
    return [data[start:end] for start, end in pairwise(bounds)]


def fed(body: Body, *received: bytes) -> bytes:
    return b"".join(piece for data in received for piece in body.feed(data))


def take(body: Body, received: list[bytes], into: list[bytes]) -> None:
    for data in received:
        for piece in body.feed(data):
            into.append(piece)


@given(at=st.lists(st.integers(0, 10_000), max_size=30), sizes=st.lists(st.integers(1, 500), min_size=1, max_size=5))
def test_a_chunked_body_is_the_same_wherever_it_was_cut(at: list[int], sizes: list[int]) -> None:
    body = Body(chunked=True, length=None)
    assert fed(body, *cut(chunked(CONTENT, sizes), at)) == CONTENT
    assert (body.ended, body.surplus) == (True, False)
    body.close()


def test_data_that_looks_like_chunks_is_data_wherever_it_was_cut() -> None:
    content = b"5\r\nhello\r\n0\r\n\r\n"
    sent = chunked(content, [len(content)])
    for at in range(len(sent)):
        body = Body(chunked=True, length=None)
        assert fed(body, sent[:at], sent[at:]) == content
        assert (body.ended, body.surplus) == (True, False)


@given(at=st.lists(st.integers(0, 10_000), max_size=30), framing=st.sampled_from(["chunked", "length", "close"]))
def test_a_packed_body_is_the_same_wherever_it_was_cut(at: list[int], framing: str) -> None:
    for coding, packed in (
        ("gzip", gzip.compress(CONTENT)),
        ("X-GZip", gzip.compress(CONTENT[:100]) + gzip.compress(CONTENT[100:])),
        ("deflate", zlib.compress(CONTENT)),
    ):
        sent = chunked(packed, [7, 90]) if framing == "chunked" else packed
        length = len(packed) if framing == "length" else None
        body = Body(chunked=framing == "chunked", length=length, coding=coding)
        assert fed(body, *cut(sent, at)) == CONTENT
        body.close()
        assert body.ended


def test_a_body_of_a_known_length_ends_with_it() -> None:
    body = Body(chunked=False, length=5)
    assert (fed(body, b"abc"), body.ended) == (b"abc", False)
    assert (fed(body, b"de"), body.ended, body.surplus) == (b"de", True, False)
    assert Body(chunked=False, length=0).ended


def test_a_body_without_a_length_ends_with_its_connection() -> None:
    body = Body(chunked=False, length=None)
    assert (fed(body, b"abc"), body.ended) == (b"abc", False)
    body.close()
    assert body.ended


def test_what_is_known_of_an_extension_and_a_trailer_is_nothing() -> None:
    body = Body(chunked=True, length=None)
    assert fed(body, b"3;name=value\r\nabc\r\n2 ; x\nde\n0\r\nChecksum: 1\r\nMore: 2\r\n\r\n") == b"abcde"
    assert body.ended


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (Body(chunked=True, length=None), b"1\r\na\r\n0\r\n\r\nHTTP/1.1 200 OK"),
        (Body(chunked=False, length=1), b"aHTTP/1.1 200 OK"),
    ],
    ids=["chunked", "length"],
)
def test_what_comes_after_the_end_is_not_of_the_body_and_is_told(body: Body, sent: bytes) -> None:
    assert fed(body, sent) == b"a"
    assert (body.ended, body.surplus) == (True, True)


@pytest.mark.parametrize(
    "sent",
    [b"zz\r\n", b"-1\r\n", b"\r\n", b"1" * 16 + b"\r\n", b"1\r\nabc\r\n", b"g" * (LINE_BYTES + 1), b"<html>\r\n"],
    ids=["no size", "negative", "empty", "beyond reason", "longer than it says", "endless line", "no chunks"],
)
def test_a_flaw_is_told_after_all_that_came_before_it(sent: bytes) -> None:
    for parts in (
        [b"2\r\nok\r\n" + sent],
        [b"2\r\nok\r\n", sent],
        [b"2\r\nok\r\n", *(sent[at : at + 1] for at in range(len(sent)))],
    ):
        body = Body(chunked=True, length=None)
        got: list[bytes] = []
        with pytest.raises(BadBody):
            take(body, parts, got)
        assert b"".join(got).startswith(b"ok")


def test_a_trailer_has_a_bound() -> None:
    body = Body(chunked=True, length=None)
    with pytest.raises(BadBody):
        fed(body, b"0\r\n", *[b"Name: " + b"x" * 1000 + b"\r\n"] * (TRAILER_BYTES // 1000 + 1))


@pytest.mark.parametrize("sent", [b"", b"5", b"5\r\n", b"5\r\nabcde", b"5\r\nabcde\r\n", b"0\r\n", b"0\r\nName: x\r\n"])
def test_a_chunked_body_that_is_cut_off_is_not_whole(sent: bytes) -> None:
    body = Body(chunked=True, length=None)
    fed(body, sent)
    with pytest.raises(BadBody):
        body.close()


def test_a_body_of_a_known_length_that_is_cut_off_is_not_whole() -> None:
    body = Body(chunked=False, length=5)
    fed(body, b"abcd")
    with pytest.raises(BadBody):
        body.close()


def test_what_is_not_packed_as_it_says_is_a_flaw() -> None:
    with pytest.raises(BadBody):
        fed(Body(chunked=False, length=6, coding="gzip"), b"nogzip")


def test_what_was_unpacked_before_a_flaw_comes_before_it() -> None:
    compress = zlib.compressobj(wbits=31)
    sound = compress.compress(CONTENT) + compress.flush(zlib.Z_SYNC_FLUSH)
    got: list[bytes] = []
    with pytest.raises(BadBody):
        take(Body(chunked=False, length=None, coding="gzip"), [sound + b"\xff" * 100], got)
    assert b"".join(got) == CONTENT


def test_what_unpacks_to_very_much_comes_in_pieces_of_a_bounded_size() -> None:
    packed = gzip.compress(b"\0" * (20 << 20))
    pieces = Body(chunked=False, length=len(packed), coding="gzip").feed(packed)
    sizes = [len(piece) for piece in pieces]
    assert sum(sizes) == 20 << 20
    assert max(sizes) <= PIECE_BYTES
