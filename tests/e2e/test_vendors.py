"""The upstreams that docs/operations.md has tables for, called as it says, with the demo upstream in their place.

Each table is used as it is but for its host and its models. Tokens of the service's account come from a metadata server
like Google's, over the real google-auth.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from base64 import urlsafe_b64decode
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from chaos.dialects import DIALECTS, Dialect, text_of
from local.client import Client, Stream
from local.demo_text import text
from local.demo_upstream import DemoUpstream
from local.ports import Ports
from local.stack import Stack
from tests.e2e.metadata_server import MetadataServer

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
TOML = PAGE.partition("## Upstreams")[2].partition("```toml\n")[2].partition("```")[0]
UPSTREAMS: dict[str, dict[str, Any]] = tomllib.loads(TOML)
TOKENS = 40
KEY_HEADERS = ("authorization", "api-key", "x-api-key", "x-goog-api-key")


@dataclass(frozen=True, slots=True)
class Row:
    """What the page says of how an upstream is called."""

    dialect: str
    path: str
    header: str
    token: str


def rows() -> dict[str, Row]:
    """The page's table, by the upstreams' names."""
    found = re.findall(
        r"^\| `(\w+)` \| `(\w+)` \| `([^`]+)` \| (?:`([\w-]+)`(?:, an (\w+) token)?|none) \|$", PAGE, re.M
    )
    return {name: Row(*told) for name, *told in found}


ROWS = rows()


@dataclass(frozen=True, kw_only=True)
class World:
    stack: Stack
    upstream: DemoUpstream
    metadata: MetadataServer


@pytest.fixture(scope="module")
def world(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as held:
        upstream = held.enter_context(DemoUpstream())
        metadata = MetadataServer()
        held.callback(metadata.server_close)
        folder = tmp_path_factory.mktemp("upstreams")
        here = re.sub(r'(?m)^base_url = "https?://[^/]+', f'base_url = "{upstream.url}', TOML)
        for name in UPSTREAMS:  # two may serve the same models
            here = re.sub(rf"(?ms)(^\[{name}\].*?)^models = [^\n]+", rf'\1models = ["{name}-*"]', here)
        (folder / "upstreams.toml").write_text(here)
        keys = {table["key_env"]: f"sk-{table['key_env']}" for table in UPSTREAMS.values() if "key_env" in table}
        settings = {"UPSTREAMS_FILE": str(folder / "upstreams.toml"), **keys, **metadata.environ}
        environ = {name: value for name, value in os.environ.items() if not name.endswith("_PORT")}
        environ["CLOUDSDK_CONFIG"] = str(folder)  # without any account of the machine's user
        own = held.enter_context(Stack(Ports.free(), settings, environ, beside=stack))
        yield World(stack=own, upstream=upstream, metadata=metadata)


@pytest.fixture
def client(world: World) -> Iterator[Client]:
    client = Client(world.stack.url, "alice")
    with closing(client.session):
        yield client


def asked(client: Client, world: World, name: str, dialect: Dialect, streamed: bool) -> tuple[str, Mapping[str, Any]]:
    """The text of an answer, and the upstream's only call for it."""
    world.upstream.clear()
    seed = f"{name}-{streamed}"
    model = f"{name}-m"
    body = {**dialect.body(model, "Hi", streamed), "demo": {"seed": seed, "tokens": TOKENS, "rate": 0}}
    response = client.request("POST", dialect.path(model, streamed), json=body, stream=streamed)
    assert response.status_code == 200, response.text
    if streamed:
        frames = [frame for frame in Stream(response).frames() if frame.data != dialect.mark]
        said = "".join(text_of(dialect, frame) for frame in frames)
    else:
        said = dialect.text(response.json())
    (call,) = world.upstream.calls()
    assert said == text(seed, TOKENS)
    return model, call


def test_every_upstream_has_a_row_and_every_row_an_upstream() -> None:
    assert list(ROWS) == list(UPSTREAMS)
    vendors = {"openai", "azure", "anthropic", "gemini", "vertex", "vertex_by_openai", "openrouter", "vllm", "ollama"}
    assert vendors <= ROWS.keys()


@pytest.mark.parametrize("name", UPSTREAMS)
def test_an_upstream_is_called_as_its_vendor_documents(client: Client, world: World, name: str) -> None:
    row = ROWS[name]
    dialect = next(each for each in DIALECTS if each.name == row.dialect)
    model, call = asked(client, world, name, dialect, streamed=True)
    assert call["path"] == row.path.replace("MODEL", model)
    shown = {header: call["headers"][header] for header in KEY_HEADERS if header in call["headers"]}
    assert list(shown) == ([row.header.lower()] if row.header else [])
    if row.token:
        token = shown["authorization"].removeprefix("Bearer ")
        assert is_access_token(token) if row.token == "access" else audience(token) == world.upstream.url
    elif row.header:
        key = f"sk-{UPSTREAMS[name]['key_env']}"
        assert shown[row.header.lower()] == (f"Bearer {key}" if row.header == "Authorization" else key)
    assert ("anthropic-version" in call["headers"]) is (row.dialect == "messages")


@pytest.mark.parametrize("name", ["vertex", "vertex_by_openai"])
def test_gemini_on_vertex_ai_answers_whole_too_and_with_no_key(client: Client, world: World, name: str) -> None:
    assert "key_env" not in UPSTREAMS[name]
    dialect = next(each for each in DIALECTS if each.name == ROWS[name].dialect)
    model, call = asked(client, world, name, dialect, streamed=False)
    path = ROWS[name].path.replace("MODEL", model)
    assert call["path"] == path.replace("streamGenerateContent?alt=sse", "generateContent")
    assert is_access_token(call["headers"]["authorization"].removeprefix("Bearer "))
    assert not {"api-key", "x-api-key", "x-goog-api-key"} & call["headers"].keys()


def is_access_token(token: str) -> bool:
    return token.startswith("access-")


def audience(token: str) -> str:
    claims: dict[str, str] = json.loads(urlsafe_b64decode(token.split(".")[1] + "=="))
    return claims["aud"]
