"""What the two functions do, seen from outside: their spans, and each one's calls to a Firestore that is far away."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Self

from aiohttp import web
from google.cloud.firestore_v1.types import firestore as rpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bench.distance import Distance, Near
from cost.meter import FIRESTORE, writes_of
from local.firestore_proxy.proxy import Proxy
from local.ports import HOST, Ports

FUNCTIONS = ("api", "worker")
_LISTENED = rpc.ListenResponse.pb()
_WAIT_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A span, or a call to Firestore as Firestore sees it. Times are in seconds since the epoch."""

    who: str
    what: str
    began: float
    ended: float
    trace: str = ""  # of a span, as `generation` is
    generation: str = ""


class _Recorder(Proxy):
    """Records one function's calls. A listener's are the snapshots that it is sent."""

    def __init__(self, target: str, who: str, keep: Callable[[Seen], None]):
        super().__init__(target)
        self._who = who
        self._keep = keep

    def commit(self, method: str, request: bytes, context: Any) -> bytes:
        began = time.time()
        answer = super().commit(method, request, context)
        number = len(writes_of(method, request))
        self._seen(f"{method.removeprefix(FIRESTORE)}, {number} document{'s' if number > 1 else ''}", began)
        return answer

    def stream(self, method: str, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        name, began = method.removeprefix(FIRESTORE), time.time()
        for answer in super().stream(method, requests, context):
            if name == "Listen" and _LISTENED.FromString(answer).HasField("document_change"):
                self._seen("snapshot", time.time())
            yield answer
        if name != "Listen":
            self._seen(name, began)

    def _seen(self, what: str, began: float) -> None:
        self._keep(Seen(who=self._who, what=what, began=began, ended=time.time()))


class Watched:
    """The proxies and the collector of spans. Use it as a context manager, around a stack on these ports.

    `hosts` has each function's way to Firestore, and `settings` what makes both send their spans. `seconds` is how far
    Firestore is away, there and back.
    """

    def __init__(self, ports: Ports, seconds: float):
        self.hosts: Mapping[str, str] = {}
        self.settings: Mapping[str, str] = {}
        self._target = f"{HOST}:{ports.firestore_port}"
        self._seconds = seconds
        self._seen: list[Seen] = []
        self._changed = threading.Condition()
        self._ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=self._run, name="watched", daemon=True)

    def until(self, enough: Callable[[list[Seen]], bool]) -> list[Seen]:
        """All that was seen, once it is enough. Errors: `TimeoutError`."""
        with self._changed:
            if not self._changed.wait_for(lambda: enough(self._seen), _WAIT_SECONDS):
                raise TimeoutError(f"only this was seen: {sorted({each.what for each in self._seen})}")
            return list(self._seen)

    def __enter__(self) -> Self:
        self._thread.start()
        self._loop, self._over = self._ready.result(timeout=_WAIT_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(timeout=_WAIT_SECONDS)

    def _keep(self, *seen: Seen) -> None:
        with self._changed:
            self._seen += seen
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)

    async def _serve(self) -> None:
        over = asyncio.Event()
        async with AsyncExitStack() as there:
            self.hosts = {who: await self._way(there, who) for who in FUNCTIONS}
            app = web.Application()
            app.router.add_post("/v1/traces", self._spans)
            runner = web.AppRunner(app, access_log=None)
            there.push_async_callback(runner.cleanup)
            await runner.setup()
            await web.TCPSite(runner, HOST, 0).start()
            self.settings = {
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{HOST}:{runner.addresses[0][1]}",
                "OTEL_BSP_SCHEDULE_DELAY": "100",
            }
            self._ready.set_result((asyncio.get_running_loop(), over))
            await over.wait()

    async def _way(self, there: AsyncExitStack, who: str) -> str:
        """Firestore's address for a function: a distance, and behind it a proxy that records."""
        host, _, port = there.enter_context(_Recorder(self._target, who, self._keep).serving(0)).partition(":")
        distance = Distance(self._seconds)
        server = await asyncio.get_running_loop().create_server(lambda: Near(distance, (host, int(port))), HOST, 0)
        there.callback(server.close)
        return f"{HOST}:{server.sockets[0].getsockname()[1]}"

    async def _spans(self, request: web.Request) -> web.Response:
        for of in ExportTraceServiceRequest.FromString(await request.read()).resource_spans:
            service = next(each.value.string_value for each in of.resource.attributes if each.key == "service.name")
            self._keep(*(_seen(service, span) for scope in of.scope_spans for span in scope.spans))
        return web.Response()


def _seen(service: str, span: Any) -> Seen:
    attributes = {each.key: each.value.string_value for each in span.attributes}
    return Seen(
        who=service.removeprefix("holdfast-"),
        what=span.name,
        began=span.start_time_unix_nano / 1e9,
        ended=span.end_time_unix_nano / 1e9,
        trace=span.trace_id.hex(),
        generation=attributes.get("generation", ""),
    )
