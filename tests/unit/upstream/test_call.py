"""The call to the upstream: what it sends, the bytes it returns, and its faults."""

from __future__ import annotations

import gzip
import io
import socket
import ssl
import sys
import threading
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import requests
import responses
from hypothesis import given
from hypothesis import strategies as st
from urllib3.exceptions import MaxRetryError, NameResolutionError

from lib.dialects.protocol import Outgoing
from lib.upstream.call import MARGIN_SECONDS, Head, Session
from lib.upstream.fault import UpstreamFault
from lib.upstream.line import Line
from lib.upstream.response import BUFFER_BYTES, INTERIM_RESPONSES, Response
from tests.unit.upstream.peer import (
    BASE_URL,
    BODY,
    PATH,
    WAIT_SECONDS,
    Blackhole,
    Peer,
    Reader,
    Serve,
    answer,
    call,
    chunked,
    fault_of,
    head,
    rest,
)

URL = f"{BASE_URL}{PATH}"


# What is sent


def test_the_body_is_sent_as_it_is_to_the_upstream_s_address_with_its_key(session: Session, serve: Serve) -> None:
    server = serve(lambda peer: peer.send(head("Content-Length: 0")))
    made = call(session, server.base_url, key="sk-secret")
    made.open()
    made.close()
    sent, _, body = server.requests.get(timeout=WAIT_SECONDS).partition(b"\r\n\r\n")
    line, *fields = sent.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
    assert line == "POST /v1/chat/completions HTTP/1.1"
    assert body == BODY
    assert headers["content-type"] == "application/json"
    assert headers["authorization"] == "Bearer sk-secret"
    assert "text/event-stream" in headers["accept"]
    assert "application/json" in headers["accept"]


def test_a_body_that_was_sent_is_not_kept_while_the_answer_comes(session: Session, serve: Serve) -> None:
    body = b"7" * 1000
    kept = sys.getrefcount(body)
    server = serve(lambda peer: peer.send(head("Content-Length: 2") + b"{"))
    made = call(session, server.base_url, outgoing=Outgoing(path=PATH, body=body))
    made.open()
    assert sys.getrefcount(body) == kept
    made.cut()
    made.close()


