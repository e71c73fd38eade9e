"""Deleting a user deletes all of Holdfast's data for that user, and nothing of other users or the application."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from google.cloud.firestore_v1.base_query import FieldFilter

from lib.domain.turn import turns_path
from local.client import Client, question
from local.ports import free_port
from local.stack import Stack
from local.token import PROJECT
from operations.delete_user import KINDS, main

PATIENCE = 30.0
QUICK = 5000.0

Run = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def run(stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command: its exit status, and the lines it printed."""
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", stack.firestore_host)

    def run(*argv: str) -> tuple[int, list[str]]:
        status = main([*argv, "--project", PROJECT])
        said = capsys.readouterr()
        return status, (said.out + said.err).splitlines()

    return run


@pytest.fixture
def other(stack: Stack) -> Iterator[Client]:
    client = Client(stack.url, f"user-{uuid.uuid4().hex[:12]}")
    yield client
    client.session.close()


def counts(lines: list[str]) -> dict[str, int]:
    found = {line[9:]: int(line[:8].replace(",", "")) for line in lines[: len(KINDS)]}
    assert tuple(found) == KINDS
    return found


def below(document: Any) -> dict[str, Any]:
    """A document and all that lies below it, by path; those that are not there have none."""
    snapshot = document.get()
    found = {document.path: snapshot.to_dict()} if snapshot.exists else {}
    for collection in document.collections():
        for each in collection.list_documents():
            found |= below(each)
    return found


def everything(database: Any, user: str) -> dict[str, Any]:
    """All that is kept of a user, whosever it is."""
    found = below(database.document(f"users/{user}"))
    of_user = FieldFilter("owner", "==", user)
    for generation in database.collection("holdfastGenerations").where(filter=of_user).stream():
        found |= below(generation.reference)
        if generation.get("turn"):
            found |= below(database.document(turns_path(generation.get("messagePath"))))
    for account in database.collection("holdfastUsage").where(filter=of_user).stream():
        found |= below(account.reference)
    return found


def ask(
    client: Client, text: str, tokens: int = 3, chat: str | None = None, turn: str = "parallel", **demo: Any
) -> str:
    headers = {"X_Chat_Id": chat, "X_Turn": turn} if chat else {}
    response = client.complete(question(text, tokens, **{"rate": QUICK, **demo}), **headers)
    response.raise_for_status()
    return response.headers["X-Generation-Id"]


def what_an_app_keeps(database: Any, user: str, chat: str) -> dict[str, Any]:
    """Documents of the app's own, some of them right beside the answers."""
    documents = {
        f"users/{user}": {"name": "Alice"},
        f"users/{user}/chats/{chat}": {"title": "Holidays"},
        f"users/{user}/chats/{chat}/messages/asked": {"role": "user", "content": "Hi", "generationId": None},
        f"users/{user}/chats/{chat}/messages/asked/holdfastParts/1": {"field": "content", "text": "the app's"},
        f"users/{user}/chats/{chat}/notes/1": {"text": "a note"},
        f"users/{user}/messages/own": {"role": "user", "content": "Hi"},
        f"users/{user}/messages/own/holdfastJournal/head": {"first": 1},
        f"users/{user}/settings/colours": {"dark": True},
    }
    for path, fields in documents.items():
        database.document(path).set(fields)
    return documents


