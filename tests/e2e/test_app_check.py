"""App Check on the local stack: if it is enforced, only the project's own app can use the routes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
import requests

from local.client import Client, question
from local.demo_text import seed_of, text
from local.stack import Stack
from local.token import id_token
from tests.conftest import calls_of, functions
from tests.e2e.breaking_proxy import BreakingProxy
from tests.e2e.callable_lines import heard
from tests.e2e.node_script import run
from tests.unit.cloud.test_tokens import Key, KeyServer, app_claims, make_key

HEADER = "X-Firebase-AppCheck"
UNKNOWN = "0" * 32
SECONDS = 60.0
LONG_AGO = int(time.time()) - 7200
REFUSED = {
    "none": "missing_app_check",
    "expired": "invalid_app_check",
    "of another project": "invalid_app_check",
    "of another signer": "invalid_app_check",
    "not a token": "invalid_app_check",
    "a user's ID token": "invalid_app_check",
}


@pytest.fixture(scope="module")
def key() -> Key:
    return make_key("of Firebase")


@pytest.fixture(scope="module")
def guarded(stack: Stack, key: Key) -> Iterator[str]:
    """Functions that enforce App Check, with the keys of a server of the test's own."""
    server = KeyServer()
    server.publish(key)
    with functions(stack, "guarded", {"APP_CHECK": "enforced", "APP_CHECK_KEYS_URL": server.url}) as url:
        yield url
    server.close()


@pytest.fixture(scope="module")
def tokens(key: Key) -> dict[str, str | None]:
    other = app_claims(aud=["projects/7", "projects/other"], iss="https://firebaseappcheck.googleapis.com/7")
    return {
        "good": key.token(app_claims()),
        "none": None,
        "expired": key.token(app_claims(iat=LONG_AGO, exp=LONG_AGO + 3600)),
        "of another project": key.token(other),
        "of another signer": make_key(key.id).token(app_claims()),
        "not a token": "abc",
        "a user's ID token": id_token("alice"),
    }


@pytest.fixture
def app(guarded: str, tokens: dict[str, str | None]) -> Iterator[Client]:
    """The project's own app, with a user of the test's own."""
    client = Client(guarded, f"user-{uuid.uuid4().hex[:12]}")
    client.session.headers[HEADER] = str(tokens["good"])
    yield client
    client.session.close()


def stranger(app: Client, token: str | None) -> Client:
    """The same user with another App Check token."""
    client = Client(app.url, app.user)
    if token is not None:
        client.session.headers[HEADER] = token
    return client


def asked(what: str) -> dict[str, Any]:
    return {"model": "demo", **question(what, 20, rate=0)}


def through_every_door(client: Client, generation: str, what: str) -> dict[str, tuple[int, str | None]]:
    """What each public route says: its status and, of an error, the code. A callable's stream has always 200."""
    at = f"/v1/generations/{generation}"
    events = {"Accept": "text/event-stream"}
    doors: dict[str, tuple[str, str, dict[str, Any]]] = {
        "start": ("POST", "/v1/chat/completions", {"json": asked(what)}),
        "start, streamed": ("POST", "/v1/chat/completions", {"json": {**asked(what), "stream": True}}),
        "list": ("GET", "/v1/generations", {}),
        "show": ("GET", at, {}),
        "events": ("GET", at, {"headers": {**events, "Last-Event-ID": "1"}}),
        "stop": ("POST", f"{at}/stop", {}),
        "delete": ("DELETE", f"/v1/generations/{UNKNOWN}", {}),
        "models": ("GET", "/v1/models", {}),
        "call": ("POST", "/", {"json": {"data": asked(what)}}),
        "call to resume": ("POST", "/", {"json": {"data": {"resume": generation}}}),
        "call to stop": ("POST", "/", {"json": {"data": {"stop": generation}}}),
    }
    found: dict[str, tuple[int, str | None]] = {}
    for door, (method, path, more) in doors.items():
        response = client.request(method, path, **more)
        found[door] = (response.status_code, code_of(response))
        if path == "/":
            streamed = client.request(method, path, **more, headers=events)
            error = heard(streamed.content).error
            found[f"{door}, streamed"] = (streamed.status_code, error["details"]["code"] if error else None)
            assert error is None or (error["status"] == "UNAUTHENTICATED") == (found[door][0] == 401)
    return found


def code_of(response: requests.Response) -> str | None:
    if response.ok:
        return None
    error = response.json()["error"]
    return str(error["details"]["code"] if "details" in error else error["code"])


@pytest.mark.parametrize("which", REFUSED)
def test_without_a_token_of_the_app_no_door_opens(
    app: Client, stack: Stack, tokens: dict[str, str | None], which: str
) -> None:
    what = uuid.uuid4().hex
    generation = app.complete(question("kept", 5, rate=0)).headers["X-Generation-Id"]
    other = stranger(app, tokens[which])
    with other.session:
        found = through_every_door(other, generation, what)
    streamed = {door for door in found if door.startswith("call") and door.endswith("streamed")}
    assert len(streamed) == 3
    assert found == {door: (200 if door in streamed else 401, REFUSED[which]) for door in found}
    assert not calls_of(stack, what)


