"""The Firebase callable wire: requests, values, and streams with a scripted tail."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.dialects import DIALECTS
from lib.dialects.protocol import Dialect
from lib.domain import errors
from lib.domain.end import End, State
from lib.domain.errors import HoldfastError, InvalidRequest, Unreachable
from lib.domain.event import Event
from lib.domain.generation import Generation
from lib.domain.message import Said
from lib.serving.feed import Gone, Piece
from lib.wires.firebase_callable import request as callable_request
from lib.wires.firebase_callable import values as callable_values
from lib.wires.firebase_callable import wire
from lib.wires.firebase_callable.request import Resume, Start, Stop
from lib.wires.firebase_callable.wire import Failed
from tests.unit.wires.scripted_tail import ScriptedTail, piece

INT64 = "type.googleapis.com/google.protobuf.Int64Value"
UINT64 = "type.googleapis.com/google.protobuf.UInt64Value"
MESSAGES = [{"role": "user", "content": "Hi"}]
ASKED = {"model": "demo", "messages": MESSAGES}
NOW = datetime(2026, 1, 1, tzinfo=UTC)
GENERATION = Generation(
    id="g1",
    owner="alice",
    message_path="users/alice/chats/c1/messages/m1",
    chat_id="c1",
    message_id="m1",
    model="demo",
    dialect="chat_completions",
    upstream="default",
    request=b"{}",
    request_hash="",
    created_at=NOW,
    expire_at=NOW,
)


def read(data: Any) -> Start | Resume | Stop:
    return callable_request.read(json.dumps({"data": data}).encode())


def refused(body: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refusal:
        callable_request.read(body)
    return refusal.value


def wrapped(value: Any, kind: str = INT64) -> dict[str, Any]:
    return {"@type": kind, "value": value}


# What a call asks for


def test_data_is_a_request_in_the_api_that_its_models_upstream_speaks() -> None:
    for stream in ({}, {"stream": False}, {"stream": True}):
        asked = read({**ASKED, **stream})
        assert isinstance(asked, Start)
        assert json.loads(asked.request.body) == {**ASKED, **stream}
        assert asked.request.dialect is None
        assert (asked.request.chat_id, asked.request.message_id, asked.request.idempotency_key) == (None, None, None)


def test_the_ids_beside_a_request_are_no_part_of_it() -> None:
    asked = read({**ASKED, "chatId": "c1", "messageId": "m1", "idempotencyKey": "k1"})
    assert isinstance(asked, Start)
    assert json.loads(asked.request.body) == ASKED
    assert (asked.request.chat_id, asked.request.message_id, asked.request.idempotency_key) == ("c1", "m1", "k1")


def test_a_device_s_token_beside_a_request_is_no_part_of_it() -> None:
    asked = read({**ASKED, "pushToken": "t1"})
    assert isinstance(asked, Start)
    assert json.loads(asked.request.body) == ASKED
    assert asked.request.push_token == "t1"


def test_an_id_that_is_null_is_not_given() -> None:
    asked = read({**ASKED, "chatId": None, "messageId": None, "idempotencyKey": None, "pushToken": None})
    assert asked == read(ASKED)


def test_resume_and_stop_name_a_generation() -> None:
    assert read({"resume": "g1"}) == read({"resume": "g1", "after": None}) == Resume("g1", 0)
    assert read({"resume": "g1", "after": 7}) == read({"resume": "g1", "after": wrapped("7")}) == Resume("g1", 7)
    assert read({"stop": "g1"}) == Stop("g1")


def test_a_request_may_have_a_field_that_is_called_like_a_command() -> None:
    for field in ({"stop": ["END"]}, {"stop": "END"}, {"resume": "g1"}, {"resume": "g1", "after": 7}):
        asked = read({**ASKED, **field})
        assert isinstance(asked, Start)
        assert json.loads(asked.request.body) == {**ASKED, **field}


@pytest.mark.parametrize(
    ("data", "param"),
    [
        (None, "data"),
        ([], "data"),
        ("Hi", "data"),
        (7, "data"),
        (wrapped("7"), "data"),
        ({**ASKED, "chatId": 7}, "chatId"),
        ({**ASKED, "chatId": ""}, "chatId"),
        ({**ASKED, "chatId": "a/b"}, "chatId"),
        ({**ASKED, "chatId": "c1", "messageId": ["m1"]}, "messageId"),
        ({**ASKED, "chatId": "c1", "messageId": ".."}, "messageId"),
        ({**ASKED, "messageId": "m1"}, "messageId"),
        ({**ASKED, "idempotencyKey": False}, "idempotencyKey"),
        ({**ASKED, "pushToken": 5}, "pushToken"),
        ({**ASKED, "pushToken": "x" * 4097}, "pushToken"),
        ({**ASKED, "idempotencyKey": "x" * 201}, "idempotencyKey"),
        ({"resume": None}, "resume"),
        ({"resume": {"id": "g1"}}, "resume"),
        ({"resume": "a/b"}, "resume"),
        ({"resume": "g1", "after": -1}, "after"),
        ({"resume": "g1", "after": "7"}, "after"),
        ({"resume": "g1", "after": 7.0}, "after"),
        ({"resume": "g1", "after": True}, "after"),
        ({"resume": "g1", "chatId": "c1"}, "data"),
        ({"resume": "g1", "stop": "g1"}, "data"),
        ({"stop": 7}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": "g1", "after": 7}, "data"),
        ({**ASKED, "seed": wrapped("seven")}, "data"),
    ],
    ids=str,
)
def test_every_wrong_call_names_its_field(data: Any, param: str) -> None:
    fault = refused(json.dumps({"data": data}).encode())
    assert (fault.status, fault.param) == (400, param)
    assert "X-" not in fault.message


def test_a_field_that_does_not_go_with_another_is_named() -> None:
    assert "'chatId' does not go with 'resume'" in refused(b'{"data": {"resume": "g1", "chatId": "c"}}').message
    assert "'after' does not go with 'stop'" in refused(b'{"data": {"stop": "g1", "after": 1}}').message


@pytest.mark.parametrize("body", [b"", b"{", b"[1", b"\xff", b'{"data": {"a": "\\ud800"}}'])
def test_a_body_that_is_no_json_is_told_so(body: bytes) -> None:
    assert refused(body).code == "invalid_json"


@pytest.mark.parametrize("body", [b"null", b"[]", b"{}", b'{"Data": {}}', b'{"data": {}, "more": 1}', b'"data"'])
def test_a_body_that_is_not_data_alone_is_refused_as_the_protocol_has_it(body: bytes) -> None:
    assert "{'data': …}" in refused(body).message


@pytest.mark.parametrize("levels", [300, 500, 1_000, 100_000])
def test_a_body_nested_beyond_reason_is_refused(levels: int) -> None:
    body = b'{"data": {"model": "demo", "messages": %b%b}}' % (b"[" * levels, b"]" * levels)
    assert refused(body).status == 400


# Values: what iOS and Android wrap, and what no SDK may see


@pytest.mark.parametrize("kind", [INT64, UINT64])
def test_a_wrapped_whole_number_is_one_wherever_it_lies(kind: str) -> None:
    asked = read({**ASKED, "max_tokens": wrapped("500", kind), "logit_bias": [{"a": wrapped("-3", kind)}]})
    assert isinstance(asked, Start)
    request = json.loads(asked.request.body)
    assert (request["max_tokens"], request["logit_bias"]) == (500, [{"a": -3}])


@pytest.mark.parametrize("number", [0, -(1 << 63), (1 << 63) - 1, 1 << 63, (1 << 64) - 1, (1 << 53) + 1])
def test_no_digit_of_a_wrapped_number_is_lost(number: int) -> None:
    assert callable_values.decoded(wrapped(str(number))) == callable_values.decoded(wrapped(number)) == number


@pytest.mark.parametrize(
    "value",
    ["", "x", "1.5", "1e3", "1_000", " 7", "７", "0x10", 1.5, True, None, [], {}, "9" * 9_999, str(1 << 64)],
    ids=lambda value: str(value)[:20],
)
def test_a_wrapped_number_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(InvalidRequest, match="wrapped whole number"):
        callable_values.decoded(wrapped(value))
    with pytest.raises(InvalidRequest, match="wrapped whole number"):
        callable_values.decoded({"@type": INT64})


@pytest.mark.parametrize("kind", ["type.googleapis.com/google.protobuf.Duration", "", None, 7, [INT64], {"a": 1}])
def test_an_object_with_another_type_is_left_as_it_is(kind: Any) -> None:
    assert callable_values.decoded({"@type": kind, "value": "7"}) == {"@type": kind, "value": "7"}


def test_a_key_that_the_sdks_take_for_their_own_gets_another_at_sign() -> None:
    assert callable_values.encoded({"@type": "x", "a": [{"@@type": 1}]}) == {"@@type": "x", "a": [{"@@@type": 1}]}
    untouched = {"type": 1, "@types": 2, "a@type": 3, "@": 4, "@Type": 5}
    assert callable_values.encoded(untouched) == untouched


def test_a_number_that_javascript_can_not_hold_is_wrapped_and_one_beyond_64_bits_is_a_string() -> None:
    assert callable_values.encoded([(1 << 53) - 1, -(1 << 53) + 1]) == [(1 << 53) - 1, -(1 << 53) + 1]
    assert callable_values.encoded({"n": 1 << 53}) == {"n": wrapped(str(1 << 53))}
    assert callable_values.encoded([-(1 << 53), (1 << 63) - 1]) == [
        wrapped(str(-(1 << 53))),
        wrapped(str((1 << 63) - 1)),
    ]
    assert callable_values.encoded([1 << 63, -(1 << 63) - 1]) == [str(1 << 63), str(-(1 << 63) - 1)]
    assert callable_values.encoded([True, False, None, 1.5, "x"]) == [True, False, None, 1.5, "x"]


KEYS = st.one_of(st.sampled_from(["type", "@type", "@@type", "@@@type", "value", "@"]), st.text(max_size=3))
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(1 << 63), (1 << 63) - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        st.sampled_from([INT64, UINT64]),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=12,
)


@given(VALUES)
def test_whatever_is_encoded_is_decoded_to_itself(value: Any) -> None:
    sent = json.loads(orjson.dumps(callable_values.encoded(value)))
    assert callable_values.decoded(sent) == value


@given(VALUES)
def test_nothing_encoded_has_a_type_but_a_wrapped_number(value: Any) -> None:
    def check(sent: Any) -> None:
        if isinstance(sent, dict):
            if "@type" in sent:
                assert set(sent) == {"@type", "value"}
                assert sent["@type"] == INT64
                assert str(int(sent["value"])) == sent["value"]
            for item in sent.values():
                check(item)
        elif isinstance(sent, list):
            for item in sent:
                check(item)

    check(callable_values.encoded(value))


# Lines


@given(VALUES)
def test_a_line_is_one_line_by_every_reader_s_rules_and_says_what_it_was_given(value: Any) -> None:
    sent = callable_values.line({"message": callable_values.encoded(value)})
    assert len(sent.decode().splitlines()) == 2  # the second is the blank one: splitlines knows Unicode's line ends
    assert sent.startswith(b"data: {")
    assert sent.endswith(b"}\n\n")
    assert callable_values.decoded(json.loads(sent.removeprefix(b"data: "))["message"]) == value


@pytest.mark.parametrize("end", list("\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"), ids=ascii)
def test_no_line_end_of_any_kind_is_on_the_wire_and_none_is_lost(end: str) -> None:
    said = {"message": {f"k{end}": f"wide{end}gap{end}{end}"}}
    sent = callable_values.line(said)
    assert end not in sent.decode().removesuffix("\n\n")
    assert json.loads(sent.removeprefix(b"data: ")) == said


# Errors


@pytest.mark.parametrize(
    ("error", "status", "http"),
    [
        (errors.InvalidRequest("No."), "INVALID_ARGUMENT", 400),
        (errors.Unauthenticated("No."), "UNAUTHENTICATED", 401),
        (errors.NotFound("No."), "NOT_FOUND", 404),
        (errors.Conflict("No."), "ALREADY_EXISTS", 409),
        (errors.Conflict("No.", code="generation_ended"), "FAILED_PRECONDITION", 400),
        (errors.TooLarge("No."), "INVALID_ARGUMENT", 400),
        (errors.UnsupportedMediaType("No."), "INVALID_ARGUMENT", 400),
        (errors.TooManyRequests("No."), "RESOURCE_EXHAUSTED", 429),
        (errors.Unavailable("No."), "UNAVAILABLE", 503),
        (errors.StillRunning("No."), "DEADLINE_EXCEEDED", 504),
        (errors.HoldfastError("No."), "INTERNAL", 500),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_each_error_has_its_code_and_the_http_status_of_that(error: HoldfastError, status: str, http: int) -> None:
    fields = {"status": status, "message": "No.", "details": {"code": error.code, "param": None}}
    assert wire.failure(error) == (fields, http)


def test_an_error_names_a_field_by_its_name_in_a_call_and_when_to_come_back() -> None:
    fields, _ = wire.failure(errors.Conflict("No.", param="X-Message-Id"))
    assert fields["details"]["param"] == "messageId"
    fields, _ = wire.failure(errors.TooManyRequests("No.", param="model", retry_after=5))
    assert fields["details"] == {"code": "too_many_generations", "param": "model", "retryAfter": 5}


def failed(status: Any, **more: Any) -> Failed:
    error = {"message": "It said no.", "code": "upstream_status", "status": status, **more}
    return Failed(replace(GENERATION, state=State.FAILED, reason="upstream_status", error=error))


@pytest.mark.parametrize(
    ("upstream", "status", "http"),
    [
        (400, "INVALID_ARGUMENT", 400),
        (404, "INVALID_ARGUMENT", 400),
        (413, "INVALID_ARGUMENT", 400),
        (422, "INVALID_ARGUMENT", 400),
        (429, "RESOURCE_EXHAUSTED", 429),
        (408, "DEADLINE_EXCEEDED", 504),
        (504, "DEADLINE_EXCEEDED", 504),
        (500, "UNAVAILABLE", 503),
        (529, "UNAVAILABLE", 503),
        (401, "INTERNAL", 500),
        (403, "INTERNAL", 500),
        (None, "INTERNAL", 500),
    ],
)
def test_an_upstream_s_refusal_is_told_with_its_status_and_never_as_the_caller_s_own_identity(
    upstream: int | None, status: str, http: int
) -> None:
    fields, code = wire.failure(failed(upstream))
    assert (fields["status"], code, fields["message"]) == (status, http, "It said no.")
    assert fields["details"] == {
        "code": "upstream_status",
        "param": None,
        "id": "g1",
        "state": "failed",
        "reason": "upstream_status",
        "upstreamStatus": upstream,
    }


def test_a_key_that_the_upstream_refused_is_a_fault_of_the_service_that_no_retry_mends() -> None:
    fields, http = wire.failure(failed(502, code="upstream_key"))
    assert (fields["status"], http) == ("INTERNAL", 500)


def test_an_upstream_s_code_and_param_are_among_the_details() -> None:
    fields, _ = wire.failure(failed(400, code="context_length_exceeded", param="messages"))
    assert (fields["details"]["code"], fields["details"]["param"]) == ("context_length_exceeded", "messages")


def test_an_upstream_that_said_when_to_come_back_is_passed_on() -> None:
    fields, _ = wire.failure(failed(429, retryAfter=6.5))
    assert fields["details"]["retryAfter"] == 7


def test_a_failed_generation_without_a_message_still_has_one() -> None:
    with pytest.raises(Failed) as failure:
        wire.ended(replace(GENERATION, state=State.FAILED), 0, Said(fields={"content": ""}))
    assert wire.failure(failure.value)[0]["message"]


# Results

HELLO = Said(fields={"content": "Hello"})


@pytest.mark.parametrize("state", [state for state in State if state is not State.FAILED])
def test_a_result_has_the_ids_the_state_the_cursor_the_text_and_the_usage(state: State) -> None:
    generation = replace(GENERATION, state=state, reason="r", usage={"total_tokens": 1 << 60, "@type": "x"})
    expected = {
        "id": "g1",
        "chatId": "c1",
        "messageId": "m1",
        "state": str(state),
        "reason": "r",
        "seq": 7,
        "content": "Hello",
        "usage": {"total_tokens": wrapped(str(1 << 60)), "@@type": "x"},
        "error": None,
    }
    assert wire.ended(generation, 7, HELLO) == expected
    assert json.loads(wire.reply(expected, streamed=False)) == {"result": expected}
    assert wire.reply(expected, streamed=True) == callable_values.line({"result": expected})


def test_a_result_has_the_tool_calls_the_refusal_and_the_finish_reason() -> None:
    more = {"finishReason": "tool_calls", "refusal": "No.", "toolCalls": [{"id": "t1", "n": 1 << 60}]}
    ended = wire.ended(GENERATION, 7, Said(fields={"content": "", **more, "extra": {"fingerprint": "f"}}))
    assert {name: ended[name] for name in more} == more | {"toolCalls": [{"id": "t1", "n": wrapped(str(1 << 60))}]}
    assert "extra" not in ended


def test_the_result_of_an_incomplete_answer_has_the_upstream_s_words_and_code() -> None:
    error = {"message": "Overloaded.", "code": "overloaded", "status": 529, "param": None, "body": "{}"}
    ended = wire.ended(replace(GENERATION, state=State.INCOMPLETE, error=error), 7, HELLO)
    assert ended["error"] == {"message": "Overloaded.", "code": "overloaded", "param": None, "status": 529}


# The stream


CHAT = DIALECTS["chat_completions"]


def streamed(
    tail: ScriptedTail,
    ending: Callable[[], Any] = lambda: {"seq": 0},
    seconds: float = 100.0,
    dialect: Dialect | None = CHAT,
) -> list[Any]:
    wired = list(wire.messages(GENERATION, tail.tail, dialect, ending, keepalive=5.0, seconds=seconds))
    assert all(line.startswith(b"data: ") and line.count(b"\n") == 2 and line.endswith(b"\n\n") for line in wired)
    return [json.loads(line.removeprefix(b"data: ")) for line in wired]


START = {"message": {"type": "start", "id": "g1", "chatId": "c1", "messageId": "m1"}}
HEARTBEAT = {"message": {"type": "heartbeat"}}
COMPLETED = End(state=State.COMPLETED)


def test_a_stream_is_a_start_a_message_for_each_event_and_one_result() -> None:
    tail = ScriptedTail(piece(1, 2), piece(3, end=COMPLETED))
    start, *events, last = streamed(tail, lambda: {"seq": 3, "content": "w1w2w3"})
    assert start == START
    assert [each["message"]["seq"] for each in events] == [1, 2, 3]
    assert [each["message"]["delta"] for each in events] == ["w1", "w2", "w3"]
    assert events[0]["message"]["event"]["choices"][0]["delta"] == {"content": "w1"}
    assert last == {"result": {"seq": 3, "content": "w1w2w3"}}
    assert tail.closed


def test_a_resumed_stream_continues_after_its_cursor() -> None:
    _, *events, _ = streamed(ScriptedTail(piece(8), piece(9, end=COMPLETED), cursor=7))
    assert [each["message"]["seq"] for each in events] == [8, 9]


def test_a_stream_resumed_at_its_end_has_a_result_all_the_same() -> None:
    assert streamed(ScriptedTail(Piece([], 7, COMPLETED), cursor=7)) == [START, {"result": {"seq": 0}}]


def test_a_silence_has_heartbeats_and_none_is_waited_for_longer_than_told() -> None:
    tail = ScriptedTail(piece(1), Piece([], 1), Piece([], 1), piece(2, end=COMPLETED))
    lines = streamed(tail)
    assert [line == HEARTBEAT for line in lines] == [False, False, True, True, False, False]
    assert all(wait <= 5.0 for wait in tail.waits)


def test_a_stream_that_has_lasted_as_long_as_it_may_ends_with_a_result() -> None:
    tail = ScriptedTail(piece(1), piece(2))
    assert streamed(tail, lambda: {"state": "streaming", "seq": tail.cursor}, seconds=0.0) == [
        START,
        {"result": {"state": "streaming", "seq": 0}},
    ]
    assert tail.closed


@pytest.mark.parametrize("now", ["streaming", "completed"])
def test_a_stream_that_ends_while_the_answer_continues_names_the_last_message_it_has_sent(now: str) -> None:
    tail = ScriptedTail(piece(1, 2), piece(3))
    there_is = {"state": now, "reason": None, "seq": 5, "content": "w1w2w3w4w5", "usage": {"total_tokens": 5}}
    wired = wire.messages(GENERATION, tail.tail, CHAT, lambda: there_is, keepalive=5.0, seconds=100.0)
    lines = [next(wired) for _ in range(4)]
    assert b'"seq":3' in lines[-1]
    tail.closing = True
    (last,) = [json.loads(line.removeprefix(b"data: ")) for line in wired]
    assert last["result"] == {**there_is, "state": "streaming", "seq": 3, "usage": None}


def test_an_event_is_sent_as_the_sdks_can_read_it() -> None:
    raw = b'{"choices": [], "@type": "x", "n": 9007199254740993, "s": "wide\xe2\x80\xa8gap"}'
    _, event, _ = streamed(ScriptedTail(Piece([Event(raw)], 1, COMPLETED)))
    assert event["message"] == {
        "seq": 1,
        "delta": "",
        "event": {"choices": [], "@@type": "x", "n": wrapped("9007199254740993"), "s": "wide\u2028gap"},
    }


@pytest.mark.parametrize(("data", "event"), [(b'{"n": 1}', {"n": 1}), (b"{", None)])
def test_an_event_in_a_dialect_that_is_not_known_is_sent_as_its_json(data: bytes, event: Any) -> None:
    _, sent, _ = streamed(ScriptedTail(Piece([Event(data)], 1, COMPLETED)), dialect=None)
    assert sent["message"] == {"seq": 1, "delta": "", "event": event}


def test_half_a_character_is_sent_as_what_json_can_hold() -> None:
    raw = b'{"choices": [{"index": 0, "delta": {"content": "\\ud83d"}}]}'
    _, sent, _ = streamed(ScriptedTail(Piece([Event(raw)], 1, COMPLETED)))
    assert sent["message"]["delta"] == "\ufffd"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Gone("The generation was deleted."), "NOT_FOUND", "generation_deleted"),
        (Unreachable("grpc: 10.0.0.7 said no"), "UNAVAILABLE", "unavailable"),
        (RuntimeError("10.0.0.7 is not as it should be"), "INTERNAL", "internal_error"),
    ],
    ids=["deleted", "unreachable", "a fault of ours"],
)
def test_an_error_while_streaming_is_the_stream_s_end(error: Exception, status: str, code: str) -> None:
    tail = ScriptedTail(piece(1), error)
    *_, last = streamed(tail)
    assert (last["error"]["status"], last["error"]["details"]["code"]) == (status, code)
    assert "10.0.0.7" not in json.dumps(last)
    assert tail.closed


def test_a_failure_at_the_end_is_an_error_and_no_result() -> None:
    def ending() -> Any:
        raise failed(429)

    assert streamed(ScriptedTail(Piece([], 0, End(state=State.FAILED))), ending)[1:] == [
        {"error": wire.failure(failed(429))[0]}
    ]


def test_a_client_that_leaves_closes_the_tail() -> None:
    tail = ScriptedTail(piece(1), piece(2))
    reading = wire.messages(GENERATION, tail.tail, CHAT, dict, keepalive=5.0, seconds=100.0)
    next(reading)
    next(reading)
    reading.close()  # type: ignore[attr-defined]
    assert tail.closed
