"""Messages at another path: shared conversations, whose members read the answers, and may ask.

The service, the security rules, the web SDK and the page run as they are for the default path.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from lib.domain.message_path import valid_message_path
from local.client import Client, question
from local.demo_text import seed_of, text
from local.ports import Ports
from local.process import Process
from local.stack import ROOT, Stack
from local.token import id_token
from operations.rules import rules
from tests.conftest import database_of
from tests.e2e.browsing import browse
from tests.e2e.web_sdk import WEB, Attempt, WebSdk

SETTINGS = {"MESSAGE_PATH": "conversations/{chat}/turns/{message}", "CHAT_MEMBERS": "members"}
CHAT = "followed"
READY_SECONDS = 60.0
PATIENCE = 30.0  # seconds that a failing test waits; a passing one never does
DENIED = "permission-denied"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A local stack of its own, since its rules are others."""
    environ = {name: value for name, value in os.environ.items() if not name.endswith("_PORT")}
    with Stack(Ports.free(), SETTINGS, environ) as running:
        yield running


@pytest.fixture(scope="module")
def database(stack: Stack) -> Any:
    return database_of(stack)


@pytest.fixture(scope="module")
def put_rules(stack: Stack) -> Callable[[str], WebSdk]:
    """Sets rules for another project in the same emulator, and gives its SDK."""

    def put_rules(content: str) -> WebSdk:
        project = f"demo-{uuid.uuid4().hex[:12]}"
        url = f"http://{stack.firestore_host}/emulator/v1/projects/{project}:securityRules"
        rules = {"rules": {"files": [{"name": "firestore.rules", "content": content}]}}
        answer = requests.put(url, json=rules, timeout=READY_SECONDS)
        assert answer.status_code == 200, answer.text
        return WebSdk(stack, project)

    return put_rules


@pytest.fixture(scope="module")
def sdk(stack: Stack) -> WebSdk:
    assert (WEB / "node_modules").is_dir(), "The web SDK is not there: run './local/setup.sh tests'."
    return WebSdk(stack, path_of=lambda _user, message: f"conversations/{CHAT}/turns/{message}")


@pytest.fixture
def user_of(stack: Stack) -> Iterator[Callable[[], Client]]:
    clients: list[Client] = []

    def user_of() -> Client:
        clients.append(Client(stack.url, f"user-{uuid.uuid4().hex[:12]}"))
        return clients[-1]

    yield user_of
    for client in clients:
        client.session.close()


@pytest.fixture
def members(user_of: Callable[[], Client], database: Any) -> tuple[Client, Client]:
    """Two users in the conversation."""
    both = (user_of(), user_of())
    database.document(f"conversations/{CHAT}").set({"members": [each.user for each in both]})
    return both


@pytest.fixture
def kept(members: tuple[Client, Client], database: Any) -> list[str]:
    """The documents of a whole answer that its conversation's members may read."""
    asked = question("shared", 1_000, rate=0, token_bytes=1_000)
    with members[0].stream(asked, X_Chat_Id=CHAT, X_Message_Id=uuid.uuid4().hex) as stream:
        assert [frame.data for frame in stream.frames()][-1] == "[DONE]"
    message = database.document(f"holdfastGenerations/{stream.generation}").get().get("messagePath")
    part = database.document(message).get().get("parts")[0]
    paths = [
        message,
        f"{message}/holdfastJournal/head",
        f"{message}/holdfastJournal/1",
        f"{message}/holdfastParts/{part}",
    ]
    assert message.startswith(f"conversations/{CHAT}/turns/")
    assert all(database.document(path).get().exists for path in paths)
    return paths


def reads(paths: list[str], user: str | None) -> list[Attempt]:
    return [
        *[Attempt(user, action, path) for path in paths for action in ("get", "listen")],
        *[Attempt(user, action, path.rpartition("/")[0]) for path in paths for action in ("list", "follow")],
        Attempt(user, "ordered", f"{paths[0]}/holdfastJournal"),
    ]


def test_every_member_reads_the_message_its_journal_and_its_parts(
    sdk: WebSdk, members: tuple[Client, Client], kept: list[str]
) -> None:
    for member in members:
        assert set(sdk.outcomes(reads(kept, member.user))) == {"ok"}


@pytest.mark.parametrize("user", ["stranger", None], ids=["a stranger", "nobody"])
def test_no_one_else_reads_any_of_it(sdk: WebSdk, kept: list[str], user: str | None) -> None:
    assert set(sdk.outcomes(reads(kept, user))) == {DENIED}


def test_a_member_who_has_left_reads_nothing_any_more(
    sdk: WebSdk, members: tuple[Client, Client], kept: list[str], database: Any
) -> None:
    database.document(f"conversations/{CHAT}").update({"members": {members[0].user: True}})
    assert set(sdk.outcomes(reads(kept, members[0].user))) == {"ok"}
    assert set(sdk.outcomes(reads(kept, members[1].user))) == {DENIED}


