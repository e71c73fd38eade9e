"""Reads the upstream's own errors: message, code and status, and whether another call may succeed.

Model APIs and their proxies use many error formats, so all known formats are accepted in every dialect. Nothing may be
invented: message, code and status are the upstream's.
"""

from __future__ import annotations

from typing import Any

from lib.dialects import payload as json_text
from lib.dialects.protocol import Malformed
from lib.dialects.steps import Fault, Json

MESSAGE_CHARACTERS = 2000  # it is stored in three documents
NAME_CHARACTERS = 200
BODY_BYTES = 64 << 10

_PASSING_STATUS = frozenset({408, 425, 429})  # and every 5xx
_PASSING = frozenset(
    {
        "api_error",
        "internal_server_error",
        "overloaded",
        "overloaded_error",
        "rate_limit_error",
        "rate_limit_exceeded",
        "server_error",
        "service_unavailable",
        "timeout",
        "timeout_error",
    }
)
# Permanent errors, even with a 429 or a 5xx.
_FINAL = frozenset(
    {
        "account_deactivated",
        "billing_hard_limit_reached",
        "billing_not_active",
        "content_filter",
        "content_policy_violation",
        "context_length_exceeded",
        "insufficient_quota",
        "invalid_api_key",
        "model_not_found",
    }
)


def error_in(value: Any) -> Any:
    """The error that a payload is, or has at its top level. None if there is none.

    Formats: `{"error": {…}}`, `{"error": "text", "code": …}`, an object whose type says that it is an error, or a list
    of these, as Google sends it.
    """
    if isinstance(value, list):
        return next((error for item in value if (error := error_in(item)) is not None), None)
    if not isinstance(value, dict):
        return None
    error = value.get("error")
    if not error:
        return value if "error" in (value.get("object"), value.get("type")) else None
    if isinstance(error, dict):
        return error
    about = {name: value[name] for name in ("code", "type", "param", "status", "message") if name in value}
    return {**about, "message": error} if isinstance(error, str) else about


def fault_of(error: Any) -> Fault:
    """Reads an error: the upstream's error object, its text, or True if the upstream gave neither."""
    said = error if isinstance(error, dict) else {"message": error} if isinstance(error, str) else {}
    return _fault(said, "The upstream reported an error.", "upstream_error", None)


def fault_of_event(data: bytes) -> Fault:
    """Reads an event named `error`, whose data is the error, or contains it, or is its text."""
    try:
        value = json_text.whole(json_text.read_loosely(data))
    except Malformed:
        value = data.decode("utf-8", "replace")
    error = error_in(value)
    return fault_of(value if error is None else error)


def fault_of_status(status: int, body: bytes) -> Fault:
    """Reads a response with an error status."""
    try:
        error = _refusal(json_text.whole(json_text.read_loosely(body)))
    except Malformed:
        error = None
    return _fault(error or {}, f"The upstream answered with status {status}.", "upstream_status", status)


def _fault(error: Json, untold: str, unnamed: str, status: int | None) -> Fault:
    named, kind, param = error.get("code"), error.get("type"), error.get("param")
    kind = kind if isinstance(kind, str) and kind not in ("", "error") else None
    code = str(named) if named and isinstance(named, str | int) and not isinstance(named, bool) else ""
    status = status or _status(named) or _status(error.get("status"))
    return Fault(
        message=_message(error.get("message"))[:MESSAGE_CHARACTERS] or untold,
        code=(code or kind or unnamed)[:NAME_CHARACTERS],
        type=kind and kind[:NAME_CHARACTERS],
        param=param[:NAME_CHARACTERS] if isinstance(param, str) else None,
        status=status,
        passing=_passing(status, code.lower(), (kind or "").lower()),
        body=_body(error),
    )


def _passing(status: int | None, code: str, kind: str) -> bool:
    if status is not None and status >= 500:
        return True
    if code in _FINAL or kind in _FINAL:
        return False
    # Types are unreliable: some proxies use a server error's type for every 4xx.
    return status in _PASSING_STATUS or code in _PASSING or (status is None and kind in _PASSING)


def _status(value: Any) -> int | None:
    if isinstance(value, str) and len(value) == 3 and value.isascii() and value.isdecimal():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599 else None


def _message(value: Any) -> str:
    if isinstance(value, str):
        return value.strip()
    return json_text.write(value).decode() if value and value is not True else ""


def _body(error: Json) -> str:
    body = json_text.write({"error": error}) if error else b""
    return body.decode() if len(body) <= BODY_BYTES else ""


def _refusal(value: Any) -> Json | None:
    """The error in the body of a response with an error status, also in `{"message": …}` or `{"detail": …}`."""
    error = error_in(value)
    if isinstance(error, dict):
        return error
    if not isinstance(value, dict):
        return None
    detail = value.get("detail")
    if isinstance(value.get("message"), str):
        return value
    if isinstance(detail, dict):
        return _refusal(detail)
    if isinstance(detail, list):  # FastAPI's format for validation errors
        detail = "; ".join(_complaint(item) for item in detail if isinstance(item, dict))
    return {"message": detail} if detail and isinstance(detail, str) else None


def _complaint(item: Json) -> str:
    place = item.get("loc")
    where = ".".join(str(step) for step in place) if isinstance(place, list) else ""
    return f"{where}: {item.get('msg')}" if where else str(item.get("msg"))
