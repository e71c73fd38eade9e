"""How an attempt's events are divided into the open segment and sealed ones."""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from lib.domain.event import Event
from lib.domain.message import INLINE_BYTES
from lib.domain.segment import Segment, empty_head
from lib.journal.codec import Entry, decoded, record
from lib.journal.segments import DOCUMENT_BYTES, SEAL_BYTES, Segmenter
from lib.journal.writer import BATCH_BYTES, COMMIT_BYTES

NOW = datetime(2026, 1, 2, tzinfo=UTC)
HEAD = empty_head(NOW, NOW)
EMULATOR_BYTES = 4 << 20  # of one call


def entries_of(texts: Sequence[str], first: int = 1) -> list[Entry]:
    return [Entry(seq, record(Event(text.encode())), text) for seq, text in enumerate(texts, first)]


def noise(size: int) -> str:
    """Text that does not compress to less than three quarters."""
    return random.Random(size).randbytes(size).hex()[:size]


def texts_in(segments: Sequence[Segment]) -> list[str]:
    return [event.data.decode() for _, events in decoded(segments) for event in events]


@settings(max_examples=40)
@given(st.lists(st.lists(st.integers(0, 500_000), min_size=1, max_size=4), min_size=1, max_size=5))
def test_every_event_is_in_one_segment_in_order_and_each_segment_fits_a_document(batches: list[list[int]]) -> None:
    segmenter = Segmenter(HEAD, 1)
    sealed: list[Segment] = []
    written: list[str] = []
    for sizes in batches:
        texts = [str(len(written) + at).ljust(size, "x") for at, size in enumerate(sizes)]
        sealed += [each.segment for each in segmenter.add(entries_of(texts, len(written) + 1))]
        written += texts
    everything = [*sealed, segmenter.open]
    assert texts_in(everything) == written
    assert "".join(segment.text for segment in everything) == "".join(written)
    following = 1
    for segment in sealed:
        assert segment.first in (following, following - 1)  # another document of the same event
        following = segment.last + 1
        assert max(len(segment.events), len(segment.text)) <= DOCUMENT_BYTES + 1024
    assert segmenter.open.first == following


def test_what_is_full_is_sealed_by_what_comes_next_and_as_it_was() -> None:
    segmenter = Segmenter(HEAD, 1)
    assert segmenter.add(entries_of(["x" * SEAL_BYTES])) == []
    before = segmenter.open
    (sealed,) = segmenter.add(entries_of(["y"], 2))
    assert (sealed.segment, sealed.part) == (before, 0)


def test_another_attempts_segment_is_sealed_under_its_own_number() -> None:
    segmenter = Segmenter(HEAD, 1)
    segmenter.add(entries_of(["one", "two"]))
    head = replace(HEAD, last=2, events=segmenter.open.events, text=segmenter.open.text, attempt=1, claims=1)

    successor = Segmenter(head, 2)
    assert successor.open == segmenter.open
    (sealed,) = successor.add(entries_of(["three"], 3))
    assert sealed.segment == segmenter.open
    assert (sealed.segment.attempt, successor.open.attempt) == (1, 2)


def test_an_empty_segment_that_was_taken_over_has_the_events_of_who_takes_it_over() -> None:
    segmenter = Segmenter(replace(HEAD, claims=1, attempt=1), 2)
    assert segmenter.add(entries_of(["one"])) == []
    assert segmenter.open.attempt == 2


def test_an_event_too_large_for_a_document_is_laid_out_in_several_of_one_number() -> None:
    segmenter = Segmenter(HEAD, 1)
    text = noise(3 * DOCUMENT_BYTES)
    sealed = segmenter.add(entries_of(["before", text, "after"]))
    assert [each.part for each in sealed] == [0, 0, *range(1, len(sealed) - 1)]
    assert {(each.segment.first, each.segment.last) for each in sealed[1:]} == {(2, 2)}
    assert texts_in([*(each.segment for each in sealed), segmenter.open]) == ["before", text, "after"]


def test_a_commit_stays_below_what_the_emulator_takes_whatever_is_in_it() -> None:
    """With a full segment to seal, as many events as fit into one commit, and the largest message."""
    worst = 0
    for sizes in (
        [BATCH_BYTES - 50],
        [DOCUMENT_BYTES - 50] * 2,
        [BATCH_BYTES // 2 - 50] * 2,
        [COMMIT_BYTES - DOCUMENT_BYTES - 200],
        [2000] * 500,
    ):
        segmenter = Segmenter(HEAD, 1)
        segmenter.add(entries_of([noise(DOCUMENT_BYTES - 50)]))
        sealed = segmenter.add(entries_of([noise(size) for size in sizes], 2))
        fits = sum(max(len(each.segment.events), len(each.segment.text)) for each in sealed) <= COMMIT_BYTES
        at_once = [each.segment for each in sealed if fits or not each.part] + [segmenter.open]
        worst = max(worst, sum(len(segment.events) + len(segment.text) for segment in at_once))
    assert worst + INLINE_BYTES + (100 << 10) + (64 << 10) < EMULATOR_BYTES


def test_text_of_many_bytes_a_character_is_cut_between_characters() -> None:
    segmenter = Segmenter(HEAD, 1)
    text = "🦊" * (DOCUMENT_BYTES // 2)
    sealed = segmenter.add(entries_of([text]))
    assert "".join(each.segment.text for each in sealed) == text
    assert zlib.decompressobj().decompress(b"".join(each.segment.events for each in sealed))
