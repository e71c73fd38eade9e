"""How events are encoded in a segment: records in a zlib stream that may still grow.

A record is `RS name LF data`, similar to the JSON text sequences of RFC 7464. An event's data is JSON, which can't
contain an unescaped record separator, so the separator alone delimits records. The stream is flushed at each commit, so
every version of an open segment holds whole records. Writer and readers each keep one zlib stream for the open segment,
so nothing is compressed or decompressed twice.
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
    """A numbered event, encoded as a record, and the visible text that it adds."""

    seq: int
    record: bytes
    text: str


def record(event: Event) -> bytes:
    """Encodes an event as a record."""
    data, name = event
    if _SEPARATOR in data or name:
        data, name = data.replace(_SEPARATOR, b"\\u001e"), name.replace(_SEPARATOR, b"").replace(b"\n", b"")
    return b"\x1e%b\n%b" % (name, data)


def events_of(records: bytes) -> list[Event]:
    """Decodes whole records."""
    events = []
    for each in records.split(_SEPARATOR)[1:]:
        name, _, data = each.partition(b"\n")
        events.append(Event(data, name))
    return events


class Decoder:
    """Decodes a segment's events as its zlib stream grows."""

    def __init__(self, first: int):
        self.first = first
        self._seen = 0
        self._decompress = zlib.decompressobj(wbits=0)  # a window as large as the stream's: 4 KiB, and not 32

    def feed(self, events: bytes) -> list[Event]:
        """Takes the whole stream so far, and returns the events that are new since the last call."""
        new, self._seen = events[self._seen :], len(events)
        return events_of(self._decompress.decompress(new))


def decoded(segments: Iterable[Segment]) -> Iterator[tuple[int, list[Event]]]:
    """Each segment's first event number and its events. Documents with the same `first` form one segment."""
    for document, events in _joined(segments):
        yield document.first, events


def _joined(documents: Iterable[Segment]) -> Iterator[tuple[Segment, list[Event]]]:
    """The first document of each segment, and the segment's events."""
    for first, parts in groupby(documents, key=lambda document: document.first):
        own = list(parts)
        yield own[0], Decoder(first).feed(b"".join(part.events for part in own))


def replay(store: Store, generation: Generation, head: Head) -> Iterator[Event]:
    """All events in the journal up to `head`. Errors: `Unreachable`."""
    for _, events in replay_attempts(store, generation, head):
        yield from events


def replay_attempts(store: Store, generation: Generation, head: Head) -> Iterator[tuple[int, list[Event]]]:
    """All events in the journal up to `head`, in pieces, each with the number of its attempt. Errors: `Unreachable`."""
    for segments in (store.segments(generation, 0, head.first), [head]):
        for document, events in _joined(segments):
            yield document.attempt, events


def saved_text(store: Store, generation: Generation, head: Head) -> str:
    """The visible text in the journal up to `head`. Errors: `Unreachable`."""
    sealed = store.segments(generation, 0, head.first, select=("first", "text"))
    return "".join(segment.text for segment in (*sealed, head))
