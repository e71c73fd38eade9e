"""A local model provider: four APIs with deterministic answers and faults on demand.

The local stack, the demo, the tests, the fault matrix and the benchmark use it as their upstream. This module is the
server: its routes, its API key, its record of calls, and running it as a process or a thread. It must not import from
`lib`, because a mistake shared by both sides would not show. Everything that a caller can ask for is limited.

    python -m local.demo_upstream --port 8090 [--key K]
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import json
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

from aiohttp import web

from local.demo_background import Background
from local.demo_calls import CallLog
from local.demo_chat import Chat
from local.demo_delivery import Call, Delivery
from local.demo_fields import BadField
from local.demo_gemini import Gemini
from local.demo_hold import Hold
from local.demo_messages import Messages
from local.demo_responses import Responses
from local.demo_text import Json

HOST = "127.0.0.1"
MAX_REQUEST = 32 << 20
_KEY_HEADERS = ("Authorization", "x-api-key", "x-goog-api-key", "api-key")
_MODELS = {"object": "list", "data": [{"id": "demo", "object": "model", "created": 0, "owned_by": "local"}]}

Result = TypeVar("Result")
Spoken = type[Chat | Messages | Responses | Gemini]

# Where else vendors have these APIs. They are called as docs/operations.md says.
_VERTEX = "/v1/projects/{project}/locations/{location}"
_ELSEWHERE: tuple[tuple[str, Spoken], ...] = (
    ("/api/v1/chat/completions", Chat),  # OpenRouter
    ("/openai/v1/chat/completions", Chat),  # Azure
    ("/openai/deployments/{deployment}/chat/completions", Chat),  # Azure, as before
    ("/v1beta/openai/chat/completions", Chat),  # the Gemini API
    (f"{_VERTEX}/endpoints/openapi/chat/completions", Chat),
    (f"{_VERTEX}/publishers/google{Gemini.path}", Gemini),
)


class Provider:
    """The routes and their shared state: the key, the calls, what is held, and whether the server is shutting down."""

    def __init__(self, key: str | None = None):
        self.calls = CallLog()
        self._background = Background(self.calls)
        self._hold: Hold | None = None
        self._key = key
        self._stopping = False

    def app(self) -> web.Application:
        """The web application. Serve it with `handler_cancellation`, which notices clients that disconnect."""
        app = web.Application(client_max_size=MAX_REQUEST, middlewares=[_errors_as_json])
        app.router.add_post(Chat.path, partial(self._answer, Chat))
        app.router.add_post(Messages.path, partial(self._answer, Messages))
        app.router.add_post(Responses.path, partial(self._answer, Responses))
        for method, path in Background.routes:
            app.router.add_route(method, path, self._about_kept)
        for version in ("/v1", "/v1beta"):
            app.router.add_post(version + Gemini.path, partial(self._answer, Gemini))
        for path, tongue in _ELSEWHERE:
            app.router.add_post(path, partial(self._answer, tongue))
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/demo/calls", self._show_calls)
        app.router.add_delete("/demo/calls", self._clear_calls)
        app.router.add_get("/demo/records/{seed}", self._show_record)
        app.router.add_post("/demo/hold", self._hold_back)
        app.router.add_delete("/demo/hold", self._release)
        app.on_shutdown.append(self._stop)
        return app

    async def _stop(self, _: web.Application) -> None:
        self._stopping = True
        await self._background.stop()

    async def _show_calls(self, _: web.Request) -> web.Response:
        return web.json_response(self.calls.shown())

    async def _clear_calls(self, _: web.Request) -> web.Response:
        self.calls.clear()
        return web.Response(status=204)

    async def _show_record(self, request: web.Request) -> web.Response:
        return web.json_response(self.calls.recorded(request.match_info["seed"]))

    async def _hold_back(self, request: web.Request) -> web.Response:
        """Holds, or holds from another token on. What was held for another text is released: there is one hold."""
        try:
            hold = Hold.read(_parsed(await request.read()))
        except BadField as error:
            return _error(Chat, 400, str(error), "invalid_value", error.param)
        if self._hold is not None and self._hold.text == hold.text:
            self._hold.move(hold.at)
        else:
            await self._release(request)
            self._hold = hold
        return web.Response(status=204)

    async def _release(self, _: web.Request) -> web.Response:
        if self._hold is not None:
            self._hold.move()
            self._hold = None
        return web.Response(status=204)

    async def _models(self, request: web.Request) -> web.Response:
        return self._locked_out(request, Chat) or web.json_response(_MODELS)

    async def _answer(self, tongue: Spoken, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        return await self._called(tongue, request, lambda call: self._deliver(tongue, request, call, raw), len(raw))

    async def _about_kept(self, request: web.Request) -> web.StreamResponse:
        return await self._called(Responses, request, lambda call: self._background.answer(request, call), 0)

    async def _called(
        self,
        tongue: Spoken,
        request: web.Request,
        work: Callable[[Call], Awaitable[web.StreamResponse]],
        size: int,
    ) -> web.StreamResponse:
        """Records a call, whose request has `size` bytes, and answers it if it has the key."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        call = Call(headers=headers, method=request.method, path=request.raw_path)
        self.calls.add(call, size)
        try:
            response = self._locked_out(request, tongue) or await work(call)
            call.status = response.status
            return response
        except (ConnectionError, asyncio.CancelledError) as error:
            call.client_gone = not (call.finished or self._stopping)
            raise asyncio.CancelledError from error  # aiohttp would log a ConnectionError as a crash
        finally:
            call.ended = time.time()

    async def _deliver(self, tongue: Spoken, request: web.Request, call: Call, raw: bytes) -> web.StreamResponse:
        try:
            call.request = _parsed(raw)
            in_path: Json = {name: value for name, value in request.match_info.items() if name in ("model", "method")}
            order = tongue.order(call.request, **in_path)
        except BadField as error:
            return _error(tongue, 400, str(error), "invalid_value", error.param)
        call.seed, call.model, call.stream = order.answer.seed, order.model, order.stream
        call.prompt_tokens, call.completion_tokens = order.prompt_tokens, order.answer.usage["completion_tokens"]
        order = order if self.calls.still_strikes(order) else order.faultless()
        if order.background and not (order.fault and order.fault.replaces_answer):
            return await self._background.begin(request, call, order)
        hold = self._hold if self._hold is not None and self._hold.is_for(raw) else None
        return await Delivery(request, call, order, tongue(order), self.calls.record(order), hold=hold).run()

    def _locked_out(self, request: web.Request, tongue: Spoken) -> web.Response | None:
        given = {name: request.headers[name] for name in _KEY_HEADERS if name in request.headers}
        bearer = {"Authorization": f"Bearer {self._key}"}
        if self._key is None or given in (bearer, *({name: self._key} for name in _KEY_HEADERS[1:])):
            return None
        return _error(tongue, 401, "Incorrect API key provided.", "invalid_api_key")


