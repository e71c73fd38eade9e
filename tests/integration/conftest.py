"""Shared fixtures for tests with Firestore: the session's emulator, faults on demand, waits with a time limit."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import grpc
import orjson
import pytest
import requests
from google.cloud import firestore

from lib.cloud.documents import Document, Documents
from lib.cloud.listen import TARGETS_PER_EMULATOR_STREAM, Listener, Watch
from lib.cloud.store import Store
from lib.domain import message
from lib.domain.errors import Unreachable
from lib.domain.event import Event
from lib.domain.generation import Generation
from lib.domain.message_path import message_path
from lib.domain.segment import empty_head
from lib.domain.task import Task
from lib.engine.claim import Claim, RanOut, claim
from lib.journal.codec import Entry, record
from lib.journal.writer import Fenced
from local.demo_text import token
from local.ports import Ports
from local.stack import Stack
from local.token import PROJECT

PATIENCE = 30.0  # seconds that a failing test waits; a passing one never does
RETENTION = timedelta(days=7)
LEASE = timedelta(seconds=15)
MAX_ATTEMPTS = 5


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, by: timedelta) -> None:
        self.now += by


class Watcher:
    """Keeps what a listener calls back with, and waits for it."""

    def __init__(self) -> None:
        self.seen: list[Document | None] = []
        self._changed = threading.Condition()

    def __call__(self, document: Document | None) -> None:
        with self._changed:
            self.seen.append(document)
            self._changed.notify_all()

    def until(self, condition: Callable[[list[Document | None]], Any]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self.seen), PATIENCE), f"{len(self.seen)} changes came"

    def until_last(self, field: str, value: Any) -> None:
        """Waits until the document as it was seen last has this value."""
        self.until(lambda seen: seen and seen[-1] is not None and seen[-1].fields.get(field) == value)


class FaultyDocuments:
    """The database, with a count of what it is asked and with faults that a test asks for.

    `fail` concerns the next commit that `having` is true of: with `lost`, it is done and only its answer is lost.
    """

    def __init__(self, documents: Documents):
        self._documents = documents
        self._faults: list[tuple[Callable[[Sequence[Any]], bool], bool, Exception]] = []
        self.asked: Counter[str] = Counter()
        self.failed = 0

    def fail(
        self,
        *,
        having: Callable[[Sequence[Any]], bool] = lambda _writes: True,
        lost: bool = False,
        error: Exception | None = None,
        times: int = 1,
    ) -> None:
        self._faults += [(having, lost, error or Unreachable("as the test asked"))] * times

    def mend(self) -> None:
        """Takes back the faults that have not struck."""
        self._faults.clear()

    def commit(self, *writes: Any) -> Any:
        self.asked["commit"] += 1
        for fault in self._faults:
            having, lost, error = fault
            if having(writes):
                self._faults.remove(fault)
                self.failed += 1
                if lost:
                    self._documents.commit(*writes)
                raise error
        return self._documents.commit(*writes)

    def batch(self, writes: Sequence[Any]) -> list[Any]:
        return [self._outcome(write) for write in writes]

    def _outcome(self, write: Any) -> Any:
        try:
            return self.commit(write)[0]
        except Exception as error:
            return error

    def __getattr__(self, name: str) -> Any:
        def asked(*args: Any, **named: Any) -> Any:
            self.asked[name] += 1
            return getattr(self._documents, name)(*args, **named)

        return asked


@pytest.fixture(scope="session")
def connect(stack: Stack) -> Callable[..., Documents]:
    """A new `Documents` of the session's Firestore, as the functions reach it, or of another host."""

    def connect(host: str = stack.functions_firestore_host) -> Documents:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FIRESTORE_EMULATOR_HOST", host)
            return Documents(PROJECT, emulator=host)

    return connect


@pytest.fixture(scope="session")
def documents(connect: Callable[..., Documents]) -> Documents:
    return connect()


@pytest.fixture
def unhurried(stack: Stack) -> Iterator[None]:
    """Firestore without latency and write budget, for a test that writes hundreds of versions one after the other."""
    if stack.strict is None:
        yield
        return
    waits = ("commit_latency", "read_latency", "listen_latency")
    strict = {name: stack.strict.firestore.get(name) for name in waits}
    strict["budget"] = stack.strict.firestore.get("budget", 0)
    requests.post(stack.firestore_faults_url, json={**dict.fromkeys(waits), "budget": 0}, timeout=PATIENCE)
    yield
    requests.post(stack.firestore_faults_url, json=strict, timeout=PATIENCE).raise_for_status()


@pytest.fixture
def faulty(documents: Documents) -> FaultyDocuments:
    return FaultyDocuments(documents)


@pytest.fixture
def store(documents: Documents) -> Store:
    return Store(documents, RETENTION)


@pytest.fixture
def store_over() -> Callable[[Any], Store]:
    return lambda documents: Store(documents, RETENTION)


@pytest.fixture(scope="session")
def nobody() -> str:
    """A host and port that nothing listens on."""
    return f"127.0.0.1:{Ports.free().api_port}"


@pytest.fixture(scope="session")
def under(database: firestore.Client) -> Callable[[str], list[str]]:
    """The paths of a document and of everything below it, of what exists."""

    def found(reference: Any) -> Iterator[str]:
        if reference.get().exists:
            yield reference.path
        for collection in reference.collections():
            for document in collection.list_documents():
                yield from found(document)

    return lambda path: list(found(database.document(path)))


