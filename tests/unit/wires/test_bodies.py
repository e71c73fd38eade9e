"""Bodies are read within limits of bytes, nodes, time, and of what a process holds, before anything is parsed."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from flask import Flask, Response, request

from lib.domain.errors import HoldfastError, InvalidRequest, TooLarge, TooManyRequests, TooSlow, UnsupportedMediaType
from lib.runtime.settings import Settings
from lib.wires.bodies import Bodies
from tests.unit.wires.test_api import NEEDED

PATIENCE = 20.0


class Incoming:
    """A body that comes over a connection, as the server gives it: to its length, or to the end of the connection."""

    def __init__(self, connection: socket.socket, length: int | None):
        self._connection = connection
        self._left = length

    def read(self, size: int) -> bytes:
        piece = self._connection.recv(size if self._left is None else min(size, self._left))
        if self._left is not None:
            self._left -= len(piece)
        return piece


@pytest.fixture
def line() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The client's end of a connection, and the server's."""
    client, server = socket.socketpair()
    with client, server:
        server.settimeout(PATIENCE)
        yield client, server


def bodies(**changed: str) -> Bodies:
    return Bodies(Settings.from_env({**NEEDED, "THREADS": "40", "MAX_REQUEST_BYTES": "1000", **changed}))


def asked(body: bytes = b"{}", **more: Any) -> Any:
    """The context of a request with this body."""
    app = Flask(__name__)
    return app.test_request_context(
        method="POST", data=body, content_type=more.pop("content_type", "application/json"), **more
    )


def coming(server: socket.socket, length: int | None) -> Any:
    """The context of a request whose body is still coming."""
    environ = {"wsgi.input": Incoming(server, length), "wsgi.input_terminated": True, "gunicorn.socket": server}
    more = {"CONTENT_LENGTH": str(length)} if length is not None else {"HTTP_TRANSFER_ENCODING": "chunked"}
    return asked(b"", environ_overrides={**environ, **more})


def refused(ours: Bodies, user: str = "alice") -> Any:
    with pytest.raises(HoldfastError) as caught, ours.json(user):
        pass
    return caught.value


def test_a_body_is_given_as_it_came() -> None:
    with asked(b' {"a": [1]}'), bodies().json("alice") as body:
        assert body == b' {"a": [1]}'


def test_a_body_that_comes_in_pieces_is_put_together(line: tuple[socket.socket, socket.socket]) -> None:
    client, server = line
    client.sendall(b'{"a"')
    client.sendall(b":1}")
    with coming(server, 7), bodies().json("alice") as body:
        assert body == b'{"a":1}'


def test_what_is_no_json_is_not_read() -> None:
    with asked(b"a=b", content_type="text/plain"):
        assert isinstance(refused(bodies()), UnsupportedMediaType)
        assert request.environ["wsgi.input"].read() == b"a=b"


def test_more_bytes_than_the_limit_are_not_read_if_they_are_announced() -> None:
    with asked(b"x" * 1001):
        fault = refused(bodies())
        assert isinstance(fault, TooLarge)
        assert "1000 bytes" in fault.message
        assert "MAX_REQUEST_BYTES" in fault.message
        assert len(request.environ["wsgi.input"].read()) == 1001


def test_more_bytes_than_the_limit_are_refused_if_they_are_not_announced(
    line: tuple[socket.socket, socket.socket],
) -> None:
    client, server = line
    client.sendall(b"x" * 1001)
    client.shutdown(socket.SHUT_WR)
    with coming(server, None):
        assert isinstance(refused(bodies()), TooLarge)


def test_too_many_nodes_are_a_400_that_names_the_setting_and_the_remedy_and_are_held_no_longer() -> None:
    ours = bodies(MAX_REQUEST_NODES="3", MAX_REQUEST_BYTES="7", MAX_HELD_BYTES="7")
    for _ in range(2):
        with asked(b"[1,2,3]"):
            fault = refused(ours)
        assert isinstance(fault, InvalidRequest)
        assert (fault.status, fault.code) == (400, "too_many_nodes")
        assert "more than 3 values and names" in fault.message
        assert "MAX_REQUEST_NODES" in fault.message
        assert "join texts" in fault.message


def test_a_user_holds_as_much_as_the_largest_body_has_and_all_together_no_more_than_the_process_s_limit() -> None:
    ours = bodies(MAX_REQUEST_BYTES="100", MAX_HELD_BYTES="150")
    with ExitStack() as held:
        with asked(b"1" * 60):
            held.enter_context(ours.json("alice"))
        with asked(b"1" * 60):
            fault = refused(ours)
            assert isinstance(fault, TooManyRequests)
            assert (fault.code, fault.retry_after) == ("too_many_bytes", 1)
            assert "100 bytes" in fault.message
        with asked(b"1" * 60):
            held.enter_context(ours.json("bob"))
        with asked(b"1" * 60):
            fault = refused(ours, "carol")
            assert (fault.status, fault.retry_after) == (429, 1)
            assert "busy" in fault.message
    with asked(b"1" * 100), ours.json("alice"):
        pass