def test_all_that_is_kept_of_a_user_goes_and_nothing_else_does(
    client: Client, other: Client, database: Any, run: Run
) -> None:
    kept = what_an_app_keeps(database, client.user, "holidays")
    ask(client, "in a chat that there is", chat="holidays")
    ask(client, "in a chat that nobody made", chat="unmade")
    for n in range(2):
        ask(client, f"in turn {n}", chat="in turn", turn="queue")
    ask(client, "in no chat" + "." * (70 << 10))
    ask(client, "too long for one document", 800, token_bytes=1000)
    of_another = ask(other, "of another", chat="holidays", turn="reject")
    chat = database.document(f"users/{client.user}/chats/holidays").get().to_dict()
    kept[f"users/{client.user}/chats/holidays"] = chat  # a start writes when its last message was
    for user in (client.user, other.user):
        device = {"token": "t", "platform": "web", "createdAt": datetime.now(UTC)}
        database.document(f"users/{user}/holdfastDevices/phone").set(device)
        for chat in ("holidays", "deleted"):
            claim = database.document(f"users/{user}/chats/{chat}/holdfastTitles/claim")
            claim.set({"claimedAt": datetime.now(UTC), "expireAt": datetime.now(UTC)})
        for period, name in (("2026-01", "month"), ("2026-01-02", "day")):
            counted = {"owner": user, "period": period, "inputTokens": 3}
            database.document(f"holdfastUsage/{user}.{name}.{period}").set(counted)
    before, others = everything(database, client.user), everything(database, other.user)
    assert f"holdfastGenerations/{of_another}" in others

    status, lines = run(client.user)
    assert (status, lines[-1]) == (0, "Nothing was deleted. To delete it for good: --delete")
    assert everything(database, client.user) == before
    found = counts(lines)
    assert all(found.values())
    assert sum(found.values()) == len(before) - len(kept)

    status, lines = run(client.user, "--delete")
    assert (status, counts(lines), lines[-1]) == (0, found, "Deleted.")
    assert everything(database, client.user) == kept
    assert everything(database, other.user) == others

    status, lines = run(client.user, "--delete")
    assert (status, set(counts(lines).values()), lines[-1]) == (0, {0}, "Deleted.")
    assert everything(database, client.user) == kept


def test_an_answer_whose_generation_or_message_is_gone_already_goes_too(
    client: Client, database: Any, run: Run
) -> None:
    for text in ("its generation expired", "its message was deleted"):
        generation = database.document(f"holdfastGenerations/{ask(client, text, 800, chat='c', token_bytes=1000)}")
        if "message" in text:
            database.document(generation.get().get("messagePath")).delete()
        generation.delete()
    status, lines = run(client.user, "--delete")
    assert status == 0
    found = counts(lines)
    assert (found["generations"], found["answers"]) == (0, 1)
    assert found["answer parts"] >= 2
    assert everything(database, client.user) == {}


SHARED = "conversations/{chat}/turns/{message}"
PEOPLE = "people/{uid}/talks/{chat}/turns/{message}"


@pytest.fixture(scope="module")
def elsewhere(stack: Stack) -> Iterator[dict[str, str]]:
    """Functions of other message paths: the URL of each path's."""
    paths = {SHARED: {"CHAT_MEMBERS": "members"}, PEOPLE: {}}
    yield {
        path: stack.add_functions(f"elsewhere{n}", {**more, "MESSAGE_PATH": path})
        for n, (path, more) in enumerate(paths.items())
    }
    stack.end(*(f"elsewhere{n}-{function}" for n in range(len(paths)) for function in ("api", "worker")))


@pytest.fixture
def client_at(elsewhere: dict[str, str], client: Client) -> Callable[[str], Client]:
    """The user, at the functions of another message path."""
    return lambda path: Client(elsewhere[path], client.user)


def test_answers_in_shared_chats_go_and_those_of_others_stay(
    client_at: Callable[[str], Client], other: Client, elsewhere: dict[str, str], database: Any, run: Run
) -> None:
    client, other = client_at(SHARED), Client(elsewhere[SHARED], other.user)
    conversation = database.document(f"conversations/{uuid.uuid4().hex}")
    conversation.set({"members": [client.user, other.user]})
    conversation.collection("turns").document("asked").set({"role": "user", "content": "Hi"})
    ask(other, "of another", chat=conversation.id)
    kept = below(conversation)
    ask(client, "too long for one document", 800, chat=conversation.id, token_bytes=1000)
    deleted = database.document(f"holdfastGenerations/{ask(client, 'deleted', chat=conversation.id)}")
    database.document(deleted.get().get("messagePath")).delete()
    ask(client, "in no chat")

    before = below(conversation)
    status, lines = run(client.user, "--message-path", SHARED)
    found = counts(lines)
    assert (status, found["answers"], found["generations"]) == (0, 2, 3)
    assert found["answer parts"] >= 1
    assert below(conversation) == before
    status, lines = run(client.user, "--message-path", SHARED, "--delete")
    assert (status, lines[-1], counts(lines)) == (0, "Deleted.", found)
    after = below(conversation)
    kept[conversation.path] = after[conversation.path]  # a start writes when its last message was
    assert after == kept
    assert everything(database, client.user) == {}
    client.session.close()
    other.session.close()


