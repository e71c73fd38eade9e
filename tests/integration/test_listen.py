"""The listener against the real emulator: a watcher never misses the last version, with few streams, despite faults."""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing

import grpc
import pytest

from lib.cloud.documents import Delete, Document, Put, Target
from lib.cloud.listen import Listener, listening_loop
from lib.domain.errors import Unreachable


class Breaking:
    """The database, whose first listen streams each break off after so many changes, and whose next one lasts.

    `with_error` is how they break, None being an end without a word.
    """

    def __init__(self, documents, after, with_error=Unreachable):
        self._documents = documents
        self._after = list(after)
        self._error = with_error
        self.opened = 0

    async def listen(self, targets):
        self.opened += 1
        limit = self._after.pop(0) if self._after else None
        if limit == 0:
            raise self._error("refused to open")
        number = 0
        async with aclosing(self._documents.listen(targets)) as changes:
            async for change in changes:
                number += 1
                yield change
                if number == limit:
                    break
        if number == limit and self._error is not None:
            raise self._error("in the middle")


@pytest.fixture
def write(documents):
    """Puts or deletes for certain: a commit that reaches a stream at its end may fail in the emulator."""

    def write(*writes):
        for _ in range(50):
            try:
                return documents.commit(*writes)
            except Unreachable:
                continue
        raise AssertionError("no commit came through")

    return write


@pytest.fixture
def paths(write, uid):
    """Paths of `count` documents, each with n = 0."""

    def paths(count):
        made = [f"users/{uid}/things/{n:03}" for n in range(count)]
        write(*[Put(path, {"n": 0}) for path in made])
        return made

    return paths


def numbers(seen):
    return [document.fields["n"] for document in seen if document is not None]


def test_the_document_as_it_is_comes_first(documents, listener, paths, watcher):
    (path,) = paths(1)
    seen = watcher()
    listener.watch(path, seen)
    seen.until(len)
    assert seen.seen[:1] == documents.get(path)


def test_a_document_that_is_not_there_is_none_until_it_is_created(listener, uid, watcher, write):
    seen = watcher()
    listener.watch(f"users/{uid}", seen)
    seen.until(len)
    assert seen.seen == [None]
    (version,) = write(Put(f"users/{uid}", {"n": 1}))
    seen.until_last("n", 1)
    assert seen.seen[-1] == Document(f"users/{uid}", {"n": 1}, version)


def test_a_deleted_document_is_none(listener, paths, watcher, write):
    (path,) = paths(1)
    seen = watcher()
    listener.watch(path, seen)
    seen.until(len)
    write(Delete(path))
    seen.until(lambda changes: changes and changes[-1] is None)
    write(Put(path, {"n": 7}))
    seen.until_last("n", 7)


def test_changes_of_150_documents_reach_their_watchers_over_two_streams(
    documents, listener_over, paths, watcher, streams, write
):
    listener = listener_over(documents)
    watched = {path: watcher() for path in paths(150)}
    for path, seen in watched.items():
        listener.watch(path, seen)
    for seen in watched.values():
        seen.until(len)
    assert listener.watching == 150
    assert streams() == 2

    for n in (1, 2, 3):
        write(*[Put(path, {"n": n, "of": path}) for path in watched])
    for path, seen in watched.items():
        seen.until_last("n", 3)
        assert numbers(seen.seen) == sorted(numbers(seen.seen))
        assert {document.path for document in seen.seen} == {path}
    assert streams() == 2


def test_several_watchers_of_one_document_are_each_told(listener, paths, watcher, write):
    (path,) = paths(1)
    watchers = [watcher() for _ in range(3)]
    unwatches = [listener.watch(path, seen) for seen in watchers]
    for seen in watchers:
        seen.until(len)
    unwatches[1]()
    write(Put(path, {"n": 1}))
    watchers[0].until_last("n", 1)
    watchers[2].until_last("n", 1)
    assert listener.watching == 2


def test_watchers_that_come_and_go_take_nothing_from_those_that_stay(
    listener, paths, watcher, together, streams, write
):
    chance = random.Random(7)
    made = paths(24)
    staying, passing = made[:8], made[8:]
    stayed = {path: watcher() for path in staying}
    for path, seen in stayed.items():
        listener.watch(path, seen)
        seen.until(len)

    def keep_writing():
        for n in range(1, 61):
            write(*[Put(path, {"n": n}) for path in made])

    def come_and_go():
        here = []
        for _ in range(100):
            seen = watcher()
            here.append((seen, listener.watch(chance.choice(passing), seen)))
            if len(here) > 15:
                arrived, unwatch = here.pop(chance.randrange(len(here)))
                arrived.until(len)
                unwatch()
        return here

    _, left = together(keep_writing, come_and_go)
    for seen in stayed.values():
        seen.until_last("n", 60)
        assert numbers(seen.seen) == sorted(numbers(seen.seen))
    for seen, watch in left:
        watch.restart()  # the emulator may leave a change out that came while it first answered
        seen.until_last("n", 60)
    assert listener.watching == len(stayed) + len(left)


