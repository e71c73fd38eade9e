"""The index file has exactly what the store's queries need, derived from its queries and writes."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

from lib.cloud.documents import Add, Create, Document, Put, Write
from lib.cloud.store import INLINE_REQUEST_BYTES, Store
from lib.dialects import DIALECTS
from lib.dialects.protocol import folded
from lib.domain import message
from lib.domain.end import End, State
from lib.domain.event import Event
from lib.domain.generation import Generation
from lib.domain.segment import Segment, empty_head
from lib.domain.usage import Booking

ROOT = Path(__file__).resolve().parents[3]
FILE = json.loads((ROOT / "firestore.indexes.json").read_text(encoding="utf-8"))
UP, DOWN = "ASCENDING", "DESCENDING"
NOW = datetime(2026, 1, 2, tzinfo=UTC)
GENERATION = Generation(
    id="a" * 32,
    owner="alice",
    message_path="users/alice/chats/c1/messages/m1",
    chat_id="c1",
    message_id="m1",
    model="demo",
    dialect="chat_completions",
    upstream="default",
    request=b"x" * (INLINE_REQUEST_BYTES + 1),
    request_hash="0" * 64,
    created_at=NOW,
    expire_at=NOW + timedelta(days=7),
    attempt=1,
    booked=Booking(accounts=("alice.day.2026-01-02",), input_tokens=1, output_tokens=1).fields(),
)
SEGMENT = Segment(first=1, last=1, events=b"", text="", attempt=1)


# What an app may query its messages by. All else in a message is long, or of no use in a query.
def group(path: str) -> str:
    """The collection that a document's path lies in."""
    return path.split("/")[-2]


@dataclass(frozen=True)
class Query:
    """A query as far as indexes go: the fields it compares for equality and by range, and its order."""

    collection: str
    equal: frozenset[str]
    ranged: frozenset[str]
    order: str | None
    direction: str

    @property
    def composite(self) -> tuple[str, frozenset[str], str, str] | None:
        """The composite index it needs: collection, the fields it is equal on, and the one it is ordered by."""
        return (self.collection, self.equal, self.order, self.direction) if self.order and self.equal else None

    @property
    def single(self) -> set[tuple[str, str, str]]:
        """The single-field indexes it needs. Firestore joins those of equalities by itself."""
        if self.composite:
            return set()
        ordered = {(self.collection, self.order, self.direction)} if self.order else set()
        return ordered | {(self.collection, field, UP) for field in self.equal}


class Recorder:
    """`Documents` with nothing in it, which keeps what it is asked for and told to write."""

    def __init__(self) -> None:
        self.queries: list[Query] = []
        self.written: list[tuple[str, set[str]]] = []

    def get(self, *paths: str) -> list[Document | None]:
        return [Document(path, GENERATION.fields(), None) for path in paths]

    def query(
        self, collection: str, *, where: Any = (), order: str | None = None, descending: bool = False, **_: Any
    ) -> list[Document]:
        equal = frozenset(field for field, operator, _ in where if operator in ("==", "in"))
        ranged = frozenset(field for field, operator, _ in where if operator in ("<", "<=", ">", ">="))
        assert len(equal) + len(ranged) == len({field for field, _, _ in where}), where
        assert ranged <= {order}, "a range is ordered by its own field first"
        name = collection.rpartition("/")[2]
        self.queries.append(Query(name, equal, ranged, order, DOWN if descending else UP))
        return []

    def counting(self, collection: str, *, where: Any, limit: int, at: Any) -> Callable[[], int]:
        self.query(collection, where=where)
        return lambda: 0

    def commit(self, *writes: Write) -> list[Any]:
        for write in writes:
            if isinstance(write, Create | Put | Add):
                self.written.append((group(write.path), set(write.fields)))
        return [{} if isinstance(write, Add) else None for write in writes]


def queries() -> list[Query]:
    """Every query that the store makes, over all of its parameters."""
    recorder = Recorder()
    store = Store(recorder, timedelta(days=7))  # type: ignore[arg-type]
    for chat_id, states, after in product([None, "c1"], [(), (State.QUEUED,), tuple(State)], [None, "b" * 32]):
        store.list("alice", chat_id=chat_id, states=states, after=after, limit=10)
    store.counting_live("alice", 10)
    store.devices.of("alice")
    store.accounts.of_day("2026-01-02")
    store.accounts.of_user("alice")
    list(store.segments(GENERATION, 0, 10))
    store.delete(GENERATION)
    store.discard_after(GENERATION, 3)
    store.restart(GENERATION, GENERATION, message.opening(GENERATION), empty_head(NOW, NOW))
    return recorder.queries


