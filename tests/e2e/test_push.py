"""Notifications on the whole stack: who is told of an end that nobody watched, on the wire that FCM documents.

FCM is played by a receiver that answers as https://firebase.google.com/docs/cloud-messaging/error-codes has it, and the
worker's own token comes from a metadata server like Google's.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import pytest
import requests

from lib.delivery.deliveries import GIVEN_UP_AFTER
from local.client import Client, question
from local.stack import ROOT, Stack
from local.token import PROJECT
from tests.conftest import held
from tests.e2e.log_filter import matches
from tests.e2e.metadata_server import MetadataServer
from tests.receiver import PATIENCE, Answer, Got, Receiver

TITLE, FAILED_TITLE = "Ready", "Broken"
HOUR = 3600.0
SPEED = 600.0  # of the queue's clock, so that an hour of it takes six seconds
TAKEN = Answer(200, {"Content-Type": "application/json"}, b'{"name": "projects/demo/messages/1"}')


def refusal(status: int, name: str, code: str | None = None) -> Answer:
    """An error of FCM's; `code` is its own."""
    details = [{"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code}] if code else []
    error = {"code": status, "message": "canary", "status": name, "details": details}
    return Answer(status, {"Content-Type": "application/json"}, json.dumps({"error": error}).encode())


UNREGISTERED = refusal(404, "NOT_FOUND", "UNREGISTERED")
Left = Callable[..., str]
AWAY = refusal(503, "UNAVAILABLE", "UNAVAILABLE")


@dataclass
class Pushed:
    """A pair of functions that tell devices, with what plays FCM and the metadata server."""

    url: str
    fcm: Receiver

    def told(self, *tokens: str) -> list[Got]:
        """The messages to these devices, once each has one."""

        def of_them(got: list[Got]) -> list[Got]:
            return [each for each in got if each.json["message"]["token"] in tokens]

        got = self.fcm.until(lambda got: {each.json["message"]["token"] for each in of_them(got)} >= set(tokens))
        return of_them(got)


@pytest.fixture(scope="module")
def pushed(stack: Stack) -> Iterator[Pushed]:
    metadata, fcm = MetadataServer(), Receiver()
    settings = {
        "PUSH": "on",
        "PUSH_TITLE": TITLE,
        "PUSH_FAILED_TITLE": FAILED_TITLE,
        "PUSH_BODY": "It says: {words}",
        "FCM_URL": fcm.url,
        "MAX_ATTEMPTS": "1",
        **metadata.environ,
    }
    yield Pushed(stack.add_functions("pushed", settings), fcm)
    stack.end("pushed-api", "pushed-worker")
    fcm.server_close()
    metadata.server_close()


@pytest.fixture
def client(pushed: Pushed) -> Iterator[Client]:
    pushed.fcm.answer = lambda _: TAKEN
    client = Client(pushed.url, f"user-{uuid.uuid4().hex[:12]}")
    yield client
    client.session.close()


@pytest.fixture
def fast(stack: Stack) -> Iterator[None]:
    """A queue whose clock goes faster."""
    url = f"{stack.tasks_http}/faults"
    requests.post(url, json={"speed": SPEED}, timeout=PATIENCE).raise_for_status()
    yield
    requests.post(url, json={"speed": 1.0}, timeout=PATIENCE).raise_for_status()


@pytest.fixture
def device(database: Any, client: Client) -> Callable[..., str]:
    """Registers a device of the client's user, as an app does, and returns its token."""

    def device(token: str | None = None) -> str:
        token = token or uuid.uuid4().hex
        fields = {"token": token, "platform": "web", "createdAt": datetime.now(UTC)}
        database.document(f"users/{client.user}/holdfastDevices/of-{token}").set(fields)
        return token

    return device


@pytest.fixture
def devices(database: Any, client: Client) -> Callable[[], set[str]]:
    collection = database.collection(f"users/{client.user}/holdfastDevices")
    return lambda: {each.to_dict()["token"] for each in collection.get()}


@pytest.fixture
def eventually(stack: Stack) -> Callable[[Callable[[], Any]], None]:
    return lambda condition: stack.processes["tasks"].wait_until(condition, PATIENCE)


@pytest.fixture
def settled(database: Any, eventually: Callable[..., None]) -> Callable[[str], None]:
    """Waits until a generation has nothing more to tell."""

    def settled(generation: str) -> None:
        path = f"holdfastGenerations/{generation}"
        eventually(lambda: "push" not in database.document(path).get().to_dict()["outbox"])

    return settled


@pytest.fixture
def unwatched(database: Any, eventually: Callable[..., None]) -> Callable[[str], None]:
    """Waits until the service knows that nobody watches a generation."""

    def unwatched(generation: str) -> None:
        document = database.document(f"holdfastGenerations/{generation}")
        eventually(lambda: not document.get().get("watchers"))

    return unwatched


@pytest.fixture
def left(stack: Stack, client: Client, unwatched: Callable[[str], None]) -> Left:
    """Starts an answer and leaves it, which the service knows before it goes on to its end."""

    def left(tokens: int = 30, headers: Mapping[str, str] = MappingProxyType({}), **demo: Any) -> str:
        what = f"left {uuid.uuid4().hex}"
        with held(stack, what, 3):
            with client.stream(question(what, tokens, **demo), X_Chat_Id="chat", **headers) as stream:
                next(stream.frames())
            unwatched(stream.generation)
        return stream.generation

    return left


def test_of_an_end_that_nobody_watches_each_device_is_told(
    pushed: Pushed, client: Client, device: Callable[..., str], settled: Callable[..., None], database: Any, left: Left
) -> None:
    tokens = {device(), device()}
    generation = left()
    settled(generation)
    got = pushed.told(*tokens)
    assert Counter(each.json["message"]["token"] for each in got) == dict.fromkeys(tokens, 1)
    message = got[0].json["message"]
    said = database.document(f"users/{client.user}/chats/chat/messages/{generation}").get().to_dict()["content"]
    assert message["notification"]["title"] == TITLE
    lead, _, words = message["notification"]["body"].partition("It says: ")
    assert lead == ""
    assert " ".join(said.split()).startswith(words.removesuffix("…"))
    assert len(words) > 10
    assert message["data"] == {
        "chatId": "chat",
        "messageId": generation,
        "generationId": generation,
        "state": "completed",
    }
    key = message["android"]["collapse_key"]
    assert message["apns"]["headers"]["apns-collapse-id"] == message["webpush"]["headers"]["Topic"] == key
    assert len(key) == 32
    assert got[0].path == f"/v1/projects/{PROJECT}/messages:send"
    assert got[0].headers["authorization"].startswith("Bearer access-")


def test_whoever_watches_is_told_nothing(
    pushed: Pushed, client: Client, device: Callable[..., str], settled: Callable[..., None]
) -> None:
    token = device()
    with client.stream(question("watched", 5, rate=0), X_Chat_Id="chat") as stream:
        list(stream.frames())
        settled(stream.generation)
    assert token not in [each.json["message"]["token"] for each in pushed.fcm.got]


def test_a_stop_is_told_to_nobody(
    pushed: Pushed, client: Client, device: Callable[..., str], settled: Callable[..., None], left: Left
) -> None:
    token, generation = device(), left(4000, rate=50)
    client.request("POST", f"/v1/generations/{generation}/stop")
    settled(generation)
    assert token not in [each.json["message"]["token"] for each in pushed.fcm.got]


def test_an_answer_that_broke_off_has_another_title(
    pushed: Pushed, device: Callable[..., str], settled: Callable[..., None], left: Left
) -> None:
    token = device()
    settled(left(fault={"kind": "break", "at": 25}))
    (got,) = pushed.told(token)
    assert got.json["message"]["notification"]["title"] == FAILED_TITLE
    assert got.json["message"]["data"]["state"] == "incomplete"


@pytest.mark.parametrize("path", ["users/{0}", "users/{0}/chats/chat"])
def test_a_user_and_a_chat_can_have_it_off(
    pushed: Pushed,
    client: Client,
    database: Any,
    device: Callable[..., str],
    settled: Callable[..., None],
    path: str,
    left: Left,
) -> None:
    registered, handed_in = device(), uuid.uuid4().hex
    database.document(path.format(client.user)).set({"notify": False})
    settled(left(headers={"X_Push_Token": handed_in}))
    assert not {registered, handed_in} & {each.json["message"]["token"] for each in pushed.fcm.got}
    database.document(path.format(client.user)).set({"notify": True})
    settled(left(headers={"X_Push_Token": handed_in}))
    pushed.told(registered, handed_in)


def test_a_token_that_fcm_calls_unregistered_is_removed_and_no_other(
    pushed: Pushed,
    device: Callable[..., str],
    devices: Callable[[], set[str]],
    settled: Callable[..., None],
    left: Left,
) -> None:
    answers = {
        device(): UNREGISTERED,
        device(): refusal(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
        device(): refusal(403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH"),
        device(): TAKEN,
    }
    pushed.fcm.answer = lambda got: answers[got.json["message"]["token"]]
    settled(left())
    assert len(pushed.told(*answers)) == len(answers)
    assert devices() == {token for token, answer in answers.items() if answer is not UNREGISTERED}


@pytest.mark.usefixtures("fast")
def test_only_those_that_failed_are_told_again(
    pushed: Pushed,
    device: Callable[..., str],
    devices: Callable[[], set[str]],
    settled: Callable[..., None],
    left: Left,
) -> None:
    away, well, none = device(), device(), refusal(404, "NOT_FOUND")
    failures = [AWAY, refusal(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"), none, refusal(500, "INTERNAL", "INTERNAL")]

    def answer(got: Got) -> Answer:
        return failures.pop() if got.json["message"]["token"] == away and failures else TAKEN

    pushed.fcm.answer = answer
    settled(left())
    got = Counter(each.json["message"]["token"] for each in pushed.told(away, well))
    assert got == {away: 5, well: 1}
    assert devices() == {away, well}


def test_a_token_can_come_with_the_request(
    pushed: Pushed, client: Client, device: Callable[..., str], settled: Callable[..., None], left: Left
) -> None:
    registered, handed_in = device(), uuid.uuid4().hex
    settled(left(headers={"X_Push_Token": handed_in}))
    assert len(pushed.told(registered, handed_in)) == 2
    settled(left(headers={"X_Push_Token": registered}))
    assert len(pushed.told(registered)) == 2, "one device was told twice"
    refused = client.complete(question("no token", 3), X_Push_Token="x" * 5000)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "X-Push-Token")


TEXT = [{"role": "user", "content": "left"}]
PARTS = [{"id": "1", "role": "user", "parts": [{"type": "text", "text": "left"}]}]
STARTS: dict[str, tuple[str, dict[str, Any]]] = {
    "callable": ("/", {"model": "demo", "max_tokens": 30, "messages": TEXT, "chatId": "chat"}),
    "useChat": ("/api/chat", {"id": "chat", "model": "demo", "messages": PARTS, "options": {"max_tokens": 30}}),
    "responses": ("/v1/responses", {"model": "demo", "input": "left", "max_output_tokens": 30, "stream": True}),
    "messages": ("/v1/messages", {"model": "demo", "messages": TEXT, "max_tokens": 30, "stream": True}),
    "gemini": (
        "/v1beta/models/demo:streamGenerateContent?alt=sse",
        {"contents": [{"parts": [{"text": "left"}]}], "generationConfig": {"maxOutputTokens": 30}},
    ),
}


@pytest.mark.parametrize("wire", STARTS)
def test_a_token_can_come_with_the_request_of_every_protocol(
    stack: Stack, pushed: Pushed, client: Client, unwatched: Callable[[str], None], wire: str
) -> None:
    token, (path, asked) = uuid.uuid4().hex, STARTS[wire]
    headers = {"X-Chat-Id": "chat", "X-Push-Token": token, "Accept": "text/event-stream"}
    if wire == "callable":
        headers, asked = {"Accept": "text/event-stream"}, {"data": {**asked, "pushToken": token}}
    with held(stack, "left", 3):
        with client.request("POST", path, json=asked, headers=headers, stream=True) as response:
            assert response.status_code == 200, response.text
            next(response.iter_content(1))
        (generation,) = client.list()
        unwatched(generation["id"])
    (got,) = pushed.told(token)
    assert got.json["message"]["data"]["chatId"] == "chat"


@pytest.mark.usefixtures("fast")
def test_an_fcm_that_is_down_for_an_hour_tells_each_device_once_afterwards(
    pushed: Pushed, device: Callable[..., str], settled: Callable[..., None], left: Left
) -> None:
    tokens = {device(), device(), device()}
    begun: list[float] = []

    def answer(_: Got) -> Answer:
        begun.append(time.monotonic())
        return TAKEN if begun[-1] > begun[0] + HOUR / SPEED else AWAY

    pushed.fcm.answer = answer
    before = len(pushed.fcm.got)
    settled(left())
    came = [each.json["message"]["token"] for each in pushed.told(*tokens)]
    assert len(pushed.fcm.got) - before == len(came) > 3 * len(tokens)
    refused = [time for time in begun if time <= begun[0] + HOUR / SPEED]
    assert Counter(came[len(refused) :]) == dict.fromkeys(tokens, 1)


def test_a_notification_that_no_device_has_taken_for_a_day_is_given_up_in_the_log_and_counted(
    stack: Stack,
    pushed: Pushed,
    database: Any,
    device: Callable[..., str],
    settled: Callable[..., None],
    left: Left,
) -> None:
    device()
    generation = left(5)
    document = database.document(f"holdfastGenerations/{generation}")

    def answer(_: Got) -> Answer:
        document.update({"finishedAt": document.get().get("finishedAt") - GIVEN_UP_AFTER})
        return AWAY

    pushed.fcm.answer = answer
    settled(generation)
    dead = matches(json.loads((ROOT / "monitoring/metrics/holdfast_dead_deliveries.json").read_text())["filter"])
    lines = map(json.loads, stack.processes["pushed-worker"].printed.splitlines())
    (line,) = [
        line for line in lines if line.get("logging.googleapis.com/labels") == {"generation": generation} and dead(line)
    ]
    assert (line["channel"], line["cause"], line["severity"]) == ("push", "fcm", "ERROR")


def test_five_hundred_devices_are_told_once_each(
    pushed: Pushed,
    client: Client,
    database: Any,
    device: Callable[..., str],
    devices: Callable[[], set[str]],
    settled: Callable[..., None],
    left: Left,
) -> None:
    tokens = [uuid.uuid4().hex for _ in range(500)]
    batch = database.batch()
    for token in tokens:
        fields = {"token": token, "platform": "ios", "createdAt": datetime.now(UTC)}
        batch.set(database.document(f"users/{client.user}/holdfastDevices/{token}"), fields)
    batch.commit()
    gone = set(tokens[::5])
    pushed.fcm.answer = lambda got: UNREGISTERED if got.json["message"]["token"] in gone else TAKEN
    settled(left())
    assert Counter(each.json["message"]["token"] for each in pushed.told(*tokens)) == dict.fromkeys(tokens, 1)
    assert devices() == set(tokens) - gone


def test_no_log_has_a_token_or_a_word(
    stack: Stack, pushed: Pushed, device: Callable[..., str], settled: Callable[..., None], left: Left
) -> None:
    pushed.fcm.answer = lambda _: refusal(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT")
    token = device()
    settled(left())
    pushed.told(token)
    printed = stack.processes["pushed-worker"].printed + stack.processes["pushed-api"].printed
    sent = [each.json["message"] for each in pushed.fcm.got]
    assert sent
    for message in sent:
        assert message["token"] not in printed
    assert "canary" not in printed
    assert "access-" not in printed
