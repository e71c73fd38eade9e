"""How events lie in a segment: records in a zlib stream that may still grow.

A record is `RS name LF data`, after the JSON text sequences of RFC 7464. The data of an event is JSON, in which a bare
record separator can't occur, so records are told apart by it alone. A segment that grows is flushed after each commit,
so that every version of it holds whole records. The open segment has one zlib stream on each side: what was seen before
is neither compressed nor decompressed again.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from lib.cloud.store import Store
from lib.domain.event import Event
from lib.domain.generation import Generation
from lib.domain.segment import Head, Segment

_SEPARATOR = b"\x1e"


class Entry(NamedTuple):
    """One numbered event as the journal keeps it, with the visible text it adds."""

    seq: int
    record: bytes
    text: str


def record(event: Event) -> bytes:
    """The event as a record."""
    data, name = event
    if _SEPARATOR in data or name:
        data, name = data.replace(_SEPARATOR, b"\\u001e"), name.replace(_SEPARATOR, b"").replace(b"\n", b"")
    return b"\x1e%b\n%b" % (name, data)


def events_of(records: bytes) -> list[Event]:
    """The events of whole records."""
    events = []
    for each in records.split(_SEPARATOR)[1:]:
        name, _, data = each.partition(b"\n")
        events.append(Event(data, name))
    return events


class Decoder:
    """Reads a segment's events from its zlib stream as that grows."""

    def __init__(self, first: int):
        self.first = first
        self._seen = 0
        self._decompress = zlib.decompressobj()

    def feed(self, events: bytes) -> list[Event]:
        """The events that `events`, the whole stream so far, has beyond those of the last call."""
        new, self._seen = events[self._seen :], len(events)
        return events_of(self._decompress.decompress(new))


def decoded(segments: Iterable[Segment]) -> Iterator[tuple[int, list[Event]]]:
    """Each segment's first number and its events. Documents of the same `first` are one segment.

    An attempt that was lost while it wrote the documents of a large event may have left some that the next one did not
    write over; they have another `attempt` than the first of them.
    """
    for first, documents in groupby(segments, key=lambda segment: segment.first):
        parts = list(documents)
        yield first, Decoder(first).feed(b"".join(part.events for part in parts if part.attempt == parts[0].attempt))


def replay(store: Store, generation: Generation, head: Head) -> Iterator[Event]:
    """All events that the journal has, up to `head`. Errors: `Unreachable`."""
    for segments in (store.segments(generation, 0, head.first), [head]):
        for _, events in decoded(segments):
            yield from events


def saved_text(store: Store, generation: Generation, head: Head) -> str:
    """The visible text that the journal has, up to `head`. Errors: `Unreachable`."""
    sealed = store.segments(generation, 0, head.first, select=("first", "text", "attempt"))
    return "".join(segment.text for segment in (*sealed, head))