def test_answers_below_another_document_of_the_user_s_go_though_their_generations_expired(
    client_at: Callable[[str], Client], database: Any, run: Run
) -> None:
    client = client_at(PEOPLE)
    talk = database.document(f"people/{client.user}/talks/t")
    talk.collection("turns").document("asked").set({"role": "user", "content": "Hi"})
    kept = below(talk)
    database.document(f"holdfastGenerations/{ask(client, 'expired', chat='t')}").delete()
    ask(client, "not expired", chat="t")
    assert counts(run(client.user, "--message-path", SHARED)[1])["answers"] == 1
    status, lines = run(client.user, "--message-path", PEOPLE, "--delete")
    assert (status, counts(lines)["answers"], counts(lines)["generations"]) == (0, 2, 1)
    assert below(talk) == kept
    client.session.close()


def test_a_path_that_is_none_for_messages_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["alice", "--project", PROJECT, "--message-path", "chats/{chat}"])
    assert "--message-path: it must be a document's path" in capsys.readouterr().err


def test_answers_that_run_are_stopped_first(
    client: Client, database: Any, run: Run, upstream_calls: Callable[[str], list[dict[str, Any]]]
) -> None:
    text = f"a long one {client.user}"
    streams = [client.stream(question(text, 20_000, rate=50.0), X_Chat_Id="c") for _ in range(2)]
    for stream in streams:
        next(stream.frames())
    status, lines = run(client.user)
    assert (status, counts(lines)["generations"], lines[-2]) == (0, 2, "       2 of the generations run")
    status, lines = run(client.user, "--delete", "--at-most", "1")
    assert (status, counts(lines)["answers"], lines[-1]) == (1, 1, "There is more: run this again.")
    states = [fields["state"] for fields in everything(database, client.user).values() if "state" in fields]
    assert states == ["stopped"] * 3  # the other answer's message, and both generations
    status, lines = run(client.user, "--delete")
    assert (status, lines[-1]) == (0, "Deleted.")
    deadline = time.monotonic() + PATIENCE
    while not all(call["ended"] for call in upstream_calls(text)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert everything(database, client.user) == {}
    for stream in streams:
        stream.leave()


def test_a_run_goes_no_further_than_it_is_told_and_the_next_continues(client: Client, database: Any, run: Run) -> None:
    for n in range(3):
        ask(client, f"answer {n}")
    ends = []
    while not ends or ends[-1] != 0:
        assert len(ends) < 4
        status, lines = run(client.user, "--delete", "--at-most", "2")
        assert ("There is more: run this again." in lines) == bool(status)
        ends.append(status)
    assert ends == [1, 1, 0]  # three answers and three generations
    assert everything(database, client.user) == {}


def test_where_firestore_is_away_it_says_so_and_that_it_can_be_run_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", f"127.0.0.1:{free_port()}")
    status, lines = run("alice")
    assert status == 1
    assert lines[-1].startswith("Firestore can't be reached")
    assert lines[-1].endswith("Run this again: it continues where it was interrupted.")


def test_where_nobody_is_logged_in_it_says_what_to_do(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FIRESTORE_EMULATOR_HOST")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "none.json")
    status, lines = run("alice")
    assert status == 1
    assert lines[0].startswith("Firestore let nobody in: File none.json was not found.")
    assert lines[1].endswith("log in with: gcloud auth application-default login")


@pytest.mark.parametrize("uid", ["", "a/b", "..", "__x__"])
def test_what_can_be_no_user_s_id_is_refused(uid: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([uid, "--project", PROJECT])
    assert "UID can't be used as an id" in capsys.readouterr().err