@pytest.mark.parametrize("key", ["sk-secret", None])
def test_a_netrc_never_takes_the_authorization_over(
    session: Session, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1\nlogin mallory\npassword guess\ndefault login mallory password guess\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server = serve(lambda peer: peer.send(head("Content-Length: 0")))
    made = call(session, server.base_url, key=key)
    made.open()
    made.close()
    sent = server.requests.get(timeout=WAIT_SECONDS)
    assert (b"Authorization: Bearer sk-secret\r\n" in sent) is (key is not None)
    assert b"Basic" not in sent


@pytest.mark.parametrize("key", ["sk-secret\n", " sk-secret\r\n"])
def test_a_key_is_sent_without_the_line_end_of_the_file_it_came_from(session: Session, serve: Serve, key: str) -> None:
    server = serve(lambda peer: peer.send(head("Content-Length: 0")))
    made = call(session, server.base_url, key=key)
    made.open()
    made.close()
    assert b"Authorization: Bearer sk-secret\r\n" in server.requests.get(timeout=WAIT_SECONDS)


@pytest.mark.parametrize("key", ["sk-se\ncret", "sk-€"])
def test_a_key_that_no_header_can_hold_is_a_fault_that_does_not_tell_the_key(session: Session, key: str) -> None:
    fault = fault_of(call(session, "http://127.0.0.1:1", key=key))
    assert not fault.passing
    assert "sk-" not in f"{fault} {fault.__cause__}"


# What comes back


@pytest.mark.parametrize(
    ("header", "content_type", "media_type"),
    [
        ("Content-Type: text/event-stream", "text/event-stream", "text/event-stream"),
        ("Content-Type: Text/Event-Stream; charset=utf-8", "Text/Event-Stream; charset=utf-8", "text/event-stream"),
        ("content-type:application/json ;x=y", "application/json ;x=y", "application/json"),
        ("Content-Type: text/html", "text/html", "text/html"),
        ("X-Other: 1", "", ""),
    ],
)
def test_the_media_type_is_given_as_it_is_and_decides_nothing_here(
    session: Session, serve: Serve, header: str, content_type: str, media_type: str
) -> None:
    server = serve(lambda peer: peer.send(head(header, "Content-Length: 2") + b"ok"))
    made = call(session, server.base_url)
    assert made.open() == Head(status=200, content_type=content_type, media_type=media_type, retry_after=0.0)
    assert rest(made) == b"ok"
    made.close()


PIECES = [b"data: a\n", b"\n", "data: dí".encode()[:-1], b"\xad\n\n", b"x" * 200_000, b"data: [DONE]\n\n"]


def in_chunks(piece: bytes) -> bytes:
    return chunked(piece)


def as_is(piece: bytes) -> bytes:
    return piece


@pytest.mark.parametrize(
    ("header", "framed", "end"),
    [
        ("Transfer-Encoding: chunked", in_chunks, b"0\r\n\r\n"),
        (f"Content-Length: {sum(map(len, PIECES))}", as_is, b""),
        ("Connection: close", as_is, b""),
    ],
    ids=["chunked", "content-length", "until close"],
)
@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gzip"])
def test_each_piece_of_a_body_arrives_before_the_next_one_is_sent(
    session: Session, serve: Serve, header: str, framed: Callable[[bytes], bytes], end: bytes, compressed: bool
) -> None:
    compress = zlib.compressobj(wbits=31)
    encoded = [compress.compress(piece) + compress.flush(zlib.Z_SYNC_FLUSH) for piece in PIECES]
    encoded[-1] += compress.flush()
    on_the_wire = encoded if compressed else PIECES
    if header.startswith("Content-Length"):
        header = f"Content-Length: {sum(map(len, on_the_wire))}"

    def script(peer: Peer) -> None:
        peer.send(head(header, *(["Content-Encoding: gzip"] if compressed else [])))
        for piece in on_the_wire:
            peer.send(framed(piece))
            peer.wait()
        peer.send(end)
        raise ConnectionError

    server = serve(script)
    made = call(session, server.base_url)
    made.open()
    arrived = b""
    for number, _ in enumerate(PIECES, 1):
        expected = b"".join(PIECES[:number])
        while len(arrived) < len(expected):
            arrived += made.read()
        assert arrived == expected
        server.go_on()
    assert (made.read(), made.read()) == (b"", b"")
    made.close()


def test_a_body_of_nothing_is_no_fault(session: Session, serve: Serve) -> None:
    server = serve(lambda peer: peer.send(head("Content-Length: 0")))
    made = call(session, server.base_url)
    assert answer(made) == b""


def test_a_connection_whose_answer_was_read_to_its_end_is_used_again(session: Session, serve: Serve) -> None:
    server = serve(lambda peer: peer.send(head("Transfer-Encoding: chunked") + chunked(b"ok") + b"0\r\n\r\n"))
    for _ in range(3):
        made = call(session, server.base_url)
        assert answer(made) == b"ok"
    assert server.connections == 1


def test_the_environment_is_asked_once_a_server(
    session: Session, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    ask = requests.Session.merge_environment_settings

    def counted(self: requests.Session, url: str, *more: Any) -> Any:
        asked.append(url)
        return ask(self, url, *more)

    monkeypatch.setattr(requests.Session, "merge_environment_settings", counted)
    servers = [serve(lambda peer: peer.send(head("Content-Length: 0"))) for _ in range(2)]
    for number, server in enumerate(servers * 3):
        answer(call(session, server.base_url, outgoing=Outgoing(path=f"/models/{number}", body=b"{}")))
    assert asked == [f"{server.base_url}/models/{number}" for number, server in enumerate(servers)]


def test_a_connection_whose_answer_was_not_read_to_its_end_is_not_used_again(session: Session, serve: Serve) -> None:
    server = serve(lambda peer: peer.send(head("Transfer-Encoding: chunked") + chunked(b"ok")))
    for _ in range(2):
        made = call(session, server.base_url)
        made.open()
        assert made.read() == b"ok"
        made.close()
    assert server.connections == 2


@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "tls"])
def test_what_has_arrived_together_is_given_together_and_nothing_is_waited_for(
    session: Session, serve: Serve, tls: ssl.SSLContext, trusted: None, over_tls: bool
) -> None:
    chunks = [b"%d;" % number for number in range(50)]

    def script(peer: Peer) -> None:
        peer.send(head("Transfer-Encoding: chunked") + chunked(b"first"))
        peer.wait()
        for chunk in chunks:
            peer.send(chunked(chunk))
        peer.send(b"64\r\nth")
        sent.set()
        peer.wait()
        peer.send(b"x" * 98 + b"\r\n0\r\n\r\n")

    sent = threading.Event()
    server = serve(script, tls if over_tls else None)
    made = call(session, server.base_url)
    made.open()
    assert made.read() == b"first"
    server.go_on()
    assert sent.wait(WAIT_SECONDS)
    expected = b"".join(chunks) + b"th"
    reads, got = 0, b""
    while len(got) < len(expected):
        got += made.read()
        reads += 1
    assert got == expected
    assert reads < len(chunks) / 5
    server.go_on()
    assert rest(made) == b"x" * 98
    made.close()


