"""Dividing an attempt's events into segments: the open one, which the head contains, and the sealed ones.

Pure. A segment that has grown past `SEAL_BYTES` is sealed when the next events arrive. So a commit seals only events
that the head had before, and a viewer that keeps up never has to read a sealed segment.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

from lib.domain import message
from lib.domain.segment import Head, Segment
from lib.domain.text import well_formed
from lib.journal.codec import Entry

SEAL_BYTES = 80 << 10  # of raw records in the head; short answers stay below it
DOCUMENT_BYTES = 384 << 10  # of raw records per document, so that events and text stay below 1 MiB
# Events resemble each other: the lowest level and a window of 4 KiB compress nearly as well as the defaults, in a third
# of the time and with an eighth of the memory. That is held for as long as an answer lasts.
_COMPRESSION = (1, zlib.DEFLATED, 12, 4)


class Sealed(NamedTuple):
    """A segment that is final. `part` numbers the segments of an event too large for one, and is else 0."""

    segment: Segment
    part: int = 0


class _OpenSegment:
    """A growing segment. Only new entries are compressed."""

    def __init__(self, first: int, attempt: int):
        self.first, self.last, self.attempt = first, first - 1, attempt
        self.raw_bytes = 0
        self._events = bytearray()
        self._text: list[str] = []
        self._compress = zlib.compressobj(*_COMPRESSION)

    @classmethod
    def found(cls, head: Head) -> _OpenSegment:
        """The segment of another attempt. Its stream can't be extended, so it must be sealed first."""
        segment = cls(head.first, head.attempt)
        segment.last, segment._events, segment._text = head.last, bytearray(head.events), [head.text]
        return segment

    @property
    def empty(self) -> bool:
        return self.last < self.first

    def extend(self, entries: Sequence[Entry]) -> None:
        raw = b"".join([entry.record for entry in entries])
        self._events += self._compress.compress(raw) + self._compress.flush(zlib.Z_SYNC_FLUSH)
        self._text.append("".join([entry.text for entry in entries]))
        self.raw_bytes += len(raw)
        self.last = entries[-1].seq

    def segment(self) -> Segment:
        text = "".join(self._text)
        self._text = [text]
        return Segment(
            first=self.first,
            last=self.last,
            events=bytes(self._events),
            text=well_formed(text),
            attempt=self.attempt,
        )


class Segmenter:
    """Divides what attempt `attempt` appends to the journal that ends with `head`."""

    def __init__(self, head: Head, attempt: int):
        self._attempt = attempt
        self._open = _OpenSegment.found(head)
        self._foreign = not self._open.empty  # another attempt's segment is sealed before anything is added
        if not self._foreign:
            self._open = _OpenSegment(head.first, attempt)

    @property
    def open(self) -> Segment:
        """The current open segment."""
        return self._open.segment()

    def add(self, entries: Sequence[Entry]) -> list[Sealed]:
        """Appends entries. Returns the segments that this seals."""
        sealed: list[Sealed] = []
        waiting: list[Entry] = []
        size = 0
        if entries and (self._foreign or self._open.raw_bytes >= SEAL_BYTES):
            sealed.append(self._seal())
        for entry in entries:
            if self._open.raw_bytes + size + len(entry.record) > DOCUMENT_BYTES:
                sealed += self._close(waiting)
                waiting, size = [], 0
            if len(entry.record) > DOCUMENT_BYTES:
                sealed += self._large(entry)
            else:
                waiting.append(entry)
                size += len(entry.record)
        if waiting:
            self._open.extend(waiting)
        return sealed

    def _close(self, waiting: Sequence[Entry]) -> list[Sealed]:
        if waiting:
            self._open.extend(waiting)
        return [] if self._open.empty else [self._seal()]

    def _seal(self) -> Sealed:
        segment = self._open.segment()
        self._open, self._foreign = _OpenSegment(segment.last + 1, self._attempt), False
        return Sealed(segment)

    def _large(self, entry: Entry) -> list[Sealed]:
        """Several segments with the same `first`, for an event that is too large for one document."""
        events = zlib.compress(entry.record)
        blobs = [events[at : at + DOCUMENT_BYTES] for at in range(0, len(events), DOCUMENT_BYTES)]
        texts = message.pieces(well_formed(entry.text), DOCUMENT_BYTES)
        self._open = _OpenSegment(entry.seq + 1, self._attempt)
        return [
            Sealed(
                Segment(first=entry.seq, last=entry.seq, events=blob or b"", text=text or "", attempt=self._attempt),
                part,
            )
            for part, (blob, text) in enumerate(zip_longest(blobs, texts))
        ]