def test_with_the_app_s_token_every_door_opens(app: Client) -> None:
    generation = app.complete(question("opened", 5, rate=0)).headers["X-Generation-Id"]
    ended, unknown = "generation_ended", "generation_not_found"
    assert through_every_door(app, generation, uuid.uuid4().hex) == {
        "start": (200, None),
        "start, streamed": (200, None),
        "list": (200, None),
        "show": (200, None),
        "events": (200, None),
        "stop": (409, ended),
        "delete": (404, unknown),
        "models": (200, None),
        "call": (200, None),
        "call, streamed": (200, None),
        "call to resume": (200, None),
        "call to resume, streamed": (200, None),
        "call to stop": (400, ended),
        "call to stop, streamed": (200, ended),
    }
    assert app.request("DELETE", f"/v1/generations/{generation}").status_code == 204


def test_the_app_s_token_does_not_sign_anybody_in(app: Client) -> None:
    del app.session.headers["Authorization"]
    found = through_every_door(app, UNKNOWN, "nobody")
    assert set(found.values()) == {(401, "missing_token"), (200, "missing_token")}


def test_the_health_check_needs_no_token(guarded: str) -> None:
    assert requests.get(f"{guarded}/health", timeout=SECONDS).status_code == 200


@pytest.mark.parametrize("token", [None, "abc"], ids=["none", "not a token"])
def test_unless_it_is_set_nobody_is_asked_for_a_token_of_the_app(client: Client, token: str | None) -> None:
    if token is not None:
        client.session.headers[HEADER] = token
    assert client.complete(question("not guarded", 5, rate=0)).status_code == 200
    call = {"json": {"data": asked("not guarded")}}
    assert client.request("POST", "/", **call).json()["result"]["state"] == "completed"


def test_firebase_s_own_sdk_sends_the_token_that_app_check_gives_it(app: Client, tokens: dict[str, str | None]) -> None:
    seen = run(
        """
            import { httpsCallableFromURL } from '@firebase/functions';
            import { functionsOf } from './functions.mjs';
            for (const appToken of order.appTokens) {
              const call = httpsCallableFromURL(functionsOf(order.token, appToken), order.url);
              say(await call(order.data).then(({ data }) => data.content, (error) => [error.code, error.details.code]));
              const { stream, data } = await call.stream(order.data);
              let shown = '';
              try {
                for await (const message of stream) shown += message.delta ?? '';
              } catch (error) {
                shown = [error.code, error.details.code];
              }
              await data.catch(() => {});
              say(shown);
            }
            process.exit(); // App Check has timers
        """,
        url=app.url,
        token=id_token(app.user),
        data=asked("by the SDK"),
        appTokens=[tokens["good"], tokens["expired"], None],
    )
    answer = text(seed_of(asked("by the SDK")["messages"]), 20)
    invalid, missing = (["functions/unauthenticated", code] for code in ("invalid_app_check", "missing_app_check"))
    assert seen == [answer, answer, invalid, invalid, missing, missing]


def test_openai_s_sdk_sends_the_token_as_a_header_of_every_request(app: Client, tokens: dict[str, str | None]) -> None:
    with openai.OpenAI(base_url=f"{app.url}/v1", api_key=id_token(app.user), max_retries=0) as sdk:
        with pytest.raises(openai.AuthenticationError, match="App Check"):
            sdk.models.list()
        app_s = sdk.with_options(default_headers={HEADER: str(tokens["good"])})
        assert app_s.models.list().object == "list"


def test_the_resuming_fetch_comes_back_with_the_app_s_token(
    app: Client, guarded: str, tokens: dict[str, str | None]
) -> None:
    body = {"model": "demo", "stream": True, **question(uuid.uuid4().hex, 200, rate=100)}
    with BreakingProxy(urlsplit(guarded).port or 0, after=8_000, times=2) as breaking:
        shown = run(
            """
                import OpenAI from 'openai';
                import { resumingFetch } from 'holdfast-client';
                const defaultHeaders = { 'X-Firebase-AppCheck': order.appToken };
                const to = { baseURL: `${order.url}/v1`, apiKey: order.token, defaultHeaders, fetch: resumingFetch() };
                const chunks = await new OpenAI(to).chat.completions.create(order.body);
                for await (const chunk of chunks) say(chunk.choices[0].delta.content ?? '');
            """,
            url=breaking.url,
            token=id_token(app.user),
            appToken=tokens["good"],
            body=body,
        )
        assert breaking.broken == 2
    assert "".join(shown) == text(seed_of(body["messages"]), 200)
