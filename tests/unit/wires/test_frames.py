"""A tail as server-sent events: the exact bytes, and how a stream ends."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.dialects import DIALECTS
from lib.dialects.protocol import Dialect
from lib.dialects.sse import Splitter
from lib.domain.end import End, State
from lib.domain.errors import Unreachable
from lib.domain.event import Event
from lib.serving.feed import Gone, Piece
from lib.wires import frames
from tests.unit.wires.scripted_tail import ScriptedTail, chunk, piece

CHAT = DIALECTS["chat_completions"]
COMPLETED = End(state=State.COMPLETED)
DONE = b"data: [DONE]\n\n"


def streamed(tail: ScriptedTail, seconds: float = 100.0, dialect: Dialect | None = CHAT) -> list[bytes]:
    first = tail.next(0)
    return list(frames.stream(tail.tail, first, dialect, keepalive=5.0, seconds=seconds))


def error(data: bytes) -> dict[str, Any]:
    assert data.startswith(b"data: ")
    assert data.endswith(b"\n\n")
    fields: dict[str, Any] = json.loads(data.removeprefix(b"data: "))["error"]
    return fields


def wire(*numbers: int) -> bytes:
    return b"".join(b"id: %d\ndata: %b\n\n" % (number, chunk(number)) for number in numbers)


def test_an_event_is_an_id_a_name_where_it_has_one_and_its_data() -> None:
    events = [Event(b'{"a":1}'), Event(b'{"b":2}', b"message_start"), Event(b""), Event('{"é":"☃"}'.encode())]
    assert frames.framed(Piece(events, 12)) == [
        b'id: 9\ndata: {"a":1}\n\n',
        b'id: 10\nevent: message_start\ndata: {"b":2}\n\n',
        b"id: 11\ndata: \n\n",
        'id: 12\ndata: {"é":"☃"}\n\n'.encode(),
    ]


def test_each_line_of_an_events_data_is_a_line_of_its_frame() -> None:
    events = [Event(b'{\n  "a": 1\n}'), Event(b'{\r\n"b":2}\r\n', b"named"), Event(b'{"c":\r3}')]
    assert frames.framed(Piece(events, 3)) == [
        b'id: 1\ndata: {\ndata:   "a": 1\ndata: }\n\n',
        b'id: 2\nevent: named\ndata: {\ndata: "b":2}\ndata: \n\n',
        b'id: 3\ndata: {"c":3}\n\n',
    ]


def test_a_bare_event_is_one_line_without_its_number() -> None:
    events = [Event(b'{\n  "a": 1\n}'), Event(b'{\r\n"b":2}', b"named"), Event(b"")]
    assert frames.framed(Piece(events, 3), bare=True) == [
        b'data: {  "a": 1}\n\n',
        b'event: named\ndata: {"b":2}\n\n',
        b"data: \n\n",
    ]


DATA = st.lists(st.sampled_from([b"a", b": ", b"data: ", b"\r", b"\n", b"\r\n", b" "]), max_size=6).map(b"".join)


@given(st.lists(st.tuples(DATA.filter(bytes.strip), st.sampled_from([b"", b"name"])), max_size=5))
def test_whatever_an_event_holds_it_is_read_as_one_event(events: list[tuple[bytes, bytes]]) -> None:
    written = [Event(data, name) for data, name in events]
    read = list(Splitter(1000).feed(b"".join(frames.framed(Piece(written, len(written))))))
    assert [Event(*each) for each in read] == [Event(data.replace(b"\r", b""), name) for data, name in written]


def test_frames_pass_as_they_are_and_the_end_mark_comes_after_the_end() -> None:
    tail = ScriptedTail(piece(1, 2), piece(3, end=COMPLETED))
    assert b"".join(streamed(tail)) == wire(1, 2, 3) + DONE
    assert tail.closed


def test_a_dialect_without_an_end_mark_and_one_that_is_not_known_end_with_nothing() -> None:
    class Markless(type(CHAT)):  # type: ignore[misc]
        end_mark = None

    for dialect in (Markless(), None):
        assert b"".join(streamed(ScriptedTail(piece(1, end=COMPLETED)), dialect=dialect)) == wire(1)


def test_an_end_mark_with_a_name_has_it_and_no_id() -> None:
    wired = streamed(ScriptedTail(piece(1, end=COMPLETED)), dialect=DIALECTS["messages"])
    assert wired[-1] == b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


def test_a_keep_alive_is_one_line_directly_before_the_next_frame() -> None:
    wired = b"".join(streamed(ScriptedTail(piece(1), Piece([], 1), Piece([], 1), piece(2, end=COMPLETED))))
    assert wired == wire(1) + b": keep-alive\n: keep-alive\n" + wire(2) + DONE


def test_a_dialect_with_a_keep_alive_of_its_own_has_that_one() -> None:
    wired = streamed(ScriptedTail(piece(1), Piece([], 1), piece(2, end=COMPLETED)), dialect=DIALECTS["messages"])
    assert wired[1] == b'event: ping\ndata: {"type": "ping"}\n\n'


def test_no_wait_is_longer_than_the_time_between_keep_alives() -> None:
    tail = ScriptedTail(piece(1), Piece([], 1), piece(2, end=COMPLETED))
    streamed(tail)
    assert all(wait <= 5.0 for wait in tail.waits)


def test_no_write_is_larger_than_a_slow_client_can_take() -> None:
    events = [Event(b"x" * size) for size in (10, 20_000, 50_000, 200_000, 10, 10)]
    wired = streamed(ScriptedTail(Piece(events, 6, COMPLETED)))
    assert b"".join(wired) == b"".join(frames.framed(Piece(events, 6))) + DONE
    assert max(map(len, wired)) <= frames.WRITE_BYTES
    assert len(wired) == 8


def test_a_response_ends_in_order_before_the_platform_cuts_it_with_the_cursor_to_resume_from() -> None:
    tail = ScriptedTail(piece(1, 2, 3), piece(4))
    *before, last = streamed(tail, seconds=0.0)
    assert b"".join(before) == wire(1, 2, 3)
    assert error(last) == {
        "message": "This response has lasted as long as it may. Resume with Last-Event-ID: 3.",
        "type": "server_error",
        "code": "still_running",
        "param": None,
        "generation": "g1",
        "last_event_id": 3,
    }
    assert tail.closed


def test_a_stopped_answer_ends_like_a_whole_one() -> None:
    assert streamed(ScriptedTail(piece(1, end=End(state=State.STOPPED))))[-1] == DONE


BROKEN = End(state=State.INCOMPLETE, reason="upstream_idle", error={"message": "It fell silent.", "code": "idle_code"})
FAILED = End(
    state=State.FAILED,
    reason="upstream_status",
    error={"message": "Too long.", "code": "context_length_exceeded", "param": "messages", "status": 400, "body": ""},
)
BODY = '{\n  "error": {"message": "Too long.", "code": "context_length_exceeded", "mine": 12345678901234567890}\n}'


def test_an_answer_that_broke_off_ends_with_an_error_in_the_upstreams_words() -> None:
    last = error(streamed(ScriptedTail(piece(1, end=BROKEN)))[-1])
    assert (last["code"], last["type"]) == ("idle_code", "upstream_error")
    assert last["message"].startswith("It fell silent.")


def test_without_a_code_of_the_upstreams_an_error_has_the_reason() -> None:
    end = replace(BROKEN, error={"message": "It fell silent."})
    assert error(streamed(ScriptedTail(piece(1, end=end)))[-1])["code"] == "upstream_idle"


def test_a_failure_after_the_status_line_is_sent_in_the_stream_with_the_same_message() -> None:
    (last,) = streamed(ScriptedTail(Piece([], 0), Piece([], 0, FAILED)))[1:]
    assert error(last) == {
        "message": "Too long.",
        "type": "upstream_error",
        "code": "context_length_exceeded",
        "param": "messages",
    }


@pytest.mark.parametrize("end", [FAILED, BROKEN], ids=["failed", "broken off"])
def test_where_the_upstream_sent_an_error_object_a_stream_ends_with_that(end: End) -> None:
    tail = ScriptedTail(Piece([], 0), piece(1, end=replace(end, error={**(end.error or {}), "body": BODY})))
    wired = b"".join(streamed(tail))
    (*_, last) = Splitter(1000).feed(wired)
    assert last.data.decode() == BODY
    assert b"[DONE]" not in wired


@pytest.mark.parametrize("body", ["slow down", "[1]", '{"detail": "No."}', '{"error": null}', '{"error": {"cut'])
def test_a_body_that_clients_would_not_know_as_an_error_is_not_the_end_of_a_stream(body: str) -> None:
    end = replace(FAILED, error={**(FAILED.error or {}), "body": body})
    assert error(streamed(ScriptedTail(piece(1, end=end)))[-1])["code"] == "context_length_exceeded"


def test_what_a_failed_generation_has_is_sent_before_its_error() -> None:
    wired = streamed(ScriptedTail(piece(1, end=FAILED)))
    assert wired[0] == wire(1)
    assert error(wired[-1])["message"] == "Too long."


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Gone("The generation was deleted."), "generation_deleted"),
        (Unreachable("grpc: 10.0.0.7 said no"), "unavailable"),
        (RuntimeError("10.0.0.7 is not as it should be"), "internal_error"),
    ],
    ids=["deleted", "unreachable", "a fault of ours"],
)
def test_an_error_while_streaming_is_sent_in_the_stream_and_closes_the_tail(fault: Exception, code: str) -> None:
    tail = ScriptedTail(piece(1), fault)
    last = streamed(tail)[-1]
    assert error(last)["code"] == code
    assert b"10.0.0.7" not in last
    assert tail.closed


def test_a_stream_that_can_not_be_read_further_names_the_cursor() -> None:
    assert error(streamed(ScriptedTail(piece(1, 2), Unreachable("away")))[-1])["message"].endswith("Last-Event-ID: 2.")


def test_a_client_that_leaves_closes_the_tail() -> None:
    tail = ScriptedTail(piece(1), piece(2))
    reading = frames.stream(tail.tail, tail.next(0), CHAT, keepalive=5.0, seconds=100.0)
    next(reading)
    reading.close()  # type: ignore[attr-defined]
    assert tail.closed


def test_a_dialect_s_own_error_ends_a_response_that_has_lasted_long_enough() -> None:
    *_, last = streamed(ScriptedTail(piece(1)), seconds=0.0, dialect=DIALECTS["messages"])
    name, data = last.decode().removesuffix("\n\n").split("\n")
    error = json.loads(data.removeprefix("data: "))["error"]
    assert (name, error["type"]) == ("event: error", "timeout_error")
    assert error["details"] == {"error_code": "still_running", "generation": "g1", "last_event_id": 1}


def test_an_upstream_s_error_is_its_own_object_only_where_it_has_the_dialect_s_shape() -> None:
    own = '{"error": {"message": "No."}}'
    ended = End(state=State.INCOMPLETE, error={"message": "No.", "code": "c", "body": own})
    *_, chat = streamed(ScriptedTail(piece(1, end=ended)))
    assert chat == b"data: %b\n\n" % own.encode()
    *_, messages = streamed(ScriptedTail(piece(1, end=ended)), dialect=DIALECTS["messages"])
    assert messages.startswith(b'event: error\ndata: {"type":"error","error":{"type":"api_error",')
