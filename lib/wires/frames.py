"""Writes a tail as server-sent events in the format of the answer's dialect.

Each event has its number as `id:`, from which a client can resume. The last frame has no id: it is the dialect's end
mark, which this service sends once the answer is saved, or an error. A keep-alive is the dialect's own, or a comment
line directly before the next frame, without a blank line: OpenAI's Python SDK would take a comment with a blank line
for an event, and fail.

Rules: WHATWG HTML, section 9.2 "Server-sent events".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lib.dialects.protocol import Dialect
from lib.domain.end import End, State
from lib.domain.errors import HoldfastError, StillRunning, Unavailable
from lib.domain.event import Event
from lib.serving.feed import Piece
from lib.serving.tail import Tail
from lib.wires.failures import Interrupted, UpstreamRefusal, error_event, shown

KEEP_ALIVE = b": keep-alive\n"
WRITE_BYTES = 64 << 10


def framed(piece: Piece, bare: bool = False) -> list[bytes]:
    """The frames of a piece's events; `bare`: without their numbers, and with all data in one line."""
    if bare:
        return [_unnumbered(data.replace(b"\n", b""), name) for data, name in piece.events]
    return [
        b"id: %d\ndata: %b\n\n" % (seq, data)
        if not (name or b"\n" in data or b"\r" in data)
        else b"id: %d\n%b" % (seq, _unnumbered(data, name))
        for seq, (data, name) in enumerate(piece.events, piece.first)
    ]


def frame(event: Event, number: int | None = None) -> bytes:
    """The frame of one event, with its number if it has one."""
    return (b"" if number is None else b"id: %d\n" % number) + _unnumbered(*event)


def _unnumbered(data: bytes, name: bytes = b"") -> bytes:
    """A frame without an id. Its lines must not contain any kind of line end."""
    data = data.replace(b"\r", b"").replace(b"\n", b"\ndata: ")
    return b"event: %b\ndata: %b\n\n" % (name.replace(b"\r", b""), data) if name else b"data: %b\n\n" % data


def stream(
    tail: Tail, first: Piece, dialect: Dialect | None, *, keepalive: float, seconds: float, bare: bool = False
) -> Iterator[bytes]:
    """The stream that starts with `first`. Ends in a defined way after at most `seconds`, and closes the tail.

    `dialect` is the answer's, or None if this version does not know it. `bare`: events have no `id:`, their data is one
    line, and keep-alives are empty lines.
    """
    keep_alive = _unnumbered(*dialect.ping) if dialect and dialect.ping else KEEP_ALIVE
    try:
        for piece in tail.follow(first, keepalive=keepalive, seconds=seconds):
            if piece.events:
                yield from in_writes(framed(piece, bare))
            elif piece.end is None:
                yield b"\n" if bare else keep_alive  # the first one also sends the status line
        yield _closing(piece.end, dialect) if piece.end is not None else _planned_end(tail, dialect)
    except Unavailable as error:
        shown(error)
        words = f"The answer can't be read now. Resume with Last-Event-ID: {tail.cursor}."
        yield error_frame(Unavailable(words), dialect)
    except Exception as error:
        yield error_frame(shown(error), dialect)


def in_writes(frames: Sequence[bytes]) -> Iterator[bytes]:
    """The frames in writes small enough for a slow client to accept within one write's time limit."""
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


def _closing(end: End, dialect: Dialect | None) -> bytes:
    """The last frame: the end mark if the answer is complete or was stopped by its user, otherwise an error."""
    if end.state in (State.COMPLETED, State.STOPPED):
        mark = dialect.end_mark if dialect else None
        return _unnumbered(*mark) if mark else b""
    return error_frame(UpstreamRefusal(end) if end.state is State.FAILED else Interrupted(end), dialect)


def _planned_end(tail: Tail, dialect: Dialect | None) -> bytes:
    """The end of a response whose answer continues: an error and no end mark, so that it does not look complete."""
    error = StillRunning(f"This response has lasted as long as it may. Resume with Last-Event-ID: {tail.cursor}.")
    error.details = {"generation": tail.generation_id, "last_event_id": tail.cursor}
    return error_frame(error, dialect)


def error_frame(error: HoldfastError, dialect: Dialect | None) -> bytes:
    return _unnumbered(*error_event(error, dialect))
