"""A call can be cut at any moment: the upstream sees the end, whoever waits is woken, and nothing is sent after it."""

from __future__ import annotations

import gc
import select
import socket
import ssl
import threading
from typing import Any

import pytest

from lib.dialects.protocol import Outgoing
from lib.upstream.call import Session, new_session
from lib.upstream.connection import TlsSocket
from lib.upstream.fault import UpstreamFault
from tests.unit.upstream.peer import (
    WAIT_SECONDS,
    Blackhole,
    Peer,
    Reader,
    Serve,
    answer,
    call,
    chunked,
    descriptors,
    eventually,
    fault_of,
    head,
)

FOREVER = 10 * WAIT_SECONDS
EVENTS = head("Transfer-Encoding: chunked") + chunked(b"data: a\n\n")


def is_cut(reader: Reader) -> bool:
    return reader.ends() and reader.fault is not None and reader.fault.reason == "cancelled"


def test_while_a_name_is_resolved(session: Session, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    resolving, resolved = threading.Event(), threading.Event()
    resolve = socket.getaddrinfo

    def slow(*asked: Any, **how: Any) -> Any:
        resolving.set()
        assert resolved.wait(WAIT_SECONDS)
        return resolve(*asked, **how)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    server = serve(Peer.until_end, raw=True)
    made = call(session, server.base_url)
    reader = Reader(made)
    assert resolving.wait(WAIT_SECONDS)
    made.cut()
    resolved.set()
    assert is_cut(reader)
    assert not reader.opened
    with socket.create_connection(("127.0.0.1", server.port)):
        pass  # whoever connected before this was accepted before it
    assert server.sees_the_end()
    assert server.connections == 1


def test_while_it_connects(session: Session) -> None:
    with Blackhole() as hole:
        before = descriptors()
        made = call(session, f"http://127.0.0.1:{hole.port}/v1", connect=FOREVER)
        reader = Reader(made)
        assert eventually(lambda: descriptors() > before)
        reader.join(0.1)
        made.cut()
        assert is_cut(reader)
        assert descriptors() == before


def test_in_the_handshake_of_tls(session: Session, serve: Serve) -> None:
    def script(peer: Peer) -> None:
        peer.read()
        greeted.set()
        peer.until_end()

    greeted = threading.Event()
    server = serve(script, raw=True, scheme="https")
    made = call(session, server.base_url, connect=FOREVER, silence=FOREVER)
    reader = Reader(made)
    assert greeted.wait(WAIT_SECONDS)
    made.cut()
    assert server.sees_the_end()
    assert is_cut(reader)


@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "tls"])
def test_while_a_big_body_is_sent(
    session: Session, serve: Serve, tls: ssl.SSLContext, trusted: None, over_tls: bool
) -> None:
    def script(peer: Peer) -> None:
        peer.read()
        begun.set()
        peer.wait()
        try:
            while True:
                peer.read()
        except ConnectionResetError:
            was_reset.set()

    begun, was_reset = threading.Event(), threading.Event()
    server = serve(script, tls if over_tls else None, raw=True)
    outgoing = Outgoing(path="/", body=bytes(64 << 20))
    made = call(session, server.base_url, connect=FOREVER, silence=FOREVER, outgoing=outgoing)
    reader = Reader(made)
    assert begun.wait(WAIT_SECONDS)
    reader.join(0.1)
    made.cut()
    assert is_cut(reader)
    server.go_on()
    assert server.sees_the_end()
    assert was_reset.is_set() or over_tls, "the kernel goes on to send what it has"


@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("kept", [False, True], ids=["new connection", "kept connection"])
def test_while_it_waits_for_the_status_line(
    session: Session, serve: Serve, tls: ssl.SSLContext, trusted: None, over_tls: bool, kept: bool
) -> None:
    answers = iter([head("Content-Length: 2") + b"ok"] if kept else [])

    def script(peer: Peer) -> None:
        if sent := next(answers, b""):
            peer.send(sent)
        else:
            asked.set()
            peer.until_end()
            raise ConnectionError

    asked = threading.Event()
    server = serve(script, tls if over_tls else None)
    if kept:
        assert answer(call(session, server.base_url)) == b"ok"
    made = call(session, server.base_url, silence=FOREVER)
    reader = Reader(made)
    assert asked.wait(WAIT_SECONDS)
    reader.join(0.05)
    made.cut()
    assert server.sees_the_end()
    assert is_cut(reader)
    assert not reader.opened
    assert reader.fault is not None
    assert not reader.fault.passing
    assert server.connections == 1


