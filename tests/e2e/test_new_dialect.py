"""A new model API needs only a dialect: the worker, the journal, the wires and the message do not change.

`tiny_dialect` has one that shares no field, path or end mark with any other. The local stack runs with it unchanged.
"""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from google.cloud import firestore

from chaos.saved import read_journal
from chaos.stage import errors
from local.client import Client
from local.ports import Ports
from local.stack import Stack
from tests.conftest import STRICT, database_of
from tests.e2e.callable_lines import Heard, begun, heard
from tests.e2e.scripted_upstream import Peer, Script, Server

WAIT_SECONDS = 60.0
SOURCE = Path(__file__).with_name("tiny_dialect") / "source.py"
CATALOG = """
[tiny]
base_url = "http://{}/v2"
models = ["tiny"]
speaks = ["tiny"]
key_env = "TINY_KEY"
"""
BYE = b"event: bye\ndata: {}\n\n"
THOUGHT = b'event: thought\ndata: {"think": "A riddle."}\n\n'
WORDS = [b'data: {"say":"No"}\n\n', b'data: {"say":  "body."}\n\n']
SPENT = b'data: {"spent":7}\n\n'
ASLEEP = {"oops": {"why": "The model fell asleep.", "word": "asleep"}}
BUSY = {"oops": {"why": "Come back later.", "word": "busy"}}
Json = dict[str, Any]


class TinyPeer(Peer):
    """One call to the upstream that speaks it."""

    def question(self) -> str:
        return str(self.asked["ask"])


def an_answer(peer: Peer) -> None:
    peer.stream(THOUGHT, *WORDS, SPENT, BYE)


def a_body(peer: Peer) -> None:
    peer.body('{"say": "Nobody.",\r\n "spent": 7}')


def a_break(peer: Peer) -> None:
    peer.open()
    peer.say(WORDS[0])


def a_break_once_before_a_word(peer: Peer) -> None:
    if peer.call > 1:
        an_answer(peer)
    else:
        peer.open()


def an_error_in_the_middle(peer: Peer) -> None:
    peer.stream(WORDS[0], b"data: %b\n\n" % json.dumps(ASLEEP).encode(), BYE)


def a_refusal(peer: Peer) -> None:
    peer.body(json.dumps(ASLEEP), status="422 Unprocessable Entity")


def a_refusal_that_passes(peer: Peer) -> None:
    if peer.call > 1:
        an_answer(peer)
    else:
        peer.body(json.dumps(BUSY), status="409 Conflict")


def an_answer_without_a_word(peer: Peer) -> None:
    peer.stream(BYE)


def an_event_of_another_api(peer: Peer) -> None:
    peer.stream(WORDS[0], b'data: {"choices": [{"index": 0, "delta": {"content": "Hi"}}]}\n\n', BYE)


def words_without_end(peer: Peer) -> None:
    peer.open()
    over = threading.Event()
    while not over.wait(0.05):
        peer.say(WORDS[0])


SCRIPTS: dict[str, Script] = {
    script.__name__: script
    for script in (
        an_answer,
        a_body,
        a_break,
        a_break_once_before_a_word,
        an_error_in_the_middle,
        a_refusal,
        a_refusal_that_passes,
        an_answer_without_a_word,
        an_event_of_another_api,
        words_without_end,
    )
}


@dataclass(frozen=True, kw_only=True)
class World:
    stack: Stack
    database: firestore.Client
    server: Server


