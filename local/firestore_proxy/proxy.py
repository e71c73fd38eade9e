"""A proxy for a gRPC service that passes every call on as bytes. It must not change or interpret what passes.

It has a thread for each call: with gRPC's asyncio server, a call took two to three times the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

import grpc

from local.ports import HOST

SERVICE = "/google.firestore.v1.Firestore/"
COMMITS = tuple(f"{SERVICE}{name}" for name in ("Commit", "BatchWrite"))
READS = tuple(f"{SERVICE}{name}" for name in ("BatchGetDocuments", "RunQuery", "RunAggregationQuery"))
# The emulator fails a commit with one of these although it has applied it, if a listener leaves while it is told of it.
APPLIED = (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN)
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),
    ("grpc.max_reconnect_backoff_ms", 1_000),  # a client sees an outage end about when it ends
]
_OWN_METADATA = ("user-agent", "grpc-")
_THREADS = 1000  # made as they are needed
_FOR_EVER = 1e8  # seconds; a call without a deadline has more left


class Proxy:
    """Forwards calls. Subclasses may override `commit`, for Firestore's commits, `answers`, for all other calls, and
    `applied`, which is told of each commit that took effect.

    All are called in several threads at once.
    """

    def __init__(self, target: str):
        self._target = target

    @contextmanager
    def serving(self, port: int) -> Iterator[str]:
        """Serves until the block ends, and yields the address. Raises RuntimeError if the port is taken."""
        self._channel = grpc.insecure_channel(self._target, options=_OPTIONS)
        server = grpc.server(ThreadPoolExecutor(_THREADS), options=_OPTIONS)
        server.add_generic_rpc_handlers((_Calls(self),))
        address = f"{HOST}:{server.add_insecure_port(f'{HOST}:{port}')}"
        server.start()
        try:
            yield address
        finally:
            stopped = server.stop(None)
            self._channel.close()
            stopped.wait()

    def commit(self, method: str, request: bytes, context: Any) -> bytes:
        """A commit, or a batch of writes."""
        try:
            answer: bytes = self._channel.unary_unary(method)(request, **_passed_on(context))
        except grpc.RpcError as error:
            if error.code() in APPLIED:
                self.applied(method, request)
            _fail(error, context)
        self.applied(method, request)
        return answer

    def applied(self, method: str, request: bytes) -> None:
        """A commit took effect. Its client does not know yet."""

    def stream(self, method: str, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """Any other call. In gRPC's protocol, a single message is a stream of one."""
        try:
            yield from self.answers(method, requests, context)
        except grpc.RpcError as error:
            _fail(error, context)

    def answers(self, method: str, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """What the target answers. Errors: RpcError."""
        if method in READS:
            call = self._channel.unary_stream(method)(next(requests), **_passed_on(context))
        else:
            call = self._channel.stream_stream(method)(_until_left(requests), **_passed_on(context))
        if not context.add_callback(call.cancel):
            call.cancel()  # the client left before
        yield from call


class _Calls(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Handles every method, without decoding messages."""

    def __init__(self, proxy: Proxy):
        self._proxy = proxy

    def service(self, details: Any) -> Any:
        method = details.method
        if method in COMMITS:
            return grpc.unary_unary_rpc_method_handler(partial(self._proxy.commit, method))
        if method in READS:
            return grpc.unary_stream_rpc_method_handler(
                lambda request, context: self._proxy.stream(method, iter([request]), context)
            )
        return grpc.stream_stream_rpc_method_handler(partial(self._proxy.stream, method))


def refuse(context: Any, code: grpc.StatusCode, said: str) -> NoReturn:
    """Ends a call with an error."""
    context.abort(code, said)
    raise AssertionError("abort raises")


def _passed_on(context: Any) -> dict[str, Any]:
    """The metadata and the time limit of a call."""
    metadata = [(name, value) for name, value in context.invocation_metadata() if not name.startswith(_OWN_METADATA)]
    left = context.time_remaining()
    return {"metadata": metadata, "timeout": left if left is not None and left < _FOR_EVER else None}


def _until_left(requests: Iterator[bytes]) -> Iterator[bytes]:
    """The requests, up to the moment when the client leaves."""
    try:
        yield from requests
    except grpc.RpcError:
        return


def _fail(error: Any, context: Any) -> NoReturn:
    context.set_trailing_metadata(tuple(error.trailing_metadata() or ()))
    refuse(context, error.code(), error.details())
