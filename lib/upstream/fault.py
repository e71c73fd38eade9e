"""The failure of an upstream call, with what the engine needs to decide what to do next."""

from __future__ import annotations

from lib.dialects.steps import Fault


class UpstreamFault(Exception):
    """The upstream call failed.

    `reason` is one of Holdfast's documented codes, and `message` is safe to show. `passing` means that the failure is
    transient, so that another call may succeed. `retry_after` is how long the upstream asked to wait, in seconds.
    `status` is the HTTP status for the client, if no status line was sent yet. `said` is the upstream's own error, if
    it sent one, and `content_type` the type of its body.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        passing: bool = False,
        status: int = 502,
        retry_after: float = 0.0,
        said: Fault | None = None,
        content_type: str = "",
    ):
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.passing = passing
        self.status = status
        self.retry_after = retry_after
        self.said = said
        self.content_type = content_type
