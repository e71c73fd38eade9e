"""The OpenAI wire: a tail as a stream of server-sent events, or as one body.

Each frame has its number as `id:`. `data: [DONE]` has none: it is said by this service, once the answer is saved. A
keep-alive is a comment on a line of its own directly before the next frame: the official Python SDK reads a comment
that a blank line follows as an event, and fails on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import orjson

from lib.cloud.documents import Unreachable
from lib.dialects import sse
from lib.dialects.chat_completions import completion_from, is_json
from lib.domain.errors import HoldfastError, StillRunning
from lib.domain.generation import End, State
from lib.serving.tail import Piece, Tail

KEEP_ALIVE = b": keep-alive\n"
DONE = b"data: [DONE]\n\n"
WRITE_BYTES = 64 << 10


class UpstreamRefusal(HoldfastError):
    """The upstream refused before its first event: its own status goes to the client, and its body where it is JSON."""

    type = "upstream_error"

    def __init__(self, end: End):
        error = end.error or {}
        retry_after = math.ceil(error.get("retryAfter") or 0)
        super().__init__(str(error.get("message")), code=str(error.get("code")), retry_after=retry_after)
        self.status = int(error.get("status") or 502)
        self.content_type = str(error.get("contentType") or "")
        self.upstream_body = str(error.get("body") or "") if is_json(self.content_type) else ""


class Interrupted(HoldfastError):
    """The answer broke off. What there is of it is saved."""

    status = 502
    code = "incomplete"
    type = "upstream_error"

    def __init__(self, end: End):
        error = end.error or {}
        what = str(error.get("message") or "The answer broke off.")
        super().__init__(f"{what} What was read is saved as incomplete.", code=end.reason)


def first_piece(tail: Tail, seconds: float) -> Piece:
    """What the status line waits for: the first events or the end, or nothing when the time is over.

    Errors: `UpstreamRefusal` where there is no answer at all.
    """
    piece = tail.next(seconds)
    if not piece.frames and piece.end is not None and piece.end.state is State.FAILED:
        raise UpstreamRefusal(piece.end)
    return piece


def frames(tail: Tail, first: Piece, *, keepalive: float, seconds: float) -> Iterator[bytes]:
    """The stream from `first` on. It ends in order after `seconds` at the latest, and closes the tail."""
    try:
        for piece in tail.follow(first, keepalive=keepalive, seconds=seconds):
            if piece.frames:
                yield from _writes(piece.frames)
            elif piece.end is None:
                yield KEEP_ALIVE  # the first one sends the status line, too
        yield closing(piece.end) if piece.end is not None else planned_end(tail)
    except HoldfastError as error:
        yield error_frame(error)
    except Unreachable:
        yield error_frame(HoldfastError("The answer can't be read now. Resume with Last-Event-ID.", code="unavailable"))


def _writes(frames: Sequence[bytes]) -> Iterator[bytes]:
    """In pieces that a slow client can take in the time that one write may last."""
    at = 0
    while at < len(frames):
        end, size = at + 1, len(frames[at])
        while end < len(frames) and size + len(frames[end]) <= WRITE_BYTES:
            size += len(frames[end])
            end += 1
        data = b"".join(frames[at:end])
        for start in range(0, size, WRITE_BYTES):
            yield data[start : start + WRITE_BYTES]
        at = end


def body(tail: Tail, first: Piece, seconds: float) -> bytes:
    """The whole answer as one JSON body. Closes the tail. Errors: `StillRunning`, `UpstreamRefusal`, `Interrupted`."""
    held: list[bytes] = []
    for piece in tail.follow(first, keepalive=seconds, seconds=seconds):
        held += piece.frames
    if piece.end is None:
        raise StillRunning("The answer is not complete yet. Get it at the Location that this response has.")
    if piece.end.state is State.FAILED:
        raise UpstreamRefusal(piece.end)
    if piece.end.state is State.INCOMPLETE:
        raise Interrupted(piece.end)
    return completion_from(sse.event_of(frame).data for frame in held)


def closing(end: End) -> bytes:
    """How a stream ends: `[DONE]` where it is whole or was stopped by its user, else an error."""
    if end.state in (State.COMPLETED, State.STOPPED):
        return DONE
    if end.state is State.FAILED:
        return error_frame(UpstreamRefusal(end))
    return error_frame(Interrupted(end))


def planned_end(tail: Tail) -> bytes:
    """The end of a response whose answer goes on: not `[DONE]`, so that nobody takes it for whole."""
    error = StillRunning(f"This response has lasted as long as it may. Resume with Last-Event-ID: {tail.cursor}.")
    fields = error.body()
    fields["error"] |= {"generation": tail.generation_id, "last_event_id": tail.cursor}
    return _data(fields)


def error_frame(error: HoldfastError) -> bytes:
    return _data(error.body())


def _data(fields: dict[str, object]) -> bytes:
    return b"data: %b\n\n" % orjson.dumps(fields)
