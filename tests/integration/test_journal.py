"""The journal against the real emulator: one writer, no gap, no change to what is sealed, and the end in one commit."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import timedelta

import pytest

from lib.cloud.documents import Create, Delete, Patch, Put, Stale
from lib.dialects import DIALECTS
from lib.dialects.protocol import folded
from lib.domain import message
from lib.domain.end import End, State
from lib.domain.errors import Unreachable
from lib.domain.segment import Head, Segment
from lib.journal.codec import decoded, events_of, record, replay, replay_attempts, saved_text
from lib.journal.segments import DOCUMENT_BYTES, SEAL_BYTES
from lib.journal.writer import COMMIT_BYTES, Fenced, Journal
from local.demo_text import blob

COMPLETED = End(state=State.COMPLETED, usage={"total_tokens": 3})
KIB = 1 << 10


@pytest.fixture
def segments(documents):
    """The sealed segments and the head, in the order an app sees them."""

    def segments(generation):
        found = documents.query(generation.journal_path, order="first")
        assert found[-1].path == generation.head_path
        return found

    return segments


@pytest.fixture
def events(store):
    """All events of a journal; fails where a number is missing or there twice."""

    def events(generation):
        head = store.read_head(generation)
        found = []
        for part in (store.segments(generation, 0, head.first), [head]):
            for first, some in decoded(part):
                assert first == len(found) + 1
                found += some
        assert len(found) == head.last
        return found

    return events


def events_in(entries):
    return [event for each in entries for event in events_of(each.record)]


def said_by(entries):
    return folded(DIALECTS["chat_completions"], events_in(entries)).said()


def texts(documents):
    return "".join(document.fields["text"] for document in documents)


def seals(writes):
    return any(isinstance(write, Create) for write in writes)


def does_not_seal(writes):
    return not seals(writes)


def raw_of(document):
    ((_, some),) = decoded([Segment(**{name: document.fields[name] for name in Segment.__slots__})])
    return b"".join(map(record, some))


def test_what_is_appended_is_read_back_in_order(begin, hold, entries, events, segments):
    generation = begin()
    journal = hold(generation).journal
    written = entries(1, 40)
    for at in range(0, 40, 7):
        journal.append(written[at : at + 7])
        assert events(generation) == events_in(written[: at + 7])
    assert journal.last == 40
    assert texts(segments(generation)) == "".join(each.text for each in written)


def test_a_writer_over_an_old_head_is_fenced_and_writes_nothing(
    begin, hold, store, clock, entries, events, documents, under
):
    generation = begin()
    old = hold(generation).journal
    old.append(entries(1, 3))
    clock.advance(timedelta(minutes=1))
    new = hold(generation).journal
    before = documents.get(generation.head_path, generation.message_path, generation.path)

    answer = said_by(entries(1, 6))
    for write in (
        lambda: old.append(entries(4, 6)),
        lambda: old.append([]),
        lambda: old.append(entries(4, 6, 100 * KIB)),
        lambda: old.finish(entries(4, 6), COMPLETED, answer),
        lambda: old.release(),
    ):
        with pytest.raises(Fenced):
            write()
    assert documents.get(generation.head_path, generation.message_path, generation.path) == before
    assert under(generation.journal_path.removesuffix("/holdfastJournal")) == [
        generation.message_path,
        generation.head_path,
    ]

    new.append(entries(4, 5))
    assert len(events(generation)) == 5


def test_a_head_that_came_back_from_a_copy_of_the_database_is_still_its_writers(
    begin, hold, entries, events, documents, store
):
    """Its update time is another then. What nobody else wrote is written on, to the end, without a gap."""
    generation = begin()
    journal = hold(generation).journal
    journal.append(entries(1, 3))
    for written in (entries(4, 6), [], entries(7, 8)):
        restore(documents, generation.head_path)
        journal.append(written)
    restore(documents, generation.head_path)
    journal.finish(entries(9, 9), COMPLETED, said_by(entries(1, 9)))
    assert events(generation) == events_in(entries(1, 9))
    assert store.read_head(generation).end == COMPLETED


def test_a_copy_of_the_database_that_is_older_than_what_was_written_is_not_written_on(begin, hold, entries, documents):
    generation = begin()
    journal = hold(generation).journal
    journal.append(entries(1, 3))
    older = documents.get(generation.head_path)[0]
    journal.append(entries(4, 6))
    documents.commit(Put(older.path, older.fields))
    with pytest.raises(Fenced):
        journal.append(entries(7, 8))


def test_an_end_that_firestore_refuses_is_saved_as_text_alone(begin, hold, documents, entries):
    generation = begin()
    journal = hold(generation).journal
    journal.append(entries(1, 3))
    strange = {"n" * 1600: 1}
    said = said_by(entries(1, 4))
    ended = journal.finish(entries(4, 4), replace(COMPLETED, usage=strange), said)
    assert (ended.state, ended.usage) == (State.COMPLETED, None)
    message, found = documents.get(generation.message_path, generation.path)
    assert (message.fields["state"], message.fields["content"]) == ("completed", said.fields["content"])
    assert found.fields["state"] == "completed"


def restore(documents, path):
    found = documents.get(path)[0]
    documents.commit(Delete(path))
    documents.commit(Put(path, found.fields))


def test_of_two_journals_over_one_head_only_the_first_to_commit_writes(begin, hold, store, clock, entries, events):
    generation = begin()
    hold(generation).journal.append(entries(1, 2))
    head = store.read_head(generation)
    one, other = (
        Journal(store, generation, head, claims=claims, lease=timedelta(seconds=15), clock=clock) for claims in (2, 3)
    )
    one.append(entries(3, 4))
    with pytest.raises(Fenced):
        other.append(entries(3, 5))
    one.append(entries(5, 5))
    assert len(events(generation)) == 5


def test_two_rivals_with_the_same_attempt_and_the_same_events_do_not_both_hold_the_journal(
    begin, store, clock, entries
):
    """A head that looks like what a loser meant is still the winner's."""
    generation = begin()
    head = store.read_head(generation)
    one, other = (
        Journal(store, generation, head, claims=1, lease=timedelta(seconds=15), clock=clock) for _ in range(2)
    )
    one.append(entries(1, 2))
    with pytest.raises(Fenced):
        other.append(entries(1, 2))


