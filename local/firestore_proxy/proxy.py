"""A proxy for a gRPC service that passes every call on as bytes. It must not change or interpret what passes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import grpc

from local.ports import HOST

SERVICE = "/google.firestore.v1.Firestore/"
COMMITS = (f"{SERVICE}Commit", f"{SERVICE}BatchWrite")
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),
    ("grpc.max_reconnect_backoff_ms", 1_000),  # a client sees an outage end about when it ends
]
_OWN_METADATA = ("user-agent", "grpc-")


class Proxy:
    """Forwards calls. Subclasses may override `commit`, for Firestore's commits, and `answers`, for all other calls."""

    def __init__(self, target: str):
        self._target = target

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
        """A commit, or a batch of writes."""
        call = self._channel.unary_unary(method)
        try:
            return await call(request, metadata=_metadata(context), timeout=context.time_remaining())  # type: ignore[no-any-return]
        except grpc.aio.AioRpcError as error:
            return await context.abort(error.code(), error.details(), tuple(error.trailing_metadata()))  # type: ignore[no-any-return]

    async def stream(self, method: str, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Any other call. In gRPC's protocol, a single message is a stream of one."""
        try:
            async for answer in self.answers(method, requests, context):
                yield answer
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details(), tuple(error.trailing_metadata()))

    async def answers(self, method: str, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """What the target answers. Errors: AioRpcError."""
        call = self._channel.stream_stream(method)(
            requests, metadata=_metadata(context), timeout=context.time_remaining()
        )
        try:
            async for answer in call:
                yield answer
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
