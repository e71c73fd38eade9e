"""A proxy for the Firestore emulator that makes commits fail on demand.

The emulator never fails; Firestore does, sometimes after a commit has taken effect. A share of the commits gets an
error instead of a response: some are never made, and others are made and only their response is lost. All other calls
pass through as bytes. The proxy must not change or interpret what passes.

    python -m local.firestore_proxy --target HOST:PORT [--port P] [--http-port P]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import grpc
from aiohttp import web
from grpc import StatusCode

HOST = "127.0.0.1"
COMMITS = tuple(f"/google.firestore.v1.Firestore/{method}" for method in ("Commit", "BatchWrite"))
NOT_DONE = (
    StatusCode.ABORTED,
    StatusCode.DEADLINE_EXCEEDED,
    StatusCode.RESOURCE_EXHAUSTED,
    StatusCode.UNAVAILABLE,
)
ANSWER_LOST = (StatusCode.DEADLINE_EXCEEDED, StatusCode.UNAVAILABLE)
_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]
_OWN_METADATA = ("user-agent", "grpc-")


@dataclass(frozen=True)
class Faults:
    """The share of the commits that fail, and of those the share that takes effect nevertheless."""

    share: float = 0.0
    done: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("share", "done"):
            if type(getattr(self, name)) not in (int, float) or not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a number from 0 to 1")
        if type(self.seed) is not int:
            raise ValueError("seed is a whole number")


class Proxy:
    """Forwards calls. `made` counts the faults, by status and by whether the commit took effect."""

    def __init__(self, target: str):
        self.faults = Faults()
        self.made: Counter[str] = Counter()
        self._target = target
        self._chance = random.Random(0)

    def fault(self, **changes: Any) -> None:
        """Sets faults, until they are changed again. Others stay as they are. Raises ValueError or TypeError."""
        self.faults = replace(self.faults, **changes)
        self._chance = random.Random(self.faults.seed)
        self.made.clear()

    @asynccontextmanager
    async def serving(self, port: int) -> AsyncIterator[str]:
        """Serves until the block ends, and yields the address. Raises RuntimeError if the port is taken."""
        self._channel = grpc.aio.insecure_channel(self._target, options=_OPTIONS)
        server = grpc.aio.server(options=_OPTIONS)
        server.add_generic_rpc_handlers((_Calls(self),))
        address = f"{HOST}:{server.add_insecure_port(f'{HOST}:{port}')}"
        await server.start()
        try:
            yield address
        finally:
            await server.stop(None)
            await self._channel.close()

    async def commit(self, method: str, request: bytes, context: Any) -> bytes:
        fails = self._chance.random() < self.faults.share
        done = self._chance.random() < self.faults.done
        code = self._chance.choice(ANSWER_LOST if done else NOT_DONE)
        if not fails:
            return await self._pass(method, request, context)
        if done:
            await self._pass(method, request, context)
        self.made[f"{code.name}{', done' if done else ''}"] += 1
        return await context.abort(code, "asked for by a fault")  # type: ignore[no-any-return]

    async def _pass(self, method: str, request: bytes, context: Any) -> bytes:
        call = self._channel.unary_unary(method)
        try:
            return await call(request, metadata=_metadata(context), timeout=context.time_remaining())  # type: ignore[no-any-return]
        except grpc.aio.AioRpcError as error:
            return await context.abort(error.code(), error.details(), tuple(error.trailing_metadata()))  # type: ignore[no-any-return]

    async def stream(self, method: str, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Any other call. In gRPC's protocol, a single message is a stream of one."""
        call = self._channel.stream_stream(method)(
            requests, metadata=_metadata(context), timeout=context.time_remaining()
        )
        try:
            async for answer in call:
                yield answer
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details(), tuple(error.trailing_metadata()))
        finally:
            call.cancel()


class _Calls(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Handles every method, without decoding messages."""

    def __init__(self, proxy: Proxy):
        self._proxy = proxy

    def service(self, details: Any) -> Any:
        if details.method in COMMITS:
            return grpc.unary_unary_rpc_method_handler(partial(self._proxy.commit, details.method))

        async def stream(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            async for answer in self._proxy.stream(details.method, requests, context):
                yield answer

        return grpc.stream_stream_rpc_method_handler(stream)


def _metadata(context: Any) -> list[tuple[str, str | bytes]]:
    return [(name, value) for name, value in context.invocation_metadata() if not name.startswith(_OWN_METADATA)]


def _side(proxy: Proxy) -> web.Application:
    """The side port: `GET` or `POST /faults`, with the arguments of `Proxy.fault` as JSON."""

    async def show(_: web.Request) -> web.Response:
        return web.json_response({**asdict(proxy.faults), "made": proxy.made})

    async def change(request: web.Request) -> web.Response:
        try:
            proxy.fault(**await request.json())
        except (TypeError, ValueError) as error:
            return web.Response(status=400, text=json.dumps({"error": str(error)}), content_type="application/json")
        return await show(request)

    app = web.Application()
    app.router.add_get("/faults", show)
    app.router.add_post("/faults", change)
    return app


async def _serve(target: str, port: int, http_port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    proxy = Proxy(target)
    runner = web.AppRunner(_side(proxy), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, http_port).start()
        async with proxy.serving(port) as address:
            print(f"ready grpc={address} http=http://{HOST}:{runner.addresses[0][1]}", flush=True)
            await stop.wait()
    finally:
        await runner.cleanup()


def main() -> int:
    parser = argparse.ArgumentParser(prog="firestore_proxy", description="Firestore, with commits that fail.")
    parser.add_argument("--target", required=True, metavar="HOST:PORT", help="the emulator")
    parser.add_argument("--port", type=int, default=0, help="gRPC; 0 takes a free one")
    parser.add_argument("--http-port", type=int, default=0, help="faults; 0 takes a free one")
    try:
        asyncio.run(_serve(**vars(parser.parse_args())))
    except (OSError, RuntimeError) as error:
        print(f"firestore_proxy: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
