"""The front end: an HTTP/1 proxy that streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from local.front_end.gate import Gate
from local.front_end.limits import Limits

_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "expect", "proxy-connection"}
)
_AUTOMATIC = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")  # which aiohttp would add
_PENDING_POLL_SECONDS = 0.02
# Google's front end answers these itself: https://cloud.google.com/run/docs/known-issues#ah
_RESERVED = ("/healthz", "/eventlog", "/_ah/")


class TooLarge(Exception):
    """A request whose length was not announced has passed the limit."""


class FrontEnd:
    """The front end of the function at `target`. Use `serving` to run it."""

    def __init__(self, target: str, limits: Limits) -> None:
        self._target = target.rstrip("/")
        self._limits = limits
        self._gate = Gate(limits) if limits.invoker else None

    def runner(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        app.cleanup_ctx.append(self._session)
        return web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,  # a client that leaves ends the function's request as well
            auto_decompress=False,
            keepalive_timeout=self._limits.idle_seconds or 600.0,
            shutdown_timeout=0.1,
        )

    async def _session(self, _: web.Application) -> AsyncIterator[None]:
        # Connections are not reused: one that the function closes at the same moment would fail a request.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
            skip_auto_headers=_AUTOMATIC,
            cookie_jar=aiohttp.DummyCookieJar(),
        ) as self._http:
            yield

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.path.startswith(_RESERVED):
            return _page(404)
        if (request.content_length or 0) > self._limits.request_bytes:
            return _page(413)
        headers = _passed(request.headers)
        if self._gate is not None and (status := await self._gate.refuses(headers)) is not None:
            return _page(status)
        response = web.StreamResponse()
        try:
            async with asyncio.timeout(self._limits.response_seconds):
                return await self._forward(request, headers, response)
        except TimeoutError:
            return _cut(request, response, 504)
        except aiohttp.ClientConnectorError:
            return _cut(request, response, 429)
        except aiohttp.ClientError as error:
            return _cut(request, response, 413 if isinstance(error.__cause__, TooLarge) else 503)

    async def _forward(
        self, request: web.Request, headers: CIMultiDict[str], response: web.StreamResponse
    ) -> web.StreamResponse:
        async with await self._answer(request, headers) as answer:
            if (answer.content_length or 0) > self._limits.response_bytes:
                return _page(500)
            response.set_status(answer.status, answer.reason)
            response.headers.extend(_passed(answer.headers))
            await response.prepare(request)
            streams = answer.content_type == "text/event-stream"
            while chunk := await self._read(answer, streams):
                await response.write(chunk)
            await response.write_eof()
            return response

    async def _read(self, answer: aiohttp.ClientResponse, streams: bool) -> bytes:
        """What has come, at once. Errors: TimeoutError, if a stream is silent for too long."""
        async with asyncio.timeout(self._limits.idle_seconds if streams and self._limits.idle_seconds else None):
            return await answer.content.readany()

    async def _answer(self, request: web.Request, headers: CIMultiDict[str]) -> aiohttp.ClientResponse:
        """The function's response. Waits for an instance, if there is none yet. Errors: aiohttp's."""
        url = URL(f"{self._target}{request.raw_path}", encoded=True)
        body = self._body(request) if request.body_exists else None
        deadline = asyncio.get_running_loop().time() + self._limits.pending_seconds
        while True:
            try:
                return await self._http.request(request.method, url, headers=headers, data=body, allow_redirects=False)
            except aiohttp.ClientConnectorError:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(_PENDING_POLL_SECONDS)

    async def _body(self, request: web.Request) -> AsyncIterator[bytes]:
        size = 0
        while chunk := await request.content.readany():
            size += len(chunk)
            if size > self._limits.request_bytes:
                raise TooLarge
            yield chunk


def _passed(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in _HOP_BY_HOP)


def _page(status: int) -> web.Response:
    """An error of the front end's own, as HTML like Google's."""
    response = web.Response(status=status, content_type="text/html")
    response.text = (
        f"<html><head><title>{status} {response.reason}</title></head><h1>Error: {response.reason}</h1></html>"
    )
    return response


def _cut(request: web.Request, response: web.StreamResponse, status: int) -> web.StreamResponse:
    """An error page, or where the response has begun, a connection that breaks."""
    if not response.prepared:
        return _page(status)
    if request.transport is not None:
        request.transport.abort()
    return response
