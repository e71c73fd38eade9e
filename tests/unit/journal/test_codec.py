"""The encoding of events: what is written can be read, at once or as the segment grows."""

from __future__ import annotations

import tracemalloc
import zlib

from hypothesis import given
from hypothesis import strategies as st

from lib.domain.event import Event
from lib.domain.segment import Segment
from lib.journal.codec import Decoder, Entry, decoded, events_of, record
from lib.journal.segments import Segmenter
from tests.unit.journal.test_segments import HEAD, entries_of

names = st.binary(max_size=8).map(lambda name: name.translate(None, b"\n\x1e"))
payloads = st.binary(max_size=40).map(lambda data: data.translate(None, b"\x1e"))
events = st.lists(st.builds(Event, data=payloads, name=names), max_size=8)


@given(events)
def test_records_give_back_their_events(written: list[Event]) -> None:
    assert events_of(b"".join(map(record, written))) == written


def test_data_of_several_lines_stays_of_several_lines() -> None:
    event = Event(b'{\n  "a": 1\n}\n', b"chunk")
    assert events_of(record(event)) == [event]


def test_a_bare_separator_which_no_json_has_can_not_part_a_record() -> None:
    (event,) = events_of(record(Event(b'{"a":"\x1e"}', b"na\x1eme\n")))
    assert event == Event(b'{"a":"\\u001e"}', b"name")


@given(st.lists(events, max_size=5))
def test_a_decoder_gives_each_event_once_as_its_segment_grows(batches: list[list[Event]]) -> None:
    segmenter = Segmenter(HEAD, 1)
    decoder = Decoder(1)
    seq = 0
    for batch in batches:
        if not batch:
            continue
        segmenter.add([Entry(seq + at, record(event), "") for at, event in enumerate(batch, 1)])
        seq += len(batch)
        assert decoder.feed(segmenter.open.events) == batch
        assert decoder.feed(segmenter.open.events) == []


def test_documents_of_one_first_are_one_segment() -> None:
    segmenter = Segmenter(HEAD, 2)
    (entry,) = entries_of(["x" * 50])
    segmenter.add([entry])
    whole = segmenter.open
    halves = [
        Segment(first=1, last=1, events=whole.events[:10], text="", attempt=2),
        Segment(first=1, last=1, events=whole.events[10:], text="", attempt=2),
    ]
    assert list(decoded(halves)) == [(1, events_of(entry.record))]


def test_an_open_segment_holds_little_memory_for_its_writer_and_for_each_reader() -> None:
    """A process has hundreds of them, each for as long as its answer lasts."""
    (entry,) = entries_of(["x" * 50])
    tracemalloc.start()
    try:
        segmenter = Segmenter(HEAD, 1)
        segmenter.add([entry])
        writer, _ = tracemalloc.get_traced_memory()
        decoder = Decoder(1)
        decoder.feed(segmenter.open.events)
        both, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert writer < 36 << 10
    assert both - writer < 16 << 10


def test_a_segment_with_any_window_is_read() -> None:
    """As older versions of this service have written them, and as large events are."""
    kept = record(Event(b"x" * 100_000, b""))
    for window in (12, 13, 15):
        deflate = zlib.compressobj(wbits=window)
        events = deflate.compress(kept) + deflate.flush()
        assert Decoder(1).feed(events) == events_of(kept)
