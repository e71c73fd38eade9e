"""App Check: if it is enforced, all routes that need a user also need an App Check token."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import pytest
from flask.testing import FlaskClient
from werkzeug.datastructures import Headers

from lib.cloud.tokens import AppTokens, UserTokens, identify
from lib.dialects import DIALECTS
from lib.domain.errors import Unauthenticated
from lib.runtime.health import Readiness
from lib.runtime.settings import Settings
from lib.serving.generations import Generations
from lib.wires.api import create_api
from tests.unit.runtime.test_settings import NEEDED


class Users:
    """Accepts all tokens."""

    def uid(self, authorization: str | None) -> str:
        return "alice"


class Apps:
    """Accepts one token."""

    def verify(self, token: str | None) -> None:
        if token != "good":
            raise Unauthenticated("No.", code="invalid_app_check")


class NoGenerations:
    """Must never be called."""

    def __getattr__(self, name: str) -> Any:
        def reached(*_: object, **__: object) -> None:
            raise AssertionError(f"{name} was reached")

        return reached


@pytest.fixture
def web() -> Iterator[FlaskClient]:
    generations = cast(Generations, NoGenerations())
    who = partial(identify, users=cast(UserTokens, Users()), apps=cast(AppTokens, Apps()))
    app = create_api(Settings.from_env(NEEDED), generations, who, DIALECTS)
    Readiness({}).serve(app)
    with app.test_client() as client:
        yield client


@pytest.mark.parametrize("headers", [{}, {"X-Firebase-AppCheck": "bad"}], ids=["none", "bad"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/chat/completions"),
        ("GET", "/v1/generations"),
        ("GET", "/v1/generations/g1"),
        ("POST", "/v1/generations/g1/stop"),
        ("DELETE", "/v1/generations/g1"),
        ("GET", "/v1/models"),
    ],
)
def test_no_route_answers_without_a_token_of_the_app(
    web: FlaskClient, method: str, path: str, headers: dict[str, str]
) -> None:
    response = web.open(path, method=method, json={} if method == "POST" else None, headers=headers)
    assert (response.status_code, response.json["error"]["code"]) == (401, "invalid_app_check")


def test_a_call_without_a_token_of_the_app_is_unauthenticated_as_the_sdks_know_it(web: FlaskClient) -> None:
    response = web.post("/", json={"data": {"stop": "g1"}})
    assert (response.status_code, response.json["error"]["status"]) == (401, "UNAUTHENTICATED")
    streamed = web.post("/", json={"data": {"stop": "g1"}}, headers={"Accept": "text/event-stream"})
    assert streamed.status_code == 200
    assert streamed.data.startswith(b'data: {"error":{"status":"UNAUTHENTICATED"')


def test_the_id_token_may_be_the_key_of_a_vendor_s_sdk() -> None:
    class Shown(Users):
        def uid(self, authorization: str | None) -> str:
            return str(authorization)

    users = cast(UserTokens, Shown())
    assert identify(Headers({"X-API-Key": "t"}), users) == "Bearer t"
    assert identify(Headers({"Authorization": "Bearer u", "x-api-key": "t"}), users) == "Bearer u"
    assert identify(Headers({"x-api-key": ""}), users) == "None"


def test_with_the_app_s_token_a_call_is_served(web: FlaskClient) -> None:
    assert web.get("/v1/models", headers={"X-Firebase-AppCheck": "good"}).status_code == 200


def test_a_preflight_and_the_health_check_need_no_token(web: FlaskClient) -> None:
    asking = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    assert web.options("/", headers=asking).status_code == 200
    assert [web.get(path).status_code for path in ("/healthz", "/health", "/ready")] == [200] * 3