def test_a_deleted_journal_is_not_written_again(begin, hold, store, entries, under):
    generation = begin()
    journal = hold(generation).journal
    journal.append(entries(1, 3, 30 * KIB))
    store.delete(generation)
    with pytest.raises(Fenced):
        journal.append(entries(4, 5))
    with pytest.raises(Fenced):
        journal.finish(entries(4, 5), COMPLETED, said_by(entries(1, 5)))
    assert under(generation.message_path) == under(generation.path) == []


@pytest.mark.parametrize("sealing", [False, True], ids=["without a seal", "with a seal"])
def test_a_commit_whose_answer_was_lost_is_not_taken_for_a_rivals(
    begin, hold, faulty, store_over, entries, events, segments, sealing
):
    generation = begin()
    journal = hold(generation, over=store_over(faulty)).journal
    journal.append(entries(1, 1, SEAL_BYTES if sealing else 0))
    faulty.fail(having=seals if sealing else does_not_seal, lost=True)
    journal.append(entries(2, 3))
    assert faulty.failed == 1
    journal.append(entries(4, 5))
    assert len(events(generation)) == 5
    assert len(segments(generation)) == (2 if sealing else 1)


def test_a_claim_whose_answer_was_lost_holds(begin, hold, faulty, store_over, entries, events, store):
    generation = begin()
    faulty.fail(lost=True)
    held = hold(generation, over=store_over(faulty))
    assert faulty.failed == 1
    assert held.generation.attempt == store.read_head(generation).claims == 1
    held.journal.append(entries(1, 2))
    assert len(events(generation)) == 2


def test_an_end_whose_answer_was_lost_is_the_end(begin, hold, faulty, store_over, store, entries):
    generation = begin()
    journal = hold(generation, over=store_over(faulty)).journal
    faulty.fail(lost=True)
    ended = journal.finish(entries(1, 2), COMPLETED, said_by(entries(1, 2)))
    assert faulty.failed == 1
    assert ended.state is State.COMPLETED
    assert store.read_head(generation).end == COMPLETED


def test_a_lost_answer_does_not_hide_that_a_rival_came_after_it(
    begin, hold, documents, store_over, store, clock, entries
):
    generation = begin()

    class TakenOverMeanwhile:
        """The first append's answer is lost, and before it is tried again a rival has the generation."""

        armed = False

        def __getattr__(self, name):
            return getattr(documents, name)

        def commit(self, *writes):
            done = documents.commit(*writes)
            if not self.armed:
                return done
            self.armed = False
            clock.advance(timedelta(minutes=1))
            hold(generation)
            raise Unreachable("the answer was lost")

    between = TakenOverMeanwhile()
    journal = hold(generation, over=store_over(between)).journal
    between.armed = True
    with pytest.raises(Fenced):
        journal.append(entries(1, 2))
    assert store.read_head(generation).claims == 2


