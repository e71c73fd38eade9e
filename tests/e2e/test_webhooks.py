"""The operator's webhook on the whole stack: whatever ends an answer, its end is told, and nothing of its words."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests
import standardwebhooks

from local.client import Client, question
from local.ports import free_port
from local.stack import Stack
from tests.receiver import PATIENCE, Answer, Got, Receiver

SECRET = f"whsec_{base64.b64encode(uuid.uuid4().bytes * 2).decode()}"
OLD_SECRET = f"whsec_{base64.b64encode(uuid.uuid4().bytes * 2).decode()}"
DOWN, UP = Answer(503), Answer(204)
HOUR = 3600.0
SPEED = 600.0  # of the queue's clock, so that an hour of it takes six seconds


@dataclass
class Hooked:
    """The receiver, which the tests share, and what it answers for each generation; without that, a 204."""

    receiver: Receiver
    url: str
    answers: dict[str, Callable[[Got], Answer]] = field(default_factory=dict)

    def answer(self, got: Got) -> Answer:
        return self.answers.get(got.json["data"]["generationId"], lambda _: UP)(got)

    def got(self, generation: str, least: int = 1) -> list[Got]:
        """What came of a generation, once it is so many."""

        def of_it(got: list[Got]) -> list[Got]:
            return [each for each in got if each.json["data"]["generationId"] == generation]

        return of_it(self.receiver.until(lambda got: len(of_it(got)) >= least))


@pytest.fixture(scope="module")
def hooked(stack: Stack) -> Iterator[Hooked]:
    """A pair of functions of its own, whose webhook is a receiver here."""
    receiver = Receiver()
    settings = {
        "WEBHOOK_URL": f"{receiver.url}/hook",
        "WEBHOOK_SECRETS": f"{SECRET} {OLD_SECRET}",
        "LEASE_SECONDS": "2",
        "MAX_ATTEMPTS": "1",
    }
    hooked = Hooked(receiver, stack.add_functions("hooked", settings))
    receiver.answer = hooked.answer
    yield hooked
    stack.end("hooked-api", "hooked-worker")
    receiver.server_close()


@pytest.fixture
def client(hooked: Hooked) -> Iterator[Client]:
    client = Client(hooked.url, f"user-{uuid.uuid4().hex[:12]}")
    yield client
    client.session.close()


@pytest.fixture
def queue(stack: Stack) -> Iterator[Callable[..., None]]:
    """Switches faults of the queue on, which end with the test."""
    url = f"{stack.tasks_http}/faults"
    before = {**requests.get(url, timeout=PATIENCE).json()}

    def queue(**faults: Any) -> None:
        requests.post(url, json=faults, timeout=PATIENCE).raise_for_status()

    yield queue
    queue(**{name: before[name] for name in ("duplicate", "late", "unavailable", "speed")})


def begun(client: Client, tokens: int = 5, **demo: Any) -> str:
    """Starts an answer and leaves it."""
    with client.stream(question(f"canary {uuid.uuid4().hex}", tokens, **demo), X_Chat_Id="chat") as stream:
        return stream.generation


def pending(database: Any, generation: str) -> Any:
    return database.document(f"holdfastGenerations/{generation}").get().to_dict()["outbox"]


def until_told(database: Any, generation: str, eventually: Callable[..., None]) -> None:
    eventually(lambda: pending(database, generation) == {})


@pytest.fixture
def eventually(stack: Stack) -> Callable[[Callable[[], Any]], None]:
    def eventually(condition: Callable[[], Any]) -> None:
        stack.processes["tasks"].wait_until(condition, PATIENCE)

    return eventually


def completed(client: Client, queue: Any) -> str:
    return begun(client)


def stopped(client: Client, queue: Any) -> str:
    generation = begun(client, 4000, rate=50)
    assert client.request("POST", f"/v1/generations/{generation}/stop").status_code == 200
    return generation


def stopped_in_the_queue(client: Client, queue: Any) -> str:
    """Its task is under way for long, no worker has it, and so the api ends it."""
    chat = uuid.uuid4().hex
    asked = {"model": "demo", "stream": True, **question(chat, 5)}
    queue(late=10.0)
    with pytest.raises(requests.ReadTimeout):
        client.request("POST", "/v1/chat/completions", json=asked, headers={"X-Chat-Id": chat}, timeout=2.0)
    queue(late=0.0)
    (generation,) = client.list(chat_id=chat)
    assert client.request("POST", f"/v1/generations/{generation['id']}/stop").json()["attempt"] == 0
    return str(generation["id"])


def incomplete(client: Client, queue: Any) -> str:
    return begun(client, 20, fault={"kind": "break", "at": 5})


def failed(client: Client, queue: Any) -> str:
    return begun(client, 5, fault={"kind": "refuse", "status": 400})


@pytest.mark.parametrize(
    ("end", "state"),
    [
        (completed, "completed"),
        (stopped, "stopped"),
        (stopped_in_the_queue, "stopped"),
        (incomplete, "incomplete"),
        (failed, "failed"),
    ],
)
def test_however_an_answer_ends_its_end_is_told_once(
    hooked: Hooked,
    client: Client,
    database: Any,
    queue: Callable[..., None],
    eventually: Callable[..., None],
    end: Callable[..., str],
    state: str,
) -> None:
    generation = end(client, queue)
    (got,) = hooked.got(generation)
    until_told(database, generation, eventually)
    event = got.json
    assert (got.path, event["type"], event["data"]["state"]) == ("/hook", f"generation.{state}", state)
    assert event["data"]["userId"] == client.user
    for secret in (SECRET, OLD_SECRET):
        assert standardwebhooks.Webhook(secret).verify(got.body, dict(got.headers)) == event
    assert b"canary" not in got.body
    assert client.show(generation)["state"] == state
    assert len(hooked.got(generation)) == 1
