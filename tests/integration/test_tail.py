"""Tails against the real emulator: every viewer, from any cursor, gets each event once, in order, and the end."""

from __future__ import annotations

import gc
import random
import threading
import time
import weakref
from datetime import UTC, datetime, timedelta
from functools import partial

import orjson
import pytest

from lib.cloud.documents import Delete
from lib.domain.end import End, State
from lib.domain.errors import Unreachable
from lib.domain.event import Event
from lib.domain.message import Said
from lib.journal.codec import Entry, events_of, record
from lib.journal.segments import DOCUMENT_BYTES, SEAL_BYTES
from lib.serving.feed import WINDOW_BYTES, Gone, data_bytes
from lib.serving.tail import BACKLOG_BYTES, Tails
from local.demo_text import blob, token

PATIENCE = 30.0
COMPLETED = End(state=State.COMPLETED)
SAID = Said(fields={"content": ""})
KIB = 1 << 10
QUICK = 0.1  # seconds of silence after which a head is read again, so that a test need not wait for it
SHORT = timedelta(seconds=0.4)

now = partial(datetime.now, UTC)


@pytest.fixture
def tails_over(store, listener):
    """This process's tails, over a store and a listener."""

    def tails_over(store=store, listener=listener, viewer="viewer", **intervals):
        return Tails(store, listener, viewer=viewer, clock=now, **intervals)

    return tails_over


@pytest.fixture
def tails(tails_over):
    return tails_over()


def collect(tail):
    """Everything until the end, as a client that loses nothing and bears no delay for ever."""
    events = []
    deadline = time.monotonic() + PATIENCE
    while True:
        piece = tail.next(1.0)
        events += piece.events
        if piece.end is not None:
            return events
        assert time.monotonic() < deadline, f"no end after {len(events)} events"


def read_to(tail, last, got=None):
    """The events up to number `last`; `got` has them even if an error comes."""
    got = [] if got is None else got
    deadline = time.monotonic() + PATIENCE
    while tail.cursor < last:
        got += tail.next(1.0).events
        assert time.monotonic() < deadline, f"only {len(got)} events came"
    return got


def watch_whole(tails, generation, cursor):
    with tails.open(generation, cursor) as tail:
        return collect(tail)


def events(entries):
    return events_of(b"".join(each.record for each in entries))


def write(journal, entries, at_a_time):
    for at in range(0, len(entries), at_a_time):
        journal.append(entries[at : at + at_a_time])
    journal.finish([], COMPLETED, SAID)


class NeverHeard:
    """A watch that nothing comes from."""

    restarts = 0

    def __call__(self):
        pass

    def restart(self):
        NeverHeard.restarts += 1


class Deaf:
    """A listener that has failed silently: only changes for which `hears` is true come through."""

    def __init__(self, listener=None, hears=lambda _number, _document: False):
        self._listener = listener
        self._hears = hears

    def watch(self, path, on_change):
        if self._listener is None:
            return NeverHeard()
        number = 0

        def hear(document):
            nonlocal number
            number += 1
            if self._hears(number, document):
                on_change(document)

        return self._listener.watch(path, hear)


def is_final(document):
    return document is not None and document.fields["final"] is not None


def test_a_viewer_that_keeps_up_reads_nothing_but_what_its_listener_brings(
    begin, hold, faulty, store_over, tails_over, entries, documents
):
    generation = begin()
    journal = hold(generation).journal
    written = entries(1, 150, 6 * KIB)
    got = []
    with tails_over(store_over(faulty)).open(generation, 0) as tail:
        for at in range(0, 150, 2):
            journal.append(written[at : at + 2])
            got += read_to(tail, at + 2)
        journal.finish([], COMPLETED, SAID)
        got += collect(tail)
    assert got == events(written)
    assert len(documents.query(generation.journal_path)) >= 10
    assert faulty.asked["query"] == faulty.asked["get"] == faulty.asked["counting"] == 0


