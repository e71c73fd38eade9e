"""The errors that clients get. An upstream's error keeps the status, code and message that the upstream sent.

Text of internal exceptions must not get out.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any, Self

import orjson
from werkzeug.exceptions import HTTPException

from lib.dialects.protocol import Dialect
from lib.domain.end import End, Fields
from lib.domain.errors import HoldfastError, InvalidRequest, Unreachable
from lib.domain.event import Event

log = logging.getLogger(__name__)

_FAILED = 502  # where the upstream gave no status


@dataclass(frozen=True, slots=True)
class UpstreamBody:
    """The upstream's own error, a JSON object as text."""

    body: str
    content_type: str

    @classmethod
    def of(cls, error: Fields) -> Self | None:
        """The upstream's body from a generation's `error`, or None if there is none or it is not a JSON object."""
        body, content_type = str(error.get("body") or ""), str(error.get("contentType") or "")
        try:
            fields = orjson.loads(body)
        except orjson.JSONDecodeError:
            return None
        if not isinstance(fields, dict):
            return None
        media_type = content_type.partition(";")[0].strip().lower()
        is_json = media_type == "application/json" or media_type.endswith("+json")
        return cls(body, content_type if is_json else "application/json")


class UpstreamFailure(HoldfastError):
    """The upstream failed, with its own message, code and status if it sent them."""

    status = _FAILED
    type = "upstream_error"

    def __init__(self, message: str, *, code: str, error: Fields):
        param = error.get("param")
        super().__init__(
            message,
            code=code,
            param=str(param) if param else None,
            retry_after=math.ceil(error.get("retryAfter") or 0),
        )
        self.type = str(error.get("type") or self.type)
        self.upstream_status = error.get("status")
        self.retryable = bool(error.get("retryable"))
        self.upstream = UpstreamBody.of(error)


class UpstreamRefusal(UpstreamFailure):
    """There is no answer. If no status line was sent yet, the response has the upstream's own status and body."""

    def __init__(self, end: End):
        error = end.error or {}
        words = str(error.get("message") or "There is no answer.")
        super().__init__(words, code=str(error.get("code") or end.reason or "failed"), error=error)
        status = self.upstream_status
        self.status = status if isinstance(status, int) and 400 <= status <= 599 else _FAILED


class Interrupted(UpstreamFailure):
    """The answer was interrupted. What was read is saved."""

    code = "incomplete"

    def __init__(self, end: End):
        error = end.error or {}
        words = str(error.get("message") or "The answer broke off.")
        sentence = words if words.endswith((".", "!", "?")) else f"{words}."
        code = str(error.get("code") or end.reason or self.code)
        super().__init__(f"{sentence} What was read is saved as incomplete.", code=code, error=error)
        self.retryable = False  # the same key finds this answer again, and without a key a second one would be paid


def shown(error: Exception) -> HoldfastError:
    """The error to show to the client. Internal errors are logged and replaced."""
    if isinstance(error, HoldfastError):
        if isinstance(error, Unreachable):
            log.warning("Firestore can't be reached", extra={"cause": error.cause})
        return error
    if isinstance(error, HTTPException):  # such as of a client that left while it sent its request
        return InvalidRequest("The request could not be read.")
    log.error("request failed", exc_info=error)
    return HoldfastError("Something went wrong here. Try again.")


def error_event(error: HoldfastError, dialect: Dialect | None) -> Event:
    """The event of a stream that has failed: an upstream's error is its own."""
    own = error.upstream.body.encode() if isinstance(error, UpstreamFailure) and error.upstream is not None else b""
    return dialect.error(error, own) if dialect is not None else Event(orjson.dumps(error.body()))


def error_body(error: HoldfastError, dialect: Dialect | None) -> bytes:
    """The body of a response that has failed: in our words, which also say what was saved."""
    return dialect.error(error).data if dialect is not None else orjson.dumps(error.body())


def summary(error: Fields | None) -> dict[str, Any] | None:
    """A generation's error as its owner sees it."""
    return {name: error.get(name) for name in ("message", "code", "param", "status")} if error else None