def test_a_request_that_is_read_back_is_held_too_beside_the_one_that_follows_it() -> None:
    ours = bodies(MAX_REQUEST_BYTES="100", MAX_HELD_BYTES="200")
    with asked(b"1" * 100), ours.json("alice"), ours.kept("alice", 101):
        with pytest.raises(TooManyRequests) as caught, ours.kept("alice", 1):
            pass
        assert (caught.value.code, caught.value.retry_after) == ("too_many_bytes", 1)
        assert "100 bytes" in caught.value.message
        with pytest.raises(TooManyRequests, match="busy"), ours.kept("bob", 1):
            pass
        with pytest.raises(TooManyRequests, match="busy"), ours.kept("alice", 1, "shown"):
            pass
    with ours.kept("alice", 100):
        pass


def test_a_body_that_does_not_come_in_time_is_a_408_and_holds_nothing(
    line: tuple[socket.socket, socket.socket],
) -> None:
    client, server = line
    ours = bodies(UPLOAD_SECONDS="0.01", MAX_REQUEST_BYTES="10", MAX_HELD_BYTES="10")
    client.sendall(b"{")
    with coming(server, 10):
        fault = refused(ours)
    assert isinstance(fault, TooSlow)
    assert (fault.status, fault.code) == (408, "request_timeout")
    assert "within 0.01 s" in fault.message
    with asked(b"1" * 10), ours.json("alice"):
        pass


def test_one_user_s_slow_bodies_leave_room_for_others(line: tuple[socket.socket, socket.socket]) -> None:
    _, server = line
    ours = bodies(MAX_LIVE_GENERATIONS="1")
    with ours._uploads.take("alice"):
        with coming(server, 10):
            fault = refused(ours)
            assert (fault.status, fault.code, fault.retry_after) == (429, "too_many_uploads", 1)
        with asked(), ours.json("bob"):
            pass


@pytest.mark.parametrize("length", [10, None])
def test_a_body_that_breaks_off_is_incomplete(line: tuple[socket.socket, socket.socket], length: int | None) -> None:
    client, server = line

    class Broken(Incoming):
        def read(self, size: int) -> bytes:
            if not (piece := super().read(size)) and length is None:
                raise OSError("as gunicorn does for chunks")
            return piece

    client.sendall(b"{}")
    client.shutdown(socket.SHUT_WR)
    with coming(server, length):
        request.environ["wsgi.input"] = Broken(server, length)
        fault = refused(bodies())
    assert (fault.status, fault.code) == (400, "incomplete_body")


def test_a_connection_that_was_read_in_time_stays_open(line: tuple[socket.socket, socket.socket]) -> None:
    client, server = line
    ours = bodies(UPLOAD_SECONDS="1")
    client.sendall(b"{}")
    with coming(server, 2), ours.json("alice"):
        pass
    with asked(), ours._deadlines.limit(1.3) as later:  # the thread that cuts has looked once more when this is over
        other, peer = socket.socketpair()
        with other, peer:
            ours._deadlines._watch([other], later)
            assert other.recv(1) == b""
    client.sendall(b"next")
    assert server.recv(4) == b"next"


def test_the_rest_of_a_body_that_nobody_read_is_discarded_up_to_the_largest_size() -> None:
    ours = bodies(MAX_REQUEST_BYTES=str(1 << 20), MAX_HELD_BYTES=str(1 << 20))
    with asked(b"x" * (3 << 20)):
        unread = request.environ["wsgi.input"]
        assert ours.discard(Response("no")).data == b"no"
        assert len(unread.read()) == 2 << 20
        assert isinstance(request.environ["wsgi.input"], io.BytesIO)
        assert request.environ["wsgi.input"].read() == b""  # functions-framework reads on from here


def test_a_rest_that_does_not_come_is_not_waited_for(line: tuple[socket.socket, socket.socket]) -> None:
    _, server = line
    with coming(server, 10):
        bodies().discard(Response("no"))
        assert server.recv(1) == b""


def test_the_limits_hold_for_a_call_in_its_own_shape(line: tuple[socket.socket, socket.socket]) -> None:
    from lib.wires.firebase_callable.wire import failure

    assert failure(TooSlow("Too slow."))[0]["status"] == "DEADLINE_EXCEEDED"
    fields, status = failure(TooManyRequests("Too many.", code="too_many_bytes", retry_after=1))
    assert (fields["status"], status, fields["details"]["retryAfter"]) == ("RESOURCE_EXHAUSTED", 429, 1)
    assert json.dumps(fields)


def test_what_one_request_reads_of_earlier_ones_has_the_limits_of_one_body_and_is_held_until_it_is_closed() -> None:
    ours = bodies(MAX_REQUEST_BYTES="100", MAX_HELD_BYTES="200", MAX_REQUEST_NODES="5")
    with ours.reading("alice") as reading:
        reading.hold(60, "asked")
        reading.hold(100, "sent")  # each kind apart
        with pytest.raises(InvalidRequest, match=r"100 bytes.*MAX_REQUEST_BYTES") as caught:
            reading.hold(41, "asked")
        assert (caught.value.status, caught.value.code) == (400, "conversation_too_large")
        reading.hold(40, "asked")
        with pytest.raises(TooManyRequests), ours.reading("alice") as other:
            other.hold(1, "asked")
        assert reading.parsed(b'[1,"a,b"]') == [1, "a,b"]
        with pytest.raises(InvalidRequest, match=r"5 values and names.*MAX_REQUEST_NODES"):
            reading.parsed(b"[1,2]")
        assert reading.parsed(b"[1]") == [1]
    with ours.reading("alice") as alone:
        alone.hold(110, "asked")  # the limit was larger when it was sent, or its parts are counted as full
        assert alone.parsed(b"[1,2,3,4,5,6]") == [1, 2, 3, 4, 5, 6]
