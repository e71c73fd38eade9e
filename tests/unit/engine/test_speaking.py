"""The played upstream leaves no thread that spins, which would take a core from all later tests of its process."""

from __future__ import annotations

import socket

import pytest

from tests.unit.engine.speaking import request_of


@pytest.mark.parametrize("sent", [b"", b"POST / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n{"])
def test_a_caller_that_leaves_amid_its_request_is_noticed(sent: bytes) -> None:
    here, there = socket.socketpair()
    with here:
        with there:
            there.sendall(sent)
        with pytest.raises(ConnectionError):
            request_of(here)
