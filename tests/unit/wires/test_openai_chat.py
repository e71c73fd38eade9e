"""The OpenAI wire, over a tail that is a script."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, cast

import pytest

from lib.dialects.sse import Event, frame
from lib.domain.errors import StillRunning
from lib.domain.generation import End, State
from lib.serving.tail import Gone, Piece, Tail
from lib.wires import openai_chat as stream

COMPLETED = End(state=State.COMPLETED)


class ScriptedTail:
    """Gives the pieces it was made with, then nothing; raises what is an exception."""

    generation_id = "g1"
    closing = False
    follow = Tail.follow

    def __init__(self, *script: Piece | Exception, cursor: int = 0):
        self.script = list(script)
        self.cursor = cursor
        self.waits: list[float] = []
        self.closed = False

    def next(self, seconds: float) -> Piece:
        self.waits.append(seconds)
        piece = self.script.pop(0) if self.script else Piece([], self.cursor)
        if isinstance(piece, Exception):
            raise piece
        self.cursor = piece.last
        return piece

    def close(self) -> None:
        self.closed = True


def piece(*numbers: int, end: End | None = None) -> Piece:
    return Piece([frame(number, Event(chunk(number))) for number in numbers], numbers[-1] if numbers else 0, end)


def chunk(number: int) -> bytes:
    delta = {"content": f"w{number}"}
    return json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}).encode()


def streamed(tail: ScriptedTail, seconds: float = 100.0) -> list[bytes]:
    first = tail.next(0)
    return list(stream.frames(cast(Tail, tail), first, keepalive=5.0, seconds=seconds))


def body(tail: ScriptedTail, seconds: float = 100.0) -> Any:
    return json.loads(stream.body(cast(Tail, tail), tail.next(0), seconds))


def error(data: bytes) -> dict[str, Any]:
    assert data.startswith(b"data: ")
    assert data.endswith(b"\n\n")
    fields: dict[str, Any] = json.loads(data.removeprefix(b"data: "))["error"]
    return fields


def test_frames_pass_as_they_are_and_done_comes_after_the_end() -> None:
    tail = ScriptedTail(piece(1, 2), piece(3, end=COMPLETED))
    assert b"".join(streamed(tail)) == b"".join(piece(1, 2, 3).frames) + b"data: [DONE]\n\n"
    assert tail.closed


def test_a_keep_alive_is_one_line_directly_before_the_next_frame() -> None:
    wire = b"".join(streamed(ScriptedTail(piece(1), Piece([], 1), Piece([], 1), piece(2, end=COMPLETED))))
    first, second = piece(1, 2).frames
    assert wire == first + b": keep-alive\n: keep-alive\n" + second + b"data: [DONE]\n\n"


def test_no_wait_is_longer_than_the_time_between_keep_alives() -> None:
    tail = ScriptedTail(piece(1), Piece([], 1), piece(2, end=COMPLETED))
    streamed(tail)
    assert all(wait <= 5.0 for wait in tail.waits)


def test_a_response_ends_in_order_before_the_platform_cuts_it_with_the_cursor_to_resume_from() -> None:
    tail = ScriptedTail(piece(1, 2, 3), piece(4))
    *frames, last = streamed(tail, seconds=0.0)
    assert b"".join(frames) == b"".join(piece(1, 2, 3).frames)
    assert error(last) == {
        "message": "This response has lasted as long as it may. Resume with Last-Event-ID: 3.",
        "type": "server_error",
        "code": "still_running",
        "param": None,
        "generation": "g1",
        "last_event_id": 3,
    }
    assert tail.closed


def test_a_stopped_answer_ends_like_a_whole_one_and_one_that_broke_off_with_an_error() -> None:
    assert streamed(ScriptedTail(piece(1, end=End(state=State.STOPPED))))[-1] == b"data: [DONE]\n\n"
    end = End(state=State.INCOMPLETE, reason="upstream_idle", error={"message": "It fell silent.", "code": "x"})
    last = error(streamed(ScriptedTail(piece(1, end=end)))[-1])
    assert (last["code"], last["type"]) == ("upstream_idle", "upstream_error")
    assert last["message"].startswith("It fell silent.")


def test_an_error_while_streaming_is_said_in_the_stream_and_closes_the_tail() -> None:
    tail = ScriptedTail(piece(1), Gone("The generation was deleted."))
    assert error(streamed(tail)[-1])["code"] == "generation_deleted"
    assert tail.closed


def test_a_client_that_leaves_closes_the_tail() -> None:
    tail = ScriptedTail(piece(1), piece(2))
    reading = stream.frames(cast(Tail, tail), tail.next(0), keepalive=5.0, seconds=100.0)
    next(reading)
    reading.close()  # type: ignore[attr-defined]
    assert tail.closed


FAILED = End(
    state=State.FAILED,
    reason="upstream_status",
    error={"message": "No.", "code": "upstream_status", "status": 429, "body": "slow down", "contentType": "text/x"},
)


@pytest.mark.parametrize(
    ("content_type", "passed_on"),
    [("application/json; x=1", True), ("application/problem+json", True), ("text/html", False), ("", False)],
)
def test_a_failure_before_the_first_event_is_the_status_and_the_upstreams_own_words_where_they_are_json(
    content_type: str, passed_on: bool
) -> None:
    failed = replace(FAILED, error={**(FAILED.error or {}), "contentType": content_type, "retryAfter": 6.5})
    with pytest.raises(stream.UpstreamRefusal) as refusal:
        stream.first_piece(cast(Tail, ScriptedTail(Piece([], 0, failed))), 1.0)
    assert (refusal.value.status, refusal.value.retry_after) == (429, 7)
    assert refusal.value.upstream_body == ("slow down" if passed_on else "")


def test_a_failure_after_the_status_line_is_said_in_the_stream_in_the_same_words() -> None:
    (last,) = streamed(ScriptedTail(Piece([], 0), Piece([], 0, FAILED)))[1:]
    assert (error(last)["message"], error(last)["code"]) == ("No.", "upstream_status")


def test_a_body_is_the_chunks_put_together_once_the_answer_has_ended() -> None:
    completion = body(ScriptedTail(piece(1), Piece([], 1), piece(2, 3, end=COMPLETED)))
    assert completion["choices"][0]["message"]["content"] == "w1w2w3"


def test_a_body_that_is_not_whole_in_time_is_no_body() -> None:
    tail = ScriptedTail(piece(1), piece(2))
    with pytest.raises(StillRunning):
        body(tail, seconds=0.0)
    assert tail.closed


def test_a_body_of_an_answer_that_broke_off_is_an_error() -> None:
    end = End(state=State.INCOMPLETE, reason="upstream_idle", error={"message": "It fell silent.", "code": "x"})
    with pytest.raises(stream.Interrupted, match="It fell silent"):
        body(ScriptedTail(piece(1, end=end)))
