"""Answers that the upstream generates in the background: one generation each, whatever becomes of the worker."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from google.cloud import firestore

from chaos.saved import read_journal
from chaos.stage import errors
from local.client import Client
from local.demo_text import arguments, reasoning_seed, text
from local.ports import HOST, Ports
from local.stack import Stack
from tests.conftest import STRICT, database_of
from tests.e2e.callable_lines import Heard, begun, heard
from tests.e2e.test_continuation import end, wait_for

WAIT_SECONDS = 60.0
UPSTREAMS = """
[background]
base_url = "{url}"
models = ["demo"]
speaks = ["responses"]
background = true

[foreground]
base_url = "{url}"
models = ["foreground"]
speaks = ["responses"]
"""
TOOLS = [{"type": "function", "name": "look_up", "parameters": {"type": "object"}}]
STALL = {"kind": "stall", "at": 60, "times": 1}  # of the first reading, which so ends with its worker alone
Json = dict[str, Any]


@pytest.fixture(scope="module")
def stack(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    ports = Ports.free()
    upstreams = tmp_path_factory.mktemp("upstreams") / "upstreams.toml"
    upstreams.write_text(UPSTREAMS.format(url=f"http://{HOST}:{ports.upstream_port}/v1"))
    settings = {"UPSTREAMS_FILE": str(upstreams), "LEASE_SECONDS": "3", "MAX_ATTEMPTS": "2"}
    with Stack(ports, settings, strict=STRICT, beside=stack) as running:
        yield running


@pytest.fixture(scope="module")
def database(stack: Stack) -> firestore.Client:
    return database_of(stack)


class Asked:
    """A question that was asked by the callable, whose response is left."""

    def __init__(self, stack: Stack, client: Client, database: firestore.Client, tokens: int, **more: Any):
        self.stack = stack
        self.client = client
        self.seed = uuid.uuid4().hex
        demo = {"tokens": tokens, "seed": self.seed, **more.pop("demo", {})}
        data = {"model": "demo", "input": f"Hi {self.seed}", **more, "demo": demo}
        headers = {"Accept": "text/event-stream"}
        self.whole = text(self.seed, tokens)
        self._database = database
        self._response = client.request("POST", "/", json={"data": data}, headers=headers, stream=True)
        self._pieces = self._response.iter_content(None)
        self._body = b""

    @property
    def generation(self) -> str:
        """Its id, which the first message tells."""
        while not begun(self._body).messages:
            self._body += next(self._pieces)
        found: str = begun(self._body).messages[0]["id"]
        return found

    def answer(self) -> Heard:
        """The whole answer, as the callable's client sees it."""
        self._body += b"".join(self._pieces)
        return heard(self._body)

    def ended(self) -> Json:
        return self.client.wait_until_ended(self.generation)

    def message(self) -> Json:
        path = f"users/{self.client.user}/messages/{self.generation}"
        found: Json = self._database.document(path).get().to_dict()
        return found

    def journal(self) -> list[str]:
        path = f"users/{self.client.user}/messages/{self.generation}"
        return [frame.data for frame in read_journal(self._database, path)]

    def wait_for_events(self, count: int) -> None:
        wait_for(lambda: len(self.journal()) >= count)

    def calls(self) -> list[Json]:
        every = requests.get(f"{self.stack.upstream_url}/demo/calls", timeout=WAIT_SECONDS).json()
        return [call for call in every if call["seed"] == self.seed]

    def calls_of_input(self) -> list[Json]:
        """The calls, also those that have not been read yet."""
        every = requests.get(f"{self.stack.upstream_url}/demo/calls", timeout=WAIT_SECONDS).json()
        return [call for call in every if self.seed in json.dumps(call["request"])]

    def begun_upstream(self) -> list[Json]:
        """The calls that began a generation."""
        return [call for call in self.calls() if (call["method"], call["path"]) == ("POST", "/v1/responses")]

    def upstream_s(self, **query: str) -> requests.Response:
        """The response as the upstream has it."""
        name = json.loads(self.journal()[0])["response"]["id"]
        return requests.get(f"{self.stack.upstream_url}/v1/responses/{name}", params=query, timeout=WAIT_SECONDS)

    def upstream_s_events(self) -> list[str]:
        lines = self.upstream_s(stream="true").text.split("\n")
        return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]


@pytest.fixture
def ask(stack: Stack, client: Client, database: firestore.Client) -> Callable[..., Asked]:
    def ask(tokens: int, **more: Any) -> Asked:
        return Asked(stack, client, database, tokens, **more)

    return ask