def _parsed(raw: bytes) -> object:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadField("body", "is not valid JSON") from error


def _error(
    tongue: Spoken, status: int, message: str, code: str | None = None, param: str | None = None
) -> web.Response:
    return web.json_response(tongue.error(status, message, code, param), status=status)


@web.middleware
async def _errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _error(Chat, error.status, f"{error.reason}: {request.method} {request.path}")


@asynccontextmanager
async def serving(provider: Provider, port: int = 0) -> AsyncIterator[str]:
    """Serves until the block ends, and yields the URL. Port 0 picks a free port. Raises OSError if it is taken."""
    runner = web.AppRunner(provider.app(), access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, port, backlog=1024).start()
        yield f"http://{HOST}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class DemoUpstream:
    """The server in its own thread, for tests: `with DemoUpstream() as upstream: upstream.base_url`."""

    def __init__(self, key: str | None = None):
        self._provider = Provider(key)
        self._ready: Future[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=self._run, name="demo-upstream", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.url, self._loop, self._stop = self._ready.result(timeout=30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=30)

    @property
    def base_url(self) -> str:
        """The `base_url` for OpenAI's clients. `url` is the same without `/v1`."""
        return f"{self.url}/v1"

    def calls(self) -> list[Json]:
        """The calls, as in `GET /demo/calls`."""
        return self._there(self._provider.calls.shown)

    def clear(self) -> None:
        """Deletes the record of calls, as `DELETE /demo/calls`."""
        self._there(self._provider.calls.clear)

    def _there(self, work: Callable[[], Result]) -> Result:
        async def run() -> Result:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(timeout=30)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)

    async def _serve(self) -> None:
        stop = asyncio.Event()
        async with serving(self._provider) as url:
            self._ready.set_result((url, asyncio.get_running_loop(), stop))
            await stop.wait()


async def _serve_until_signalled(provider: Provider, port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serving(provider, port) as url:
        print(f"ready {url}", flush=True)
        await stop.wait()


def _port(given: str) -> int:
    if not given.isdecimal() or int(given) > 65_535:
        raise argparse.ArgumentTypeError(f"{given!r} is not a port from 0 to 65535")
    return int(given)


def main(argv: list[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT. Returns 1 if the port is taken."""
    parser = argparse.ArgumentParser(prog="python -m local.demo_upstream", description="A demo model provider.")
    parser.add_argument("--port", type=_port, default=8090, help="port on 127.0.0.1; 0 is a free one (%(default)s)")
    parser.add_argument("--key", help="the API key that callers must present; without it all may call")
    options = parser.parse_args(argv)
    try:
        asyncio.run(_serve_until_signalled(Provider(options.key), options.port))
    except OSError as error:
        why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be served: {error.strerror}"
        print(f"demo upstream: port {options.port} on {HOST} {why}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
