"""Eight popular clients of OpenAI's API, each of another family, unmodified but for the base URL and the key.

Each runs in a process of its own, with the packages of `requirements-clients.txt` or of `clients/package.json`: what to
do is in `clients/orders.py` and `clients/orders.mjs`.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from local.client import Client
from local.demo_text import text
from local.ports import Ports
from local.stack import Stack
from local.token import id_token

HERE = Path(__file__).resolve().parent / "clients"
PYTHON = Path(__file__).resolve().parents[2] / "build" / "clients" / "bin" / "python"
WAIT_SECONDS = 180.0  # Python's clients take up to ten seconds of a processor to import
TOKENS = 40
OUR_TRIES = 3  # MAX_ATTEMPTS
THEIR_RETRIES = 2
IDLE_SECONDS = 3  # longer than gunicorn keeps a connection unless told otherwise
IN_PYTHON = ("langchain", "litellm", "llama_index", "openai_agents", "pydantic_ai")
IN_JAVASCRIPT = ("ai_sdk", "run_tools", "tanstack")


class Failed(Exception):
    """The client raised an error, whose words these are."""


@dataclass
class Process:
    """A client's process, which is started again where it was killed."""

    name: str
    said: Queue[str | None] = field(default_factory=Queue)
    running: subprocess.Popen[str] | None = None

    def start(self) -> subprocess.Popen[str]:
        python = [str(PYTHON), "-W", "ignore", "orders.py"]
        command = [*(python if self.name in IN_PYTHON else ["node", "orders.mjs"]), f"with_{self.name}"]
        there = PYTHON if self.name in IN_PYTHON else HERE / "node_modules"
        assert there.exists(), "The clients are not there: run './local/setup.sh tests'."
        started = subprocess.Popen(
            command,
            cwd=HERE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        self.said = Queue()
        threading.Thread(target=_lines, args=(started, self.said), daemon=True).start()
        return started

    def order(self, **order: Any) -> Iterator[Any]:
        """What the client says, as it says it. Errors: `Failed`."""
        if self.running is None:
            self.running = self.start()
        assert self.running.stdin is not None
        print(json.dumps(order), file=self.running.stdin, flush=True)
        while (line := self.said.get(timeout=WAIT_SECONDS)) is not None:
            what = json.loads(line)
            if "failed" in what:
                raise Failed(what["failed"])
            if "done" in what:
                return
            yield what["said"]
        raise AssertionError("The client's process ended.")

    def kill(self) -> None:
        if self.running is not None:
            self.running.kill()
            self.running.communicate(timeout=WAIT_SECONDS)
            self.running = None


def _lines(process: subprocess.Popen[str], said: Queue[str | None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        said.put(line)
    said.put(None)


@pytest.fixture(scope="module")
def stack(stack: Stack) -> Iterator[Stack]:
    """Not strict: calls are counted, and a claim that a strict Firestore refuses may cost an attempt."""
    with Stack(Ports.free(), {"UPSTREAM_MODELS": "demo"}, beside=stack) as running:
        yield running


@pytest.fixture(scope="module", params=IN_PYTHON + IN_JAVASCRIPT)
def process(request: pytest.FixtureRequest) -> Iterator[Process]:
    """A popular client."""
    process = Process(request.param)
    yield process
    process.kill()


Ask = Callable[..., Iterator[Any]]


@pytest.fixture
def ask(process: Process, client: Client) -> Ask:
    """Asks for an answer by the popular client, as the user of our own."""
    user = {"url": client.url, "token": id_token(client.user)}

    def asked(do: str, what: str, key: str | None = None, **demo: Any) -> Iterator[Any]:
        headers = {"Idempotency-Key": key} if key else {}
        demo = {"seed": what, "tokens": TOKENS, "rate": 0, **demo}
        return process.order(do=do, question=what, headers=headers, demo=demo, **user)

    return asked


@pytest.fixture
def what() -> str:
    return uuid.uuid4().hex


def generations(client: Client) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = client.request("GET", "/v1/generations").json()["data"]
    return listed


def test_a_popular_client_streams_the_whole_answer_and_is_told_its_usage(ask: Ask, what: str) -> None:
    *pieces, usage = ask("stream", what, rate=200)
    assert "".join(pieces) == text(what, TOKENS)
    assert len(pieces) > 2  # it came in pieces
    assert usage == {"output": TOKENS}


def test_a_tool_loop_under_a_key_ends_right_and_its_repetition_calls_nobody(
    ask: Ask, what: str, client: Client, upstream_calls: Callable[[str], list[dict[str, Any]]]
) -> None:
    """Each step has the same key and another body, and so is an answer of its own."""
    for _ in range(2):
        assert list(ask("loop", what, "k", tool_calls=1)) == [text(what, TOKENS)]
        assert [call["status"] for call in upstream_calls(what)] == [200, 200]
        assert [each["state"] for each in generations(client)] == ["completed", "completed"]
    called, found = (call["request"]["messages"] for call in upstream_calls(what))
    assert found[: len(called)] == called
    assert found[-1]["role"] == "tool"


def test_a_post_on_a_connection_that_was_idle_for_seconds_is_answered(stack: Stack) -> None:
    """As the retry of a client is that waited for as long as it was told."""
    connection = HTTPConnection("127.0.0.1", stack.ports.api_port, timeout=WAIT_SECONDS)
    headers = {"Authorization": f"Bearer {id_token('idle')}", "Content-Type": "application/json"}
    for idle in (IDLE_SECONDS, 0):
        connection.request("POST", "/v1/chat/completions", "{}", headers)
        response = connection.getresponse()
        assert (response.status, response.read()[:1]) == (400, b"{")
        time.sleep(idle)
    connection.close()


@pytest.mark.parametrize("key", ["k", None], ids=["key", "no key"])
def test_a_refusal_that_passes_is_overcome_by_the_client_s_own_retries(
    ask: Ask, what: str, key: str | None, upstream_calls: Callable[[str], list[dict[str, Any]]]
) -> None:
    *pieces, _ = ask("stream", what, key, fault={"status": 429, "times": 4})
    assert "".join(pieces) == text(what, TOKENS)
    assert [call["status"] for call in upstream_calls(what)] == [429, 429, 429, 429, 200]


def test_the_client_s_retries_under_a_key_do_not_multiply_with_ours(
    process: Process, ask: Ask, what: str, upstream_calls: Callable[[str], list[dict[str, Any]]]
) -> None:
    if process.name == "llama_index":
        pytest.skip("It repeats its SDK's retries itself, and so sends twelve requests within a minute.")
    with pytest.raises(Failed, match="Rate limit reached"):
        list(ask("stream", what, "k", fault={"status": 429}))
    assert len(upstream_calls(what)) == OUR_TRIES + THEIR_RETRIES


def test_an_answer_goes_on_when_its_popular_client_is_killed(
    process: Process,
    ask: Ask,
    what: str,
    client: Client,
    upstream_calls: Callable[[str], list[dict[str, Any]]],
) -> None:
    """The last test of each client, whose process would have to be started anew."""
    pieces = ask("stream", what, rate=20)
    begun = next(pieces) + next(pieces)
    process.kill()
    (generation,) = generations(client)
    assert client.wait_until_ended(generation["id"])["state"] == "completed"
    said = "".join(frame.text for frame in client.resume(generation["id"], 0).frames() if frame.id is not None)
    assert said == text(what, TOKENS)
    assert said.startswith(begun)
    (call,) = upstream_calls(what)
    assert (call["finished"], call["client_gone"]) == (True, False)
