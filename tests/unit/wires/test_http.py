"""Responses: waiting for the status, unary bodies, and errors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lib.dialects import DIALECTS
from lib.domain.end import End, State
from lib.domain.errors import StillRunning, Unauthenticated, Unreachable
from lib.domain.event import Event
from lib.serving.feed import Piece
from lib.wires import http
from lib.wires.failures import Interrupted, UpstreamRefusal
from tests.unit.wires.scripted_tail import ScriptedTail, piece

CHAT = DIALECTS["chat_completions"]
COMPLETED = End(state=State.COMPLETED)
OWN = '{"error": {"message": "Slow down.", "code": "rate_limited"}}'


def failed(**error: Any) -> End:
    return End(
        state=State.FAILED,
        reason="upstream_status",
        error={"message": "Slow down.", "code": "rate_limited", "status": 429, **error},
    )


def body(tail: ScriptedTail, seconds: float = 100.0) -> Any:
    return json.loads(http.whole_body(tail.tail, tail.next(0), CHAT, 1, seconds))


def refused(end: End) -> UpstreamRefusal:
    with pytest.raises(UpstreamRefusal) as refusal:
        http.first_piece(ScriptedTail(Piece([], 0, end)).tail, 1.0)
    return refusal.value


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        ("application/json; x=1", "application/json; x=1"),
        ("application/problem+json", "application/problem+json"),
        ("text/event-stream", "application/json"),
        ("", "application/json"),
    ],
)
def test_a_failure_before_the_first_event_is_the_upstreams_own_response(said: str, sent: str) -> None:
    response = http.refusal(refused(failed(body=OWN, contentType=said, retryAfter=6.5)))
    assert (response.status_code, response.get_data(as_text=True)) == (429, OWN)
    assert (response.headers["Content-Type"], response.headers["Retry-After"]) == (sent, "7")


def test_an_upstreams_json_that_names_no_error_is_passed_on_all_the_same() -> None:
    own = '{"detail": [{"loc": ["body", "n"], "msg": "too many"}]}'
    response = http.refusal(refused(failed(status=422, body=own, contentType="application/json")))
    assert (response.status_code, response.get_data(as_text=True)) == (422, own)


@pytest.mark.parametrize("own", ["<html>", "", '{"error": {"cut', "[1]", '"no"'])
def test_a_failure_without_an_object_of_the_upstreams_has_its_message_in_our_shape(own: str) -> None:
    response = http.refusal(refused(failed(body=own, contentType="text/html", param="n", type="limits")))
    assert (response.status_code, response.content_type) == (429, "application/json")
    assert response.json["error"] == {
        "message": "Slow down.",
        "type": "limits",
        "code": "rate_limited",
        "param": "n",
    }


@pytest.mark.parametrize("status", [None, 200, 302, 999, "429"])
def test_a_failure_without_a_status_that_is_one_is_a_bad_gateway(status: Any) -> None:
    assert refused(failed(status=status)).status == 502


def test_a_failure_without_a_message_still_has_one() -> None:
    refusal = refused(End(state=State.FAILED, reason="upstream_empty"))
    assert refusal.message
    assert refusal.code == "upstream_empty"


def test_a_failed_generation_with_events_is_no_refusal_of_a_stream() -> None:
    """What there is of it is sent, and its error after that."""
    first = http.first_piece(ScriptedTail(piece(1, end=failed())).tail, 1.0)
    assert len(first.events) == 1


def test_a_body_is_the_chunks_put_together_once_the_answer_has_ended() -> None:
    completion = body(ScriptedTail(piece(1), Piece([], 1), piece(2, 3, end=COMPLETED)))
    assert completion["choices"][0]["message"]["content"] == "w1w2w3"


def test_a_body_that_the_upstream_sent_whole_is_passed_on_byte_by_byte() -> None:
    own = b'{"id": "x", "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}}],  "mine": 1e3}'
    tail = ScriptedTail(Piece([Event(own)], 1, COMPLETED))
    assert http.whole_body(tail.tail, tail.next(0), CHAT, 1, 1.0) == own


def test_an_event_that_can_not_be_read_does_not_keep_a_client_from_the_rest() -> None:
    whole = Piece([*piece(1).events, Event(b"{"), *piece(2).events], 3, COMPLETED)
    assert body(ScriptedTail(whole))["choices"][0]["message"]["content"] == "w1w2"


def test_a_body_that_is_not_whole_in_time_is_no_body() -> None:
    tail = ScriptedTail(piece(1), piece(2))
    with pytest.raises(StillRunning):
        body(tail, seconds=0.0)
    assert tail.closed


def test_a_body_of_an_answer_that_broke_off_is_an_error() -> None:
    end = End(state=State.INCOMPLETE, reason="upstream_idle", error={"message": "It fell silent.", "code": "x"})
    with pytest.raises(Interrupted, match="It fell silent") as broken:
        body(ScriptedTail(piece(1, end=end)))
    assert (broken.value.status, broken.value.code) == (502, "x")


@pytest.mark.parametrize(("words", "sentence"), [("Provider gone", "Provider gone."), ("Gone!", "Gone!")])
def test_words_without_a_full_stop_get_one_before_more_is_said(words: str, sentence: str) -> None:
    error = Interrupted(End(state=State.INCOMPLETE, reason="upstream_error", error={"message": words}))
    assert error.message == f"{sentence} What was read is saved as incomplete."


def test_a_body_of_a_failed_generation_is_a_refusal_though_it_has_events() -> None:
    with pytest.raises(UpstreamRefusal) as refusal:
        body(ScriptedTail(piece(1, end=failed(body=OWN))))
    assert http.refusal(refusal.value).get_data(as_text=True) == OWN


def test_other_refusals_say_what_a_client_can_do() -> None:
    assert http.refusal(Unauthenticated("No.")).headers["WWW-Authenticate"] == "Bearer"
    unreachable = http.refusal(Unreachable("grpc: 10.0.0.7 said no"), {"X-Generation-Id": "g1"})
    assert (unreachable.status_code, unreachable.headers["Retry-After"]) == (503, "1")
    assert unreachable.headers["X-Generation-Id"] == "g1"
    assert "10.0.0.7" not in unreachable.get_data(as_text=True)
