"""The call to the upstream: one HTTP exchange, read to its end, that another thread can cancel.

The one module that imports requests, and no module that serves a client may import this one. It reads bytes; what they
mean is a dialect's matter. How long each step may take is enforced by who cancels; time-outs are behind that, so that
no thread waits for ever. requests makes the call and reads the answer's head; the body is taken from the socket, since
one thread can then take what has arrived for many calls, and wait for none.
"""

from __future__ import annotations

import http.client
import re
import select
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from lib.runtime.catalog import Upstream
from lib.upstream.body import BadBody, Body

READ_BYTES = 64 << 10
ERROR_BODY_BYTES = 64 << 10
POOL = 256
_MARGIN_SECONDS = 5.0  # beyond the deadlines, which are enforced by who cancels
_LONGEST_RETRY_SECONDS = 86_400.0
_PASSING = frozenset({408, 425, 429})  # and every 5xx
_HEADER_SAFE = re.compile(r"[\x21-\x7e]+")


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


class Session(requests.Session):
    """Asks the environment for proxies and certificates once an address, which takes longer than all else of a call."""

    def __init__(self) -> None:
        super().__init__()
        self._environment: dict[str, Any] = {}

    def merge_environment_settings(self, url: Any, *asked: Any) -> Any:
        if url not in self._environment:
            self._environment[url] = super().merge_environment_settings(url, *asked)
        return self._environment[url].copy()


def new_session() -> Session:
    """A session for all calls of a process: it keeps connections, and follows the environment's proxies."""
    session = Session()
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
        self._arriving: _Arriving | None = None
        self._cancelled = False

    def open(self) -> str:
        """Sends the request; gives the answer's media type, once its status says success. Errors: `UpstreamFault`."""
        if self._key and not _HEADER_SAFE.fullmatch(self._key):
            raise UpstreamFault("upstream_key", "The upstream's key can't be sent: it is not plain text.", status=502)
        try:
            response = self._session.post(
                f"{self._upstream.base_url}/chat/completions",
                data=self._body,
                headers={
                    "Content-Type": "application/json",
                    "Accept": "text/event-stream, application/json",
                    "Accept-Encoding": "gzip",
                    "User-Agent": "holdfast",
                    **self._traced,
                },
                auth=self._authorize,
                stream=True,
                allow_redirects=False,
                timeout=(self._upstream.deadlines.connect, self._longest_silence),
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
        self._arriving = _Arriving(response.raw)
        return response.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    @property
    def ended(self) -> bool:
        """Whether the whole body was taken."""
        return self._arriving is None or self._arriving.ended

    def arrived(self) -> Iterator[bytes]:
        """What has arrived of the body and was not taken yet, its content coding undone. It never waits for more.

        Errors: `UpstreamFault`, after all that came before it.
        """
        try:
            if self._arriving is not None:
                yield from self._arriving.take()
        except (BadBody, OSError, ValueError) as error:
            raise UpstreamFault(
                "upstream_disconnected", "The upstream broke off in the middle of its answer.", passing=True
            ) from error

    def wait(self, seconds: float) -> bool:
        """Waits for more of the body, or its end, or a cancel; says whether one of them came in time."""
        return self._arriving is None or self._arriving.wait(seconds)

    def pieces(self) -> Iterator[bytes]:
        """The answer's body as it arrives, up to its end. Errors: `UpstreamFault`."""
        while not self.ended:
            yield from self.arrived()
            if not self.ended and not self.wait(self._longest_silence):
                raise UpstreamFault(
                    "upstream_disconnected", "The upstream fell silent in the middle of its answer.", passing=True
                )

    def cancel(self) -> None:
        """Ends the exchange, from any thread; whoever reads it is woken with an `UpstreamFault` or the end."""
        with self._lock:
            self._cancelled = True
            if self._response is not None:
                try:
                    self._response.raw.shutdown()
                except (OSError, RuntimeError, ValueError):
                    pass  # it has ended already

    def close(self) -> None:
        """Gives the connection back, or closes it where the answer was not read to its end. For the reading thread."""
        with self._lock:
            if self._arriving is not None and self._arriving.leaves_connection and not self._cancelled:
                self._arriving.give_back()
            elif self._response is not None:
                self._response.close()

    @property
    def _longest_silence(self) -> float:
        return max(self._upstream.deadlines.first_byte, self._upstream.deadlines.idle) + _MARGIN_SECONDS

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
            while len(body) <= ERROR_BODY_BYTES and (piece := response.raw.read1(READ_BYTES, decode_content=True)):
                body += piece
        except (HTTPError, OSError, ValueError):
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


class _Arriving:
    """The body of a response whose head was read, straight from its connection's socket, which never blocks."""

    def __init__(self, raw: Any):
        self._raw = raw
        self._head: http.client.HTTPResponse = raw._fp  # neither library tells its socket to who asks politely
        self._ahead: Any = self._head.fp
        self._socket: socket.socket = self._ahead.raw._sock
        self._whole_records = type(self._socket) is not socket.socket  # it is TLS, where one read gives one record
        self._body = Body(
            chunked=bool(self._head.chunked),
            length=self._head.length,
            coding=self._head.headers.get("Content-Encoding", ""),
        )
        self._more = True  # there may be something to take of which a poll does not tell
        self._socket.settimeout(0.0)

    @property
    def ended(self) -> bool:
        return self._body.ended

    @property
    def leaves_connection(self) -> bool:
        return self._body.ended and not self._body.surplus and not self._head.will_close

    def give_back(self) -> None:
        self._head.close()
        self._raw.release_conn()

    def take(self) -> Iterator[bytes]:
        self._more = True
        while not self._body.ended:
            try:
                data = self._read_with_head() or self._socket.recv(READ_BYTES)
            except (BlockingIOError, ssl.SSLWantReadError):
                break
            if data:
                yield from self._body.feed(data)
            else:
                self._body.close()
            if len(data) < READ_BYTES and not self._whole_records:
                break  # the socket is empty, and to be told so would take another call
        self._more = False

    def _read_with_head(self) -> bytes:
        """What was read ahead with the head, the first time."""
        ahead, self._ahead = self._ahead, None
        return ahead.peek() if ahead is not None else b""

    def wait(self, seconds: float) -> bool:
        if self._more or self._body.ended:
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(1000 * seconds))


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
