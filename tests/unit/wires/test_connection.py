"""Whether a client is still there is known from its connection, and a read has its time."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator

import pytest
from flask import Flask

from lib.wires.connection import departure


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The client's end of a TCP connection, and the server's."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        server, _ = listening.accept()
    with client, server:
        yield client, server


def watching(server: socket.socket) -> Callable[[], bool]:
    with Flask(__name__).test_request_context(environ_overrides={"gunicorn.socket": server}):
        return departure()


def test_a_client_that_waits_or_still_sends_is_there(ends: tuple[socket.socket, socket.socket]) -> None:
    client, server = ends
    left = watching(server)
    assert not left()
    client.sendall(b"the next request")
    assert not left()


@pytest.mark.parametrize("sent", [b"", b"bytes that nobody reads"])
def test_a_client_that_hangs_up_has_left_even_behind_bytes_that_nobody_reads(
    ends: tuple[socket.socket, socket.socket], sent: bytes
) -> None:
    client, server = ends
    left = watching(server)
    client.sendall(sent)
    client.close()
    assert left()
    assert left()


def test_a_client_that_is_cut_off_has_left(ends: tuple[socket.socket, socket.socket]) -> None:
    client, server = ends
    left = watching(server)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    assert left()


def test_a_connection_that_the_server_has_closed_is_no_client(ends: tuple[socket.socket, socket.socket]) -> None:
    _, server = ends
    left = watching(server)
    server.close()
    assert left()


def test_without_a_server_nobody_leaves() -> None:
    with Flask(__name__).test_request_context():
        assert not departure()()