def is_whole_and_was_generated_once(asked: Asked) -> None:
    """What the client has, what is saved and what the upstream said are the same, to the byte."""
    answer = asked.answer()
    assert (answer.result["state"], answer.result["content"], answer.text) == ("completed", asked.whole, asked.whole)
    assert asked.journal() == asked.upstream_s_events()
    assert asked.message()["content"] == asked.whole
    assert asked.message()["usage"] == asked.upstream_s().json()["usage"]
    assert len(asked.begun_upstream()) == 1


def test_the_upstream_is_asked_for_the_background_whatever_the_client_asks_for(ask: Callable[..., Asked]) -> None:
    asked = ask(20, stream=False, background=False)
    is_whole_and_was_generated_once(asked)
    (call,) = asked.begun_upstream()
    assert (call["request"]["background"], call["request"]["stream"]) == (True, True)
    message = asked.message()
    assert (message["finishReason"], message["extra"]) == (
        "completed",
        {"id": asked.upstream_s().json()["id"], "service_tier": "default"},
    )


def test_a_worker_that_is_killed_in_the_middle_costs_no_second_generation(
    stack: Stack, ask: Callable[..., Asked]
) -> None:
    asked = ask(300, demo={"rate": 200, "reasoning": 20, "fault": STALL})
    asked.wait_for_events(40)
    stack.processes["worker"].kill()
    stack.restart("worker")
    is_whole_and_was_generated_once(asked)
    assert asked.message()["reasoning"] == text(reasoning_seed(asked.seed), 20)
    assert asked.client.show(asked.generation)["attempt"] == 2


def test_a_worker_that_is_told_to_end_hands_its_answers_over_at_once(stack: Stack, ask: Callable[..., Asked]) -> None:
    asked = ask(300, demo={"rate": 200, "fault": STALL})
    asked.wait_for_events(20)
    end(stack, "worker")
    assert asked.client.show(asked.generation)["state"] == "streaming"
    stack.restart("worker")
    is_whole_and_was_generated_once(asked)
    assert asked.client.show(asked.generation)["attempt"] == 2


def test_an_answer_goes_on_however_often_its_reading_breaks_off(ask: Callable[..., Asked]) -> None:
    """More often than there may be attempts, of which each is a new call."""
    asked = ask(100, demo={"rate": 500, "fault": {"kind": "break", "at": 15, "times": 6}})
    is_whole_and_was_generated_once(asked)
    assert asked.client.show(asked.generation)["attempt"] == 7


@pytest.mark.parametrize(
    "resume",
    [
        {"status": 503, "times": 2},
        {"status": 429, "retry_after": 0.2, "times": 1},
        {"kind": "break", "at": 0, "times": 2},
    ],
)
def test_what_may_pass_of_the_calls_that_come_back_is_tried_again_at_the_cursor(
    ask: Callable[..., Asked], resume: Json
) -> None:
    asked = ask(60, demo={"rate": 500, "fault": {"kind": "break", "at": 20, "times": 1}, "resume": resume})
    is_whole_and_was_generated_once(asked)


@pytest.mark.parametrize("status", [404, 400])
def test_a_cursor_that_is_gone_ends_the_answer_and_says_why(ask: Callable[..., Asked], status: int) -> None:
    demo = {"rate": 500, "fault": {"kind": "break", "at": 20}, "resume": {"status": status}}
    asked = ask(60, demo=demo)
    result = asked.answer().result
    assert (result["state"], result["reason"]) == ("incomplete", "upstream_expired")
    assert result["content"] == asked.message()["content"] == text(asked.seed, 20)
    assert asked.message()["error"]["message"] == "The upstream no longer has the rest of the answer."
    assert len(asked.begun_upstream()) == 1


def test_an_error_of_the_answer_itself_is_its_end(ask: Callable[..., Asked]) -> None:
    """The demo upstream's error event says that it may pass, and so it is read on from there."""
    asked = ask(60, demo={"rate": 500, "fault": {"kind": "error_event", "at": 20, "times": 1}})
    is_whole_and_was_generated_once(asked)


def test_a_stop_cancels_at_the_upstream(ask: Callable[..., Asked]) -> None:
    asked = ask(5000, demo={"rate": 50})
    asked.wait_for_events(20)
    stopped = asked.client.request("POST", f"/v1/generations/{asked.generation}/stop").json()
    assert stopped["state"] == "stopped"
    wait_for(lambda: asked.upstream_s().json()["status"] == "cancelled")
    assert asked.whole.startswith(asked.message()["content"])


