"""An upstream's errors keep their message, code and status, and are classified as transient or not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lib.dialects.faults import BODY_BYTES, error_in, fault_of, fault_of_status
from lib.dialects.steps import Fault


def event_fault(payload: Any) -> Fault:
    error = error_in(payload)
    assert error is not None
    return fault_of(error)


def refused(status: int, body: Any) -> Fault:
    return fault_of_status(status, body if isinstance(body, bytes) else json.dumps(body).encode())


@pytest.mark.parametrize(
    ("error", "message", "code"),
    [
        ({"message": "Overloaded.", "code": "overloaded", "type": "server_error"}, "Overloaded.", "overloaded"),
        ({"message": "Slow down.", "type": "rate_limit", "code": None}, "Slow down.", "rate_limit"),
        ({"message": "No.", "code": 429}, "No.", "429"),
        ({"message": "No.", "code": True}, "No.", "upstream_error"),
        ({"message": {"detail": "x"}}, '{"detail":"x"}', "upstream_error"),
        ({"message": "No.", "type": "error"}, "No.", "upstream_error"),
        ("It broke.", "It broke.", "upstream_error"),
        ({"code": "x"}, "The upstream reported an error.", "x"),
        (True, "The upstream reported an error.", "upstream_error"),
        ([1], "The upstream reported an error.", "upstream_error"),
    ],
)
def test_an_error_has_the_upstream_s_own_message_and_code(error: Any, message: str, code: str) -> None:
    fault = event_fault({"error": error})
    assert (fault.message, fault.code) == (message, code)


def test_an_error_has_all_else_that_the_upstream_sent() -> None:
    error = {
        "message": "Too long by 12 tokens.",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context_length_exceeded",
        "metadata": {"x": 1},
    }
    assert event_fault({"error": error}) == Fault(
        message="Too long by 12 tokens.",
        code="context_length_exceeded",
        type="invalid_request_error",
        param="messages",
        body=json.dumps({"error": error}, separators=(",", ":")),
    )


@pytest.mark.parametrize(
    ("code", "status"),
    [(429, 429), ("503", 503), (400, 400), (599, 599), (399, None), (600, None), ("4290", None), ("٤٠٠", None)],
)
def test_a_code_that_is_an_http_status_is_the_status_as_well(code: Any, status: int | None) -> None:
    assert event_fault({"error": {"message": "m", "code": code}}).status == status
    assert event_fault({"error": {"message": "m", "code": code}}).code == str(code)
    assert event_fault({"error": {"message": "m", "status": code}}).status == status


def test_an_error_has_a_bound_and_a_body_beyond_its_own_is_left_out() -> None:
    fault = event_fault(
        {"error": {"message": "m" * 900_000, "code": "c" * 900_000, "type": "t" * 900, "param": "p" * 900}}
    )
    assert [len(each or "") for each in (fault.message, fault.code, fault.type, fault.param)] == [2000, 200, 200, 200]
    assert fault.body == ""
    assert 0 < len(event_fault({"error": {"message": "é" * 20_000}}).body.encode()) <= BODY_BYTES


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        ({"message": "m", "type": "server_error"}, True),
        ({"message": "m", "type": "overloaded_error", "code": None}, True),
        ({"message": "m", "code": "rate_limit_exceeded"}, True),
        ({"message": "m", "code": "Overloaded"}, True),
        ({"message": "m", "code": "timeout"}, True),
        ({"message": "m", "code": 429}, True),
        ({"message": "m", "code": 408}, True),
        ({"message": "m", "code": "503"}, True),
        ({"message": "m", "code": 400, "type": "invalid_request_error"}, False),
        ({"message": "m", "code": 400, "type": "api_error"}, False),
        ({"message": "m", "code": "content_filter"}, False),
        ({"message": "m", "code": "context_length_exceeded", "type": "server_error"}, False),
        ({"message": "m", "code": "insufficient_quota", "type": "rate_limit_error"}, False),
        ("overloaded", False),
    ],
)
def test_an_error_may_pass_where_its_code_or_type_says_so(error: Any, passing: bool) -> None:
    assert event_fault({"error": error}).passing is passing


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        ({"error": {"message": "No such model.", "code": "model_not_found"}}, "No such model.", "model_not_found"),
        ({"error": "No such model."}, "No such model.", "upstream_status"),
        ({"error": "No such model.", "code": "E1"}, "No such model.", "E1"),
        ([{"error": {"message": "No such model.", "code": 404, "status": "NOT_FOUND"}}], "No such model.", "404"),
        ({"message": "No such model.", "code": "E1"}, "No such model.", "E1"),
        ({"object": "error", "message": "No such model.", "type": "NotFoundError"}, "No such model.", "NotFoundError"),
        ({"detail": "No such model."}, "No such model.", "upstream_status"),
        ({"detail": {"error": {"message": "No such model.", "code": "E1"}}}, "No such model.", "E1"),
        (
            {"detail": [{"loc": ["body", "model"], "msg": "no such model"}, {"msg": "and no key"}]},
            "body.model: no such model; and no key",
            "upstream_status",
        ),
        ({"error": {"code": "E1"}}, "The upstream answered with status 404.", "E1"),
        (b"<html>Not found</html>", "The upstream answered with status 404.", "upstream_status"),
        (b"", "The upstream answered with status 404.", "upstream_status"),
        (b"[" * 100_000, "The upstream answered with status 404.", "upstream_status"),
        ({"detail": [[1], 2]}, "The upstream answered with status 404.", "upstream_status"),
        ("text", "The upstream answered with status 404.", "upstream_status"),
        ({"usage": 1}, "The upstream answered with status 404.", "upstream_status"),
    ],
)
def test_a_refusal_has_the_upstream_s_message_in_any_shape(body: Any, message: str, code: str) -> None:
    fault = refused(404, body)
    assert (fault.message, fault.code, fault.status, fault.passing) == (message, code, 404, False)
    assert fault.body == "" or json.loads(fault.body)["error"]
    assert bool(fault.body) is (code != "upstream_status" or message[:12] != "The upstream")


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 529])
def test_a_refusal_may_pass_by_its_status(status: int) -> None:
    assert refused(status, b"").passing
    assert refused(status, {"error": {"message": "m", "type": "invalid_request_error"}}).passing
    assert refused(status, {"error": {"message": "m", "code": 400}}).status == status


@pytest.mark.parametrize("code", ["insufficient_quota", "billing_hard_limit_reached"])
def test_a_429_that_no_waiting_helps_is_final(code: str) -> None:
    assert not refused(429, {"error": {"message": "m", "code": code}}).passing
    assert not refused(429, {"error": {"message": "m", "type": code}}).passing


def test_a_4xx_may_pass_by_its_code_alone() -> None:
    assert refused(400, {"error": {"message": "m", "code": "overloaded"}}).passing
    assert not refused(400, {"error": {"message": "m", "type": "server_error"}}).passing


@pytest.mark.parametrize(
    "payload",
    [{}, {"error": None}, {"error": ""}, {"error": {}}, {"error": False}, [], [{}], 1, "error", None, {"type": "x"}],
)
def test_what_has_no_error_has_none(payload: Any) -> None:
    assert error_in(payload) is None