@pytest.fixture(scope="module")
def world(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as held:
        server = held.enter_context(Server(TinyPeer, SCRIPTS))
        upstreams = tmp_path_factory.mktemp("upstreams") / "upstreams.toml"
        upstreams.write_text(CATALOG.format(server.address))
        settings = {"FUNCTION_SOURCE": str(SOURCE), "UPSTREAMS_FILE": str(upstreams), "TINY_KEY": "k"}
        environ = {name: value for name, value in os.environ.items() if not name.endswith("_PORT")}
        own = held.enter_context(Stack(Ports.free(), settings, environ, STRICT, stack))
        yield World(stack=own, database=database_of(own), server=server)


@pytest.fixture
def client(world: World) -> Iterator[Client]:
    client = Client(world.stack.url, f"user-{uuid.uuid4().hex[:12]}")
    with client.session:
        yield client


def asking(script: Script, **more: Any) -> Json:
    return {"model": "tiny", "ask": f"Who is there? {uuid.uuid4().hex}", "script": script.__name__, **more}


def call(client: Client, data: Json) -> Json:
    """A unary call's result or error."""
    told: Json = client.request("POST", "/", json={"data": data}).json()
    return told


def stream(client: Client, data: Json) -> Heard:
    headers = {"Accept": "text/event-stream"}
    return heard(client.request("POST", "/", json={"data": data}, headers=headers).content)


def tail(client: Client, generation: str, after: int = 0) -> bytes:
    """What the wire of generations gives of it, as it is but for its keep-alives."""
    with client.resume(generation, after) as following:
        return following.response.content.replace(b": keep-alive\n", b"")


def message_of(world: World, client: Client, generation: str) -> Json:
    found: Json = world.database.document(f"users/{client.user}/messages/{generation}").get().to_dict()
    return found


def numbered(*events: bytes) -> bytes:
    return b"".join(b"id: %d\n%b" % (number, event) for number, event in enumerate(events, 1))


def test_an_answer_is_streamed_by_its_steps(client: Client, world: World) -> None:
    data = asking(an_answer)
    answer = stream(client, data)
    assert [(message["seq"], message["delta"], message["event"]) for message in answer.events] == [
        (1, "", {"think": "A riddle."}),
        (2, "No", {"say": "No"}),
        (3, "body.", {"say": "body."}),
        (4, "", {"spent": 7}),
    ]
    result = answer.result
    assert (result["state"], result["content"], result["usage"]) == ("completed", "Nobody.", {"spent": 7})
    message = message_of(world, client, result["id"])
    assert (message["state"], message["content"], message["reasoning"]) == ("completed", "Nobody.", "A riddle.")
    assert (message["usage"], message["model"], message["error"]) == ({"spent": 7}, "tiny", None)


def test_the_upstream_gets_the_request_as_it_was_asked_at_the_dialect_s_own_path(client: Client, world: World) -> None:
    data = asking(an_answer)
    stream(client, data)
    assert world.server.requests[data["ask"]] == [{**data, "live": True, "count": True}]
    (head,) = world.server.heads[data["ask"]]
    assert head[""] == "POST /v2/answers HTTP/1.1"
    assert (head["x-tiny-version"], head["authorization"]) == ("3", "Bearer k")


def test_a_unary_call_is_one_result(client: Client) -> None:
    result = call(client, asking(an_answer))["result"]
    assert (result["state"], result["content"], result["seq"]) == ("completed", "Nobody.", 4)
    assert result["usage"] == {"spent": 7}


def test_the_journal_has_the_events_as_they_came_and_a_tail_ends_in_the_dialect_s_own_mark(
    client: Client, world: World
) -> None:
    generation = call(client, asking(an_answer))["result"]["id"]
    assert tail(client, generation) == numbered(THOUGHT, *WORDS, SPENT) + BYE
    assert tail(client, generation, after=3) == b"id: 4\n" + SPENT + BYE
    kept = read_journal(world.database, f"users/{client.user}/messages/{generation}")
    assert [frame.data for frame in kept] == [
        '{"think": "A riddle."}',
        '{"say":"No"}',
        '{"say":  "body."}',
        '{"spent":7}',
    ]


def test_a_body_in_one_piece_is_an_answer_too(client: Client) -> None:
    result = call(client, asking(a_body))["result"]
    assert (result["state"], result["content"], result["usage"]) == ("completed", "Nobody.", {"spent": 7})


def test_an_answer_is_stopped(client: Client, world: World) -> None:
    headers = {"Accept": "text/event-stream"}
    body = b""
    with client.request("POST", "/", json={"data": asking(words_without_end)}, headers=headers, stream=True) as live:
        for piece in live.iter_content(None):
            body += piece
            start, *said = begun(body).messages or [None]
            if len(said) > 2:
                break
        stopped = call(client, {"stop": start["id"]})["result"]
    assert stopped["state"] == "stopped"
    assert stopped["content"] == "No" * stopped["seq"]
    message = message_of(world, client, start["id"])
    assert (message["state"], message["stoppedBy"], message["content"]) == ("stopped", "user", stopped["content"])
    assert tail(client, start["id"], after=stopped["seq"]) == BYE


@pytest.mark.parametrize(
    ("script", "reason", "code"),
    [
        (a_break, "upstream_disconnected", "upstream_disconnected"),
        (an_error_in_the_middle, "upstream_error", "asleep"),
        (an_event_of_another_api, "upstream_malformed", "upstream_malformed"),
    ],
)
def test_an_answer_that_breaks_off_is_incomplete_and_says_why_in_the_upstream_s_message(
    client: Client, world: World, script: Callable[[Peer], None], reason: str, code: str
) -> None:
    answer = stream(client, asking(script))
    assert (answer.result["state"], answer.result["reason"], answer.result["content"]) == ("incomplete", reason, "No")
    shown = client.show(answer.result["id"])
    assert (shown["state"], shown["reason"], shown["error"]["code"]) == ("incomplete", reason, code)
    message = message_of(world, client, answer.result["id"])
    assert (message["content"], message["error"]["code"]) == ("No", code)
    if code == "asleep":
        assert message["error"]["message"] == shown["error"]["message"] == "The model fell asleep."
    first, end = tail(client, answer.result["id"]).split(b"\n\n")[:-1]
    assert first == numbered(WORDS[0]).removesuffix(b"\n\n")
    assert json.loads(end.removeprefix(b"data: "))["oops"]["word"] == code


def test_a_refusal_is_shown_with_the_upstream_s_message(client: Client, world: World) -> None:
    data = asking(a_refusal)
    error = call(client, data)["error"]
    assert (error["status"], error["message"]) == ("INVALID_ARGUMENT", "The model fell asleep.")
    assert (error["details"]["code"], error["details"]["upstreamStatus"]) == ("asleep", 422)
    assert len(world.server.requests[data["ask"]]) == 1
    message = message_of(world, client, error["details"]["id"])
    assert (message["state"], message["error"]["code"]) == ("failed", "asleep")


@pytest.mark.parametrize("script", [a_break_once_before_a_word, a_refusal_that_passes])
def test_what_may_pass_is_asked_again(client: Client, world: World, script: Callable[[Peer], None]) -> None:
    data = asking(script)
    result = call(client, data)["result"]
    assert (result["state"], result["content"]) == ("completed", "Nobody.")
    assert len(world.server.requests[data["ask"]]) == 2


def test_an_end_mark_and_nothing_else_is_no_answer(client: Client) -> None:
    details = call(client, asking(an_answer_without_a_word))["error"]["details"]
    assert (details["state"], details["code"]) == ("failed", "upstream_empty")


def test_a_request_that_is_none_of_it_names_the_field(client: Client) -> None:
    error = call(client, {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]})["error"]
    assert (error["status"], error["details"]["param"]) == ("INVALID_ARGUMENT", "ask")