def test_a_stop_before_the_first_event_cuts_the_call(ask: Callable[..., Asked]) -> None:
    asked = ask(20, demo={"first_byte_delay": 600})
    wait_for(asked.calls_of_input)
    stopped = asked.client.request("POST", f"/v1/generations/{asked.generation}/stop").json()
    assert (stopped["state"], asked.journal()) == ("stopped", [])
    wait_for(lambda: asked.calls_of_input()[0]["client_gone"])


def test_a_stop_after_the_worker_was_lost_cancels_at_the_upstream(stack: Stack, ask: Callable[..., Asked]) -> None:
    asked = ask(5000, demo={"rate": 50})
    asked.wait_for_events(20)
    stack.processes["worker"].kill()
    stopped = asked.client.request("POST", f"/v1/generations/{asked.generation}/stop").json()
    assert asked.upstream_s().json()["status"] == "in_progress"
    stack.restart("worker")
    wait_for(lambda: asked.upstream_s().json()["status"] == "cancelled")
    assert stopped["id"] == asked.generation
    assert asked.ended()["state"] == "stopped"


def test_a_deletion_cancels_at_the_upstream(ask: Callable[..., Asked], stack: Stack) -> None:
    asked = ask(5000, demo={"rate": 50})
    asked.wait_for_events(20)
    name = json.loads(asked.journal()[0])["response"]["id"]
    assert asked.client.request("DELETE", f"/v1/generations/{asked.generation}").ok
    url = f"{stack.upstream_url}/v1/responses/{name}"
    wait_for(lambda: requests.get(url, timeout=WAIT_SECONDS).json()["status"] == "cancelled")


def test_tools_are_called_in_the_background_too(ask: Callable[..., Asked]) -> None:
    asked = ask(30, tools=TOOLS, demo={"rate": 500, "tool_calls": 2, "fault": {"kind": "break", "at": 20, "times": 2}})
    result = asked.answer().result
    calls = [call["function"] for call in result["toolCalls"]]
    assert [call["name"] for call in calls] == ["look_up", "look_up"]
    assert [call["arguments"] for call in calls] == [arguments(asked.seed, number, 30) for number in (0, 1)]
    assert asked.journal() == asked.upstream_s_events()


def test_a_chat_of_the_ai_sdk_s_goes_on_too(client: Client) -> None:
    seed = uuid.uuid4().hex
    message = {"role": "user", "parts": [{"type": "text", "text": "Hi"}]}
    demo = {"tokens": 60, "seed": seed, "rate": 500, "reasoning": 5, "fault": {"kind": "break", "at": 20}}
    body = {"id": uuid.uuid4().hex, "messages": [message], "model": "demo", "options": {"demo": demo}}
    answer = client.request("POST", "/api/chat", json=body).text
    chunks = [json.loads(line[6:]) for line in answer.split("\n\n") if line.startswith("data: {")]
    said = {kind: "".join(c["delta"] for c in chunks if c["type"] == f"{kind}-delta") for kind in ("text", "reasoning")}
    assert said == {"text": text(seed, 60), "reasoning": text(reasoning_seed(seed), 5)}
    assert (chunks[-1]["type"], chunks[-1]["finishReason"]) == ("finish", "stop")


@pytest.mark.parametrize("more", [{"model": "foreground"}, {"store": False}])
def test_without_the_setting_or_where_nothing_may_be_stored_there_is_no_background(
    ask: Callable[..., Asked], more: Json
) -> None:
    asked = ask(60, demo={"rate": 500, "fault": {"kind": "break", "at": 20}}, stream=True, **more)
    result = asked.answer().result
    assert (result["state"], result["reason"]) == ("incomplete", "upstream_disconnected")
    (call,) = asked.calls()
    assert "background" not in call["request"]


def test_an_answer_that_broke_off_before_any_output_starts_again_as_one(ask: Callable[..., Asked]) -> None:
    fault = {"kind": "break", "at": 0, "times": 1}
    asked = ask(20, model="foreground", stream=True, demo={"rate": 500, "fault": fault})
    assert asked.answer().text == asked.whole
    events = [json.loads(event) for event in asked.journal()]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events].count("response.created") == 1
    assert len(asked.begun_upstream()) == 2


def test_the_service_was_not_taken_by_surprise(stack: Stack) -> None:
    for name in ("api", "worker"):
        assert errors(stack.processes[name].log.read_text()) == []
