"""Server-sent events as bytes: splitting what an upstream sends, framing what a client gets.

Framing only. What an event means is a dialect's matter (`chat`); nothing here reads JSON, waits, or does I/O.
Rules: WHATWG HTML, section 9.2 "Server-sent events".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_LINE_END = re.compile(rb"[\r\n]")
_BOM = b"\xef\xbb\xbf"
_FIELD_NAME = 16  # what a line's field name and its end may add to the data it carries


class Event(NamedTuple):
    """One dispatched event: its `data` lines joined by a line feed, and its name where it has one."""

    data: bytes
    name: bytes = b""


class EventTooLarge(Exception):
    """An event is longer than the bound that was set for it."""


class Splitter:
    """Turns pieces of a byte stream into events, wherever the stream was cut.

    `max_event` bounds the bytes one event may hold before it is dispatched; past it `feed` raises `EventTooLarge`.
    """

    def __init__(self, max_event: int):
        self._max_event = max_event
        self._partial: list[bytes] = []  # the pieces of a line that has not ended
        self._partial_size = 0
        self._after_cr = False
        self._first_line = True
        self._data: list[bytes] = []
        self._data_size = 0
        self._name = b""

    def feed(self, piece: bytes) -> Iterator[Event]:
        """The events that `piece` completes."""
        if self._after_cr and piece:
            self._after_cr = False
            piece = piece.removeprefix(b"\n")
        if not piece:
            return
        if _LINE_END.search(piece) is None:
            self._hold(piece)
        else:
            # bytes.splitlines breaks on \r, \n and \r\n alone, which are exactly the specification's line ends.
            lines = b"".join((*self._partial, piece)).splitlines()
            self._partial, self._partial_size = [], 0
            rest = b"" if piece.endswith((b"\n", b"\r")) else lines.pop()
            self._after_cr = piece.endswith(b"\r")
            for line in lines:
                event = self._line(line)
                if event is not None:
                    yield event
            if rest:
                self._hold(rest)
        self._check_line(self._partial_size)

    def close(self) -> Event | None:
        """What the stream's end leaves undispatched, if it has data.

        The specification drops it; servers that end without the last blank line are common, and their event is whole.
        """
        if self._partial:
            self._line(b"".join(self._partial))
            self._partial, self._partial_size = [], 0
        return self._dispatch()

    def _hold(self, piece: bytes) -> None:
        self._partial.append(piece)
        self._partial_size += len(piece)

    def _check_line(self, size: int) -> None:
        if size > self._max_event + _FIELD_NAME:
            raise EventTooLarge

    def _line(self, line: bytes) -> Event | None:
        self._check_line(len(line))
        if self._first_line:
            self._first_line = False
            line = line.removeprefix(_BOM)
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data_size += len(value) + bool(self._data)  # with the line feed that joins them
            self._data.append(value)
        elif field == b"event":
            self._name = value
        if self._data_size + len(self._name) > self._max_event:
            raise EventTooLarge
        return None

    def _dispatch(self) -> Event | None:
        data, name = self._data, self._name
        self._data, self._data_size, self._name = [], 0, b""
        return Event(b"\n".join(data), name) if data else None


def frame(seq: int, event: Event) -> bytes:
    """`event` as it goes to a client, with `seq` as its id."""
    name = b"event: %b\n" % event.name if event.name else b""
    if b"\n" in event.data:
        return b"id: %d\n%bdata: %b\n\n" % (seq, name, event.data.replace(b"\n", b"\ndata: "))
    return b"id: %d\n%bdata: %b\n\n" % (seq, name, event.data)


def split_frames(raw: bytes) -> list[bytes]:
    """The frames in a run of whole frames. No frame holds a blank line but the one that ends it."""
    return [part + b"\n\n" for part in raw.split(b"\n\n")[:-1]]


def event_of(framed: bytes) -> Event:
    """The event a frame was made from."""
    name = b""
    data = []
    for line in framed.split(b"\n"):
        field, _, value = line.partition(b": ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value
    return Event(b"\n".join(data), name)