@pytest.mark.parametrize("sealing", [False, True], ids=["without a seal", "with a seal"])
def test_a_commit_that_failed_before_it_took_effect_is_tried_until_it_does(
    begin, hold, faulty, store_over, entries, events, sealing
):
    generation = begin()
    journal = hold(generation, over=store_over(faulty)).journal
    journal.append(entries(1, 1, SEAL_BYTES if sealing else 0))
    faulty.fail(times=3)
    journal.append(entries(2, 3))
    assert faulty.failed == 3
    journal.append(entries(4, 5))
    assert len(events(generation)) == 5


def test_an_error_that_trying_again_does_not_mend_is_raised_at_once(begin, hold, faulty, store_over, entries):
    journal = hold(begin(), over=store_over(faulty)).journal
    faulty.fail(error=ValueError("a mistake of ours"))
    with pytest.raises(ValueError, match="a mistake of ours"):
        journal.append(entries(1, 2))


def test_segments_are_sealed_past_80_kib_of_events_and_number_every_event_once(begin, hold, entries, events, segments):
    generation = begin()
    journal = hold(generation).journal
    written = entries(1, 120, 5 * KIB)
    for at in range(0, 120, 2):
        journal.append(written[at : at + 2])

    *sealed, head = segments(generation)
    assert len(sealed) == 120 // 16
    following = 1
    for document in sealed:
        raw = raw_of(document)
        assert SEAL_BYTES <= len(raw) < SEAL_BYTES + 12 * KIB
        assert document.path == f"{generation.journal_path}/{document.fields['first']}"
        assert document.fields["first"] == following
        following = document.fields["last"] + 1
    assert head.fields["first"] == following
    assert head.fields["last"] == 120
    assert events(generation) == events_in(written)
    assert texts([*sealed, head]) == "".join(each.text for each in written)


def test_a_sealed_segment_never_changes_and_is_what_the_head_had_before(
    begin, hold, clock, entries, documents, segments
):
    generation = begin()
    journal = hold(generation).journal
    known = {}
    held = None
    written = entries(1, 60, 9 * KIB)
    for at, each in enumerate(written):
        if at == 30:  # another attempt takes it over in the middle
            clock.advance(timedelta(minutes=1))
            journal = hold(generation).journal
            (held,) = documents.get(generation.head_path)
        journal.append([each])
        *sealed, head = segments(generation)
        assert known == {document.path: document for document in sealed if document.path in known}
        for document in sealed:
            if document.path not in known:
                assert all(
                    document.fields[name] == held.fields[name]
                    for name in ("first", "last", "events", "text", "attempt")
                )
                known[document.path] = document
        held = head
    ended = said_by(written)
    journal.finish([], COMPLETED, ended)
    assert known == {document.path: document for document in segments(generation)[:-1]}
    assert len(known) >= 7


def test_a_replay_says_which_attempt_read_each_piece(begin, hold, clock, entries, store):
    generation = begin()
    written = entries(1, 60, 9 * KIB)
    for part in (written[:30], written[30:]):
        journal = hold(generation).journal
        for each in part:
            journal.append([each])
        clock.advance(timedelta(minutes=1))
    pieces = list(replay_attempts(store, generation, store.read_head(generation)))
    assert len(pieces) >= 8
    read = [attempt for attempt, events in pieces for _ in events]
    assert read == [1] * 30 + [2] * 30


def test_a_segment_that_was_taken_over_is_sealed_and_not_extended(
    begin, hold, clock, entries, events, segments, documents
):
    generation = begin()
    hold(generation).journal.append(entries(1, 3))
    (left,) = documents.get(generation.head_path)

    clock.advance(timedelta(minutes=1))
    journal = hold(generation).journal
    (taken,) = documents.get(generation.head_path)
    assert (taken.fields["events"], taken.fields["first"], taken.fields["last"]) == (left.fields["events"], 1, 3)

    journal.append(entries(4, 5))
    sealed, head = segments(generation)
    assert sealed.fields["events"] == left.fields["events"]
    assert (sealed.fields["first"], sealed.fields["last"], sealed.fields["attempt"]) == (1, 3, 1)
    assert (head.fields["first"], head.fields["last"], head.fields["attempt"]) == (4, 5, 2)
    assert len(events(generation)) == 5


