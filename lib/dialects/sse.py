"""Server-sent events: splitting the bytes that an upstream sends.

What an event means is a dialect's matter; nothing here reads JSON.
Rules: WHATWG HTML, section 9.2 "Server-sent events", but for what upstreams do beside it: a field `error`, an event
with nothing in its data to keep the connection open, and no blank line after the last event.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from lib.domain.event import Event

_LINE_END = re.compile(rb"[\r\n]")
_BOM = b"\xef\xbb\xbf"
_FIELD_NAME = 16  # what a line's field name and its end may add to the data it carries
_ERROR = b"error"


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
                yield from self._line(line)
            if rest:
                self._hold(rest)
        self._check_line(self._partial_size)

    def close(self) -> Sequence[Event]:
        """What the stream's end leaves undispatched, if it has data.

        The specification drops it; servers that end without the last blank line are common, and their event is whole.
        """
        last = b"".join(self._partial)
        self._partial, self._partial_size = [], 0
        return (*(self._line(last) if last else ()), *self._dispatch())

    def _hold(self, piece: bytes) -> None:
        self._partial.append(piece)
        self._partial_size += len(piece)

    def _check_line(self, size: int) -> None:
        if size > self._max_event + _FIELD_NAME:
            raise EventTooLarge

    def _line(self, line: bytes) -> Sequence[Event]:
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
        elif field == _ERROR and value.strip():
            # A server that fails in the middle of a stream may not go on to end the event it was at.
            self._check_size(len(value) + len(_ERROR))
            return (*self._dispatch(), Event(value, _ERROR))
        self._check_size(self._data_size + len(self._name))
        return ()

    def _check_size(self, size: int) -> None:
        if size > self._max_event:
            raise EventTooLarge

    def _dispatch(self) -> Sequence[Event]:
        if not self._data:
            self._name = b""
            return ()
        event = Event(b"\n".join(self._data), self._name)
        self._data, self._data_size, self._name = [], 0, b""
        return (event,) if event.name == _ERROR or event.data.strip() else ()
