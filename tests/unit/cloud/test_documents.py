"""Firestore as it fails: broken and dead connections, missing indexes, streams that are corrupt or say little."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any

import grpc
import pytest
from google.cloud.firestore_v1.types import firestore as rpc

from lib.cloud.documents import Change, Delete, Documents, Target
from lib.cloud.listen import Listener, listening_loop
from lib.domain.errors import IndexMissing, Unreachable
from tests.black_hole import BlackHole
from tests.unit.cloud.scripted_firestore import ScriptedFirestore, answers, counted, found, listed, queried

PATIENCE = 30.0
ROOT = "projects/demo/databases/(default)/documents/"
PATH = "users/mallory/messages/m"
CODES = grpc.StatusCode


@pytest.fixture
def firestore() -> Iterator[ScriptedFirestore]:
    with ScriptedFirestore() as firestore:
        firestore.answers = {
            "BatchGetDocuments": answers(found(ROOT + PATH)),
            "RunQuery": answers(queried(ROOT + PATH)),
            "RunAggregationQuery": answers(counted(3)),
            "ListDocuments": answers(listed(ROOT + PATH)),
            "Commit": answers(rpc.CommitResponse()),
        }
        yield firestore


@pytest.fixture
def connect() -> Iterator[Callable[[str], Documents]]:
    made: list[Documents] = []

    def connect(host: str) -> Documents:
        made.append(Documents("demo", emulator=host))
        return made[-1]

    yield connect
    for each in made:
        each.close()


@pytest.fixture
def documents(firestore: ScriptedFirestore, connect: Callable[[str], Documents]) -> Documents:
    return connect(firestore.host)


def get(documents: Documents) -> Any:
    (document,) = documents.get(PATH)
    return document and document.fields["n"]


def query(documents: Documents) -> Any:
    where = [("owner", "==", "mallory"), ("state", "in", ["queued"])]
    return [each.path for each in documents.query("things", where=where, order="createdAt", descending=True)]


def count(documents: Documents) -> Any:
    return documents.counting("things", where=[("owner", "==", "mallory"), ("state", "in", ["queued"])], limit=9)()


def paths(documents: Documents) -> Any:
    return list(documents.paths("users/mallory/messages"))


READS: dict[str, tuple[Callable[[Documents], Any], Any]] = {
    "BatchGetDocuments": (get, 7),
    "RunQuery": (query, [PATH]),
    "RunAggregationQuery": (count, 3),
    "ListDocuments": (paths, [PATH]),
}


@pytest.mark.parametrize("method", READS)
@pytest.mark.parametrize(
    ("code", "details"),
    [
        (CODES.UNAVAILABLE, "Socket closed"),
        (CODES.DEADLINE_EXCEEDED, ""),
        (CODES.INTERNAL, "Received RST_STREAM with error code 2"),
        (CODES.UNKNOWN, "Stream removed"),
    ],
    ids=lambda given: getattr(given, "name", ""),
)
def test_a_read_whose_connection_breaks_is_tried_again(
    firestore: ScriptedFirestore, documents: Documents, method: str, code: grpc.StatusCode, details: str
) -> None:
    read, expected = READS[method]
    firestore.fail(method, code, details, times=2)
    assert read(documents) == expected
    assert firestore.asked[method] == 3


@pytest.mark.parametrize("method", READS)
def test_a_read_is_not_tried_again_for_ever(firestore: ScriptedFirestore, documents: Documents, method: str) -> None:
    read, _ = READS[method]
    firestore.fail(method, CODES.UNAVAILABLE, "Socket closed", times=1000)
    with pytest.raises(Unreachable):
        read(documents)
    assert 3 <= firestore.asked[method] < 50


def test_a_commit_is_not_repeated_here_since_it_may_have_taken_effect(
    firestore: ScriptedFirestore, documents: Documents
) -> None:
    firestore.fail("Commit", CODES.UNAVAILABLE, "Socket closed")
    with pytest.raises(Unreachable):
        documents.commit(Delete(PATH))
    assert firestore.asked["Commit"] == 1


# Indexes


@pytest.mark.parametrize(
    ("method", "index"),
    [("RunQuery", "things: owner, state, createdAt desc"), ("RunAggregationQuery", "things: owner, state")],
)
def test_a_query_without_its_index_is_asked_once_and_the_log_names_the_index_and_no_value(
    firestore: ScriptedFirestore,
    documents: Documents,
    caplog: pytest.LogCaptureFixture,
    method: str,
    index: str,
) -> None:
    read, _ = READS[method]
    firestore.fail(method, CODES.FAILED_PRECONDITION, "The query requires an index. You can create it here: https://x")
    with pytest.raises(IndexMissing) as refused:
        read(documents)
    assert (refused.value.status, firestore.asked[method]) == (503, 1)
    (record,) = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert vars(record)["index"] == index
    assert "mallory" not in str(vars(record)["index"])


def test_a_database_that_does_not_exist_is_unreachable_and_not_a_missing_index(
    firestore: ScriptedFirestore, documents: Documents, caplog: pytest.LogCaptureFixture
) -> None:
    firestore.fail("RunQuery", CODES.NOT_FOUND, "The database (default) does not exist")
    with pytest.raises(Unreachable) as refused:
        query(documents)
    assert refused.value.cause == "NotFound"
    assert [each for each in caplog.records if each.levelno >= logging.ERROR] == []


# Connections that died


@pytest.mark.parametrize("method", READS)
def test_a_read_on_a_connection_that_died_silently_succeeds_on_another(
    firestore: ScriptedFirestore,
    connect: Callable[[str], Documents],
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    monkeypatch.setattr("lib.cloud.channel.TRY_SECONDS", 0.5)
    monkeypatch.setattr("lib.cloud.documents.TRY_SECONDS", 0.5)
    read, expected = READS[method]
    with BlackHole(firestore.host) as hole:
        documents = connect(hole.host)
        assert read(documents) == expected
        hole.forget()
        assert read(documents) == expected
        assert hole.connections == 2


def test_after_a_commit_on_a_connection_that_died_silently_the_next_one_has_another(
    firestore: ScriptedFirestore, connect: Callable[[str], Documents], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.cloud.documents.COMMIT_SECONDS", 0.5)
    with BlackHole(firestore.host) as hole:
        documents = connect(hole.host)
        documents.commit(Delete(PATH))
        hole.forget()
        with pytest.raises(Unreachable):
            documents.commit(Delete(PATH))
        documents.commit(Delete(PATH))


def test_a_listener_on_a_connection_that_died_silently_gets_another(
    firestore: ScriptedFirestore, connect: Callable[[str], Documents]
) -> None:
    firestore.answers["Listen"] = answers(changed(1), changed(2), changed(3))
    told = threading.Semaphore(0)
    with BlackHole(firestore.host) as hole:
        listener = Listener(connect(hole.host), 1, idle_seconds=0.1, answer_seconds=0.5)
        for _ in range(2):
            leave = listener.watch(PATH, lambda _document: told.release())
            assert told.acquire(timeout=PATIENCE)
            leave()
            hole.forget()


def test_a_call_that_is_slow_is_not_ended_by_another_that_times_out(
    firestore: ScriptedFirestore, connect: Callable[[str], Documents], monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = connect(firestore.host)
    firestore.hold.clear()
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(documents.commit, Delete(PATH))
        monkeypatch.setattr("lib.cloud.channel.TRY_SECONDS", 0.2)
        monkeypatch.setattr("lib.cloud.documents.READ_SECONDS", 0.2)
        with pytest.raises(Unreachable):
            get(documents)
        gc.collect()
        firestore.hold.set()
        assert slow.result(PATIENCE) == []


# Listen streams


def listening(documents: Documents, enough: int) -> list[Change]:
    """The first changes to a listener of target 1."""

    async def targets() -> AsyncIterator[Target]:
        yield Target(1, PATH)
        await asyncio.Event().wait()

    async def listen() -> list[Change]:
        changes = []
        async with asyncio.timeout(PATIENCE), aclosing(documents.listen(targets())) as coming:
            async for change in coming:
                changes.append(change)
                if len(changes) == enough:
                    break
        return changes

    return asyncio.run_coroutine_threadsafe(listen(), listening_loop()).result(PATIENCE)


def changed(target: int) -> Any:
    return rpc.ListenResponse(document_change={"document": {"name": ROOT + PATH}, "target_ids": [target]})


def deleted(target: int) -> Any:
    return rpc.ListenResponse(document_delete={"document": ROOT + PATH, "removed_target_ids": [target]})


def target_change(kind: str, *targets: int, code: int = 0) -> Any:
    return rpc.ListenResponse(
        target_change={"target_change_type": kind, "target_ids": targets, "cause": {"code": code} if code else None}
    )


def news(changes: list[Change]) -> list[bool]:
    """For each change whether the document is there."""
    assert all(list(each.targets) == [1] for each in changes)
    return [each.document is not None for each in changes]


def test_a_document_of_which_only_current_is_told_does_not_exist(
    firestore: ScriptedFirestore, documents: Documents
) -> None:
    firestore.answers["Listen"] = answers(target_change("ADD", 1), target_change("CURRENT", 1), changed(1))
    assert news(listening(documents, 2)) == [False, True]


def test_current_for_all_targets_is_current_for_each_that_was_added(
    firestore: ScriptedFirestore, documents: Documents
) -> None:
    firestore.answers["Listen"] = answers(
        target_change("CURRENT"), target_change("ADD", 1), target_change("CURRENT"), changed(1)
    )
    assert news(listening(documents, 2)) == [False, True]


@pytest.mark.parametrize("told", [changed, deleted])
def test_current_adds_nothing_to_what_was_told(
    firestore: ScriptedFirestore, documents: Documents, told: Callable[[int], Any]
) -> None:
    firestore.answers["Listen"] = answers(
        target_change("ADD", 1),
        told(1),
        target_change("CURRENT", 1),
        target_change("CURRENT"),
        target_change("NO_CHANGE"),
        changed(1),
    )
    assert news(listening(documents, 2)) == [told is changed, True]


@pytest.mark.parametrize("targets", [(1,), ()])
def test_after_a_reset_current_alone_says_that_the_document_is_gone(
    firestore: ScriptedFirestore, documents: Documents, targets: tuple[int, ...]
) -> None:
    firestore.answers["Listen"] = answers(
        target_change("ADD", 1), changed(1), target_change("RESET", *targets), target_change("CURRENT", 1)
    )
    assert news(listening(documents, 2)) == [True, False]


def test_a_target_that_the_server_removes_is_refused_and_not_gone(
    firestore: ScriptedFirestore, documents: Documents
) -> None:
    firestore.answers["Listen"] = answers(target_change("ADD", 1), target_change("REMOVE", 1, code=8))
    assert listening(documents, 1) == [Change([1], None, refused=True)]


def test_a_corrupt_message_breaks_a_listen_stream_and_is_no_error_in_the_log(
    firestore: ScriptedFirestore, documents: Documents, caplog: pytest.LogCaptureFixture
) -> None:
    firestore.answers["Listen"] = lambda _request: iter([b"\xff\xff\xff"])
    with pytest.raises(Unreachable) as broke:
        listening(documents, 1)
    assert broke.value.cause == "a corrupt message"
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
