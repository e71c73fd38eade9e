"""Laying an attempt's events out in segments: the open one, which the head holds, and those that are sealed.

Pure. A segment that has grown past `SEAL_BYTES` is sealed by the next events that come, so that what a commit seals is
what the head had before it: a viewer that keeps up has seen it all, and reads nothing.
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

SEAL_BYTES = 80 << 10  # of raw records in the head: a short answer has no more
DOCUMENT_BYTES = 384 << 10  # of raw records one document may have, so that events and text stay below 1 MiB
# Events are much alike: little effort and a window of 8 KiB make them nearly as small as much would, in a third of the
# time and a quarter of the memory.
_COMPRESSION = (1, zlib.DEFLATED, 13, 5)


class Sealed(NamedTuple):
    """A segment that is never written again. `part` is its number among those of one event too large for one, or 0."""

    segment: Segment
    part: int = 0


class _OpenSegment:
    """A segment that grows: each time only what is new is compressed."""

    def __init__(self, first: int, attempt: int):
        self.first, self.last, self.attempt = first, first - 1, attempt
        self.raw_bytes = 0
        self._events = bytearray()
        self._text: list[str] = []
        self._compress = zlib.compressobj(*_COMPRESSION)

    @classmethod
    def found(cls, head: Head) -> _OpenSegment:
        """A segment that another attempt wrote. Nothing can be added to its stream: seal it first."""
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
    """Lays out what attempt `attempt` adds to the journal that ends with `head`."""

    def __init__(self, head: Head, attempt: int):
        self._attempt = attempt
        self._open = _OpenSegment.found(head)
        self._foreign = not self._open.empty  # another attempt's segment is sealed before anything is added
        if not self._foreign:
            self._open = _OpenSegment(head.first, attempt)

    @property
    def open(self) -> Segment:
        """The open segment as it is now."""
        return self._open.segment()

    def add(self, entries: Sequence[Entry]) -> list[Sealed]:
        """Puts the entries into the open segment; gives the segments that are full on the way."""
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
        """An event too large for one document, as several segments of the same `first`."""
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