def test_no_fresh_listener_hangs_though_the_writer_has_begun(
    documents, listener_over, connect, paths, watcher, together, eventually, write, streams
):
    (path,) = paths(1)
    counting = itertools.count(1)
    done = threading.Event()
    began = threading.Event()

    def keep_writing():
        while not done.is_set():
            n = next(counting)
            write(Put(path, {"n": n}))
            began.set()
        return n

    def attach():
        own = [connect() for _ in range(30)]
        watchers = [watcher() for _ in own]
        watches = []
        try:
            assert began.wait(30)
            for each, seen in zip(own, watchers, strict=True):
                watches.append(listener_over(each).watch(path, seen))
            for seen in watchers:
                seen.until(len)
            done.set()
            (last,) = documents.get(path)
            for watch in watches:
                watch.restart()  # as above
            for seen in watchers:
                seen.until(lambda changes, last=last: changes[-1].fields["n"] >= last.fields["n"])
        finally:
            done.set()
            for watch in watches:
                watch()
            eventually(lambda: streams() == 0)
            for each in own:
                each.close()

    together(keep_writing, attach)


def test_a_stream_that_can_not_be_opened_is_tried_until_it_can(documents, listener_over, paths, watcher):
    breaking = Breaking(documents, after=[0, 0, 0])
    seen = watcher()
    listener_over(breaking).watch(*paths(1), seen)
    seen.until(len)
    assert breaking.opened == 4


def test_what_was_deleted_while_the_stream_was_broken_is_told_afterwards(
    documents, listener_over, paths, watcher, write
):
    (path,) = paths(1)

    class DeletedMeanwhile(Breaking):
        def listen(self, targets):
            if self.opened == 1:
                write(Delete(path))
            return super().listen(targets)

    seen = watcher()
    listener_over(DeletedMeanwhile(documents, after=[1])).watch(path, seen)
    seen.until(lambda changes: changes and changes[-1] is None)
    assert numbers(seen.seen) == [0]


def test_a_watcher_that_fails_takes_nothing_from_the_others(listener, paths, watcher, streams, write):
    (path, other) = paths(2)
    seen, beside = watcher(), watcher()

    def fail(_document):
        raise ValueError("a watcher's own mistake")

    listener.watch(path, fail)
    listener.watch(path, seen)
    listener.watch(other, beside)
    for each in (seen, beside):
        each.until(len)
    write(Put(path, {"n": 1}), Put(other, {"n": 1}))
    seen.until_last("n", 1)
    beside.until_last("n", 1)


def test_nobody_is_called_after_leaving(listener, paths, watcher, write):
    path, other = paths(2)
    seen, beside = watcher(), watcher()
    unwatch = listener.watch(path, seen)
    unwatch_beside = listener.watch(other, beside)
    seen.until(len)
    beside.until(len)
    unwatch()
    known = len(seen.seen)

    for n in range(1, 6):
        write(Put(path, {"n": n}), Put(other, {"n": n}))
    beside.until_last("n", 5)  # one stream tells both, in order
    assert len(seen.seen) == known

    assert listener.watching == 1
    unwatch()
    unwatch_beside()
    unwatch_beside()
    assert listener.watching == 0


def test_a_stream_without_watchers_ends_and_the_next_watcher_gets_a_new_one(
    listener, paths, watcher, streams, eventually
):
    (path,) = paths(1)
    unwatch = listener.watch(path, watcher())
    assert streams() == 1
    unwatch()
    eventually(lambda: streams() == 0)

    seen = watcher()
    listener.watch(path, seen)
    seen.until(len)
    assert streams() == 1


def test_a_stream_stays_while_somebody_watches_though_nothing_happens(
    documents, listener_over, paths, watcher, streams, write
):
    (path,) = paths(1)
    seen = watcher()
    listener_over(documents, idle_seconds=0.1).watch(path, seen)
    seen.until(len)
    threading.Event().wait(0.3)
    assert streams() == 1
    write(Put(path, {"n": 1}))
    seen.until_last("n", 1)