@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize(
    "sent",
    [
        EVENTS,
        head("Transfer-Encoding: chunked") + b"64\r\ndata: a\n\n",
        head("Content-Length: 100") + b"data: a\n\n",
        head("Connection: close") + b"data: a\n\n",
    ],
    ids=["between chunks", "in a chunk", "content-length", "until close"],
)
def test_while_it_reads_a_body_that_is_silent(
    session: Session, serve: Serve, tls: ssl.SSLContext, trusted: None, over_tls: bool, sent: bytes
) -> None:
    def script(peer: Peer) -> None:
        peer.send(sent)
        peer.until_end()
        raise ConnectionError

    server = serve(script, tls if over_tls else None)
    made = call(session, server.base_url, silence=FOREVER)
    reader = Reader(made)
    assert reader.arrived.get(timeout=WAIT_SECONDS) == b"data: a\n\n"
    reader.join(0.05)
    assert reader.is_alive()
    made.cut()
    assert server.sees_the_end()
    assert is_cut(reader)
    assert reader.arrived.empty()


def test_between_two_reads(session: Session, serve: Serve) -> None:
    def script(peer: Peer) -> None:
        peer.send(EVENTS)
        peer.until_end()
        raise ConnectionError

    server = serve(script)
    made = call(session, server.base_url)
    made.open()
    made.read()
    made.cut()
    assert server.sees_the_end(), "it waits for whoever reads"
    for _ in range(2):
        with pytest.raises(UpstreamFault, match="cancelled"):
            made.read()
    made.cut()
    made.close()


def test_before_it_opens_and_after_its_end_it_does_no_harm(session: Session, serve: Serve) -> None:
    server = serve(lambda peer: peer.send(head("Content-Length: 2") + b"ok"))
    early = call(session, server.base_url)
    early.cut()
    assert fault_of(early).reason == "cancelled"
    assert server.connections == 0
    late = call(session, server.base_url)
    assert answer(late) == b"ok"
    late.cut()
    late.close()
    late.cut()
    never = call(session)
    never.close()
    never.cut()


@pytest.mark.parametrize("closed", [False, True], ids=["read to its end", "closed"])
def test_of_a_call_that_has_ended_it_leaves_the_next_one_on_its_connection_alone(
    session: Session, serve: Serve, closed: bool
) -> None:
    answers = iter([b"ok", b"data: a\n\n"])

    def script(peer: Peer) -> None:
        body = next(answers)
        peer.send(head("Transfer-Encoding: chunked") + chunked(body))
        if body != b"ok":
            peer.wait()
        peer.send(b"0\r\n\r\n")

    server = serve(script)
    ended = call(session, server.base_url)
    ended.open()
    assert (ended.read(), ended.read()) == (b"ok", b"")
    if closed:
        ended.close()
    following = call(session, server.base_url)
    following.open()
    assert following.read() == b"data: a\n\n"
    ended.cut()
    server.go_on()
    assert following.read() == b""
    following.close()
    ended.close()
    assert server.connections == 1


def test_no_descriptor_is_left_behind_however_calls_end(serve: Serve, tls: ssl.SSLContext, trusted: None) -> None:
    ways = [
        head("Content-Length: 2") + b"ok",
        EVENTS + b"0\r\n\r\n",
        head("Connection: close") + b"ok",
        head("Content-Length: 9") + b"ok",
        head("Content-Length: 2", "Content-Encoding: br") + b"ok",
        head("Content-Length: 2") + b"ok and more",
        b"nonsense",
        EVENTS,
    ]

    def script(peer: Peer) -> None:
        sent = ways[len(seen) % len(ways)]
        seen.append(sent)
        peer.send(sent)
        if sent in ways[2:]:
            raise ConnectionError

    seen: list[bytes] = []
    servers = [serve(script), serve(script, tls)]
    before = descriptors()
    with new_session() as session, Blackhole() as hole:
        for number in range(60):
            made = call(session, servers[number % 2].base_url, silence=FOREVER)
            reader = Reader(made)
            if number % 5 == 4:
                made.cut()
            assert reader.ends()
        for _ in range(3):
            made = call(session, f"http://127.0.0.1:{hole.port}/v1")
            reader = Reader(made)
            reader.join(0.02)
            made.cut()
            assert is_cut(reader)
    assert len(set(seen)) == len(ways)
    for server in servers:
        server.close()
    gc.collect()  # urllib3 closes the kept connections with their pool; whatever else this closes, warns
    assert eventually(lambda: descriptors() <= before - len(servers))


def test_a_connection_that_ends_before_the_handshake_of_tls_leaves_no_descriptor() -> None:
    context = ssl.create_default_context()
    context.sslsocket_class = TlsSocket
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours = socket.create_connection(listening.getsockname())
        theirs, _ = listening.accept()
        Peer(theirs, threading.Event()).reset()
        assert select.select([ours], [], [], WAIT_SECONDS)[0]
        before = descriptors()
        with pytest.raises(ConnectionError) as raised:
            context.wrap_socket(ours, server_hostname="upstream.example")
        assert raised.value  # it keeps the frames, and with them the socket
        assert descriptors() == before - 1