def test_a_request_in_another_api_is_refused_before_anything_is_started(client: Client) -> None:
    refused = client.complete({"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "wrong_api")
    assert list(client.list()) == []


def test_a_chat_of_the_ai_sdk_s_is_asked_and_rendered_in_it_too(client: Client, world: World) -> None:
    what = f"Who is there? {uuid.uuid4().hex}"
    message = {"role": "user", "parts": [{"type": "text", "text": what}]}
    body = {"id": "c1", "messages": [message], "model": "tiny", "options": {"script": an_answer.__name__}}
    answer = client.request("POST", "/api/chat", json=body)
    chunks = [json.loads(line[6:]) for line in answer.text.split("\n\n") if line.startswith("data: {")]
    assert [chunk["delta"] for chunk in chunks if "delta" in chunk] == ["A riddle.", "No", "body."]
    assert (chunks[-1]["type"], chunks[-1]["messageMetadata"]["usage"]) == ("finish", {"spent": 7})
    (asked,) = world.server.requests[what]
    assert asked == {"script": "an_answer", "model": "tiny", "ask": what, "live": True, "count": True}


def test_the_service_was_not_taken_by_surprise(world: World) -> None:
    for name in ("api", "worker"):
        assert errors(world.stack.processes[name].log.read_text()) == []
