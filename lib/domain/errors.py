"""The errors that clients may see.

Each has an HTTP status, a public code and a message that is safe to show. The cause is chained with `from` and stays on
the server. Text of internal exceptions must not get into a message.
"""

from __future__ import annotations

from typing import Any


class HoldfastError(Exception):
    """Base of all errors that a client may see. By itself it means an internal error."""

    status = 500
    code = "internal_error"
    type = "server_error"
    retryable = True  # if the status says so as well

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None, retry_after: int = 0):
        super().__init__(message)
        self.message = message
        self.code = code or self.code
        self.param = param
        self.retry_after = retry_after
        self.details: dict[str, Any] = {}

    def body(self) -> dict[str, Any]:
        """OpenAI's error shape: `{"error": {"message", "type", "code", "param"}}`, and the error's own `details`."""
        said = {"message": self.message, "type": self.type, "code": self.code, "param": self.param}
        return {"error": {**said, **self.details}}


class InvalidRequest(HoldfastError):
    """The request is invalid. The message names the field and the remedy."""

    status = 400
    code = "invalid_request"
    type = "invalid_request_error"


class Unauthenticated(HoldfastError):
    """The request has no valid credentials."""

    status = 401
    code = "unauthenticated"
    type = "authentication_error"


class NotFound(HoldfastError):
    """The resource does not exist, or belongs to another user."""

    status = 404
    code = "not_found"
    type = "invalid_request_error"


class Conflict(HoldfastError):
    """The request conflicts with what already exists."""

    status = 409
    code = "conflict"
    retryable = False
    type = "invalid_request_error"


class TooLarge(HoldfastError):
    """The request body is over the size limit."""

    status = 413
    code = "request_too_large"
    type = "invalid_request_error"


class TooSlow(HoldfastError):
    """The client did not send the whole body in time."""

    status = 408
    code = "request_timeout"
    type = "invalid_request_error"


class UnsupportedMediaType(HoldfastError):
    """The request body is not JSON."""

    status = 415
    code = "unsupported_media_type"
    type = "invalid_request_error"


class TooManyRequests(HoldfastError):
    """The user has reached a limit, such as that of live generations. The client should retry later."""

    status = 429
    code = "too_many_generations"
    type = "rate_limit_error"


class BudgetReached(TooManyRequests):
    """A budget is not enough for the request. The `details` say which, and when it resets.

    It is worth a retry before that if running answers hold the rest.
    """

    code = "budget_reached"


class ClientLeft(HoldfastError):
    """The client has closed its connection, so nobody gets this response.

    The status is nginx's, which has become the usual one (https://http.dev/499).
    """

    status = 499
    code = "client_left"


class Unavailable(HoldfastError):
    """A service that the request needs can't be reached. The client should retry later."""

    status = 503
    code = "unavailable"


class Unreachable(Unavailable):
    """Firestore did not answer, or asked for a retry. A commit may have taken effect nevertheless.

    `cause` is the kind of error, for the log.
    """

    def __init__(self, cause: str):
        super().__init__("The database can't be reached. Try again.", retry_after=1)
        self.cause = cause

    @property
    def contention(self) -> bool:
        """Whether others wrote the same documents, so that this commit did not take effect."""
        return self.cause == "Aborted"


class IndexMissing(Unreachable):
    """A query's index is missing or still being built, which the log names. A retry at once would fail too."""

    def __init__(self) -> None:
        super().__init__("FailedPrecondition")
        self.message = "An index of the database is missing or being built. Try again later."


class StillRunning(HoldfastError):
    """The answer was not complete within the time limit of one response."""

    status = 504
    code = "still_running"


class ConfigurationError(Exception):
    """The settings are wrong. The message names every wrong variable."""
