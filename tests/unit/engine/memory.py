"""An in-memory Firestore with what an attempt uses, and a claimed generation in it.

Calls are recorded in `calls`. Tests may set `before` and `after`, which may block or raise.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from lib.cloud.documents import Add, Create, Delete, Document, Documents, Exists, Patch, Put, Stale, Write
from lib.cloud.store import Store
from lib.domain import message
from lib.domain.event import Event
from lib.domain.generation import Generation
from lib.domain.message_path import message_path
from lib.domain.segment import empty_head
from lib.journal.codec import replay
from lib.journal.writer import GIVE_UP_SECONDS, Journal

PATIENCE = 20.0  # seconds that a failing test waits; a passing one never does
LEASE = timedelta(seconds=15)
RETENTION = timedelta(days=7)
NEEDED = {  # settings that have no default
    "GOOGLE_CLOUD_PROJECT": "demo-holdfast",
    "WORKER_URL": "http://127.0.0.1:8081",
    "TASKS_INVOKER": "invoker@demo-holdfast.iam.gserviceaccount.com",
    "UPSTREAM_MODELS": "*",
}


class MemoryDocuments:
    """As `Documents`. `before` and `after` are called with `"commit"`, `"batch"`, or `"write"` for each of a batch."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._there: dict[str, Document] = {}
        self._version = 0
        self.calls: list[tuple[str, list[str]]] = []
        self.before: Callable[[str, Sequence[Write]], None] = lambda _what, _writes: None
        self.after: Callable[[str, Sequence[Write]], None] = lambda _what, _writes: None
        self.before_get: Callable[[], None] = lambda: None

    def paths(self) -> list[str]:
        with self._lock:
            return list(self._there)

    def lose(self, path: str) -> None:
        """Deletes a document without any check."""
        with self._lock:
            del self._there[path]

    def get(self, *paths: str, select: Sequence[str] = ()) -> list[Document | None]:
        self.before_get()
        with self._lock:
            return [self._there.get(path) for path in paths]

    def query(
        self,
        collection: str,
        *,
        where: Iterable[tuple[str, str, Any]] = (),
        order: str | None = None,
        descending: bool = False,
        after: Document | None = None,
        limit: int | None = None,
        select: Iterable[str] | None = None,
    ) -> list[Document]:
        compare: dict[str, Callable[[Any, Any], bool]] = {"<": lambda a, b: a < b, "<=": lambda a, b: a <= b}
        compare |= {">=": lambda a, b: a >= b, "==": lambda a, b: a == b, ">": lambda a, b: a > b}

        def place(document: Document) -> tuple[Any, str]:
            return document.fields[order] if order else 0, document.path

        with self._lock:
            found = [
                each
                for path, each in self._there.items()
                if path.rpartition("/")[0] == collection
                and not path.endswith("/head")
                and all(compare[operator](each.fields[field], value) for field, operator, value in where)
            ]
        found.sort(key=place, reverse=descending)
        if after is not None:
            found = [each for each in found if place(each) > place(after)]
        return [_selected(each, select) for each in found[:limit]]

    def commit(self, *writes: Write) -> list[Any]:
        self.calls.append(("commit", [write.path for write in writes]))
        self.before("commit", writes)
        done = self._do(writes)
        self.after("commit", writes)
        return done

    def batch(self, writes: Sequence[Write]) -> list[Any]:
        self.calls.append(("batch", [write.path for write in writes]))
        self.before("batch", writes)
        outcomes = [self._alone(write) for write in writes]
        self.after("batch", writes)
        return outcomes

    def _alone(self, write: Write) -> Any:
        try:
            self.before("write", [write])
            (version,) = self._do([write])
            self.after("write", [write])
            return version
        except Exception as error:
            return error

    def _do(self, writes: Sequence[Write]) -> list[int]:
        with self._lock:
            for write in writes:
                there = self._there.get(write.path)
                if isinstance(write, Create) and there is not None:
                    raise Exists
                if isinstance(write, Patch) and there is None:
                    raise Stale
                known = write.version if isinstance(write, Put | Patch) else None
                if known is not None and (there is None or there.version != known):
                    raise Stale
            self._version += 1
            for write in writes:
                if isinstance(write, Delete):
                    self._there.pop(write.path, None)
                    continue
                there = self._there.get(write.path)
                kept = there.fields if there is not None and isinstance(write, Patch | Add) else {}
                added = write.added if isinstance(write, Add) else {}
                sums = {name: kept.get(name, 0) + number for name, number in added.items()}
                self._there[write.path] = Document(write.path, {**kept, **write.fields, **sums}, self._version)
            return [self._version] * len(writes)


def _selected(document: Document, select: Iterable[str] | None) -> Document:
    if select is None:
        return document
    return Document(document.path, {name: document.fields[name] for name in select}, document.version)


class Claimed:
    """A generation in a store, and the journal of the attempt that holds it."""

    def __init__(
        self,
        documents: MemoryDocuments,
        journal: type[Journal] = Journal,
        *,
        patience: float = GIVE_UP_SECONDS,
        **fields: Any,
    ):
        self.store = Store(cast(Documents, documents), RETENTION)
        self.generation = new_generation(**fields)
        head = empty_head(now(), now() + LEASE)
        self.store.create(self.generation, message.opening(self.generation), head)
        found = self.store.read_head(self.generation)
        assert found is not None
        self.journal = journal(
            self.store, self.generation, found, claims=1, lease=LEASE, clock=now, give_up_seconds=patience
        )
        self.journal.claim()

    @property
    def head_path(self) -> str:
        return self.generation.head_path

    def saved(self) -> list[Event]:
        """The events that the journal has."""
        head = self.store.read_head(self.generation)
        assert head is not None
        return list(replay(self.store, self.generation, head))


def new_generation(**fields: Any) -> Generation:
    generation_id = uuid.uuid4().hex
    created = now()
    return Generation(
        **{
            "id": generation_id,
            "owner": "user",
            "message_path": message_path("user", "chat", generation_id),
            "chat_id": "chat",
            "message_id": generation_id,
            "model": "demo",
            "dialect": "chat_completions",
            "upstream": "default",
            "request": b'{"model":"demo","stream":true,"messages":[{"role":"user","content":"Hi"}]}',
            "request_hash": "hash",
            "created_at": created,
            "expire_at": created + RETENTION,
            **fields,
        }
    )


def now() -> datetime:
    return datetime.now(UTC)


def eventually(condition: Callable[[], Any]) -> None:
    """Polls until a condition holds."""
    tries = int(PATIENCE / 0.002)
    pause = threading.Event()
    while not condition():
        tries -= 1
        assert tries > 0, "it did not come to be"
        pause.wait(0.002)
