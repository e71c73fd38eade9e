"""The call to the upstream: one HTTP exchange, read to its end, that another thread can cancel.

The one module that imports requests, and no module that serves a client may import this one. It reads bytes; what they
mean is a dialect's matter. How long each step may take is enforced by who cancels; requests' own time-outs are behind
that, so that no thread waits for ever.
"""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from lib.catalog import Upstream

READ_BYTES = 64 << 10
ERROR_BODY_BYTES = 64 << 10
POOL = 256
_MARGIN_SECONDS = 5.0  # beyond the deadlines, which are enforced by who cancels
_LONGEST_RETRY_SECONDS = 86_400.0
_PASSING = frozenset({408, 425, 429})  # and every 5xx
_HEADER_SAFE = re.compile(r"[\x21-\x7e]+")
Session = requests.Session


class UpstreamFault(Exception):
    """The upstream did not answer as it should. `reason` is a stable word, the message one for people.

    `passing` tells whether another try may do better; `status`, `body`, `content_type` and `retry_after` (seconds) are
    the upstream's own where it sent them.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        passing: bool = False,
        status: int | None = None,
        body: bytes = b"",
        content_type: str = "",
        retry_after: float = 0.0,
    ):
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.passing = passing
        self.status = status
        self.body = body
        self.content_type = content_type
        self.retry_after = retry_after


def new_session() -> Session:
    """A session for all calls of a process: it keeps connections, and follows the environment's proxies."""
    session = requests.Session()
    adapter = HTTPAdapter(pool_connections=16, pool_maxsize=POOL)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


class Call:
    """One request and its answer. `traceparent` tells the upstream which trace it is of, where it is to know."""

    def __init__(
        self, session: Session, upstream: Upstream, key: str | None, body: bytes, traceparent: str | None = None
    ):
        self._session = session
        self._upstream = upstream
        self._key = key.strip() if key else None
        self._body = body
        self._traced = {"traceparent": traceparent} if traceparent else {}
        self._lock = threading.Lock()
        self._response: requests.Response | None = None
        self._cancelled = False

    def open(self) -> str:
        """Sends the request; gives the answer's media type, once its status says success. Errors: `UpstreamFault`."""
        deadlines = self._upstream.deadlines
        if self._key and not _HEADER_SAFE.fullmatch(self._key):
            raise UpstreamFault("upstream_key", "The upstream's key can't be sent: it is not plain text.", status=502)
        try:
            response = self._session.post(
                f"{self._upstream.base_url}/chat/completions",
                data=self._body,
                headers={
                    "Content-Type": "application/json",
                    "Accept": "text/event-stream, application/json",
                    "User-Agent": "holdfast",
                    **self._traced,
                },
                auth=self._authorize,
                stream=True,
                allow_redirects=False,
                timeout=(deadlines.connect, max(deadlines.first_byte, deadlines.idle) + _MARGIN_SECONDS),
            )
        except requests.RequestException as error:
            raise _unanswered(error) from error
        with self._lock:
            self._response = response
            if self._cancelled:
                response.close()
                raise UpstreamFault("cancelled", "The call was cancelled.")
        if not 200 <= response.status_code < 300:
            raise self._refusal(response)
        return response.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    def pieces(self) -> Iterator[bytes]:
        """The answer's body as it arrives, its content encoding undone. Errors: `UpstreamFault`."""
        raw: Any = self._response.raw if self._response is not None else None
        try:
            while piece := raw.read1(READ_BYTES, decode_content=True):
                yield piece
        except (HTTPError, OSError, ValueError) as error:
            raise UpstreamFault(
                "upstream_disconnected", "The upstream broke off in the middle of its answer.", passing=True
            ) from error

    def cancel(self) -> None:
        """Ends the exchange, from any thread; whoever reads it is woken with an `UpstreamFault` or the end."""
        with self._lock:
            self._cancelled = True
            response = self._response
        if response is not None:
            try:
                response.raw.shutdown()
            except (OSError, RuntimeError, ValueError):
                pass  # it has ended already

    def close(self) -> None:
        """Gives the connection back, or closes it where the answer was not read to its end. For the reading thread."""
        if self._response is not None:
            self._response.close()

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        # An `auth` of our own, since requests would otherwise let a .netrc replace the header.
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _refusal(self, response: requests.Response) -> UpstreamFault:
        status = response.status_code
        if not 400 <= status < 600:
            return UpstreamFault(
                "upstream_status", f"The upstream answered with status {status} instead of an answer.", status=502
            )
        body = b""
        try:
            for piece in self.pieces():
                body += piece
                if len(body) > ERROR_BODY_BYTES:
                    break
        except UpstreamFault:
            pass  # the status alone says enough
        return UpstreamFault(
            "upstream_status",
            f"The upstream answered with status {status}.",
            passing=status in _PASSING or status >= 500,
            status=status,
            body=body[:ERROR_BODY_BYTES],
            content_type=response.headers.get("Content-Type", ""),
            retry_after=_retry_after(response.headers),
        )


def _unanswered(error: requests.RequestException) -> UpstreamFault:
    if _certificate_refused(error):
        return UpstreamFault("upstream_tls", "The upstream's certificate was not accepted.", status=502)
    if isinstance(error, requests.ConnectTimeout):
        return UpstreamFault(
            "upstream_unreachable", "The upstream could not be reached in time.", passing=True, status=504
        )
    if isinstance(error, requests.ReadTimeout):
        return UpstreamFault(
            "upstream_timeout", "The upstream did not begin to answer in time.", passing=True, status=504
        )
    if isinstance(error, requests.ConnectionError):
        return UpstreamFault("upstream_unreachable", "The upstream could not be reached.", passing=True, status=502)
    return UpstreamFault("upstream_unreachable", "The request to the upstream could not be made.", status=502)


def _certificate_refused(error: BaseException) -> bool:
    """Whether that is at the bottom of it: any other fault of TLS may be a connection that broke."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return True
        reason = getattr(seen, "reason", None) or next(iter(seen.args), None)
        seen = reason if isinstance(reason, BaseException) else seen.__cause__ or seen.__context__
    return False


def _retry_after(headers: Mapping[str, str]) -> float:
    """RFC 9110, section 10.2.3: seconds, or a date."""
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return min(float(value), _LONGEST_RETRY_SECONDS)
    try:
        left = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        return max(0.0, min(left, _LONGEST_RETRY_SECONDS))
    except (TypeError, ValueError):
        return 0.0