def test_what_came_before_a_reset_over_tls_is_given_first(
    session: Session, serve: Serve, tls: ssl.SSLContext, trusted: None
) -> None:
    def script(peer: Peer) -> None:
        peer.send(head("Content-Length: 100") + b"one")
        peer.wait()
        peer.send(b"two")
        peer.send(b"three")
        peer.reset()
        sent.set()

    sent = threading.Event()
    server = serve(script, tls)
    made = call(session, server.base_url)
    made.open()
    assert made.read() == b"one"
    server.go_on()
    assert sent.wait(WAIT_SECONDS)
    got = b""
    while len(got) < 8:
        got += made.read()
    assert got == b"twothree"
    with pytest.raises(UpstreamFault, match="broke off"):
        made.read()


def test_what_came_before_a_flaw_in_tls_is_given_first_and_the_flaw_is_no_end(
    session: Session, serve: Serve, tls: ssl.SSLContext, trusted: None
) -> None:
    def script(peer: Peer) -> None:
        peer.send(head("Connection: close") + b"one")
        peer.wait()
        peer.send(b"two")
        peer.send_below_tls(b"no TLS record at all")
        sent.set()
        peer.until_end()

    sent = threading.Event()
    server = serve(script, tls)
    made = call(session, server.base_url)
    made.open()
    assert made.read() == b"one"
    server.go_on()
    assert sent.wait(WAIT_SECONDS)
    assert made.read() == b"two"
    with pytest.raises(UpstreamFault, match="broke off"):
        made.read()


class Wire(socket.socket):
    """A socket that gives what it was made with, one piece a read."""

    def __init__(self, pieces: list[bytes]):
        super().__init__()
        self._pieces = pieces
        self.close()

    def makefile(self, *_: Any, **__: Any) -> Any:
        return io.BufferedReader(Pieces(self._pieces))


class Pieces(io.RawIOBase):
    def __init__(self, pieces: list[bytes]):
        self._pieces = iter(pieces)
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._left = self._left or next(self._pieces, b"")
        part, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


@given(
    at=st.lists(st.integers(0, 10_000), max_size=30),
    sizes=st.lists(st.integers(1, 500), min_size=1, max_size=5),
    ahead=st.integers(1, BUFFER_BYTES),
)
def test_a_chunked_body_is_the_same_wherever_it_was_cut(at: list[int], sizes: list[int], ahead: int) -> None:
    content = b"data: a\n\n" + bytes(range(256)) * 10 + b"0\r\n\r\n5\r\nhello\r\n"
    sent, left = b"", content
    while left:
        size = sizes[len(sent) % len(sizes)]
        sent += chunked(left[:size])
        left = left[size:]
    sent += b"3;name=value\r\nend\r\n0\r\nChecksum: 1\r\n\r\n"
    sent = head("Transfer-Encoding: chunked") + sent
    bounds = [0, *sorted(position % (len(sent) + 1) for position in at), len(sent)]
    with Line(1.0).carrying():
        response = Response(Wire([sent[start:end] for start, end in pairwise(bounds) if start < end]))
        response.begin()
        got = b""
        while piece := response.read1(ahead):
            got += piece
            assert len(piece) <= ahead
        assert got == content + b"end"
        assert response.isclosed()


