"""What a Cloud Run service's front end limits. Sizes are in bytes."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20
MAX_RESPONSE_SECONDS = 3600.0  # https://cloud.google.com/run/docs/configuring/request-timeout


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The limits of one service.

    `request_bytes`: a larger request is 413, and a larger response that is not streamed is 500. Both are 32 MiB for
    HTTP/1 (https://cloud.google.com/run/quotas).

    `response_seconds` is the service's time-out: 504, or a cut connection where the response has begun
    (https://cloud.google.com/run/docs/configuring/request-timeout).

    `pending_seconds`: a request waits so long for an instance, and then is 429
    (https://cloud.google.com/run/docs/about-instance-autoscaling).

    `idle_seconds`: a connection is cut on which nothing passes for so long, between two requests or in a stream. That
    is not Cloud Run, but proxies, load balancers and mobile networks on the way to it. 0 cuts none.

    `invoker`, `audience` and `certs_url` are of a private service: only this account's tokens with this audience pass,
    verified with these keys. `strip` then removes the signature of what has been verified. See `gate`.
    """

    request_bytes: int = 32 * MIB
    response_bytes: int = 32 * MIB
    response_seconds: float = MAX_RESPONSE_SECONDS
    pending_seconds: float = 10.0
    idle_seconds: float = 0.0
    invoker: str | None = None
    audience: str | None = None
    certs_url: str | None = None
    strip: bool = False

    def __post_init__(self) -> None:
        if self.invoker and not (self.audience and self.certs_url):
            raise ValueError("with invoker, audience and certs_url must be set")
        if self.strip and not self.invoker:
            raise ValueError("strip is for a private service: only a verified token loses its signature")
