"""Titles on the whole stack: a chat of the app gets one after its first answer, once, and never in the way of it."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from local.client import Client, question
from local.stack import QUEUE, Stack
from tests.receiver import PATIENCE, Answer, Got, Receiver

TITLE = "A canary at sea"
PROMPT = "Say what it is about."


def saying(title: str) -> Answer:
    """A chat completion, with the marks that models put around a title."""
    choice = {"index": 0, "message": {"role": "assistant", "content": title}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 31, "completion_tokens": 7, "total_tokens": 38}
    body = {"id": "1", "object": "chat.completion", "model": "titler", "choices": [choice], "usage": usage}
    return Answer(200, {"Content-Type": "application/json"}, json.dumps(body).encode())


@dataclass
class Titled:
    """A pair of functions whose titles are written by a server of the test's."""

    url: str
    titler: Receiver
    settings: dict[str, str]

    def calls(self, asked: str) -> list[Got]:
        """The calls for the title of a chat in which this was asked."""
        return [got for got in self.titler.got if asked.encode() in got.body]


@pytest.fixture(scope="module")
def titled(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Titled]:
    titler = Receiver()
    catalog: Path = tmp_path_factory.mktemp("titles") / "upstreams.toml"
    catalog.write_text(
        f'[demo]\nbase_url = "{stack.upstream_url}/v1"\nmodels = ["demo"]\n'
        f'[titles]\nbase_url = "{titler.url}/v1"\nmodels = ["titler"]\n'
    )
    settings = {
        "UPSTREAMS_FILE": str(catalog),
        "TITLE_MODEL": "titler",
        "TITLE_PROMPT": PROMPT,
        "LEASE_SECONDS": "2",
    }
    url = stack.add_functions("titled", settings)
    yield Titled(url, titler, {**settings, "WORKER_URL": stack.url_of("titled-worker")})
    stack.end("titled-api", "titled-worker")
    titler.server_close()


@pytest.fixture
def client(titled: Titled) -> Iterator[Client]:
    titled.titler.answer = lambda _: saying(f'**"{TITLE}"**\n')
    client = Client(titled.url, f"user-{uuid.uuid4().hex[:12]}")
    yield client
    client.session.close()


@pytest.fixture
def chat(database: Any, client: Client) -> Any:
    """A chat that the app has made."""
    document = database.document(f"users/{client.user}/chats/holidays")
    document.set({"model": "demo"})
    return document


@pytest.fixture
def asked() -> str:
    return f"What about {uuid.uuid4().hex}?"


@pytest.fixture
def settled(stack: Stack) -> Iterator[Callable[[], None]]:
    """Waits until the worker is done with all tasks, which it is after the title."""
    channel = grpc.insecure_channel(stack.tasks_host)
    queue = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
    yield lambda: stack.processes["tasks"].wait_until(lambda: not list(queue.list_tasks(parent=QUEUE)), PATIENCE)
    channel.close()


def ask(client: Client, text: str, tokens: int = 5, **demo: Any) -> str:
    """An answer in the chat, to its end."""
    answer = client.complete(question(text, tokens, **{"rate": 0, **demo}), X_Chat_Id="holidays")
    return answer.headers["X-Generation-Id"]


def written(stack: Stack, generation: str, message: str) -> list[dict[str, Any]]:
    """The worker's lines of a generation with this message."""
    lines = [json.loads(line) for line in stack.processes["titled-worker"].printed.splitlines()]
    of_it = [line for line in lines if line.get("logging.googleapis.com/labels", {}).get("generation") == generation]
    return [line for line in of_it if line["message"] == message]


def test_a_chat_gets_a_title_after_its_first_answer_and_keeps_it(
    stack: Stack, titled: Titled, client: Client, chat: Any, asked: str, settled: Callable[[], None]
) -> None:
    first = ask(client, asked)
    settled()
    assert chat.get().to_dict()["title"] == TITLE
    titled.titler.answer = lambda _: saying("Another")
    ask(client, f"{asked} And now?")
    settled()
    assert chat.get().to_dict()["title"] == TITLE
    (call,) = titled.calls(asked)
    assert call.path == "/v1/chat/completions"
    instructions, quoted = call.json["messages"]
    assert instructions == {"role": "system", "content": PROMPT}
    assert quoted["content"].startswith(f"<question>{asked}</question>\n<answer>")
    assert call.json["max_tokens"] == 100
    (line,) = written(stack, first, "title written")
    assert (line["upstream"], line["inputTokens"], line["tokens"]) == ("titles", 31, 7)


def test_the_answer_does_not_wait_for_its_title(
    titled: Titled, client: Client, chat: Any, asked: str, settled: Callable[[], None]
) -> None:
    over = threading.Event()

    def answer(_: Got) -> Answer:
        over.wait(PATIENCE)
        return saying(TITLE)

    titled.titler.answer = answer
    generation = ask(client, asked)
    assert client.show(generation)["state"] == "completed"
    assert "title" not in chat.get().to_dict()
    over.set()
    settled()
    assert chat.get().to_dict()["title"] == TITLE