def test_a_segment_that_was_taken_over_may_be_the_last(begin, hold, clock, entries, events, segments, store):
    generation = begin()
    hold(generation).journal.append(entries(1, 3))
    clock.advance(timedelta(minutes=1))
    hold(generation).journal.finish([], COMPLETED, said_by(entries(1, 3)))
    assert len(segments(generation)) == 1
    assert len(events(generation)) == 3
    assert store.read_head(generation).end == COMPLETED


def test_what_was_taken_over_empty_is_written_on(begin, hold, clock, entries, events, segments):
    generation = begin()
    hold(generation)
    clock.advance(timedelta(minutes=1))
    hold(generation).journal.append(entries(1, 2))
    assert len(segments(generation)) == 1
    assert len(events(generation)) == 2


def test_a_lease_alone_adds_nothing_to_the_journal(begin, hold, clock, store, entries, events):
    generation = begin()
    journal = hold(generation).journal
    journal.append(entries(1, 2, 40 * KIB))
    before = store.read_head(generation)
    clock.advance(timedelta(seconds=5))
    journal.append([])
    after = store.read_head(generation)
    assert after.lease_until == before.lease_until + timedelta(seconds=5)
    assert (after.first, after.last, after.events) == (before.first, before.last, before.events)
    assert len(events(generation)) == 2


LARGE = {
    "1 MB that does not compress, no text": lambda entry, seq: entry(seq, "", noise=blob("n", 1_000_000, True)),
    "1 MB of text that does not compress": lambda entry, seq: entry(seq, blob("t", 1_000_000, True)),
    "2 MB of text": lambda entry, seq: entry(seq, "wörter " * 250_000),
    "2 MB of characters of four bytes": lambda entry, seq: entry(seq, "🦊" * 500_000),
    "just above a document": lambda entry, seq: entry(seq, "x" * DOCUMENT_BYTES),
}


IN_PLACE = "1 MB of text that does not compress"


@pytest.mark.parametrize(
    ("kind", "place"),
    [(kind, "between") for kind in LARGE] + [(IN_PLACE, place) for place in ("alone", "first", "last", "twice")],
)
def test_an_event_larger_than_a_document_is_laid_out_in_several(
    begin, hold, entry, entries, events, segments, kind, place
):
    large = {"alone": [1], "first": [1], "between": [4], "last": [6], "twice": [3, 4]}[place]
    last = 1 if place == "alone" else 6
    written = [LARGE[kind](entry, seq) if seq in large else entries(seq, seq)[0] for seq in range(1, last + 1)]

    generation = begin()
    journal = hold(generation).journal
    journal.append(written)
    assert journal.last == last
    journal.append(entries(last + 1, last + 2))

    assert events(generation) == events_in([*written, *entries(last + 1, last + 2)])
    everything = segments(generation)
    assert texts(everything) == "".join(each.text for each in [*written, *entries(last + 1, last + 2)])
    for seq in large:
        parts = [document for document in everything if document.fields["first"] == seq]
        assert len(parts) >= (1 if kind == "just above a document" else 2)
        assert {document.fields["last"] for document in parts} == {seq}


def test_an_event_of_several_documents_that_one_commit_holds_is_never_seen_in_part(
    begin, hold, faulty, store_over, entry, events, segments
):
    generation = begin()
    journal = hold(generation, over=store_over(faulty)).journal
    journal.append([entry(1, "before")])
    faulty.asked.clear()
    written = [entry(2, blob("text", 600_000, True)), entry(3, "after")]
    journal.append(written)
    assert faulty.asked["commit"] == 1
    assert len([each for each in segments(generation) if each.fields["first"] == 2]) > 1
    assert events(generation)[1:] == events_in(written)