def test_what_was_read_together_with_the_head_is_part_of_the_body(session: Session, serve: Serve) -> None:
    def script(peer: Peer) -> None:
        peer.send(head("Transfer-Encoding: chunked") + chunked(b"x" * 3000))
        peer.wait()

    made = call(session, serve(script).base_url)
    made.open()
    got = b""
    while len(got) < 3000:
        got += made.read()
    assert got == b"x" * 3000
    made.close()


@pytest.mark.parametrize(
    "sent",
    [
        head("Content-Length: 2") + b"ok and more",
        head("Transfer-Encoding: chunked") + chunked(b"ok") + b"0\r\n\r\n" + head("Content-Length: 0"),
    ],
    ids=["length", "chunked"],
)
def test_a_connection_on_which_more_came_than_the_answer_is_not_used_again(
    session: Session, serve: Serve, sent: bytes
) -> None:
    server = serve(lambda peer: peer.send(sent))
    for _ in range(2):
        assert answer(call(session, server.base_url)) == b"ok"
    assert server.connections == 2


@pytest.mark.parametrize("count", [1, 3])
def test_interim_responses_are_passed_over_and_the_connection_is_used_again(
    session: Session, serve: Serve, count: int
) -> None:
    interim = head("Link: </style.css>; rel=preload", status="103 Early Hints")
    interim += head(status="102 Processing") + head(status="100 Continue")
    final = head("Content-Type: text/event-stream", "Transfer-Encoding: chunked") + chunked(b"ok") + b"0\r\n\r\n"
    server = serve(lambda peer: peer.send(interim * count + final))
    for _ in range(2):
        made = call(session, server.base_url)
        seen = made.open()
        assert (seen.status, seen.media_type) == (200, "text/event-stream")
        assert rest(made) == b"ok"
        made.close()
    assert server.connections == 1


def test_interim_responses_without_end_are_a_fault(session: Session, serve: Serve) -> None:
    server = serve(lambda peer: peer.send(head(status="103 Early Hints") * (INTERIM_RESPONSES + 1)))
    fault = fault_of(call(session, server.base_url))
    assert (fault.reason, fault.passing) == ("upstream_unreachable", True)


def test_a_cookie_of_one_call_does_not_go_out_with_the_next(session: Session, serve: Serve) -> None:
    server = serve(lambda peer: peer.send(head("Set-Cookie: user=one; Path=/", "Content-Length: 0")))
    for _ in range(2):
        answer(call(session, server.base_url))
        assert b"cookie" not in server.requests.get(timeout=WAIT_SECONDS).lower()
    assert not session.cookies


# How a body is coded


@pytest.mark.parametrize("coding", ["gzip", "X-GZip", "deflate", "identity", "", "identity, gzip"])
def test_a_coding_that_was_asked_for_or_is_as_common_is_undone(session: Session, serve: Serve, coding: str) -> None:
    sent = gzip.compress(b"ok") if "gzip" in coding.lower() else zlib.compress(b"ok") if coding == "deflate" else b"ok"
    server = serve(lambda peer: peer.send(head(f"Content-Encoding: {coding}", f"Content-Length: {len(sent)}") + sent))
    assert answer(call(session, server.base_url)) == b"ok"
    assert b"Accept-Encoding: gzip\r\n" in server.requests.get(timeout=WAIT_SECONDS)


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, br", "b\x1br\xff"])
def test_an_unrequested_coding_is_a_fault_that_says_what_to_do(session: Session, serve: Serve, coding: str) -> None:
    def script(peer: Peer) -> None:
        peer.send(f"HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\nContent-Length: 2\r\n\r\nok".encode("latin-1"))
        peer.until_end()

    server = serve(script)
    fault = fault_of(call(session, server.base_url))
    assert (fault.reason, fault.status, fault.passing) == ("upstream_encoding", 502, False)
    assert "gzip" in fault.message
    assert fault.message.isprintable()
    assert server.sees_the_end()