def test_the_first_viewer_of_a_new_generation_waits_for_its_first_event(begin, hold, tails, entries, together):
    generation = begin()
    with tails.open(generation, 0) as tail:
        assert tail.next(0.05).events == []
        got, _ = together(lambda: tail.next(PATIENCE).events, lambda: hold(generation).journal.append(entries(1, 1)))
        assert got == events(entries(1, 1))


def test_a_tail_with_nothing_new_gives_nothing_when_its_time_is_over(begin, hold, tails, entries):
    generation = begin()
    hold(generation).journal.append(entries(1, 2))
    with tails.open(generation, 2) as tail:
        piece = tail.next(0.2)
        assert (piece.events, piece.last, piece.end) == ([], 2, None)
        assert tail.cursor == 2


def test_a_viewer_that_comes_in_the_middle_gets_all(begin, hold, tails, entries, together):
    generation = begin()
    journal = hold(generation).journal
    written = entries(1, 150, 4 * KIB)
    half_way = threading.Event()

    def work():
        for at in range(0, 150, 3):
            if at == 75:
                half_way.set()
            journal.append(written[at : at + 3])
        journal.finish([], COMPLETED, SAID)

    def come_late():
        assert half_way.wait(PATIENCE)
        return watch_whole(tails, generation, 0)

    got, _ = together(come_late, work)
    assert got == events(written)


@pytest.fixture
def ended(begin, hold, entries, entry):
    """An ended generation of more than ten segments, one of them in several documents; and what was written."""
    generation = begin()
    written = [*entries(1, 200, KIB), entry(201, blob("large", 1_000_000, True)), *entries(202, 620, KIB)]
    write(hold(generation).journal, written, at_a_time=9)
    return generation, written


def test_a_viewer_with_any_cursor_gets_exactly_the_rest(ended, documents, tails, listener):
    generation, written = ended
    segments = documents.query(generation.journal_path, order="first", select=["first", "last"])
    assert len(segments) > 10
    cursors = {0, 1, 2, 199, 200, 201, 202, 619, 620, *range(0, 620, 97)}
    for segment in segments:
        cursors |= {segment.fields["first"] + step for step in (-1, 0)}
        cursors |= {segment.fields["last"] + step for step in (-1,)}
    for cursor in sorted(cursor for cursor in cursors if 0 <= cursor <= 620):
        assert watch_whole(tails, generation, cursor) == events(written[cursor:]), cursor
    assert listener.watching == 0


def test_any_cursor_is_right_beside_a_viewer_that_follows(begin, hold, tails, entries):
    """With a feed that holds some of the events, a viewer takes from it what it has and from the journal the rest."""
    generation = begin()
    journal = hold(generation).journal
    written = entries(1, 240, 4 * KIB)
    with tails.open(generation, 0) as follower:
        followed = []
        for at in range(0, 240, 6):
            journal.append(written[at : at + 6])
            followed += read_to(follower, at + 6)
            if at % 48 == 42:
                for cursor in range(0, at + 6, 13):
                    with tails.open(generation, cursor) as tail:
                        got = read_to(tail, at + 6)
                        assert got == events(written[cursor : at + 6]), (at, cursor)
        journal.finish([], COMPLETED, SAID)
        assert followed + collect(follower) == events(written)


@pytest.mark.parametrize(
    "hears",
    [
        lambda number, document: number % 5 == 0 or is_final(document),
        lambda number, document: number == 1 or is_final(document),
        lambda _number, document: is_final(document),
        lambda number, document: number < 20 or number > 60 or is_final(document),
    ],
    ids=["every fifth", "the first and the last", "the last", "a gap"],
)
@pytest.mark.parametrize("size", [0, 2 * KIB], ids=["one segment", "many segments"])
def test_a_viewer_to_whom_versions_were_not_delivered_gets_every_event_once(
    begin, hold, tails_over, listener, entries, together, hears, size
):
    generation = begin()
    journal = hold(generation).journal
    written = entries(1, 400, size)
    tails = tails_over(listener=Deaf(listener, hears))
    with tails.open(generation, 0) as tail:
        got, _ = together(lambda: collect(tail), lambda: write(journal, written, at_a_time=5))
    assert got == events(written)


