"""What can go wrong with an upstream, as the engine acts on it."""

from __future__ import annotations

from lib.dialects.steps import Fault


class UpstreamFault(Exception):
    """The upstream did not answer as it should.

    `reason` is a stable word of Holdfast's, `message` is safe to show. `passing` tells whether another call may do
    better; `retry_after` is how long the upstream asked to be left alone, in seconds. `status` is the HTTP status that
    a client gets where nothing was said before. `said` has the upstream's own words, where there are any, and
    `content_type` is theirs.
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
