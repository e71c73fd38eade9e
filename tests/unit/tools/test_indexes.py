"""The Firestore proxy's index rules: which queries are answered from the indexes of a file, and which are refused."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import firestore
from google.cloud.firestore_admin_v1.types import Index
from google.cloud.firestore_v1.base_query import FieldFilter, Or

from local.firestore_proxy.indexes import Indexes, refusal
from local.firestore_proxy.query import needs

ROOT = Path(__file__).resolve().parents[3]
DATABASE = firestore.Client(project="demo", credentials=AnonymousCredentials())
RANKED = {
    "collectionGroup": "posts",
    "queryScope": "COLLECTION",
    "fields": [{"fieldPath": "author", "order": "ASCENDING"}, {"fieldPath": "rank", "order": "DESCENDING"}],
}
TAGGED = {
    "collectionGroup": "posts",
    "queryScope": "COLLECTION",
    "fields": [{"fieldPath": "tags", "arrayConfig": "CONTAINS"}, {"fieldPath": "rank", "order": "DESCENDING"}],
}
OVERRIDES = [
    {"collectionGroup": "posts", "fieldPath": "text", "indexes": []},
    {
        "collectionGroup": "posts",
        "fieldPath": "topic",
        "indexes": [
            {"order": "ASCENDING", "queryScope": "COLLECTION"},
            {"order": "ASCENDING", "queryScope": "COLLECTION_GROUP"},
        ],
    },
    {"collectionGroup": "closed", "fieldPath": "*", "indexes": []},
    {
        "collectionGroup": "closed",
        "fieldPath": "open",
        "indexes": [{"order": "ASCENDING", "queryScope": "COLLECTION"}],
    },
]


@pytest.fixture
def indexes(tmp_path: Path) -> Indexes:
    path = tmp_path / "firestore.indexes.json"
    path.write_text(json.dumps({"indexes": [RANKED, TAGGED], "fieldOverrides": OVERRIDES}))
    return Indexes.read(path)


def where(query: Any, *filters: tuple[str, str, Any]) -> Any:
    for each in filters:
        query = query.where(filter=FieldFilter(*each))
    return query


def posts(*filters: tuple[str, str, Any]) -> Any:
    return where(DATABASE.collection("users/u/posts").limit(9), *filters)


def closed(*filters: tuple[str, str, Any]) -> Any:
    return where(DATABASE.collection("closed").limit(9), *filters)


def answered(indexes: Indexes, query: Any) -> bool:
    return all(indexes.answer(need) for need in needs(query._to_protobuf()._pb))


DESC = firestore.Query.DESCENDING
A, B = ("author", "==", "a"), ("place", "==", "b")

ANSWERED: dict[str, Callable[[], Any]] = {
    "a whole collection": lambda: posts(),
    "an exempted collection, unordered": lambda: closed(),
    "an equality": lambda: posts(A),
    "two equalities, merged": lambda: posts(A, B),
    "an equality and an in": lambda: posts(A, ("place", "in", ["b", "c"])),
    "array-contains and an equality": lambda: posts(A, ("tags", "array_contains", "x")),
    "a range": lambda: posts(("rank", ">", 3)),
    "a range both ways": lambda: posts(("rank", ">", 3), ("rank", "<=", 7)),
    "an order": lambda: posts().order_by("rank"),
    "an order, descending": lambda: posts().order_by("rank", direction=DESC).order_by("__name__", direction=DESC),
    "an equality and the order that a composite index has": lambda: posts(A).order_by("rank", direction=DESC),
    "a range in the order that a composite index has": lambda: posts(A, ("rank", "<", 3)).order_by(
        "rank", direction=DESC
    ),
    "two composite indexes, merged": lambda: posts(A, ("tags", "array_contains", "x")).order_by("rank", direction=DESC),
    "an order by a field that is equal": lambda: posts(A).order_by("author"),
    "a null": lambda: posts(("place", "==", None)),
    "a field of a map": lambda: posts(("map.inner", "==", 1)),
    "an override": lambda: closed(("open", "==", 1)),
    "a group with an index of the group": lambda: where(DATABASE.collection_group("posts"), ("topic", "==", 1)),
    "either of two": lambda: posts().where(filter=Or([FieldFilter(*A), FieldFilter(*B)])),
}
REFUSED: dict[str, Callable[[], Any]] = {
    "an equality and another order": lambda: posts(A).order_by("place"),
    "the composite index's order, reversed": lambda: posts(A).order_by("rank"),
    "another order of names": lambda: posts(A).order_by("rank", direction=DESC).order_by("__name__"),
    "an equality that no index merges with the order": lambda: posts(A, B).order_by("rank", direction=DESC),
    "a range beside an equality": lambda: posts(A, ("place", ">", "b")),
    "two orders": lambda: posts().order_by("rank").order_by("place"),
    "an exempted field": lambda: posts(("text", "==", "x")),
    "an exempted field's order": lambda: posts().order_by("text"),
    "a field of an exempted map": lambda: posts(("text.inner", "==", 1)),
    "an override without that direction": lambda: posts().order_by("topic", direction=DESC),
    "an override without array-contains": lambda: posts(("topic", "array_contains", 1)),
    "an exempted collection": lambda: closed(("other", "==", 1)),
    "an exempted field merged with another": lambda: posts(A, ("text", "==", "x")),
    "a group": lambda: where(DATABASE.collection_group("posts"), ("author", "==", 1)),
    "names, descending": lambda: posts().order_by("__name__", direction=DESC),
    "either of two, one of them exempted": lambda: posts().where(
        filter=Or([FieldFilter(*A), FieldFilter("text", "==", "x")])
    ),
}


@pytest.mark.parametrize("query", ANSWERED.values(), ids=ANSWERED)
def test_a_query_that_indexes_serve_is_answered(indexes: Indexes, query: Callable[[], Any]) -> None:
    assert answered(indexes, query())


@pytest.mark.parametrize("query", REFUSED.values(), ids=REFUSED)
def test_a_query_without_its_index_is_refused(indexes: Indexes, query: Callable[[], Any]) -> None:
    assert not answered(indexes, query())


def test_while_indexes_are_built_only_the_automatic_ones_answer(indexes: Indexes) -> None:
    building = indexes.while_building()
    assert answered(building, posts(A, B))
    assert not answered(building, posts(A).order_by("rank", direction=DESC))
    assert not answered(building, closed(("open", "==", 1)))


def test_a_refusal_names_the_index_and_links_to_where_it_is_made(indexes: Indexes) -> None:
    (need,) = needs(posts(A, B).order_by("rank", direction=DESC)._to_protobuf()._pb)
    said = refusal(need, "demo", building=False)
    begin = "https://console.firebase.google.com/v1/r/project/demo/firestore/indexes?create_composite="
    assert said.startswith(f"The query requires an index. You can create it here: {begin}")
    wanted = Index.deserialize(urlsafe_b64decode(said.partition(begin)[2] + "=="))
    assert [(field.field_path, field.order.name) for field in wanted.fields] == [
        ("author", "ASCENDING"),
        ("place", "ASCENDING"),
        ("rank", "DESCENDING"),
        ("__name__", "DESCENDING"),
    ]
    assert "currently building and cannot be used yet" in refusal(need, "demo", building=True)


def test_a_refusal_of_one_field_says_which(indexes: Indexes) -> None:
    (need,) = needs(posts(("text", "==", "x"))._to_protobuf()._pb)
    assert refusal(need, "demo", building=False).startswith(
        "The query requires a COLLECTION_ASC index for collection posts and field text. You can create it here: https"
    )


def test_the_project_s_own_file_serves_what_the_service_asks() -> None:
    own = Indexes.read(ROOT / "firestore.indexes.json")
    generations = DATABASE.collection("holdfastGenerations")
    newest = {"direction": DESC}
    mine = ("owner", "==", "u")
    for filters in ([], [("chatId", "==", "c")], [("state", "in", ["queued", "streaming"])]):
        query = where(generations, mine, *filters).order_by("createdAt", **newest).order_by("__name__", **newest)
        assert answered(own, query)
    assert answered(own, where(generations, mine, ("state", "in", ["queued"])))
    assert not answered(own, where(generations, mine, ("chatId", "==", "c")))