@pytest.mark.parametrize("size", [0, 2 * KIB], ids=["one segment", "many segments"])
def test_versions_that_come_twice_or_late_change_nothing(
    begin, hold, faulty, store_over, tails_over, listener, entries, together, size
):
    generation = begin()
    journal = hold(generation).journal
    written = entries(1, 200, size)

    class Stuttering:
        def watch(self, path, on_change):
            known = []

            def stutter(document):
                known.append(document)
                for again in (document, known[len(known) // 2], document, known[-1], known[0]):
                    on_change(again)

            return listener.watch(path, stutter)

    with tails_over(store_over(faulty), Stuttering()).open(generation, 0) as tail:
        got, _ = together(lambda: collect(tail), lambda: write(journal, written, at_a_time=5))
    assert got == events(written)
    assert faulty.asked["get"] == 0


def test_twenty_viewers_with_random_times_and_cursors_get_each_event_once_and_in_order(
    begin, hold, tails_over, listener, entries, together
):
    generation = begin()
    journal = hold(generation).journal
    written = entries(1, 500, KIB)
    chance = random.Random(20)
    both = [tails_over(viewer="one"), tails_over(viewer="other")]
    grown = threading.Condition()
    reached = 0

    def work():
        nonlocal reached
        for at in range(0, 500, 5):
            journal.append(written[at : at + 5])
            with grown:
                reached = at + 5
                grown.notify_all()
        journal.finish([], COMPLETED, SAID)

    def view(number):
        joins = chance.randrange(0, 500)
        cursor = chance.choice([0, joins // 2, joins])
        with grown:
            assert grown.wait_for(lambda: reached >= joins, PATIENCE)
        got = watch_whole(both[number % 2], generation, cursor)
        assert got == events(written[cursor:]), (joins, cursor)
        return got

    *views, _ = together(*[partial(view, number) for number in range(20)], work)
    assert len(views) == 20
    assert listener.watching == 0


def test_a_viewer_that_leaves_and_comes_back_again_and_again_gets_each_event_once(
    begin, hold, tails, entries, together
):
    generation = begin()
    journal = hold(generation).journal
    written = entries(1, 400, KIB)

    def come_and_go():
        got = []
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with tails.open(generation, len(got)) as tail:
                piece = tail.next(1.0)
                got += piece.events
                if piece.end is not None:
                    return got
        raise AssertionError(f"no end after {len(got)} events")

    got, _ = together(come_and_go, lambda: write(journal, written, at_a_time=4))
    assert got == events(written)


def test_a_dead_listener_does_not_keep_a_viewer_from_the_end(begin, hold, tails_over, entries, together):
    generation = begin()
    journal = hold(generation).journal
    written = entries(1, 60, 4 * KIB)
    tails = tails_over(listener=Deaf(), reread_seconds=QUICK)
    with tails.open(generation, 0) as tail, tails.open(generation, 0) as other:
        got, beside, _ = together(
            lambda: collect(tail), lambda: collect(other), lambda: write(journal, written, at_a_time=5)
        )
    assert got == beside == events(written)


def test_who_was_never_told_the_head_reads_it_long_before_silence_counts(begin, hold, tails_over, entries):
    generation = begin()
    write(hold(generation).journal, entries(1, 3), at_a_time=1)
    with tails_over(listener=Deaf(), reread_seconds=3600.0).open(generation, 0) as tail:
        assert collect(tail) == events(entries(1, 3))


def test_a_listener_that_dies_in_the_middle_does_not_keep_a_viewer_from_the_end(
    begin, hold, tails_over, listener, entries, together
):
    generation = begin()
    journal = hold(generation).journal
    written = entries(1, 60, 4 * KIB)
    tails = tails_over(listener=Deaf(listener, lambda number, _: number < 5), reread_seconds=QUICK)
    with tails.open(generation, 0) as tail:
        got, _ = together(lambda: collect(tail), lambda: write(journal, written, at_a_time=5))
    assert got == events(written)


def test_a_silent_head_is_shown_to_who_may_end_it(begin, hold, tails_over, entries):
    generation = begin()
    hold(generation).journal.append(entries(1, 2))
    shown = []
    tails = tails_over(reread_seconds=QUICK, heal=lambda *which: shown.append(which))
    with tails.open(generation, 2) as tail:
        deadline = time.monotonic() + PATIENCE
        while not shown and time.monotonic() < deadline:
            assert tail.next(0.2).events == []
    healed, head = shown[0]
    assert (healed.id, head.last, head.attempt) == (generation.id, 2, 1)


@pytest.mark.usefixtures("unhurried")
def test_a_head_that_changes_is_not_read_again(begin, hold, faulty, store_over, tails_over, entries, together):
    generation = begin()
    journal = hold(generation).journal
    written = entries(1, 300)
    with tails_over(store_over(faulty)).open(generation, 0) as tail:
        got, _ = together(lambda: collect(tail), lambda: write(journal, written, at_a_time=1))
    assert got == events(written)
    assert faulty.asked["get"] == 0


def test_a_head_that_can_not_be_read_again_is_no_end(begin, hold, documents, store_over, tails_over, entries):
    class Away:
        away = True

        def get(self, *paths):
            if self.away:
                raise Unreachable("away")
            return documents.get(*paths)

        def __getattr__(self, name):
            return getattr(documents, name)

    generation = begin()
    write(hold(generation).journal, entries(1, 3), at_a_time=1)
    between = Away()
    with tails_over(store_over(between), Deaf(), reread_seconds=QUICK).open(generation, 0) as tail:
        assert tail.next(0.5).events == []
        between.away = False
        assert collect(tail) == events(entries(1, 3))


@pytest.mark.parametrize("deaf", [False, True], ids=["told by the listener", "found out by reading"])
def test_a_deletion_ends_every_tail(begin, hold, store, tails_over, listener, entries, together, deaf):
    generation = begin()
    hold(generation).journal.append(entries(1, 3))
    hears = Deaf(listener, lambda _, document: document is not None) if deaf else listener
    tails = tails_over(listener=hears, reread_seconds=QUICK)
    reading = threading.Barrier(4)

    def view():
        with tails.open(generation, 0) as tail:
            assert tail.next(PATIENCE).events == events(entries(1, 3))
            reading.wait(PATIENCE)
            with pytest.raises(Gone):
                collect(tail)

    def delete():
        reading.wait(PATIENCE)
        store.delete(generation)

    together(view, view, view, delete)
    assert listener.watching == 0
    with tails.open(generation, 0) as tail, pytest.raises(Gone):
        collect(tail)


def test_who_watches_a_generation_anew_is_not_told_of_the_old_ones_deletion(
    begin, hold, store, tails, entries, listener, documents
):
    """The same idempotency key gives the same id again, while a viewer of what was deleted has not left yet."""
    generation = begin()
    with tails.open(generation, 0) as old:
        store.delete(generation)
        with pytest.raises(Gone):
            collect(old)
        again = begin(id=generation.id, message_id=generation.id, message_path=generation.message_path)
        with tails.open(again, 0) as tail:
            write(hold(again).journal, entries(1, 3), at_a_time=1)
            assert collect(tail) == events(entries(1, 3))
    assert listener.watching == 0


class MissesDeletions:
    """A listener that does not tell of deletions; nor, unless `tells`, of who was started under the same id since."""

    def __init__(self, listener, tells):
        self._listener = listener
        self._tells = tells

    def watch(self, path, on_change):
        known = []

        def hear(document):
            if document is None:
                return
            known.append(document.fields["createdAt"])
            if self._tells or known[-1] == known[0]:
                on_change(document)

        return self._listener.watch(path, hear)


@pytest.fixture
def anew(begin, store, clock):
    """Deletes a generation and starts another under the same id, as the same idempotency key does."""

    def anew(generation):
        store.delete(generation)
        clock.advance(timedelta(seconds=1))
        return begin(id=generation.id, message_id=generation.id, message_path=generation.message_path)

    return anew


@pytest.mark.parametrize("tells", [True, False], ids=["told of the new one", "found out by reading"])
def test_a_viewer_who_missed_a_deletion_and_a_new_start_is_not_shown_the_new_answer_as_its_own(
    begin, hold, tails_over, listener, entries, entry, anew, tells
):
    generation = begin()
    hold(generation).journal.append(entries(1, 3))
    tails = tails_over(listener=MissesDeletions(listener, tells), reread_seconds=QUICK)
    with tails.open(generation, 0) as tail:
        assert read_to(tail, 3) == events(entries(1, 3))
        hold(anew(generation)).journal.append([entry(seq, f"another {seq}") for seq in range(1, 9)])
        with pytest.raises(Gone):
            collect(tail)


def test_who_watches_a_generation_anew_has_a_feed_of_its_own_before_the_old_one_is_told(
    begin, hold, tails_over, listener, entries, entry, anew
):
    generation = begin()
    hold(generation).journal.append(entries(1, 3))
    tails = tails_over(listener=MissesDeletions(listener, tells=False), reread_seconds=3600.0)
    with tails.open(generation, 0) as old:
        assert read_to(old, 3) == events(entries(1, 3))
        again = anew(generation)
        with tails.open(again, 0) as tail:
            others = [entry(seq, f"another {seq}") for seq in range(1, 9)]
            write(hold(again).journal, others, at_a_time=1)
            assert collect(tail) == events(others)


@pytest.mark.parametrize("which", ["the first", "one in the middle", "the last sealed"])
def test_a_journal_that_has_lost_a_segment_ends_with_gone_and_skips_nothing(ended, documents, tails, which):
    """Firestore's TTL deletes the documents of a journal one by one and in no order."""
    generation, written = ended
    *sealed, _ = documents.query(generation.journal_path, order="first", select=["first"])
    lost = {"the first": sealed[0], "one in the middle": sealed[2], "the last sealed": sealed[-1]}[which]
    documents.commit(Delete(lost.path))
    got = []
    with tails.open(generation, 0) as tail, pytest.raises(Gone):
        read_to(tail, len(written), got)
    assert got == events(written[: len(got)])
    assert len(got) < lost.fields["first"]


def test_a_viewer_that_could_not_read_older_events_can_continue(ended, documents, store_over, tails_over):
    generation, written = ended

    class AwayInTheMiddle:
        queries = 0

        def query(self, *args, **named):
            self.queries += 1
            if self.queries in (1, 4):
                raise Unreachable("away")
            return documents.query(*args, **named)

        def __getattr__(self, name):
            return getattr(documents, name)

    got, missed = [], 0
    with tails_over(store_over(AwayInTheMiddle())).open(generation, 0) as tail:
        for _ in range(3):
            try:
                read_to(tail, len(written), got)
            except Unreachable:
                missed += 1
    assert missed == 2
    assert got == events(written)


@pytest.mark.usefixtures("unhurried")
def test_a_viewer_a_thousand_segments_behind_gets_all_while_little_is_held(begin, hold, tails_over, listener):
    generation = begin()
    journal = hold(generation).journal
    pad = "x" * SEAL_BYTES
    written = [
        Entry(seq, record(Event(orjson.dumps({"n": seq, "pad": pad, "choices": []}))), "") for seq in range(1, 1005)
    ]
    held = []

    class Weighing:
        def watch(self, path, on_change):
            feed = on_change.__self__

            def weigh(document):
                on_change(document)
                held.append(data_bytes(feed.after(feed.first - 1).events))

            return listener.watch(path, weigh)

    with tails_over(listener=Weighing()).open(generation, 0) as tail:
        for each in written:
            journal.append([each])
        journal.finish([], COMPLETED, SAID)
        got = []
        while len(got) < len(written):
            piece = tail.next(PATIENCE)
            assert piece.events
            assert data_bytes(piece.events) <= BACKLOG_BYTES + DOCUMENT_BYTES
            got += piece.events
        assert collect(tail) == []
    assert got == events(written)
    assert max(held) <= WINDOW_BYTES + DOCUMENT_BYTES


def test_a_slow_viewer_makes_the_others_feed_no_larger(begin, hold, tails, entries, documents, together):
    """One viewer reads nothing until the end; beside it one keeps up. Both get all."""
    generation = begin()
    journal = hold(generation).journal
    written = entries(1, 200, 6 * KIB)
    with tails.open(generation, 0) as slow, tails.open(generation, 0) as quick:
        got, _ = together(lambda: collect(quick), lambda: write(journal, written, at_a_time=2))
        assert got == events(written)
        assert collect(slow) == events(written)


def test_when_the_last_viewer_has_left_there_is_neither_feed_nor_watch(begin, hold, tails_over, listener, entries):
    generation = begin()
    hold(generation).journal.append(entries(1, 3))
    feeds = []

    class Noting:
        def watch(self, path, on_change):
            feeds.append(weakref.ref(on_change.__self__))
            return listener.watch(path, on_change)

    tails = tails_over(listener=Noting())
    viewers = [tails.open(generation, 0) for _ in range(3)]
    assert len(feeds) == listener.watching == 1
    for tail in viewers:
        assert tail.next(PATIENCE).events
    for tail in viewers[:2]:
        tail.close()
        tail.close()
    assert listener.watching == 1
    viewers.pop().close()
    assert listener.watching == 0
    del viewers, tail
    gc.collect()
    assert [feed() for feed in feeds] == [None]

    with tails.open(generation, 1) as tail:
        assert tail.next(PATIENCE).events == events(entries(2, 3))
    assert len(feeds) == 2


def test_viewers_that_come_and_go_at_once_leave_no_feed_and_no_watch(begin, hold, tails, listener, entries, together):
    generation = begin()
    hold(generation).journal.append(entries(1, 3))

    def come_and_go():
        for _ in range(15):
            with tails.open(generation, 0) as tail:
                assert tail.next(PATIENCE).events == events(entries(1, 3))

    together(*[come_and_go] * 6)
    assert listener.watching == 0


def lease_of(store, generation, viewer):
    return store.generation(generation.id).watchers.get(viewer)


def test_a_viewers_lease_is_renewed_while_it_watches_and_removed_when_it_leaves(
    begin, hold, store, tails_over, entries
):
    generation = begin()
    hold(generation)
    seen = set()
    one, other = tails_over(viewer="0a", watch_lease=SHORT), tails_over(viewer="9f", watch_lease=SHORT)
    with one.open(generation, 0) as tail, other.open(generation, 0):
        deadline = time.monotonic() + PATIENCE
        while len(seen) < 3 and time.monotonic() < deadline:
            tail.next(0.1)
            watchers = store.generation(generation.id).watchers
            seen |= {str(watchers)} if watchers else set()
            if watchers:
                assert store.generation(generation.id).watched(now() - timedelta(seconds=5))
    assert len(seen) >= 3
    assert store.generation(generation.id).watchers == {}


def test_a_viewer_leaves_the_leases_of_other_processes_alone(begin, hold, store, tails_over):
    generation = begin(watchers={"other": now() + timedelta(minutes=1)})
    hold(generation)
    with tails_over(viewer="ours", watch_lease=SHORT).open(generation, 0) as tail:
        deadline = time.monotonic() + PATIENCE
        while lease_of(store, generation, "ours") is None and time.monotonic() < deadline:
            tail.next(0.1)
    assert list(store.generation(generation.id).watchers) == ["other"]


def test_a_viewer_of_a_generation_that_runs_already_is_noticed_at_once(begin, hold, store, tails, entries):
    """The worker commits once a second when nobody watches: who comes back must not wait for that."""
    generation = begin()
    hold(generation).journal.append(entries(1, 2))
    with tails.open(generation, 0) as tail:
        deadline = time.monotonic() + 3.0
        while lease_of(store, generation, "viewer") is None and time.monotonic() < deadline:
            tail.next(0.1)
        assert store.generation(generation.id).watched(now())


def test_a_viewer_that_has_all_there_is_is_noticed_at_once(begin, hold, store, tails, entries):
    """A reload in a silence: there is nothing to show, and the lease must not wait for the next event."""
    generation = begin()
    hold(generation).journal.append(entries(1, 2))
    noticed = []
    with tails.open(generation, 2) as tail:
        watching = threading.Thread(target=lambda: tail.next(1.0))
        watching.start()
        deadline = time.monotonic() + 0.7  # less than the longest wait of a viewer that is told of nothing
        while not noticed and time.monotonic() < deadline:
            noticed += [True] * store.generation(generation.id).watched(now())
        watching.join()
    assert noticed


@pytest.mark.parametrize("order", ["leaves first", "comes first", "at once"])
def test_a_reload_is_not_noticed_by_the_worker(begin, hold, store, tails_over, entries, together, order):
    """Forty times a viewer leaves while the next one comes: each time the generation is watched right after that."""
    generation = begin()
    hold(generation).journal.append(entries(1, 2))
    tails = tails_over()

    def come():
        tail = tails.open(generation, 0)
        tail.next(PATIENCE)
        tail.next(0.0)
        return tail

    tail = come()
    for _ in range(40):
        leaving = tail
        if order == "leaves first":
            leaving.close()
            tail = come()
        elif order == "comes first":
            tail = come()
            leaving.close()
        else:
            tail, _ = together(come, leaving.close)
        assert store.generation(generation.id).watched(now())
    tail.close()
    assert not store.generation(generation.id).watched(now())


def test_a_lease_that_a_generation_was_created_with_is_not_written_again(
    begin, hold, faulty, store, store_over, tails_over, entries
):
    tails = tails_over(store_over(faulty))
    generation = begin(watchers=tails.first_lease())
    hold(generation).journal.append(entries(1, 2))
    tail = tails.open(generation, 0, created=True)
    assert read_to(tail, 2) == events(entries(1, 2))
    tail.next(0.0)
    assert faulty.asked["commit"] == 0
    tail.close()
    assert faulty.asked["commit"] == 1
    assert lease_of(store, generation, "viewer") is None


def test_a_viewer_that_asks_for_less_is_told_no_more_until_then_and_of_the_end_at_once(begin, hold, tails, entries):
    generation = begin()
    journal = hold(generation).journal
    with tails.open(generation, 0) as close, tails.open(generation, 0, every=3600.0) as coarse:
        journal.append(entries(1, 2))
        assert coarse.next(PATIENCE).events == events(entries(1, 2))  # the first words come at once
        for at in range(3, 7):
            journal.append(entries(at, at))
            assert read_to(close, at)[-1:] == events(entries(at, at))
            held_back = coarse.next(0.0)
            assert (held_back.events, held_back.last, coarse.cursor) == ([], 2, 2)
        journal.finish(entries(7, 7), COMPLETED, SAID)
        last = coarse.next(PATIENCE)
        assert (last.events, last.end.state) == (events(entries(3, 7)), State.COMPLETED)


def test_a_viewer_that_asks_for_less_has_its_next_piece_when_it_is_due(begin, hold, tails, entries):
    generation = begin()
    journal = hold(generation).journal
    with tails.open(generation, 0, every=0.5) as tail:
        began = time.monotonic()
        pieces = []
        for at in range(1, 31):
            journal.append(entries(at, at))
            pieces += [piece for piece in [tail.next(0.05)] if piece.events]
        while tail.cursor < 30:
            pieces += [piece for piece in [tail.next(PATIENCE)] if piece.events]
        assert 2 <= len(pieces) <= 2 + (time.monotonic() - began) / 0.5
        assert [event for piece in pieces for event in piece.events] == events(entries(1, 30))


def test_a_viewer_that_asks_for_less_has_all_that_it_missed_at_once(begin, hold, tails, entries):
    generation = begin()
    journal = hold(generation).journal
    written = entries(1, 400, 6 * KIB)
    with tails.open(generation, 0, every=3600.0) as tail:
        write(journal, written, at_a_time=20)
        assert collect(tail) == events(written)


def test_the_viewers_of_a_process_ask_for_what_the_closest_one_does(begin, hold, store, tails, entries):
    generation = begin()
    hold(generation).journal.append(entries(1, 2))

    def asked_for(tail, every):
        deadline = time.monotonic() + PATIENCE
        while store.generation(generation.id).every != every and time.monotonic() < deadline:
            tail.next(0.1)
        assert store.generation(generation.id).every == every

    with tails.open(generation, 0, every=2.0) as coarse:
        asked_for(coarse, {"viewer": 2.0})
        with tails.open(generation, 2, every=0.5) as close:
            asked_for(close, {"viewer": 0.5})
    assert store.generation(generation.id).every == store.generation(generation.id).watchers == {}


def test_who_watches_what_has_ended_writes_nothing(begin, hold, faulty, store_over, tails_over, entries):
    generation = begin()
    write(hold(generation).journal, entries(1, 3), at_a_time=1)
    with tails_over(store_over(faulty), watch_lease=SHORT).open(generation, 0) as tail:
        assert collect(tail) == events(entries(1, 3))
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline:
            tail.next(0.1)
            threading.Event().wait(0.05)
    assert faulty.asked["commit"] == 0


def test_a_lease_that_can_not_be_written_does_not_stop_the_tail(
    begin, hold, faulty, store_over, tails_over, entries, together
):
    generation = begin()
    journal = hold(generation).journal
    faulty.fail(times=1000)
    with tails_over(store_over(faulty), watch_lease=SHORT).open(generation, 0) as tail:
        deadline = time.monotonic() + PATIENCE
        while not faulty.failed and time.monotonic() < deadline:
            tail.next(0.1)
        write(journal, entries(1, 3), at_a_time=1)
        assert collect(tail) == events(entries(1, 3))
    assert faulty.failed >= 1


def test_waiting_for_the_end_ends_with_it_and_by_a_deletion_and_by_the_time(
    begin, hold, store, tails, entries, together
):
    def wait(generation, seconds):
        with tails.open(generation, 0) as tail:
            tail.wait_for_end(seconds)
            return True

    ended, deleted, silent = begin(), begin(), begin()
    journal = hold(ended).journal
    assert together(
        lambda: wait(ended, PATIENCE),
        lambda: wait(deleted, PATIENCE),
        lambda: wait(silent, 0.2),
        lambda: write(journal, entries(1, 3), at_a_time=1),
        lambda: store.delete(deleted),
    )[:3] == [True, True, True]


@pytest.fixture
def of_64_000(begin, hold):
    """A generation of 64,000 tokens: over 1 MiB of raw events, and its text is not small either."""
    generation = begin()
    written = []
    for seq in range(1, 64_001):
        text = token("long", seq)
        chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [{"delta": {"content": text}}]}
        written.append(Entry(seq, record(Event(orjson.dumps(chunk))), text))
    journal = hold(generation).journal
    for at in range(0, 64_000, 4_000):
        journal.append(written[at : at + 4_000])
    journal.finish([], COMPLETED, SAID)
    return generation, written


def test_a_journal_of_64_000_events_replays_whole(of_64_000, tails, documents):
    generation, written = of_64_000
    assert watch_whole(tails, generation, 0) == events(written)
    assert watch_whole(tails, generation, 33_333) == events(written[33_333:])
    everything = documents.query(generation.journal_path, order="first")
    assert "".join(each.fields["text"] for each in everything) == "".join(each.text for each in written)
    assert sum(len(each.record) for each in written) > 1 << 20
