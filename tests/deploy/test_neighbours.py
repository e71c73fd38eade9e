"""Holdfast beside an app whose collections have the names that Holdfast's might have: nothing of the app's is touched.

The documents are in Firestore's own emulator, where a whole local stack writes its answers; the rest of the project is
played.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest

from deploy import walk
from local.client import Client, question
from local.ports import Ports
from local.stack import Stack
from tests.conftest import database_of
from tests.deploy.cloud import Cloud
from tests.integration.test_delete_user import below

PATIENCE = 60.0
NAMES = ("journal", "request", "parts", "messages", "generations")
OURS = {
    "holdfastGenerations",
    "holdfastRequest",
    "holdfastJournal",
    "holdfastTitles",
    "holdfastTurns",
    "holdfastUsage",
}


@pytest.fixture(scope="module")
def own_stack() -> Iterator[Stack]:
    """One of its own, since all generations in it are deleted."""
    with Stack(Ports.free(), {"COUNT_USAGE": "on", "TITLE_MODEL": "demo"}) as running:
        yield running


@pytest.fixture
def database(own_stack: Stack) -> Any:
    return database_of(own_stack)


@pytest.fixture
def apps(cloud: Cloud, own_stack: Stack) -> Cloud:
    """A project whose app has a database with indexes, exemptions and expiry on collections of those names."""
    index = {"scope": "COLLECTION_GROUP", "fields": [{"fieldPath": "a", "order": "ASCENDING"}]}
    cloud.change(
        enabled=["firestore.googleapis.com"],
        databases={
            "(default)": {
                "type": "FIRESTORE_NATIVE",
                "composites": {f"theirs-{name}": {"collection": name, **index} for name in NAMES},
                "fields": {f"{name}.content": [] for name in NAMES}
                | {f"{name}.first": ["DESCENDING"] for name in NAMES},
                "expiring": [f"{name}.expireAt" for name in NAMES],
            }
        },
    )
    cloud.firestore = own_stack.firestore_host
    return cloud


def everything(database: Any) -> dict[str, Any]:
    """All documents there are, by path."""
    found: dict[str, Any] = {}
    for collection in database.collections():
        for document in collection.list_documents():
            found |= below(document)
    return found


def documents_of_an_app(user: str) -> dict[str, Any]:
    """At the top, below its own documents, and right beside and below the user's answers."""
    fields = {"a": 1, "content": "the app's", "messagePath": "users/none/messages/none", "owner": user}
    places = ("", "rooms/1/", f"users/{user}/", f"users/{user}/chats/c/", f"users/{user}/messages/own/")
    documents = {f"{place}{name}/{each}": fields for place in places for name in NAMES for each in ("1", "head")}
    documents[f"users/{user}/holdfastDevices/phone"] = {"token": "t", "platform": "ios"}  # which an app registers
    return documents | {f"users/{user}": {"name": "Alice"}, f"users/{user}/chats/c": {"title": "Holidays"}}


def ask(
    client: Client, text: str, tokens: int = 3, chat: str | None = None, turn: str = "parallel", **demo: Any
) -> str:
    headers = {"X_Chat_Id": chat, "X_Turn": turn} if chat else {}
    response = client.complete(question(text, tokens, rate=5000.0, **demo), **headers)
    response.raise_for_status()
    return response.headers["X-Generation-Id"]


def is_ours(path: str) -> bool:
    return bool(set(path.split("/")) & OURS)


def test_an_app_s_own_collections_are_untouched_from_the_deploy_to_the_end(
    apps: Cloud, own_stack: Stack, database: Any
) -> None:
    client = Client(own_stack.url, f"user {uuid.uuid4().hex[:12]}")
    theirs = documents_of_an_app(client.user)
    for path, fields in theirs.items():
        database.document(path).set(fields)
    indexes = deepcopy(apps.state["databases"]["(default)"])

    done = apps.run()
    assert done.code == 0, done.err
    for n in range(3):
        ask(client, f"in a chat {n}", chat="c", turn="queue")
    ask(client, "of a long question" + "." * (70 << 10))
    ask(client, "of a long answer", 800, token_bytes=1000)
    database.document(f"users/{client.user}/chats/d").set({"title": ""})
    ask(client, "in a chat without a title", chat="d")
    client.session.close()
    own_stack.processes["worker"].wait_until(
        lambda: database.document(f"users/{client.user}/chats/d").get().to_dict()["title"], PATIENCE
    )
    made = everything(database)
    kinds = {name: sum(name in path.split("/")[-2] for path in made) for name in OURS}
    assert all(kinds.values()), kinds
    chat = f"users/{client.user}/chats/c"
    theirs[chat] = made[chat]  # a start writes when its last message was

    done = apps.run("destroy", "--yes", "--delete-data")
    assert done.code == 0, done.err
    left = everything(database)
    assert {path for path in left if is_ours(path)} == set()
    # What stays is the app's, and the answers as its users see them, with the parts of their text.
    assert left == {path: fields for path, fields in made.items() if not is_ours(path)}
    assert {path: left[path] for path in theirs} == theirs
    assert any("/holdfastParts/" in path for path in left)

    after = apps.state["databases"]["(default)"]
    assert after["composites"] == indexes["composites"]
    assert after["expiring"] == indexes["expiring"]
    assert {name: orders for name, orders in after["fields"].items() if not name.startswith("holdfast")} == (
        indexes["fields"]
    )


def test_more_than_a_page_is_deleted(apps: Cloud, database: Any) -> None:
    """More documents of one collection, more generations, and more deletions than a request takes."""
    batch = database.batch()
    generations = [f"{n:032x}" for n in range(walk.PAGE + 5)]
    for each in generations:
        path = f"users/u/messages/{each}"
        batch.set(database.document(f"holdfastGenerations/{each}"), {"messagePath": path, "owner": "u"})
        batch.set(database.document(f"{path}/holdfastJournal/head"), {"first": 1, "expireAt": 1})
    batch.commit()
    batch = database.batch()
    for n in range(walk.LISTED + 5):
        batch.set(database.document(f"users/u/messages/{generations[0]}/holdfastJournal/{n + 1}"), {"first": n})
    batch.commit()
    assert apps.run().code == 0
    done = apps.run("destroy", "--yes", "--delete-data")
    assert done.code == 0, done.err
    assert {path for path in everything(database) if is_ours(path)} == set()


def test_what_has_lost_its_generation_is_left_to_its_ttl(apps: Cloud, database: Any) -> None:
    done = apps.run()
    assert done.code == 0, done.err
    orphan = database.document("users/u/messages/m/holdfastJournal/1")
    orphan.set({"first": 1})
    done = apps.run("destroy", "--yes", "--delete-data")
    assert done.code == 0, done.err
    assert orphan.get().exists
    assert "There is something left in holdfastJournal" in done.out
    ours = [each for each in apps.state["databases"]["(default)"]["expiring"] if each.startswith("holdfast")]
    assert ours == ["holdfastJournal.expireAt"]
    orphan.delete()
    assert apps.run("destroy", "--yes", "--delete-data").code == 0
    assert apps.state["databases"]["(default)"]["expiring"] == [f"{name}.expireAt" for name in NAMES]