def test_a_refusal_in_an_unrequested_coding_has_a_status_and_nothing_to_read(session: Session, serve: Serve) -> None:
    refusal = head("Content-Encoding: br", "Content-Length: 2", status="429 Too Many Requests")
    server = serve(lambda peer: peer.send(refusal + b"ok"))
    made = call(session, server.base_url)
    assert made.open().status == 429
    assert made.read() == b""
    made.close()


@pytest.mark.parametrize(
    ("header", "breaks"), [("Connection: close", True), ("Content-Length: {}", False)], ids=["until close", "length"]
)
def test_a_compressed_body_without_its_end_is_broken_unless_its_length_says_that_it_is_whole(
    session: Session, serve: Serve, header: str, breaks: bool
) -> None:
    compress = zlib.compressobj(wbits=31)
    sent = compress.compress(b"data: a\n\n") + compress.flush(zlib.Z_SYNC_FLUSH)

    def script(peer: Peer) -> None:
        peer.send(head("Content-Encoding: gzip", header.format(len(sent))) + sent)
        raise ConnectionError

    made = call(session, serve(script).base_url)
    made.open()
    assert made.read() == b"data: a\n\n"
    if breaks:
        with pytest.raises(UpstreamFault, match="broke off"):
            made.read()
    else:
        assert made.read() == b""
    made.close()


# A body that breaks off


@pytest.mark.parametrize(
    "sent",
    [
        head("Content-Length: 100") + b"data: a\n\n",
        head("Transfer-Encoding: chunked") + chunked(b"data: a\n\n"),
        head("Transfer-Encoding: chunked") + b"64\r\ndata: a\n\n",
        head("Transfer-Encoding: chunked") + chunked(b"data: a\n\n") + b"zz\r\n",
    ],
    ids=["content-length", "between chunks", "in a chunk", "no chunk"],
)
def test_a_body_that_breaks_off_is_a_fault_after_all_that_came(session: Session, serve: Serve, sent: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.send(sent)
        raise ConnectionError

    made = call(session, serve(script).base_url)
    made.open()
    assert made.read() == b"data: a\n\n"
    for _ in range(2):
        with pytest.raises(UpstreamFault) as broken:
            made.read()
        assert (broken.value.reason, broken.value.passing) == ("upstream_disconnected", True)
    made.close()


def test_what_came_before_the_break_is_given_first(session: Session, serve: Serve) -> None:
    def script(peer: Peer) -> None:
        peer.send(head("Connection: close") + b"data: a\n\ndata: b")
        peer.wait()
        peer.reset()
        raise ConnectionError

    server = serve(script)
    made = call(session, server.base_url)
    made.open()
    arrived = b""
    while len(arrived) < 16:
        arrived += made.read()
    assert arrived == b"data: a\n\ndata: b"
    server.go_on()
    with pytest.raises(UpstreamFault) as broken:
        made.read()
    made.close()
    assert broken.value.reason == "upstream_disconnected"
    assert broken.value.passing
    assert "reset by peer" not in broken.value.message


def test_a_body_that_is_not_in_the_encoding_it_says_is_a_fault(session: Session, serve: Serve) -> None:
    server = serve(lambda peer: peer.send(head("Content-Encoding: gzip", "Content-Length: 6") + b"nogzip"))
    assert fault_of(call(session, server.base_url)).reason == "upstream_disconnected"


def test_a_body_that_falls_silent_is_a_fault_in_the_end(session: Session, serve: Serve) -> None:
    def script(peer: Peer) -> None:
        peer.send(head("Transfer-Encoding: chunked") + chunked(b"data: a\n\n"))
        peer.wait()

    fault = fault_of(call(session, serve(script).base_url, silence=0.2 - MARGIN_SECONDS))
    assert (fault.reason, fault.passing) == ("upstream_disconnected", True)


# An answer that is none


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 408, 429, 500, 503, 529, 599, 101, 600])
def test_any_final_status_is_an_answer_with_a_body(session: Session, serve: Serve, status: int) -> None:
    body = b"" if status == 101 else b'{"error":{"message":"No."}}'
    headers = ("Content-Type: application/json; charset=utf-8", "Retry-After: 2.5", f"Content-Length: {len(body)}")
    server = serve(lambda peer: peer.send(head(*headers, status=f"{status} Whatever") + body))
    made = call(session, server.base_url)
    seen = made.open()
    assert (seen.status, seen.media_type, seen.retry_after) == (status, "application/json", 2.5)
    assert rest(made) == body
    made.close()
    assert server.requests.qsize() == 1


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent", "304 Not"])
def test_a_redirect_is_never_followed_and_the_key_stays_here(session: Session, serve: Serve, status: str) -> None:
    def script(peer: Peer) -> None:
        peer.send(head("Location: /elsewhere", "Transfer-Encoding: chunked", status=status) + chunked(b"over there"))
        peer.until_end()

    server = serve(script)
    made = call(session, server.base_url, key="sk-secret")
    assert made.open().status == int(status[:3])
    made.close()
    assert server.sees_the_end()
    assert server.requests.qsize() == 1