def test_of_two_answers_at_once_one_has_the_title_written(
    titled: Titled, client: Client, chat: Any, asked: str, settled: Callable[[], None]
) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: ask(client, f"{asked} {n}", 5), range(8)))
    settled()
    assert len(titled.calls(asked)) == 1
    assert chat.get().to_dict()["title"] == TITLE


def test_of_a_worker_killed_while_the_title_is_written_no_second_one_is_asked_for(
    stack: Stack, titled: Titled, client: Client, chat: Any, asked: str, settled: Callable[[], None]
) -> None:
    over = threading.Event()

    def answer(_: Got) -> Answer:
        over.wait(PATIENCE)
        return saying(TITLE)

    came = threading.Event()
    titled.titler.answer = lambda got: (came.set(), answer(got))[1]
    generation = ask(client, asked)
    assert came.wait(PATIENCE)
    stack.processes["titled-worker"].kill()
    over.set()
    stack.restart("titled-worker", titled.settings)
    stack.wait_for("titled-worker")
    settled()
    assert len(titled.calls(asked)) == 1
    assert "title" not in chat.get().to_dict()
    assert client.show(generation)["state"] == "completed"


def test_a_title_that_the_user_writes_meanwhile_stays(
    stack: Stack, titled: Titled, client: Client, chat: Any, asked: str, settled: Callable[[], None]
) -> None:
    def answer(_: Got) -> Answer:
        chat.update({"title": "Mine"})
        return saying(TITLE)

    titled.titler.answer = answer
    generation = ask(client, asked)
    settled()
    assert chat.get().to_dict()["title"] == "Mine"
    (line,) = written(stack, generation, "title dropped")
    assert (line["cause"], line["tokens"]) == ("changed", 7)


def test_a_chat_that_the_app_has_not_made_or_has_deleted_is_not_made(
    titled: Titled, client: Client, database: Any, asked: str, settled: Callable[[], None]
) -> None:
    chat = database.document(f"users/{client.user}/chats/holidays")
    ask(client, asked)
    settled()
    assert titled.calls(asked) == []
    assert not chat.get().exists
    chat.set({})

    def answer(_: Got) -> Answer:
        chat.delete()
        return saying(TITLE)

    titled.titler.answer = answer
    ask(client, asked)
    settled()
    assert len(titled.calls(asked)) == 1
    assert not chat.get().exists


def test_an_answer_of_no_chat_and_one_without_a_word_have_no_title(
    titled: Titled, client: Client, chat: Any, database: Any, asked: str, settled: Callable[[], None]
) -> None:
    database.document(f"users/{client.user}").set({"name": "Alice"})
    client.complete(question(asked, 3, rate=0))
    ask(client, asked, fault={"kind": "refuse", "status": 400})
    settled()
    assert titled.calls(asked) == []
    assert database.document(f"users/{client.user}").get().to_dict() == {"name": "Alice"}
    assert "title" not in chat.get().to_dict()


@pytest.mark.parametrize(
    "refusal",
    [
        Answer(500, {"Content-Type": "application/json"}, b'{"error": {"message": "canary"}}'),
        Answer(401, {}, b"canary"),
        Answer(200, {"Content-Type": "text/html"}, b"<p>canary"),
    ],
    ids=["500", "401", "html"],
)
def test_a_title_that_can_not_be_had_costs_nothing_and_the_next_answer_tries_again(
    stack: Stack,
    titled: Titled,
    client: Client,
    chat: Any,
    asked: str,
    settled: Callable[[], None],
    refusal: Answer,
) -> None:
    titled.titler.answer = lambda _: refusal
    generation = ask(client, asked)
    settled()
    assert client.show(generation)["state"] == "completed"
    assert "title" not in chat.get().to_dict()
    (line,) = written(stack, generation, "title not written")
    assert line["severity"] == "WARNING"
    titled.titler.answer = lambda _: saying(TITLE)
    ask(client, f"{asked} Again.")
    settled()
    assert chat.get().to_dict()["title"] == TITLE


def test_a_model_that_says_nothing_is_not_asked_again_at_each_answer(
    titled: Titled, client: Client, chat: Any, asked: str, settled: Callable[[], None]
) -> None:
    titled.titler.answer = lambda _: saying(' "" ')
    for more in ("", " Again."):
        ask(client, asked + more)
        settled()
    assert len(titled.calls(asked)) == 1
    assert "title" not in chat.get().to_dict()


def test_no_log_has_a_word_of_a_title(
    stack: Stack, client: Client, chat: Any, asked: str, settled: Callable[[], None]
) -> None:
    ask(client, asked)
    settled()
    assert chat.get().to_dict()["title"] == TITLE
    printed = stack.processes["titled-worker"].printed
    assert "title written" in printed
    for word in ("canary", asked, PROMPT):
        assert word not in printed