def test_a_stream_that_broke_while_nobody_watched_ends_in_order(
    documents, listener_over, paths, watcher, streams, eventually, caplog
):
    (path,) = paths(1)
    told, go_on = threading.Event(), threading.Event()

    class BreakingUnwatched:
        opened = 0

        async def listen(self, targets):
            self.opened += 1
            async with aclosing(documents.listen(targets)) as changes:
                async for change in changes:
                    yield change
                    if self.opened == 1:
                        told.set()
                        await asyncio.to_thread(go_on.wait, 30)
                        raise Unreachable("while nobody watched")

    breaking = BreakingUnwatched()
    listener = listener_over(breaking)
    unwatch = listener.watch(path, watcher())
    assert told.wait(30)
    unwatch()
    go_on.set()
    eventually(lambda: streams() == 0)
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []

    seen = watcher()
    listener.watch(path, seen)
    seen.until(len)


def test_watching_from_many_threads_at_once_loses_no_watcher(listener, paths, watcher, together):
    made = paths(120)
    watchers = [watcher() for _ in made]

    def watch(share):
        return [listener.watch(made[n], watchers[n]) for n in range(share, len(made), 6)]

    shares = together(*[lambda share=share: watch(share) for share in range(6)])
    for seen in watchers:
        seen.until(len)
    assert listener.watching == 120
    together(*[lambda share=share: [unwatch() for unwatch in share] for share in shares])
    assert listener.watching == 0


def test_a_listener_without_watchers_runs_no_thread(documents):
    before = threading.active_count()
    listener = Listener(documents)
    assert (listener.watching, listener.streams, threading.active_count()) == (0, 0, before)


def test_a_listener_runs_one_thread_however_many_streams_it_has(listener, paths, watcher, streams, together):
    before = threading.active_count()
    watchers = [watcher() for _ in range(20)]
    for path, seen in zip(paths(20), watchers, strict=True):
        listener.watch(path, seen)
    for seen in watchers:
        seen.until(len)
    assert streams() == 20
    assert threading.active_count() <= before + 2  # its own, and one of gRPC's


def test_the_end_of_its_targets_ends_a_listen_stream(documents, paths):
    """What an idle stream's end is made of."""
    (path,) = paths(1)

    async def listen():
        come = asyncio.Event()

        async def targets():
            yield Target(1, path)
            await come.wait()

        async with asyncio.timeout(30), aclosing(documents.listen(targets())) as changes:
            assert numbers([(await anext(changes)).document]) == [0]
            come.set()
            with pytest.raises(Unreachable):
                async for _ in changes:
                    pass

    asyncio.run_coroutine_threadsafe(listen(), listening_loop()).result(60)


def test_a_connection_on_which_nothing_can_be_asked_breaks_the_stream(connect, monkeypatch):
    monkeypatch.setattr("lib.cloud.documents.READ_SECONDS", 0.2)

    async def listen(documents):
        async def targets():
            yield Target(1, "things/a")
            await asyncio.Event().wait()

        async with asyncio.timeout(10) as patience, aclosing(documents.listen(targets())) as changes:
            with pytest.raises(Unreachable):
                await anext(changes)
        assert not patience.expired()

    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes connections, and says nothing
        documents = connect(f"127.0.0.1:{silent.getsockname()[1]}")
        asyncio.run_coroutine_threadsafe(listen(documents), listening_loop()).result(60)
        documents.close()


@pytest.fixture
def mute():
    """A server that takes every stream and never says a word; its host, and how many streams it has had and has."""

    class Mute(grpc.GenericRpcHandler):
        opened = 0
        open = 0

        def service(self, _details):
            return grpc.stream_stream_rpc_method_handler(self.hold)

        def hold(self, _requests, context):
            Mute.opened += 1
            Mute.open += 1
            over = threading.Event()
            if context.add_callback(over.set):
                over.wait(30)
            Mute.open -= 1
            yield from ()

    server = grpc.server(ThreadPoolExecutor(8), handlers=[Mute()])
    Mute.host = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield Mute
    server.stop(None).wait()


def test_a_stream_that_never_responds_is_given_up_and_opened_again(
    mute, connect, listener_over, watcher, eventually, streams
):
    documents = connect(mute.host)
    leave = listener_over(documents, answer_seconds=0.1).watch("things/a", watcher())
    eventually(lambda: mute.opened >= 3)
    leave()
    eventually(lambda: streams() == mute.open == 0)
    documents.close()


def test_a_stream_for_one_document_is_over_at_once_when_its_viewer_leaves_before_any_answer(
    mute, connect, listener_over, watcher, eventually, streams
):
    documents = connect(mute.host)
    listener = listener_over(documents, 1, idle_seconds=60, answer_seconds=60)
    for _ in range(20):
        listener.watch("things/a", watcher())()
    eventually(lambda: streams() == mute.open == 0)
    documents.close()