@pytest.fixture(scope="session")
def generations_there(database: firestore.Client) -> Callable[[], set[str]]:
    """The ids of all generations with any document, even only a part of a request."""
    return lambda: {reference.id for reference in database.collection("holdfastGenerations").list_documents()}


@pytest.fixture
def uid() -> str:
    """A user of the test's own."""
    return f"user-{uuid.uuid4().hex}"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watcher() -> Callable[[], Watcher]:
    return Watcher


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any]], None]:
    """Polls until a condition holds."""

    def eventually(condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, "it did not come to be"
            threading.Event().wait(0.01)

    return eventually


@pytest.fixture
def together() -> Callable[..., list[Any]]:
    """Runs functions in parallel threads. Returns their results, or raises the first error."""

    def together(*works: Callable[[], Any]) -> list[Any]:
        results: list[Any] = [None] * len(works)
        errors: list[BaseException] = []

        def run(index: int, work: Callable[[], Any]) -> None:
            try:
                results[index] = work()
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=run, args=each, daemon=True) for each in enumerate(works)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 2 * PATIENCE
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if errors:
            raise errors[0]
        assert not any(thread.is_alive() for thread in threads), "a thread did not end"
        return results

    return together


@pytest.fixture
def listeners() -> list[Listener]:
    """Those that `listener_over` has made."""
    return []


@pytest.fixture
def streams(listeners: list[Listener]) -> Callable[[], int]:
    """How many streams the test's listeners have open."""
    return lambda: sum(listener.streams for listener in listeners)


@pytest.fixture
def listener_over(
    listeners: list[Listener], streams: Callable[[], int], eventually: Callable[..., None]
) -> Iterator[Callable[..., Listener]]:
    """A listener of the test's own, over some documents; its streams end with the test."""
    unwatches: list[Callable[[], None]] = []

    class Kept(Listener):
        def __init__(self, *given: Any, **more: Any):
            super().__init__(*given, **more)
            listeners.append(self)

        def watch(self, path: str, on_change: Any) -> Watch:
            unwatch = super().watch(path, on_change)
            unwatches.append(unwatch)
            return unwatch

    yield partial(Kept, idle_seconds=0.1)
    for unwatch in unwatches:
        unwatch()
    eventually(lambda: streams() == 0)


@pytest.fixture
def listener(listener_over: Callable[..., Listener], documents: Documents) -> Listener:
    """As with the emulator: one document per stream."""
    return listener_over(documents, TARGETS_PER_EMULATOR_STREAM)


@pytest.fixture
def begin(store: Store, clock: Clock, uid: str) -> Callable[..., Generation]:
    """Creates a generation as a start leaves it: generation, message and head."""

    def begin(chat_id: str | None = "chat", **fields: Any) -> Generation:
        generation_id = uuid.uuid4().hex
        now = clock()
        generation = Generation(
            **{
                "id": generation_id,
                "owner": uid,
                "message_path": message_path(uid, chat_id, generation_id),
                "chat_id": chat_id,
                "message_id": generation_id,
                "model": "demo",
                "dialect": "chat_completions",
                "upstream": "default",
                "request": b'{"model":"demo"}',
                "request_hash": "hash",
                "created_at": now,
                "expire_at": now + RETENTION,
                **fields,
            }
        )
        store.create(generation, message.opening(generation), empty_head(now, now + timedelta(minutes=30)))
        return generation

    return begin


@pytest.fixture
def hold(store: Store, clock: Clock) -> Callable[..., Claim]:
    """Claims a generation as a worker does. Errors: `Held`; `Fenced` where it has ended."""

    def hold(generation: Generation, over: Store = store, lease: timedelta = LEASE) -> Claim:
        task = Task(generation.id, generation.message_path)
        try:
            held = claim(over, task, lease, clock, lambda *_: MAX_ATTEMPTS)
        except RanOut as ran_out:
            held = claim(over, task, lease, clock, lambda *_: MAX_ATTEMPTS, ran_out.version)
        if not isinstance(held, Claim):
            raise Fenced
        return held

    return hold


@pytest.fixture
def entry() -> Callable[..., Entry]:
    """The event number `seq`, a chunk with `text`; with `noise`, it has that many characters besides."""

    def entry(seq: int, text: str, noise: str = "") -> Entry:
        chunk = {"choices": [{"index": 0, "delta": {"content": text}}]} | ({"pad": noise} if noise else {})
        return Entry(seq, record(Event(orjson.dumps(chunk))), text)

    return entry


@pytest.fixture
def entries(entry: Callable[..., Entry]) -> Callable[..., list[Entry]]:
    """Events `first` to `last`, no two of the same text, each of at least `size` bytes of text."""
    return lambda first, last, size=0: [entry(seq, token("demo", seq, size)) for seq in range(first, last + 1)]


@pytest.fixture
def own_channel() -> Iterator[Callable[[str], grpc.Channel]]:
    """A channel to a host, closed when the test is over."""
    channels: list[grpc.Channel] = []

    def open_channel(host: str) -> grpc.Channel:
        channels.append(grpc.insecure_channel(host))
        return channels[-1]

    yield open_channel
    for channel in channels:
        channel.close()
