"""What an attempt learns of its generation's document, though its listener tells it nothing."""

from __future__ import annotations

import time
from datetime import timedelta
from types import SimpleNamespace

import pytest

from lib.cloud.documents import Delete
from lib.engine.buffer import Buffer, Signal
from lib.engine.others import Others


class Deaf:
    """A listener that tells its first `changes`, and the one watch that it is asked for."""

    def __init__(self, listener, changes):
        self._listener = listener
        self._changes = changes
        self.restarts = 0

    def watch(self, path, on_change):
        def told(document):
            if self._changes:
                self._changes -= 1
                on_change(document)

        self._unwatch = self._listener.watch(path, told)
        return self

    def __call__(self):
        self._unwatch()

    def restart(self):
        self.restarts += 1


@pytest.fixture
def attending(begin, listener, store):
    """Attends to a new generation through a listener that tells so many changes."""
    attended = []

    def attending(changes=0, store=store, reread_seconds=0.0):
        deaf, buffer, hurried, watchers = Deaf(listener, changes), Buffer(0), [], []
        generation = begin()
        commits = SimpleNamespace(hurry=lambda: hurried.append(True))
        interval = SimpleNamespace(watched_by=lambda leases, _every: watchers.append(leases))
        others = Others(store, deaf, generation, buffer, commits, interval, reread_seconds)
        attended.append(others)
        return SimpleNamespace(
            others=others, buffer=buffer, generation=generation, hurried=hurried, watchers=watchers, listener=deaf
        )

    yield attending
    for others in attended:
        others.close()


def test_a_stop_that_the_listener_did_not_tell_is_read(attending, store, clock, eventually):
    it = attending(changes=1)
    eventually(lambda: it.watchers)
    store.patch(it.generation, {"stopRequestedAt": clock()})
    it.others.reread()
    assert it.buffer.outcome is Signal.STOPPED
    assert it.listener.restarts == 1


def test_a_viewer_that_the_listener_did_not_tell_of_is_read_and_hurries_the_next_commit(attending, store, clock):
    it = attending()
    store.patch(it.generation, {"watchers": {"a viewer's process": clock() + timedelta(minutes=1)}})
    it.others.reread()
    assert it.buffer.outcome is None
    assert it.watchers == [{"a viewer's process": clock() + timedelta(minutes=1)}]
    assert it.hurried
    assert it.listener.restarts == 1


def test_a_deletion_that_the_listener_did_not_tell_is_read(attending, documents):
    it = attending()
    documents.commit(Delete(it.generation.path))
    it.others.reread()
    assert it.buffer.outcome is Signal.DELETED


def test_a_listener_that_has_told_everything_goes_on(attending, eventually):
    it = attending(changes=1)
    eventually(lambda: it.watchers)
    it.others.reread()
    it.others.reread()
    assert it.listener.restarts == 0


def test_what_is_told_while_it_is_read_is_not_undone_by_what_was_read(attending, store, clock, eventually):
    lease = {"a viewer's process": clock() + timedelta(minutes=1)}

    def overtaken(generation):
        read = store.written_by_others(generation)
        store.patch(generation, {"watchers": lease})
        eventually(lambda: it.watchers[1:])
        return read

    it = attending(changes=2, store=SimpleNamespace(written_by_others=overtaken))
    eventually(lambda: it.watchers)
    it.others.reread()
    assert it.watchers == [{}, lease]
    assert it.listener.restarts == 0


def test_it_is_read_after_some_silence_and_what_is_told_ends_the_silence(attending, eventually):
    it = attending(changes=1, reread_seconds=1000.0)
    began = it.others.due
    eventually(lambda: it.watchers)
    assert began < it.others.due <= time.monotonic() + 1000.0
    heard = it.others.due
    it.others.reread()
    assert it.others.due > heard


def test_where_firestore_is_away_it_is_tried_again_later(attending, store_over, connect, nobody, caplog):
    it = attending(store=store_over(connect(nobody)), reread_seconds=1000.0)
    before = it.others.due
    it.others.reread()
    assert it.buffer.outcome is None
    assert it.others.due > before
    assert [record.message for record in caplog.records] == ["the generation could not be read again"]
