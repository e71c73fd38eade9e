"""Proxies in front of Firestore, Cloud Tasks and the worker, which count calls as they are billed.

The functions use the proxies' addresses without knowing that they are proxies. Everything on the wire is counted: each
document that a listener receives, a query without results as one read, and each repeated delivery. The proxies must not
change what passes. The user is found in the bytes of a call, since every call names a user or a generation.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp import web
from google.cloud.firestore_v1.types import firestore as rpc

from lib.domain.collections import GENERATIONS
from local.firestore_proxy.proxy import Proxy
from local.ports import HOST, Ports

FIRESTORE = "/google.firestore.v1.Firestore/"
TASKS = "/google.cloud.tasks.v2.CloudTasks/"
TASK_CHUNK = 32 << 10  # of a task; each chunk is billed as an operation: https://cloud.google.com/tasks/pricing
_GENERATION = re.compile(GENERATIONS.encode() + rb"/([0-9a-f]{32})")
_OWN_HEADERS = {"host", "content-length", "transfer-encoding", "connection", "date", "server"}
_START_SECONDS = 30.0


class Tally:
    """The counts for each user. Counts that belong to no known user are under None."""

    def __init__(self) -> None:
        self.counted: defaultdict[str | None, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
        self._users: dict[bytes, str] = {}
        self._generations: dict[bytes, str] = {}
        self._lock = threading.Lock()

    def know(self, user: str) -> None:
        """From now on, counts calls that name this user, or one of the user's generations, as this user's."""
        self._users[user.encode()] = user

    def add(self, what: str, number: float, *said: bytes) -> None:
        """Counts for the user that is named first in these bytes."""
        with self._lock:
            self.counted[next(filter(None, map(self._whose, said)), None)][what] += number

    def _whose(self, said: bytes) -> str | None:
        found = _GENERATION.search(said)
        generation = found.group(1) if found else b""
        if generation not in self._generations:
            user = next((user for name, user in self._users.items() if name in said), None)
            if user is None or not generation:
                return user
            self._generations[generation] = user
        return self._generations[generation]


def writes_of(method: str, request: bytes) -> Sequence[Any]:
    """The writes in a call, each of which is billed."""
    kind = rpc.CommitRequest.pb() if method.endswith("/Commit") else rpc.BatchWriteRequest.pb()
    return kind.FromString(request).writes  # type: ignore[no-any-return]


def reads_of(method: str) -> Callable[[bytes], int] | None:
    """Counts the reads of a call's response, by https://firebase.google.com/docs/firestore/pricing."""
    if not method.startswith(FIRESTORE):
        return None
    match method.removeprefix(FIRESTORE):
        case "BatchGetDocuments":
            kind = rpc.BatchGetDocumentsResponse.pb()
            return lambda answer: kind.FromString(answer).WhichOneof("result") in ("found", "missing")
        case "RunQuery":
            kind = rpc.RunQueryResponse.pb()
            return lambda answer: kind.FromString(answer).HasField("document")
        case "RunAggregationQuery":
            kind = rpc.RunAggregationQueryResponse.pb()
            return lambda answer: kind.FromString(answer).HasField("result")
        case "Listen":
            kind = rpc.ListenResponse.pb()
            return lambda answer: kind.FromString(answer).HasField("document_change")
    raise ValueError(f"{method}: it is not known here what this call costs; say so in cost/meter.py")


class Meter(Proxy):
    """Counts calls to Firestore or Cloud Tasks. Errors: `ValueError`, for a call without a known price."""

    def __init__(self, target: str, tally: Tally):
        super().__init__(target)
        self._tally = tally

    def applied(self, method: str, request: bytes) -> None:
        for write in writes_of(method, request):
            name = write.delete or write.update.name
            self._tally.add("deletes" if write.delete else "writes", 1, name.encode(), request)

    def stream(self, method: str, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        asked = b""
        found = 0

        def passing() -> Iterator[bytes]:
            nonlocal asked
            for request in requests:
                asked = request
                yield request

        count = reads_of(method)
        for answer in super().stream(method, passing(), context):
            if count is not None and (reads := count(answer)):
                self._tally.add("reads", reads, answer, asked)
                found += reads
            yield answer
        if method.startswith(TASKS):
            self._tally.add("task operations", -(-len(asked) // TASK_CHUNK), asked)
        if method == f"{FIRESTORE}RunQuery" and not found:
            self._tally.add("reads", 1, asked)


class Doors:
    """The proxies for a stack on these ports. Use it as a context manager. `settings` has their addresses."""

    def __init__(self, ports: Ports):
        self.tally = Tally()
        self.settings: dict[str, str] = {}
        self._ports = ports
        self._ready: Future[tuple[dict[str, str], asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=self._run, name="doors", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.settings, self._loop, self._over = self._ready.result(timeout=_START_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the proxies. Safe to call twice."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join(timeout=_START_SECONDS)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)

    async def _serve(self) -> None:
        over = asyncio.Event()
        async with AsyncExitStack() as doors:
            firestore = Meter(f"{HOST}:{self._ports.firestore_port}", self.tally)
            tasks = Meter(f"{HOST}:{self._ports.tasks_port}", self.tally)
            settings = {
                "FIRESTORE_EMULATOR_HOST": doors.enter_context(firestore.serving(0)),
                "TASKS_EMULATOR_HOST": doors.enter_context(tasks.serving(0)),
                "WORKER_URL": await self._worker_door(doors),
            }
            self._ready.set_result((settings, asyncio.get_running_loop(), over))
            await over.wait()

    async def _worker_door(self, doors: AsyncExitStack) -> str:
        client = await doors.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout()))
        app = web.Application()
        app.router.add_post("/", partial(self._deliver, client))
        runner = web.AppRunner(app, access_log=None)
        doors.push_async_callback(runner.cleanup)
        await runner.setup()
        await web.TCPSite(runner, HOST, 0).start()
        return f"http://{HOST}:{runner.addresses[0][1]}/"

    async def _deliver(self, client: aiohttp.ClientSession, request: web.Request) -> web.Response:
        task = await request.read()
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _OWN_HEADERS}
        began = time.monotonic()
        try:
            url = f"http://{HOST}:{self._ports.worker_port}/"
            async with client.post(url, data=task, headers=headers) as answer:
                body = await answer.read()
                passed = {name: value for name, value in answer.headers.items() if name.lower() not in _OWN_HEADERS}
                return web.Response(status=answer.status, headers=passed, body=body)
        finally:
            for what in ("task operations", "worker requests"):
                self.tally.add(what, 1, task)
            self.tally.add("worker seconds", time.monotonic() - began, task)
