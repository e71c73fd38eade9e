"""Splits an upstream's bytes into server-sent events. Nothing here may parse JSON: dialects interpret events.

Rules: WHATWG HTML, section 9.2 "Server-sent events". Common deviations of upstreams are accepted: a field `error`,
events with empty data as keep-alives, and no blank line after the last event.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from lib.domain.event import Event

_LINE_END = re.compile(rb"[\r\n]")
_BOM = b"\xef\xbb\xbf"
_FIELD_NAME = 16  # the most that a line's field name and line end add to its data
_ERROR = b"error"


class EventTooLarge(Exception):
    """An event is larger than the limit."""


class Splitter:
    """Turns pieces of a byte stream into events. A piece may start and end anywhere.

    `max_event` limits the bytes of one event. Above it, `feed` raises `EventTooLarge`.
    """

    def __init__(self, max_event: int):
        self._max_event = max_event
        self._partial: list[bytes] = []  # the pieces of an unfinished line
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
        """The event that is unfinished at the end of the stream, if it has data.

        The specification drops it, but many servers leave out the last blank line.
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
            self._data_size += len(value) + bool(self._data)  # including the line feed between data lines
            self._data.append(value)
        elif field == b"event":
            self._name = value
        elif field == _ERROR and value.strip():
            # A server that fails in the middle of a stream may not send the blank line that ends its current event.
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