@pytest.mark.parametrize("where", ["in the middle", "at the end"])
def test_an_event_of_megabytes_takes_as_many_commits_as_that_takes(
    begin, hold, store_over, documents, entry, events, where
):
    """An image in one event. With all that may go with it: a segment that is sealed, and a message in parts."""

    class OneTry:
        def __getattr__(self, name):
            return getattr(documents, name)

        def commit(self, *writes):
            try:
                return documents.commit(*writes)
            except Unreachable as error:
                raise AssertionError("the commit was refused") from error

    generation = begin()
    written = [
        entry(1, blob("before", DOCUMENT_BYTES - 200, True)),
        entry(2, blob("shown", 1 << 20, True), noise=blob("image", 8 << 20, True)),
        entry(3, "after"),
    ]
    journal = hold(generation, over=store_over(OneTry())).journal
    journal.append(written[:1])
    if where == "in the middle":
        journal.append(written[1:2])
        journal.finish(written[2:], COMPLETED, said_by(written))
    else:
        journal.finish(written[1:], COMPLETED, said_by(written))
    assert events(generation) == events_in(written)


def test_what_a_lost_attempt_wrote_of_a_large_event_is_no_part_of_the_next_one(
    begin, hold, clock, faulty, store_over, entry, events, documents, store
):
    """It was lost between the commits of one event, and its successor has something else at that number."""
    generation = begin()
    lost = hold(generation, over=store_over(faulty)).journal
    lost.append([entry(1, "one")])
    faulty.fail(having=lambda writes: any(write.path.endswith("/2") for write in writes), error=KeyError("killed"))
    with pytest.raises(KeyError):
        lost.append([entry(2, "", noise=blob("lost", 3 << 20, True))])
    left = [each.path for each in documents.query(generation.journal_path, where=[("first", "==", 2)])]
    assert len(left) > COMMIT_BYTES // DOCUMENT_BYTES

    clock.advance(timedelta(minutes=1))
    journal = hold(generation).journal
    written = [entry(2, blob("two", DOCUMENT_BYTES, True)), entry(3, "three")]
    journal.append(written)
    assert events(generation) == events_in([entry(1, "one"), *written])
    assert saved_text(store, generation, store.read_head(generation)) == "one" + "".join(each.text for each in written)


def test_what_a_lost_attempt_wrote_of_large_events_is_not_in_the_midst_of_the_next_one_s_segment(
    begin, hold, clock, faulty, store_over, entry, entries, events, documents, store
):
    """Its successor has small events at those numbers, in one segment that begins before them."""
    generation = begin()
    lost = hold(generation, over=store_over(faulty)).journal
    lost.append([entry(1, "one")])
    faulty.fail(having=lambda writes: any(write.path.endswith("/3") for write in writes), error=KeyError("killed"))
    with pytest.raises(KeyError):
        lost.append([entry(seq, "", noise=blob(f"lost {seq}", 3 << 20, True)) for seq in (2, 3)])
    assert documents.query(generation.journal_path, where=[("first", "==", 3)])

    clock.advance(timedelta(minutes=1))
    journal = hold(generation).journal
    small = entries(2, 9)
    journal.append(small)
    large = entry(10, blob("ten", DOCUMENT_BYTES, True))
    journal.append([large])
    assert events(generation) == events_in([entry(1, "one"), *small, large])
    head = store.read_head(generation)
    assert saved_text(store, generation, head) == "one" + "".join(each.text for each in (*small, large))
    resumed = [seq for segment in store.segments(generation, 5, head.first) for seq in (segment.first, segment.last)]
    assert resumed[0] <= 6