def test_of_a_refusal_that_breaks_off_what_came_can_be_read(session: Session, serve: Serve) -> None:
    def script(peer: Peer) -> None:
        peer.send(head("Content-Length: 100", status="503 Unavailable") + b"try later")
        raise ConnectionError

    made = call(session, serve(script).base_url)
    assert made.open().status == 503
    assert made.read() == b"try later"
    with pytest.raises(UpstreamFault):
        made.read()
    made.close()


def test_a_request_that_a_kept_connection_loses_is_not_sent_again(session: Session, serve: Serve) -> None:
    answers = iter([head("Content-Length: 2") + b"ok"])

    def script(peer: Peer) -> None:
        peer.send(next(answers, b""))
        if server.requests.qsize() > 1:
            raise ConnectionError

    server = serve(script)
    assert answer(call(session, server.base_url)) == b"ok"
    fault = fault_of(call(session, server.base_url))
    assert (fault.reason, fault.passing) == ("upstream_unreachable", True)
    assert (server.requests.qsize(), server.connections) == (2, 1)


def test_a_host_with_no_address_that_answers_is_tried_at_each_of_them(
    session: Session, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(lambda peer: peer.send(head("Content-Length: 2") + b"ok"))
    with Blackhole() as hole:
        addresses = [("127.0.0.1", 1), ("127.0.0.1", hole.port), ("127.0.0.1", server.port)]
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *asked, **how: found)
        assert answer(call(session, "http://upstream.example/v1", connect=1.0)) == b"ok"


def test_a_connect_without_an_answer_is_a_fault_in_the_end(session: Session) -> None:
    with Blackhole() as hole:
        fault = fault_of(call(session, f"http://127.0.0.1:{hole.port}/v1", connect=0.1))
    assert (fault.reason, fault.status, fault.passing) == ("upstream_unreachable", 504, True)


def test_an_unknown_name_is_a_fault_that_can_pass(session: Session) -> None:
    for name in ("upstream.invalid", f"{'x' * 64}.example"):
        fault = fault_of(call(session, f"http://{name}/v1"))
        assert (fault.reason, fault.status, fault.passing) == ("upstream_unreachable", 502, True)


def test_a_connection_that_is_refused_is_a_fault_that_can_pass(session: Session) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    fault = fault_of(call(session, f"http://127.0.0.1:{port}/v1"))
    assert (fault.reason, fault.status, fault.passing) == ("upstream_unreachable", 502, True)
    assert "127.0.0.1" not in fault.message


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n"])
def test_a_connection_that_ends_without_an_answer_is_a_fault_that_can_pass(
    session: Session, serve: Serve, answer: bytes
) -> None:
    def script(peer: Peer) -> None:
        peer.send(answer)
        raise ConnectionError

    fault = fault_of(call(session, serve(script).base_url))
    assert (fault.reason, fault.status, fault.passing) == ("upstream_unreachable", 502, True)


