"""The operator's webhook on the whole stack: whatever ends an answer, its end is told, and nothing of its words."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import openai
import pytest
import requests
import standardwebhooks

from local.client import Client, question
from local.stack import Stack
from local.token import id_token
from tests.conftest import held
from tests.receiver import PATIENCE, Answer, Got, Receiver

SECRET = f"whsec_{base64.b64encode(uuid.uuid4().bytes * 2).decode()}"
OLD_SECRET = f"whsec_{base64.b64encode(uuid.uuid4().bytes * 2).decode()}"
DOWN, UP = Answer(503), Answer(204)
HOUR = 3600.0
SPEED = 600.0  # of the queue's clock, so that an hour of it takes six seconds


@dataclass
class Hooked:
    """The functions' URL and settings, and the receiver of their webhook, which answers as a test wants."""

    receiver: Receiver
    url: str
    settings: dict[str, str]

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
    url = stack.add_functions("hooked", settings)
    yield Hooked(receiver, url, {**settings, "WORKER_URL": stack.url_of("hooked-worker")})
    stack.end("hooked-api", "hooked-worker")
    receiver.server_close()


@pytest.fixture
def client(hooked: Hooked) -> Iterator[Client]:
    client = Client(hooked.url, f"user-{uuid.uuid4().hex[:12]}")
    yield client
    client.session.close()
    hooked.receiver.answer = lambda _: UP


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


@pytest.mark.parametrize("status", ["completed", "cancelled", "failed"])
def test_the_end_of_a_response_over_chat_completions_is_told_as_openai_s_sdk_reads_it(
    hooked: Hooked, client: Client, status: str
) -> None:
    demos: dict[str, Any] = {
        "completed": {"tokens": 5},
        "cancelled": {"tokens": 4000, "rate": 50},
        "failed": {"fault": {"kind": "refuse", "status": 400}},
    }
    with openai.OpenAI(base_url=f"{hooked.url}/v1", api_key=id_token(client.user)) as sdk:
        response = sdk.responses.create(
            model="demo", input=f"canary {uuid.uuid4().hex}", background=True, extra_body={"demo": demos[status]}
        )
        if status == "cancelled":
            sdk.responses.cancel(response.id)
        (got,) = hooked.got(response.id.removeprefix("resp_"))
        event = sdk.webhooks.unwrap(got.body.decode(), dict(got.headers), secret=SECRET)
        assert (event.type, event.object, event.data.id) == (f"response.{status}", "event", response.id)
        assert sdk.responses.retrieve(event.data.id).status == status
        with pytest.raises(openai.InvalidWebhookSignatureError):
            sdk.webhooks.unwrap(got.body.decode() + " ", dict(got.headers), secret=SECRET)
    assert b"canary" not in got.body


def test_of_a_worker_killed_between_the_last_commit_and_the_queue_the_end_is_told_once_it_is_back(
    stack: Stack,
    hooked: Hooked,
    client: Client,
    database: Any,
    queue: Callable[..., None],
    eventually: Callable[..., None],
) -> None:
    what = f"killed {uuid.uuid4().hex}"
    with ExitStack() as holding:
        holding.enter_context(held(stack, what, 3))
        with client.stream(question(what, 10)) as stream:
            frames = stream.frames()
            next(frames)
            queue(unavailable=True)
            holding.close()
            list(frames)  # the end of the stream means saved
    generation = stream.generation
    stack.processes["hooked-worker"].kill()
    assert hooked.got(generation, 0) == []
    assert pending(database, generation) == {"webhook": {}}
    queue(unavailable=False)
    stack.restart("hooked-worker", hooked.settings)
    stack.wait_for("hooked-worker")
    (got,) = hooked.got(generation)
    assert got.json["type"] == "generation.completed"
    until_told(database, generation, eventually)
    assert {each.headers["webhook-id"] for each in hooked.got(generation)} == {got.headers["webhook-id"]}


def test_a_receiver_that_is_down_for_an_hour_is_told_afterwards(
    hooked: Hooked, client: Client, database: Any, queue: Callable[..., None], eventually: Callable[..., None]
) -> None:
    queue(speed=SPEED)
    first: list[float] = []

    def answer(got: Got) -> Answer:
        first.append(time.monotonic())
        return UP if first[-1] > first[0] + HOUR / SPEED else DOWN

    hooked.receiver.answer = answer
    generation = begun(client)
    until_told(database, generation, eventually)
    got = hooked.got(generation, 5)
    assert {each.headers["webhook-id"] for each in got} == {got[0].headers["webhook-id"]}
    assert {each.body for each in got} == {got[0].body}
    assert len(got) < 30, "the waits did not grow"


def test_a_receiver_that_has_gone_for_good_is_not_asked_again_and_the_log_says_so(
    stack: Stack, hooked: Hooked, client: Client, database: Any, eventually: Callable[..., None]
) -> None:
    hooked.receiver.answer = lambda _: Answer(410)
    generation = begun(client)
    until_told(database, generation, eventually)
    assert len(hooked.got(generation)) == 1
    (line,) = [
        line
        for line in map(json.loads, stack.processes["hooked-worker"].printed.splitlines())
        if line["message"] == "delivery given up"
    ]
    assert (line["channel"], line["cause"], line["status"], line["severity"]) == ("webhook", "gone", 410, "ERROR")
    assert line["logging.googleapis.com/labels"] == {"generation": generation}


def test_what_the_queue_delivers_twice_has_one_id(
    hooked: Hooked, client: Client, database: Any, queue: Callable[..., None], eventually: Callable[..., None]
) -> None:
    queue(duplicate=2)
    generation = begun(client)
    until_told(database, generation, eventually)
    assert len({each.headers["webhook-id"] for each in hooked.got(generation)}) == 1


def test_a_stranger_can_neither_deliver_nor_name_a_receiver(stack: Stack, hooked: Hooked, client: Client) -> None:
    worker = stack.own_url("hooked-worker").rstrip("/")
    refused = requests.post(f"{worker}/deliveries", json={}, timeout=PATIENCE)
    assert refused.status_code == 401
    before = len(hooked.receiver.got)
    elsewhere = Receiver()
    answer = client.complete({**question("where?", 3), "webhook_url": elsewhere.url}, Webhook_Url=elsewhere.url)
    hooked.got(answer.headers["X-Generation-Id"])
    assert (len(hooked.receiver.got), elsewhere.got) == (before + 1, [])
    elsewhere.server_close()