@pytest.mark.parametrize("size", [0, 200, 60 * KIB, 150 * KIB, 300 * KIB])
def test_a_large_batch_is_one_commit_and_fits_its_documents(
    begin, hold, faulty, store_over, entry, entries, events, segments, size
):
    generation = begin()
    journal = hold(generation, over=store_over(faulty)).journal
    journal.append(entries(1, 2))
    faulty.asked.clear()
    count = 5000 if not size else max(3, (1 << 20) // (size + 60))
    batch = [entry(seq, blob(str(seq), size, True) if size else "x") for seq in range(3, 3 + count)]
    journal.append(batch)
    assert faulty.asked["commit"] == 1
    assert events(generation)[2:] == events_in(batch)
    for document in segments(generation):
        assert len(raw_of(document)) <= DOCUMENT_BYTES
    journal.append(entries(count + 3, count + 4))
    assert len(events(generation)) == count + 4


def test_half_a_surrogate_pair_does_not_stop_the_journal(begin, hold, entry, documents, events):
    generation = begin()
    journal = hold(generation).journal
    fox = "🦊".encode("utf-16-be", "surrogatepass")
    halves = [fox[:2].decode("utf-16-be", "surrogatepass"), fox[2:].decode("utf-16-be", "surrogatepass")]
    written = [entry(seq, "?")._replace(text=half) for seq, half in enumerate([*halves, halves[0]], start=1)]
    journal.append(written)
    assert documents.get(generation.head_path)[0].fields["text"] == "🦊\ufffd"
    assert len(events(generation)) == 3


def finals(documents, generation):
    """What says that the generation has ended: in the head, in the message and in the generation."""
    head, said, kept = documents.get(generation.head_path, generation.message_path, generation.path)
    return [head.fields["final"] is not None, said.fields["state"] == "completed", kept.fields["state"] == "completed"]


@pytest.mark.parametrize("size", [0, SEAL_BYTES, 1100 * KIB], ids=["short", "of several segments", "in parts"])
def test_head_message_and_generation_end_in_one_commit(
    begin, hold, faulty, store_over, documents, store, entries, segments, size
):
    """However many of the end's commits go through before the worker dies, all three have ended or none."""
    ended = False
    for survived in itertools.count():
        generation = begin()
        journal = hold(generation, over=store_over(faulty)).journal
        journal.append(entries(1, 1, size // 2))
        left = itertools.count()
        faulty.fail(having=lambda _writes, left=left, n=survived: next(left) == n, error=KeyError("killed"))
        try:
            journal.finish(entries(2, 3, size // 2), COMPLETED, said_by(entries(1, 3, size // 2)))
            ended = True
        except KeyError:
            assert finals(documents, generation) == [False, False, False]
        if ended:
            faulty.mend()
            assert finals(documents, generation) == [True, True, True]
            break
    assert survived >= 1
    assert texts(segments(generation)) == "".join(each.text for each in entries(1, 3, size // 2))


def test_an_end_that_lost_to_a_rival_changes_nothing(begin, hold, clock, documents, entries, store):
    generation = begin()
    old = hold(generation).journal
    old.append(entries(1, 2))
    clock.advance(timedelta(minutes=1))
    hold(generation)
    before = documents.get(generation.head_path, generation.message_path, generation.path)
    with pytest.raises(Fenced):
        old.finish(entries(3, 4), COMPLETED, said_by(entries(1, 4)))
    assert documents.get(generation.head_path, generation.message_path, generation.path) == before


@pytest.mark.parametrize("size", [0, 700 * KIB], ids=["short", "in parts"])
def test_who_sees_the_end_can_read_the_whole_message_at_once(
    begin, hold, documents, listener, watcher, entries, together, size
):
    generation = begin()
    written = entries(1, 3, size)
    journal = hold(generation).journal
    seen = watcher()
    listener.watch(generation.head_path, seen)
    seen.until(len)

    def read_at_the_end():
        seen.until(lambda changes: changes[-1].fields["final"] is not None)
        said, kept = documents.get(generation.message_path, generation.path)
        parts = documents.get(*[f"{generation.message_path}/holdfastParts/{name}" for name in said.fields["parts"]])
        return said.fields, kept.fields, "".join(part.fields["text"] for part in parts)

    def write():
        for each in written[:-1]:
            journal.append([each])
        journal.finish(written[-1:], COMPLETED, said_by(written))

    (said, kept, rest), _ = together(read_at_the_end, write)
    assert said["content"] + rest == "".join(each.text for each in written)
    assert (said["state"], kept["state"], kept["lastSeq"]) == ("completed", "completed", 3)
    assert said["usage"] == kept["usage"] == {"total_tokens": 3}
    assert said["finishedAt"] == kept["finishedAt"] is not None


def test_a_message_larger_than_a_document_is_in_parts_that_join_to_it(begin, hold, documents, entries):
    generation = begin()
    written = entries(1, 8, 400 * KIB)
    journal = hold(generation).journal
    for each in written:
        journal.append([each])
    journal.finish([], COMPLETED, said_by(written))

    (said,) = documents.get(generation.message_path)
    parts = documents.query(f"{generation.message_path}/holdfastParts")
    assert [part.path.rpartition("/")[2] for part in parts] == said.fields["parts"]
    assert {part.fields["field"] for part in parts} == {"content"}
    assert len(said.fields["content"].encode()) <= message.INLINE_BYTES
    assert len(parts) >= 3
    whole = said.fields["content"] + "".join(part.fields["text"] for part in parts)
    assert whole == "".join(each.text for each in written)


def test_nothing_is_left_of_a_message_whose_generation_is_deleted_while_its_parts_are_saved(
    begin, hold, faulty, store_over, store, entries, under
):
    generation = begin()
    written = entries(1, 8, 400 * KIB)
    journal = hold(generation, over=store_over(faulty)).journal
    for each in written:
        journal.append([each])

    def deletes_meanwhile(writes):
        if sum("/holdfastParts/" in write.path for write in writes):
            faulty.mend()
            store.delete(generation)
        return False

    faulty.fail(having=deletes_meanwhile)
    with pytest.raises(Fenced):
        journal.finish([], COMPLETED, said_by(written))
    assert under(generation.message_path) == under(generation.path) == []


@pytest.mark.parametrize("lost", [False, True], ids=["failed", "answer lost"])
def test_a_part_of_a_message_that_could_not_be_saved_is_tried_again(
    begin, hold, faulty, store_over, documents, entries, lost
):
    generation = begin()
    written = entries(1, 5, 400 * KIB)
    journal = hold(generation, over=store_over(faulty)).journal
    for each in written[:-1]:
        journal.append([each])
    faulty.fail(having=lambda writes: any("/holdfastParts/" in write.path for write in writes), lost=lost)
    journal.finish(written[-1:], COMPLETED, said_by(written))
    assert faulty.failed == 1
    (said,) = documents.get(generation.message_path)
    parts = documents.get(*[f"{generation.message_path}/holdfastParts/{name}" for name in said.fields["parts"]])
    whole = said.fields["content"] + "".join(part.fields["text"] for part in parts)
    assert whole == "".join(each.text for each in written)


def test_the_parts_of_one_attempt_are_not_those_of_another(begin, hold, clock, faulty, store_over, documents, entries):
    """A worker that lost its lease, and comes to the end late, leaves what its successor saved as it is."""
    generation = begin()
    old = hold(generation).journal
    old.append(entries(1, 3, 400 * KIB))
    clock.advance(timedelta(minutes=1))
    new = hold(generation).journal
    new.finish([], COMPLETED, said_by(entries(1, 3, 400 * KIB)))
    (said,) = documents.get(generation.message_path)
    parts = documents.get(*[f"{generation.message_path}/holdfastParts/{name}" for name in said.fields["parts"]])
    with pytest.raises(Fenced):
        old.finish(entries(4, 6, 400 * KIB), COMPLETED, said_by(entries(2, 6, 400 * KIB)))
    assert documents.get(*[part.path for part in parts]) == parts


def test_the_whole_journal_adds_up_to_the_answer(begin, hold, store, entries, entry):
    generation = begin()
    written = [*entries(1, 300, KIB), entry(301, "wide " * 200_000), *entries(302, 330)]
    journal = hold(generation).journal
    for at in range(0, len(written), 20):
        journal.append(written[at : at + 20])
    answer = folded(DIALECTS["chat_completions"], replay(store, generation, store.read_head(generation)))
    assert answer.events == 330
    assert answer.said().fields["content"] == "".join(each.text for each in written)


def test_every_document_of_a_journal_says_when_it_expires(begin, hold, clock, entries, documents):
    generation = begin()
    journal = hold(generation).journal
    for each in entries(1, 4, SEAL_BYTES):
        journal.append([each])
    found = documents.query(generation.journal_path)
    assert len(found) == 4
    assert {document.fields["expireAt"] for document in found} == {clock() + timedelta(days=7)}


def test_numbers_have_no_gap_however_commits_fail(begin, hold, faulty, store_over, entries, events, segments):
    """Every third commit fails, every fifth loses its answer, whatever is in it."""
    generation = begin()
    counted = itertools.count(1)
    store = store_over(faulty)
    journal = hold(generation, over=store).journal

    written = entries(1, 90, 6 * KIB)
    for at in range(0, 90, 3):
        n = next(counted)
        if n % 3 == 0:
            faulty.fail()
        if n % 5 == 0:
            faulty.fail(lost=True)
        journal.append(written[at : at + 3])
    journal.finish([], COMPLETED, said_by(written))
    assert faulty.failed == 16
    assert events(generation) == events_in(written)
    assert texts(segments(generation)) == "".join(each.text for each in written)


def test_a_head_reads_as_it_was_written(begin, hold, store, entries, clock):
    generation = begin()
    journal = hold(generation).journal
    error = {"message": "It broke.", "code": "upstream_disconnected", "status": 502}
    end = End(state=State.INCOMPLETE, reason="upstream_disconnected", error=error, usage={"a": {"b": [1, None]}})
    journal.finish(entries(1, 2), end, said_by(entries(1, 2)))
    head = store.read_head(generation)
    assert isinstance(head, Head)
    assert head.end == end
    kept = store.generation(generation.id)
    assert (kept.state, kept.reason, kept.error, kept.usage, kept.last_seq) == (
        State.INCOMPLETE,
        "upstream_disconnected",
        error,
        {"a": {"b": [1, None]}},
        2,
    )
    assert kept.request == generation.request
    assert kept.finished_at == clock()


def test_a_journal_writes_nothing_without_a_precondition(begin, hold, documents, store_over, entries):
    """The documents a commit touches: the head by its version, and what it seals only where nothing is yet."""
    generation = begin()
    writes = []

    class Noting:
        def __getattr__(self, name):
            return getattr(documents, name)

        def commit(self, *some):
            writes.extend(some)
            return documents.commit(*some)

    journal = hold(generation, over=store_over(Noting())).journal
    for each in entries(1, 6, 40 * KIB):
        journal.append([each])
    journal.finish([], COMPLETED, said_by(entries(1, 6, 40 * KIB)))
    assert any(isinstance(write, Create) for write in writes)
    for write in writes:
        if isinstance(write, Put):
            assert write.path == generation.head_path
            assert write.version is not None
        elif isinstance(write, Create):
            assert write.path.startswith(f"{generation.journal_path}/")
        else:
            assert isinstance(write, Patch)
            assert write.path in (generation.message_path, generation.path)


# A plain write of the head, which others may do in one call with those of other journals


def test_plain_writes_of_many_journals_in_one_call_are_each_its_own(begin, hold, store, entries, events):
    generations = [begin() for _ in range(5)]
    journals = [hold(generation).journal for generation in generations]
    for first, last in ((1, 3), (4, 4)):
        prepared = [journal.prepare(entries(first, last)) for journal in journals]
        versions = store.batch([journal.plain(each) for journal, each in zip(journals, prepared, strict=True)])
        for journal, each, version in zip(journals, prepared, versions, strict=True):
            journal.committed(each, version, 0.01)
    for generation, journal in zip(generations, journals, strict=True):
        assert events(generation) == events_in(entries(1, 4))
        assert (journal.last, journal.commit_seconds, journal.metrics.writes) == (4, 0.01, 3 + 2)
        journal.append(entries(5, 5))
        assert len(events(generation)) == 5


def test_of_a_plain_write_whose_answer_was_lost_the_commit_finds_that_it_was_done(begin, hold, store, entries, events):
    generation = begin()
    journal = hold(generation).journal
    prepared = journal.prepare(entries(1, 3))
    store.batch([journal.plain(prepared)])
    journal.failed(Unreachable("lost"))
    journal.commit(prepared)
    journal.append(entries(4, 4))
    assert events(generation) == events_in(entries(1, 4))
    assert journal.metrics.errors == 1


def test_a_plain_write_that_was_never_done_is_done_by_the_commit(begin, hold, entries, events):
    generation = begin()
    journal = hold(generation).journal
    prepared = journal.prepare(entries(1, 3))
    journal.failed(Unreachable("not done"))
    journal.commit(prepared)
    assert events(generation) == events_in(entries(1, 3))


def test_a_plain_write_of_a_writer_that_was_overtaken_changes_nothing(begin, hold, store, clock, entries, events):
    generation = begin()
    old = hold(generation).journal
    prepared = old.prepare(entries(1, 3))
    write = old.plain(prepared)
    clock.advance(timedelta(minutes=1))
    new = hold(generation).journal
    new.append(entries(1, 2))
    (outcome,) = store.batch([write])
    assert isinstance(outcome, Stale)
    with pytest.raises(Fenced):
        old.commit(prepared)
    assert events(generation) == events_in(entries(1, 2))


def test_what_seals_a_segment_is_no_plain_write(begin, hold, entries, events, segments):
    generation = begin()
    journal = hold(generation).journal
    journal.append(entries(1, 2, SEAL_BYTES))
    prepared = journal.prepare(entries(3, 3))
    assert journal.plain(prepared) is None
    journal.commit(prepared)
    assert [document.fields["first"] for document in segments(generation)] == [1, 3]
    assert len(events(generation)) == 3
