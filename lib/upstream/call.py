"""The call to the upstream: one HTTP exchange that can be cut at any moment.

The only module that imports requests. No module that serves a client may import this one. It reads bytes; dialects
interpret them, and the engine decides what follows from a refusal. The engine also enforces the deadlines, by cutting
the call. The time-outs here are longer, as a fallback so that no thread waits for ever.
"""

from __future__ import annotations

import re
import ssl
import zlib
from dataclasses import dataclass, replace
from http.cookiejar import DefaultCookiePolicy
from typing import Any, NoReturn
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import HTTPError, ReadTimeoutError

from lib.dialects.protocol import Outgoing
from lib.runtime.catalog import Upstream
from lib.upstream.coding import CODINGS, Inflater
from lib.upstream.connection import POOLS
from lib.upstream.credential import Credential, Header
from lib.upstream.fault import UpstreamFault
from lib.upstream.line import Line
from lib.upstream.retry_after import retry_after

READ_BYTES = 64 << 10
POOL = 256
MARGIN_SECONDS = 5.0  # beyond the deadlines, which the engine enforces by cutting
_UNSHOWABLE = re.compile(r"[^\w.+-]", re.ASCII)


class Session(requests.Session):
    """Keeps connections between calls, and no other state.

    Proxies and certificates are looked up in the environment once per server, because that takes longer than the rest
    of sending a request.
    """

    def __init__(self) -> None:
        super().__init__()
        self._environment: dict[tuple[str, str], Any] = {}
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        """The request as it is given: no cookies, no headers of the session's, and none from a .netrc file."""
        prepared = requests.PreparedRequest()
        prepared.prepare(request.method, request.url, request.headers, data=request.data, params=request.params)
        return prepared

    def merge_environment_settings(self, url: Any, *asked: Any) -> Any:
        server = urlsplit(url)[:2]
        if server not in self._environment:
            self._environment[server] = super().merge_environment_settings(url, *asked)
        return self._environment[server].copy()

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: redirects are not followed. requests would read the whole body to prepare the next request."""


class _Adapter(HTTPAdapter):
    """Uses connections that can be cut, also through a proxy."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = POOLS

    def proxy_manager_for(self, proxy: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        if not proxy.lower().startswith("socks"):  # urllib3 has its own connections for SOCKS
            manager.pool_classes_by_scheme = POOLS
        return manager


def new_session() -> Session:
    """The session for all calls of a process. It keeps connections, and uses the environment's proxies.

    It never stores or sends cookies, since its calls belong to many users. It never repeats a request.
    """
    session = Session()
    adapter = _Adapter(pool_connections=16, pool_maxsize=POOL)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """An upstream's status and headers.

    `content_type` is the unchanged header, and `media_type` its first part in lower case; both are empty if it is
    missing. `retry_after` is in seconds, and 0.0 if the upstream sent none.
    """

    status: int
    content_type: str
    media_type: str
    retry_after: float


class Call:
    """One request and its response. One thread opens, reads and closes it; any thread may cut it.

    `traceparent` tells the upstream which trace the call is part of.
    """

    def __init__(
        self,
        session: Session,
        upstream: Upstream,
        credential: Credential,
        outgoing: Outgoing,
        traceparent: str | None = None,
    ):
        self._session = session
        self._upstream = upstream
        self._credential = credential
        self._outgoing = outgoing
        self._traced = {"traceparent": traceparent} if traceparent else {}
        self._line = Line(send_timeout=self._longest_silence)
        self._response: requests.Response | None = None
        self._raw: Any = None  # None if there is nothing to read
        self._inflater: Inflater | None = None
        self._framed = False
        self._fault: UpstreamFault | None = None

    def open(self) -> Head:
        """Sends the request and waits for the response's head, whatever its status. Redirects are not followed.

        A 401 is answered with another token, if there is one to be had. A second one stands.
        Errors: `UpstreamFault`, with the reason `cancelled`, `upstream_key`, `upstream_tls`, `upstream_unreachable`,
        `upstream_timeout` or `upstream_encoding`.
        """
        shown = self._credential.header()
        response = self._answered(shown)
        if response.status_code == 401 and shown and (another := self._credential.header(refused=shown)):
            self._line.release()
            response.close()
            response = self._answered(another)
        self._response = response
        self._forget_request(response)
        headers = response.headers
        self._take_body(response)
        content_type = headers.get("Content-Type", "")
        return Head(
            status=response.status_code,
            content_type=content_type,
            media_type=content_type.partition(";")[0].strip().lower(),
            retry_after=retry_after(headers),
        )

    def read(self) -> bytes:
        """Returns the decoded bytes of the body that have arrived. Waits if there are none; empty at the end.

        Errors: `UpstreamFault`, with the reason `cancelled`, or `upstream_disconnected` after all bytes that came
        before the break were returned.
        """
        if self._fault is not None:
            raise self._fault
        if self._line.is_cut:
            self._fail(_cancelled())
        if self._raw is None:
            return b""
        try:
            piece = self._piece()
        except (HTTPError, OSError, ValueError, zlib.error) as error:
            self._fail(_cancelled() if self._line.is_cut else _broken(error), error)
        if not piece:
            if self._line.is_cut:
                self._fail(_cancelled())  # the body ended because of the cut
            self._raw = None
        return piece

    def cut(self) -> None:
        """Ends the exchange at once, from any thread. Nothing more is sent, and a waiting `open` or `read` returns."""
        self._line.cut()

    def close(self) -> None:
        """Returns the connection to the pool, or closes it if the body was not read to its end. Not thread-safe."""
        self._line.release()
        if self._response is not None:
            self._response.close()
        self._raw = None

    @property
    def _longest_silence(self) -> float:
        return max(self._upstream.deadlines.first_byte, self._upstream.deadlines.idle) + MARGIN_SECONDS

    def _answered(self, shown: Header | None) -> requests.Response:
        if self._line.is_cut:
            raise _cancelled()
        try:
            with self._line.carrying():
                return self._send(shown)
        except (requests.RequestException, HTTPError) as error:
            self._line.release()
            raise (_cancelled() if self._line.is_cut else _unanswered(error)) from error

    def _send(self, shown: Header | None) -> requests.Response:
        typed = {"Content-Type": "application/json"} if self._outgoing.body else {}
        return self._session.request(
            self._outgoing.method,
            f"{self._upstream.base_url}{self._outgoing.path}",
            params=self._upstream.query,
            data=self._outgoing.body,
            headers=CaseInsensitiveDict(
                [
                    *typed.items(),
                    ("Accept", "text/event-stream, application/json"),
                    ("Accept-Encoding", "gzip"),
                    ("User-Agent", "holdfast"),
                    *self._traced.items(),
                    *self._outgoing.headers,
                    *self._upstream.headers,
                    *([shown] if shown else []),
                ]
            ),
            stream=True,
            allow_redirects=False,
            timeout=(self._upstream.deadlines.connect, self._longest_silence),
        )

    def _forget_request(self, response: requests.Response) -> None:
        """Lets go of the body that was sent. It may be large, and an answer may take long."""
        self._outgoing = replace(self._outgoing, body=b"")
        response.request.body = None

    def _take_body(self, response: requests.Response) -> None:
        named = response.headers.get("Content-Encoding", "").lower().split(",")
        codings = [coding.strip() for coding in named if coding.strip() not in ("", "identity")]
        if not codings:
            self._raw = response.raw
        elif len(codings) == 1 and codings[0] in CODINGS:
            self._raw = response.raw
            self._inflater = Inflater(codings[0])
            self._framed = self._raw.chunked or self._raw.length_remaining is not None
        elif 200 <= response.status_code < 300:
            self.close()
            coding = _UNSHOWABLE.sub("", ",".join(codings))[:40]
            raise UpstreamFault(
                "upstream_encoding",
                f"The upstream sent its answer in the content coding '{coding}', which nobody asked for. "
                "It has to send it in gzip or in none.",
                status=502,
            )

    def _piece(self) -> bytes:
        inflater = self._inflater
        if inflater is None:
            return self._raw.read1(READ_BYTES, decode_content=False)  # type: ignore[no-any-return]
        while not (piece := inflater.get()):
            packed = self._raw.read1(READ_BYTES, decode_content=False)
            if packed:
                inflater.put(packed)
            elif inflater.unfinished and not self._framed:
                raise ValueError("the connection ended in the middle of the compressed body")
            else:
                break
        return piece

    def _fail(self, fault: UpstreamFault, cause: Exception | None = None) -> NoReturn:
        self._fault = fault
        self.close()
        raise fault from cause


def _cancelled() -> UpstreamFault:
    return UpstreamFault("cancelled", "The call was cancelled.")


def _broken(error: Exception) -> UpstreamFault:
    how = "fell silent" if isinstance(error, ReadTimeoutError) else "broke off"
    return UpstreamFault("upstream_disconnected", f"The upstream {how} in the middle of its answer.", passing=True)


def _unanswered(error: Exception) -> UpstreamFault:
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
    """Whether the certificate is the cause. Any other TLS error may be a broken connection."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return True
        reason = getattr(seen, "reason", None) or next(iter(seen.args), None)
        seen = reason if isinstance(reason, BaseException) else seen.__cause__ or seen.__context__
    return False
