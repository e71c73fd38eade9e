"""Shared by all protocols' HTTP responses: waiting for a status, stream headers, write time-outs, error responses."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from flask import Response, request

from lib.dialects.protocol import Dialect, Malformed
from lib.domain.end import End, State
from lib.domain.errors import HoldfastError, InvalidRequest, StillRunning, Unauthenticated
from lib.domain.event import Event
from lib.domain.generation import Generation
from lib.runtime.settings import Settings
from lib.serving.feed import Piece
from lib.serving.tail import Tail
from lib.wires import frames
from lib.wires.connection import connections
from lib.wires.failures import Interrupted, UpstreamRefusal, error_body

STREAM_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
}
_PLACE = {
    "chat_id": "X-Chat-Id",
    "message_id": "X-Message-Id",
    "turn": "X-Turn",
    "parent_id": "X-Parent-Id",
    "replaces_id": "X-Replaces-Id",
    "push_token": "X-Push-Token",
}
EXPOSED_HEADERS = ("X-Generation-Id", "X-Request-Id", "Location", "Retry-After", "X-Should-Retry")


def streamed(tail: Tail, pieces: Iterator[bytes], headers: Mapping[str, str] | None = None) -> Response:
    """A response that streams `pieces`, which are read from `tail`. The tail is always closed with the response."""
    answer = Response(_sent(pieces, connections()), headers={**(headers or {}), **STREAM_HEADERS})
    answer.call_on_close(tail.close)
    return answer


def in_frames(
    generation: Generation, tail: Tail, first: Piece, dialect: Dialect | None, settings: Settings, *, bare: bool = False
) -> Response:
    """The answer as server-sent events, from the tail's position on. `bare`: as lines of `data:` alone."""
    bound_writes(settings.send_seconds)
    bounds = {"keepalive": settings.keepalive_seconds, "seconds": settings.response_seconds}
    pieces = frames.stream(tail, first, dialect, bare=bare or wants_bare_events(), **bounds)
    return streamed(tail, pieces, named(generation))


def wants_bare_events() -> bool:
    """Whether the client's parser knows lines of `data:` alone, as that of PyPI's `azure-ai-inference` does."""
    asked = request.args.get("bare_events") or request.headers.get("X-Bare-Events", "")
    return asked.lower() in ("1", "true")


def first_piece(tail: Tail, seconds: float) -> Piece:
    """Waits for the first events or the end, up to `seconds`, before the status line is sent.

    Errors: `UpstreamRefusal` if there is no answer at all.
    """
    piece = tail.next(seconds)
    if not piece.events and piece.end is not None and piece.end.state is State.FAILED:
        raise UpstreamRefusal(piece.end)
    return piece


def status_wait(generation: Generation, settings: Settings) -> float:
    """How long the status line may wait, in seconds. One that waits for its turn is told at once that it does."""
    waits = generation.ahead and generation.state is State.QUEUED
    return 0.0 if waits else settings.status_wait_seconds


def whole_body(tail: Tail, first: Piece, dialect: Dialect, choices: int, seconds: float) -> bytes:
    """Waits for the whole answer, and returns it as the dialect's unary body. Closes the tail. Errors: as `ended`."""
    answer = dialect.answer(choices)

    def add(event: Event) -> None:
        with suppress(Malformed):  # an older version of this service accepted it
            answer.add(dialect.read(event))

    ended(tail, first, add, seconds)
    return answer.body()


def ended(tail: Tail, first: Piece, add: Callable[[Event], object], seconds: float) -> End:
    """Waits for the end of an answer that is complete or was stopped. Gives each event to `add`, and closes the tail.

    Errors: `StillRunning`, `UpstreamRefusal`, `Interrupted`.
    """
    for piece in tail.follow(first, keepalive=seconds, seconds=seconds):
        for event in piece.events:
            add(event)
    if piece.end is None:
        raise StillRunning("The answer is not complete yet. Get it at the Location that this response has.")
    if piece.end.state is State.FAILED:
        raise UpstreamRefusal(piece.end)
    if piece.end.state is State.INCOMPLETE:
        raise Interrupted(piece.end)
    return piece.end


def refusal(
    error: HoldfastError,
    headers: Mapping[str, str] | None = None,
    dialect: Dialect | None = None,
    *,
    foreign: bool = False,
) -> Response:
    """The response for an error, as `dialect` writes it. If the upstream refused, its own status and body.

    `foreign`: the upstream's API is not the client's, so its body is not passed on, only what it says.
    """
    upstream = error.upstream if isinstance(error, UpstreamRefusal) and not foreign else None
    if upstream is not None:
        answer = Response(upstream.body, status=error.status, content_type=upstream.content_type)
    else:
        answer = Response(error_body(error, dialect), status=error.status, mimetype="application/json")
    answer.headers.update(headers or {})
    if error.retry_after:
        answer.headers["Retry-After"] = str(error.retry_after)
    if not error.retryable:
        answer.headers["X-Should-Retry"] = "false"
    if isinstance(error, Unauthenticated):
        answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


def named(generation: Generation) -> dict[str, str]:
    """The headers that identify a response's generation. SDKs show `X-Request-Id` in their errors."""
    its = generation.id
    return {"X-Generation-Id": its, "X-Request-Id": its, "Location": f"/v1/generations/{its}"}


def retried() -> bool:
    """Whether the client's SDK repeats a request that failed: those of OpenAI and Anthropic count their retries.

    https://github.com/openai/openai-python/blob/main/src/openai/_base_client.py
    """
    return request.headers.get("X-Stainless-Retry-Count", "0") != "0"


def place() -> dict[str, Any]:
    """What the headers say of an answer's place, and whom to tell of its end: fields of a `StartRequest`."""
    return {field: header(name) for field, name in _PLACE.items()}


def header(name: str) -> str | None:
    """A header as text. WSGI decodes headers as Latin-1 (PEP 3333), but ids may be any UTF-8."""
    value = request.headers.get(name)
    if value is None:
        return None
    try:
        return value.encode("latin-1").decode()
    except UnicodeError as error:
        raise InvalidRequest(f"{name} must be UTF-8.", code="invalid_id", param=name) from error


def bound_writes(seconds: float) -> None:
    """Sets a time-out for writes: a client that reads nothing would block its thread for ever."""
    for connection in connections():
        connection.settimeout(seconds)


def _sent(pieces: Iterator[bytes], connections: Sequence[socket.socket]) -> Iterator[bytes]:
    """Yields a stream's pieces. If they can't be sent, resets the connection and discards unsent data.

    gunicorn would wait two seconds for such a client to close, in its only thread that accepts connections.
    """
    try:
        yield from pieces
    except GeneratorExit:
        for connection in connections:
            try:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is closed already
        raise
