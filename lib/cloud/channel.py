"""gRPC channels to Google's APIs that come back by themselves, and retries of calls that may be repeated.

A connection may die silently: Cloud Run takes the CPU away between requests, and Google's network forgets a connection
that was idle for ten minutes (https://cloud.google.com/compute/docs/troubleshooting/general-tips). A call on it gets no
answer, and the channel keeps the connection until a keepalive ping fails, which takes longer than any caller waits. So
a call that times out replaces the channel, and the next one opens a new connection. A channel that is idle for some
minutes closes its connection before others forget it.

Nothing here may know which API is called.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import grpc
import grpc.aio
import grpc.experimental
from google.api_core import grpc_helpers, grpc_helpers_async

TRY_SECONDS = 4.0  # for the first try of a call, so that a dead connection leaves time for another
RETRY_SECONDS = 2.0  # how long to retry after the first failure
PAUSE_SECONDS = (0.05, 0.5)

Metadata = Sequence[tuple[str, str]]
T = TypeVar("T")
_Calls = dict[str, Any]  # a channel's calls by method: making one takes a tenth of the time that the call takes

_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),  # a separate connection for each channel
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_reconnect_backoff_ms", 2_000),  # gRPC's default grows to two minutes
    ("grpc.client_idle_timeout_ms", 240_000),
]
# Pings find a dead connection under a stream: as often as Google's clients send them, and without the limit on those
# between which nothing is sent (https://github.com/googleapis/google-cloud-dotnet/issues/8260). Not for the emulators,
# which treat them as abuse.
_PINGS = [
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
]
_WITHOUT_THREADS = (grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1)


class Channel:
    """A channel for calls that end. `emulator` is the host and port of one, which has no TLS and no credentials."""

    def __init__(self, host: str, emulator: str | None = None):
        self._host = host
        self._emulator = emulator
        self._lock = threading.Lock()
        self._open = self._opened(), _Calls()

    def unary(self, method: str, request: Any, answer: Any, timeout: float, metadata: Metadata) -> Any:
        """Makes a call with one answer, a protobuf message of the class `answer`. Errors: `grpc.RpcError`."""
        channel, calls = self._open
        call = calls.get(method)
        if call is None:
            call = calls[method] = channel.unary_unary(method, type(request).SerializeToString, answer.FromString)
        try:
            return call(request, timeout=timeout, metadata=metadata)
        except grpc.RpcError as error:
            self._replace_dead(channel, error)
            raise

    def stream(self, method: str, request: Any, answer: Any, timeout: float, metadata: Metadata) -> Iterator[Any]:
        """Starts a call with a stream of answers. Errors: `grpc.RpcError`, from the iterator."""
        channel, calls = self._open
        call = calls.get(method)
        if call is None:
            call = calls[method] = channel.unary_stream(method, type(request).SerializeToString, answer.FromString)
        return self._answers(channel, call(request, timeout=timeout, metadata=metadata))

    def _answers(self, channel: grpc.Channel, answers: Iterator[Any]) -> Iterator[Any]:
        try:
            yield from answers
        except grpc.RpcError as error:
            self._replace_dead(channel, error)
            raise

    def _replace_dead(self, channel: grpc.Channel, error: Any) -> None:
        """Opens a new channel after a time-out. The old one is not closed, as others may still get answers on it."""
        if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
            return
        with self._lock:
            if self._open[0] is channel:
                self._open = self._opened(), _Calls()

    def _opened(self) -> grpc.Channel:
        options = [*_OPTIONS, _WITHOUT_THREADS]
        if self._emulator:
            return grpc.insecure_channel(self._emulator, options=options)
        return grpc_helpers.create_channel(self._host, default_scopes=_SCOPES, options=[*options, *_PINGS])

    def close(self) -> None:
        self._open[0].close()


def stream_channel(host: str, emulator: str | None = None) -> grpc.aio.Channel:
    """A channel for streams that do not end, which belongs to the running event loop."""
    if emulator:
        return grpc.aio.insecure_channel(emulator, options=_OPTIONS)
    return grpc_helpers_async.create_channel(host, default_scopes=_SCOPES, options=[*_OPTIONS, *_PINGS])


def retried(call: Callable[[float], T], seconds: float, passing: tuple[type[Exception], ...]) -> T:
    """Makes a call that may be repeated, with its time-out as the argument, and retries after `passing` errors.

    Gives up `RETRY_SECONDS` after the first failure, and after `seconds` in all. (google.api_core's `Retry` counts from
    the first call, so a call that hangs would use up the time of its retry.)
    """
    end = time.monotonic() + seconds
    give_up: float | None = None
    pause, longest = PAUSE_SECONDS
    while True:
        left = end - time.monotonic()
        try:
            return call(left if give_up else min(left, TRY_SECONDS))
        except passing:
            now = time.monotonic()
            give_up = give_up or min(now + RETRY_SECONDS, end)
            if now + pause >= give_up:
                raise
        time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
        pause = min(2 * pause, longest)
