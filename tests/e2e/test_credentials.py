"""What an upstream is shown to let a call in: keys where it expects them, and tokens of the service's own account.

google-auth fetches the tokens, from a metadata server that is told to it as Google's is.
"""

from __future__ import annotations

import json
import os
import uuid
from base64 import urlsafe_b64decode
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from local.client import Client, question
from local.ports import Ports
from local.stack import Stack
from tests.e2e.metadata_server import MetadataServer
from tests.e2e.scripted_upstream import Peer, Script, Server

Json = dict[str, Any]
UPSTREAMS = """
[google]
base_url = "http://{0}/v1"
models = ["google"]
auth = "google"

[cloud_run]
base_url = "http://{0}/some/path/v1"
models = ["cloud_run"]
auth = "google_id_token"

[anthropic]
base_url = "http://{0}/v1"
models = ["anthropic"]
speaks = ["messages"]
key_env = "UPSTREAM_KEY"
auth = "x-api-key"
headers = {{ anthropic-beta = "from-the-operator", X-Team = "a b" }}

[azure]
base_url = "http://{0}/openai/deployments/one"
models = ["azure"]
key_env = "UPSTREAM_KEY"
auth = "api-key"
query = {{ api-version = "2024-10-21" }}
"""


def first_token_refused(peer: Peer) -> None:
    if peer.call == 1:
        peer.body('{"error": {"message": "Expired."}}', status="401 Unauthorized")
    else:
        peer.answer()


def every_token_refused(peer: Peer) -> None:
    peer.body('{"error": {"message": "Never."}}', status="401 Unauthorized")


def a_message(peer: Peer) -> None:
    message = {"type": "message", "content": [{"type": "text", "text": "Hi"}], "stop_reason": "end_turn"}
    peer.body(json.dumps(message))


SCRIPTS: dict[str, Script] = {
    script.__name__: script for script in (first_token_refused, every_token_refused, a_message)
}


@dataclass(frozen=True, kw_only=True)
class World:
    stack: Stack
    server: Server
    metadata: MetadataServer


@pytest.fixture(scope="module")
def world(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as held:
        server = held.enter_context(Server(Peer, SCRIPTS))
        metadata = MetadataServer()
        held.callback(metadata.server_close)
        folder = tmp_path_factory.mktemp("upstreams")
        upstreams = folder / "upstreams.toml"
        upstreams.write_text(UPSTREAMS.format(server.address))
        settings = {"UPSTREAMS_FILE": str(upstreams), "UPSTREAM_KEY": "sk-secret", **metadata.environ}
        environ = {name: value for name, value in os.environ.items() if not name.endswith("_PORT")}
        environ["CLOUDSDK_CONFIG"] = str(folder)  # without any account of the machine's user
        own = held.enter_context(Stack(Ports.free(), settings, environ, beside=stack))
        yield World(stack=own, server=server, metadata=metadata)


@pytest.fixture
def client(world: World) -> Iterator[Client]:
    client = Client(world.stack.url, f"user-{uuid.uuid4().hex[:12]}")
    with closing(client.session):
        yield client


def asked(
    client: Client, world: World, model: str, script: str = ""
) -> tuple[requests.Response, list[Mapping[str, str]]]:
    """The response to a question, and the heads of the upstream calls for it."""
    what = uuid.uuid4().hex
    answered = client.complete({**question(what, 40), "model": model, "script": script})
    return answered, world.server.heads[what]


def test_a_token_of_the_service_s_account_is_shown_and_kept_for_the_next_call(client: Client, world: World) -> None:
    shown = set()
    for _ in range(3):
        answered, (head,) = asked(client, world, "google")
        assert answered.status_code == 200
        shown.add(head["authorization"])
    assert len(shown) == 1
    assert shown.pop().startswith("Bearer access-")


def test_a_token_is_renewed_before_it_ends(client: Client, world: World) -> None:
    _, (before,) = asked(client, world, "google")
    world.metadata.seconds = 60  # less than google-auth wants to be left
    asked(client, world, "google", "first_token_refused")  # has it fetch one of those
    world.metadata.seconds = 3600
    _, (after,) = asked(client, world, "google")
    _, (last,) = asked(client, world, "google")
    assert before["authorization"] != after["authorization"] == last["authorization"]


def test_while_a_token_can_t_be_renewed_the_old_one_is_shown_to_its_end(client: Client, world: World) -> None:
    world.metadata.seconds = 120
    asked(client, world, "google", "first_token_refused")
    world.metadata.is_away = True
    try:
        answered, (head,) = asked(client, world, "google")
        assert (answered.status_code, head["authorization"][:14]) == (200, "Bearer access-")
    finally:
        world.metadata.is_away = False
        world.metadata.seconds = 3600


def test_a_401_has_the_token_renewed_once(client: Client, world: World) -> None:
    answered, heads = asked(client, world, "google", "first_token_refused")
    assert answered.status_code == 200
    first, second = [head["authorization"] for head in heads]
    assert first != second
    _, (head,) = asked(client, world, "google")
    assert head["authorization"] == second


def test_a_second_401_is_final_and_no_fault_of_the_client(client: Client, world: World) -> None:
    answered, heads = asked(client, world, "google", "every_token_refused")
    assert (answered.status_code, answered.json()["error"]["code"], len(heads)) == (502, "upstream_key", 2)
    assert "access-" not in answered.text


def test_an_upstream_in_cloud_run_is_shown_an_id_token_for_itself(client: Client, world: World) -> None:
    for _ in range(2):
        answered, (head,) = asked(client, world, "cloud_run")
        assert answered.status_code == 200
    scheme, _, token = head["authorization"].partition(" ")
    claims = json.loads(urlsafe_b64decode(token.split(".")[1] + "=="))
    assert (scheme, claims["aud"]) == ("Bearer", f"http://{world.server.address}")
    assert world.metadata.fetched.count(claims["aud"]) == 1


def test_a_key_goes_into_the_header_that_the_upstream_expects_it_in(client: Client, world: World) -> None:
    what = uuid.uuid4().hex
    body = {"model": "anthropic", "max_tokens": 9, "script": "a_message", "messages": question(what, 1)["messages"]}
    headers = {"anthropic-beta": "from-the-client", "anthropic-version": "2030-01-01"}
    answered = client.request("POST", "/v1/messages", json=body, headers=headers)
    assert (answered.status_code, answered.json()["content"][0]["text"]) == (200, "Hi")
    (head,) = world.server.heads[what]
    assert (head[""], head["x-api-key"]) == ("POST /v1/messages HTTP/1.1", "sk-secret")
    assert "authorization" not in head
    assert (head["anthropic-version"], head["anthropic-beta"]) == ("2030-01-01", "from-the-operator")
    assert head["x-team"] == "a b"


def test_azure_s_version_is_in_the_query_behind_the_path(client: Client, world: World) -> None:
    answered, (head,) = asked(client, world, "azure")
    assert answered.status_code == 200
    assert head[""] == "POST /openai/deployments/one/chat/completions?api-version=2024-10-21 HTTP/1.1"
    assert (head["api-key"], "authorization" in head) == ("sk-secret", False)


def test_no_secret_gets_into_a_log(world: World) -> None:
    for name in ("api", "worker"):
        log = Path(world.stack.processes[name].log).read_text()
        assert "access-" not in log
        assert "sk-secret" not in log