def written() -> list[tuple[str, set[str]]]:
    """Every kind of document that is written: its collection and its fields."""
    recorder = Recorder()
    store = Store(recorder, timedelta(days=7))  # type: ignore[arg-type]
    head = empty_head(NOW, NOW)
    store.create(GENERATION, message.opening(GENERATION), head)
    store.commit(
        store.head(GENERATION, head, NOW, None),
        store.seal(GENERATION, SEGMENT, NOW),
        store.piece(GENERATION, SEGMENT, 1, NOW),
        store.turns.changed(store.turns.order(GENERATION.message_path), [GENERATION.id], NOW),
    )
    delta = {
        "content": "a",
        "reasoning_content": "b",
        "refusal": "c",
        "tool_calls": [{"index": 0, "id": "d", "function": {"name": "e", "arguments": "f"}}],
        "annotations": ["g"],
    }
    chunk = {"choices": [{"index": index, "delta": delta, "finish_reason": "stop"} for index in (0, 1)]}
    answer = folded(DIALECTS["chat_completions"], [Event(json.dumps(chunk).encode())], 2)
    ended = replace(GENERATION.ended(End(state=State.STOPPED), 1, NOW))
    fields, _ = message.ended(ended, answer.said())
    recorder.commit(Put(GENERATION.message_path, fields))
    store.commit(store.part(GENERATION, message.Part("1-00000", "content", "text")))
    store.chats.claim(GENERATION, NOW)
    return recorder.written


def fields_of(collection: str) -> set[str]:
    """The fields that are written to a collection's documents."""
    return set().union(*(fields for name, fields in written() if name == collection))


def overrides() -> Iterator[tuple[str, str, set[str], bool | None]]:
    for each in FILE["fieldOverrides"]:
        yield each["collectionGroup"], each["fieldPath"], {index["order"] for index in each["indexes"]}, each.get("ttl")


def indexed(collection: str, field: str) -> set[str]:
    """The single-field indexes of a field: its own override's, its collection's, or those that Firestore makes."""
    known = {(name, path): orders for name, path, orders, _ in overrides()}
    return known.get((collection, field), known.get((collection, "*"), {UP, DOWN}))


def test_the_composite_indexes_are_those_that_the_queries_need() -> None:
    there = []
    for index in FILE["indexes"]:
        *equal, (order, direction) = [(field["fieldPath"], field["order"]) for field in index["fields"]]
        assert index["queryScope"] == "COLLECTION"
        assert {each for _, each in equal} == {UP}
        there.append((index["collectionGroup"], frozenset(field for field, _ in equal), order, direction))
    assert len(set(there)) == len(there)
    assert set(there) == {query.composite for query in queries() if query.composite}


def test_the_single_field_indexes_are_those_that_the_queries_need() -> None:
    needed = set().union(*(query.single for query in queries()))
    assert all(direction in indexed(collection, field) for collection, field, direction in needed)
    kept = {(name, field, each) for name, field, orders, _ in overrides() for each in orders}
    assert kept == needed


def test_an_app_that_follows_a_journal_has_its_index() -> None:
    assert UP in indexed("holdfastJournal", "first")


def test_no_field_is_indexed_that_no_query_asks_for() -> None:
    kept = {
        "holdfastJournal": {"first"},
        "holdfastGenerations": {"owner", "state"},
        "holdfastRequest": set(),
        "holdfastTitles": set(),
        "holdfastTurns": set(),
        "holdfastUsage": {"owner", "period"},
    }
    for collection, fields in kept.items():
        assert {field for field in fields_of(collection) if indexed(collection, field)} == fields
    assert not indexed("holdfastParts", "text")


def test_nothing_is_said_of_a_collection_that_an_app_may_have() -> None:
    named = [each["collectionGroup"] for each in FILE["indexes"] + FILE["fieldOverrides"]]
    assert named
    assert all(name.startswith("holdfast") for name in named)


def test_each_exemption_is_of_a_field_that_is_written() -> None:
    for collection, field, _, _ in overrides():
        assert field == "*" or field in fields_of(collection), (collection, field)


def test_an_app_s_own_fields_beside_an_answer_stay_indexed() -> None:
    assert indexed("messages", "theirs") == indexed("holdfastParts", "theirs") == {UP, DOWN}


def test_what_has_an_expiry_is_deleted_by_it_and_no_message_is() -> None:
    expiring = {
        "holdfastGenerations",
        "holdfastJournal",
        "holdfastRequest",
        "holdfastTitles",
        "holdfastTurns",
        "holdfastUsage",
    }
    assert all(("expireAt" in fields) == (name in expiring) for name, fields in written())
    assert {(name, field) for name, field, _, ttl in overrides() if ttl} == {(name, "expireAt") for name in expiring}
    # An index on it would make one place of the database take every write.
    assert not any(indexed(name, "expireAt") for name in expiring)


def test_an_override_of_all_fields_says_nothing_of_expiry() -> None:
    # The API refuses it otherwise: https://github.com/hashicorp/terraform-provider-google/issues/17163
    assert all(ttl is None for _, field, _, ttl in overrides() if field == "*")


def test_the_store_s_queries_are_all_there_are_and_all_recorded() -> None:
    found = set()
    for path in sorted((ROOT / "lib").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
            for node in ast.walk(function):
                if isinstance(node, ast.Attribute) and ast.unparse(node).endswith(
                    ("documents.query", "documents.counting")
                ):
                    found.add(f"{path.stem}.{function.name}")
    assert found == {
        "store.list",
        "store.counting_live",
        "store.segments",
        "store.delete",
        "store.discard_after",
        "store.restart",
        "devices.of",
        "accounts._found",
    }