@pytest.mark.parametrize(
    ("error", "reason", "status", "passing"),
    [
        (
            requests.ConnectionError(
                MaxRetryError(
                    None,  # type: ignore[arg-type]
                    URL,
                    NameResolutionError("upstream.example", None, socket.gaierror(-2, "unknown")),  # type: ignore[arg-type]
                )
            ),
            "upstream_unreachable",
            502,
            True,
        ),
        (requests.ConnectTimeout("10.0.0.1"), "upstream_unreachable", 504, True),
        (requests.ReadTimeout("10.0.0.1"), "upstream_timeout", 504, True),
        (requests.exceptions.ProxyError("10.0.0.1"), "upstream_unreachable", 502, True),
        (requests.exceptions.InvalidURL("10.0.0.1"), "upstream_unreachable", 502, False),
    ],
    ids=["name", "connect", "read", "proxy", "url"],
)
def test_what_keeps_an_upstream_from_being_reached_is_told_by_its_kind(
    session: Session,
    web: responses.RequestsMock,
    error: requests.RequestException,
    reason: str,
    status: int,
    passing: bool,
) -> None:
    web.post(URL, body=error)
    fault = fault_of(call(session))
    assert (fault.reason, fault.status, fault.passing) == (reason, status, passing)
    assert "10.0.0.1" not in fault.message
    assert fault.__cause__ is error


def test_an_untrusted_certificate_is_a_fault_that_will_not_pass(
    session: Session, serve: Serve, tls: ssl.SSLContext
) -> None:
    fault = fault_of(call(session, serve(Peer.wait, tls).base_url))
    assert (fault.reason, fault.status, fault.passing) == ("upstream_tls", 502, False)


def test_an_upstream_that_does_not_begin_to_answer_is_a_fault_that_can_pass(session: Session, serve: Serve) -> None:
    fault = fault_of(call(session, serve(Peer.wait).base_url, silence=0.2 - MARGIN_SECONDS))
    assert (fault.reason, fault.status, fault.passing) == ("upstream_timeout", 504, True)


# Through a proxy


def proxied(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, proxy)


def test_a_proxy_of_the_environment_is_used(session: Session, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = serve(lambda peer: peer.send(head("Content-Length: 2") + b"ok"))
    proxied(monkeypatch, f"http://127.0.0.1:{proxy.port}")
    for _ in range(2):
        assert answer(call(session)) == b"ok"
        assert proxy.requests.get(timeout=WAIT_SECONDS).startswith(f"POST {URL} HTTP/1.1\r\n".encode())
    assert proxy.connections == 1


def test_a_tunnel_through_a_proxy_is_used_again_and_can_be_cut(
    session: Session, serve: Serve, tls: ssl.SSLContext, trusted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(peer: Peer) -> None:
        assert peer.request().startswith(b"CONNECT 127.0.0.1:9 ")
        peer.send(b"HTTP/1.1 200 Connected\r\n\r\n")
        with peer.speak_tls(tls):
            for _ in range(2):
                peer.request()
                peer.send(head("Transfer-Encoding: chunked") + chunked(b"ok") + b"0\r\n\r\n")
            peer.request()
            peer.until_end()

    proxy = serve(script, raw=True)
    proxied(monkeypatch, f"http://127.0.0.1:{proxy.port}")
    for _ in range(2):
        assert answer(call(session, "https://127.0.0.1:9/v1")) == b"ok"
    made = call(session, "https://127.0.0.1:9/v1")
    reader = Reader(made)
    reader.join(0.1)
    made.cut()
    assert reader.ends()
    assert proxy.sees_the_end()
    assert proxy.connections == 1


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_refuses_is_a_fault_that_can_pass(
    session: Session, serve: Serve, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    def script(peer: Peer) -> None:
        peer.read()
        raise ConnectionError

    proxy = serve(script, raw=True)
    proxied(monkeypatch, f"http://127.0.0.1:{proxy.port}")
    fault = fault_of(call(session, f"{scheme}://127.0.0.1:9/v1"))
    assert (fault.reason, fault.status, fault.passing) == ("upstream_unreachable", 502, True)
