"""A proxy for the Firestore emulator that counts documents written and read, and their bytes, for each path.

Counts as Firestore bills: one write per document in a successful commit, one read per document returned by a get, a
query or a listener, and one for a query without results. It must not change what passes.

    python -m bench.meter --target HOST:PORT
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, wait
from dataclasses import asdict, dataclass
from typing import Any

from aiohttp import web
from google.cloud.firestore_v1.types import firestore as rpc

from cost.meter import writes_of
from local.firestore_proxy.proxy import Proxy
from local.ports import HOST

_SERVICE = "/google.firestore.v1.Firestore/"
_GOT = rpc.BatchGetDocumentsResponse.pb()
_QUERY = rpc.RunQueryRequest.pb()
_FOUND = rpc.RunQueryResponse.pb()
_AGGREGATION = rpc.RunAggregationQueryRequest.pb()
_LISTENED = rpc.ListenResponse.pb()


@dataclass(slots=True)
class Count:
    """The operations on one document, or of one query."""

    commits: int = 0
    writes: int = 0
    written: int = 0  # bytes
    reads: int = 0
    read: int = 0  # bytes


class Meter(Proxy):
    """`counts` is by document path, or by the text of a query without results."""

    def __init__(self, target: str):
        super().__init__(target)
        self.counts: dict[str, Count] = {}
        self._under_way: set[Future[None]] = set()
        self._lock = threading.Lock()

    def counted(self) -> dict[str, Count]:
        """The counts with all commits that were under way: a listener hears of one before its response is here."""
        with self._lock:
            under_way = set(self._under_way)
        wait(under_way)
        with self._lock:
            return dict(self.counts)

    def commit(self, method: str, request: bytes, context: Any) -> bytes:
        ended: Future[None] = Future()
        with self._lock:
            self._under_way.add(ended)
        try:
            return super().commit(method, request, context)
        finally:
            with self._lock:
                self._under_way.remove(ended)
            ended.set_result(None)

    def applied(self, method: str, request: bytes) -> None:
        with self._lock:
            for number, write in enumerate(writes_of(method, request)):
                count = self._count(write.update.name or write.delete or write.transform.document)
                count.commits += number == 0 or method.endswith("/BatchWrite")  # each write is independent
                count.writes += 1
                count.written += write.ByteSize()

    def stream(self, method: str, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        asked: list[bytes] = []

        def seen() -> Iterator[bytes]:
            for request in requests:
                if not asked:
                    asked.append(request)
                yield request

        brought = False
        for answer in super().stream(method, seen(), context):
            for name, size in _documents(method.removeprefix(_SERVICE), answer):
                brought = True
                self._read(name, size)
            yield answer
        if not brought and asked:
            match method.removeprefix(_SERVICE):
                case "RunQuery":
                    self._read(str(_QUERY.FromString(asked[0])), 0)
                case "RunAggregationQuery":
                    self._read(str(_AGGREGATION.FromString(asked[0])), 0)

    def _read(self, name: str, size: int) -> None:
        with self._lock:
            count = self._count(name)
            count.reads += 1
            count.read += size

    def _count(self, name: str) -> Count:
        return self.counts.setdefault(name.partition("/documents/")[2] or name, Count())


def _documents(method: str, answer: bytes) -> Iterator[tuple[str, int]]:
    """The documents in a response, with their sizes in bytes. A requested document that is missing is a read too."""
    match method:
        case "BatchGetDocuments":
            got = _GOT.FromString(answer)
            if got.found.name or got.missing:
                yield got.found.name or got.missing, got.found.ByteSize()
        case "RunQuery":
            found = _FOUND.FromString(answer)
            if found.document.name:
                yield found.document.name, found.document.ByteSize()
        case "Listen":
            response = _LISTENED.FromString(answer)
            if response.document_change.document.name:
                yield response.document_change.document.name, response.document_change.document.ByteSize()


async def _serve(target: str) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    meter = Meter(target)

    async def show(_: web.Request) -> web.Response:
        counts = await asyncio.to_thread(meter.counted)
        return web.json_response({name: asdict(count) for name, count in counts.items()})

    app = web.Application()
    app.router.add_get("/counts", show)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, 0).start()
        with meter.serving(0) as address:
            print(f"ready grpc={address} http=http://{HOST}:{runner.addresses[0][1]}", flush=True)
            await stop.wait()
    finally:
        await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.meter", description="Firestore, with what passes counted.")
    parser.add_argument("--target", required=True, metavar="HOST:PORT", help="the emulator")
    asyncio.run(_serve(parser.parse_args().target))


if __name__ == "__main__":
    main()
