"""What can go wrong, as a caller may see it.

Every error that may reach a client is one of these: an HTTP status, a public code and a message that is safe to
show. The cause is chained with `from` and stays on the server; no internal exception's text may enter a message.
"""

from __future__ import annotations

from typing import Any


class HoldfastError(Exception):
    """Base of every error a client may see; by itself, a fault of ours."""

    status = 500
    code = "internal_error"
    type = "server_error"

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None, retry_after: int = 0):
        super().__init__(message)
        self.message = message
        self.code = code or self.code
        self.param = param
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """OpenAI's error shape: `{"error": {"message", "type", "code", "param"}}`."""
        return {"error": {"message": self.message, "type": self.type, "code": self.code, "param": self.param}}


class InvalidRequest(HoldfastError):
    """The request can't be served as it is; the message names the field and the remedy."""

    status = 400
    code = "invalid_request"
    type = "invalid_request_error"


class Unauthenticated(HoldfastError):
    """No valid identity came with the request."""

    status = 401
    code = "unauthenticated"
    type = "authentication_error"


class NotFound(HoldfastError):
    """There is no such thing, or it is another user's."""

    status = 404
    code = "not_found"
    type = "invalid_request_error"


class Conflict(HoldfastError):
    """The request contradicts what is already there."""

    status = 409
    code = "conflict"
    type = "invalid_request_error"


class TooLarge(HoldfastError):
    """The request's body is over the limit."""

    status = 413
    code = "request_too_large"
    type = "invalid_request_error"


class UnsupportedMediaType(HoldfastError):
    """The request's body is not JSON."""

    status = 415
    code = "unsupported_media_type"
    type = "invalid_request_error"


class TooManyRequests(HoldfastError):
    """The user has as many live generations as is allowed."""

    status = 429
    code = "too_many_generations"
    type = "rate_limit_error"


class Unavailable(HoldfastError):
    """A part that the request needs can't be reached now; trying again later is right."""

    status = 503
    code = "unavailable"


class Unreachable(Unavailable):
    """Firestore did not answer, or asked for a later try. A commit may have taken effect all the same.

    `cause` is the kind of error, in a word, for the log.
    """

    def __init__(self, cause: str):
        super().__init__("The database can't be reached. Try again.", retry_after=1)
        self.cause = cause


class StillRunning(HoldfastError):
    """The answer is not complete within the time one response may take."""

    status = 504
    code = "still_running"


class ConfigurationError(Exception):
    """The settings are wrong; the message names every variable that is."""