def test_members_write_nothing_of_it_and_read_nothing_else(
    sdk: WebSdk, members: tuple[Client, Client], kept: list[str], database: Any
) -> None:
    generation = f"holdfastGenerations/{database.document(kept[0]).get().get('generationId')}"
    for member in members:
        attempts = [
            *[Attempt(member.user, action, path, {"text": "mine"}) for path in kept for action in ("update", "set")],
            *[Attempt(member.user, "delete", path) for path in kept],
            Attempt(member.user, "set", f"conversations/{CHAT}/turns/new", {"role": "user"}),
            Attempt(member.user, "update", f"conversations/{CHAT}", {"members": []}),
            Attempt(member.user, "get", generation),
            Attempt(member.user, "get", f"conversations/{CHAT}"),
        ]
        assert set(sdk.outcomes(attempts)) == {DENIED}


@pytest.mark.parametrize(
    "path", ["rooms-2/{chat}/_turns/{message}", "0teams/all/my_rooms/{chat}/turns-/{message}", "-/{chat}/1/{message}"]
)
def test_rules_are_valid_for_every_name_that_a_path_may_have(
    stack: Stack, put_rules: Callable[[str], WebSdk], path: str
) -> None:
    assert valid_message_path(path)
    sdk = put_rules(rules(path, "_members1"))
    message = path.format(chat="c", message="m")
    database = database_of(stack, sdk.project)
    database.document(message.rsplit("/", 2)[0]).set({"_members1": ["alice"]})
    database.document(message).set({"role": "assistant"})
    attempts = [Attempt(user, "get", message) for user in ("alice", "bob")]
    assert sdk.outcomes(attempts) == ["ok", DENIED]


def test_rules_below_a_user_are_their_own(stack: Stack, put_rules: Callable[[str], WebSdk]) -> None:
    sdk = put_rules(rules("people/{uid}/talks/{chat}/turns/{message}"))
    message = "people/alice/talks/c/turns/m"
    attempts = [Attempt(user, action, message) for user in ("alice", "bob", None) for action in ("get", "listen")]
    assert sdk.outcomes(attempts) == ["ok", "ok", DENIED, DENIED, DENIED, DENIED]


def test_the_documented_client_follows_an_answer_in_a_shared_conversation(
    sdk: WebSdk, members: tuple[Client, Client]
) -> None:
    asked = question("followed by a member", 80, rate=40)
    *shown, last = sdk.follow(members[0].user, uuid.uuid4().hex, asked)
    assert last["message"]["state"] == "completed"
    assert last["message"]["content"] == text(seed_of(asked["messages"]), 80)
    assert len({each["text"] for each in shown}) > 1


def test_the_conversation_knows_when_its_last_answer_came(members: tuple[Client, Client], database: Any) -> None:
    answered = members[0].complete(question("when", 3, rate=0), X_Chat_Id=CHAT)
    assert answered.status_code == 200
    deadline = time.monotonic() + PATIENCE
    while "lastMessageAt" not in (kept := database.document(f"conversations/{CHAT}").get().to_dict()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert kept == {"members": [each.user for each in members], "lastMessageAt": kept["lastMessageAt"]}


def test_a_stranger_starts_nothing_in_a_conversation_by_any_protocol(
    user_of: Callable[[], Client], members: tuple[Client, Client], database: Any
) -> None:
    stranger = user_of()
    asked = {"model": "demo", **question("let me in", 3)}
    plain = stranger.complete(asked, X_Chat_Id=CHAT, X_Message_Id="theirs")
    assert (plain.status_code, plain.json()["error"]["code"]) == (404, "chat_not_found")
    called = stranger.request("POST", "/", json={"data": {**asked, "chatId": CHAT, "messageId": "theirs"}})
    assert (called.status_code, called.json()["error"]["status"]) == (404, "NOT_FOUND")
    assert not database.document(f"conversations/{CHAT}/turns/theirs").get().exists
    assert list(stranger.list()) == []


def test_a_message_of_no_chat_lies_with_its_user_as_ever(
    sdk: WebSdk, user_of: Callable[[], Client], database: Any
) -> None:
    client = user_of()
    generation = client.complete(question("alone", 3, rate=0)).headers["X-Generation-Id"]
    path = f"users/{client.user}/messages/{generation}"
    assert database.document(path).get().get("state") == "completed"
    assert sdk.outcomes([Attempt(client.user, "get", path), Attempt("stranger", "get", path)]) == ["ok", DENIED]


def test_the_page_follows_an_answer_in_a_shared_conversation(
    stack: Stack, members: tuple[Client, Client], database: Any, tmp_path: Path
) -> None:
    me = members[0]
    command = [sys.executable, "-m", "local.web", "--port", "0", "--api-url", stack.url]
    served = Process("web", command, os.environ, tmp_path, ROOT)
    try:
        served.wait_until(lambda: "ready " in served.printed and "\n" in served.printed, READY_SECONDS)
        url = served.printed.split("ready ")[1].split()[0]
        order = {
            "url": url,
            "api": stack.url,
            "upstream": stack.upstream_url,
            "user": me.user,
            "token": id_token(me.user),
        }
        (seen,) = browse("inChat", **order, chat=CHAT, question="What do we have?", tokens=400, rate=200)
    finally:
        served.kill()
    (generation,) = me.list()
    message = database.document(f"conversations/{CHAT}/turns/{generation['messageId']}").get()
    assert seen["text"] == message.get("content")
    assert seen["seams"] == 1, "the page was reloaded amid the answer"
