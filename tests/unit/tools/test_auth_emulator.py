"""The local sign-in: the same paths, fields and error codes as Firebase's."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from local import auth_emulator
from local.token import PROJECT, id_token

ACCOUNTS = "/identitytoolkit.googleapis.com/v1/accounts"
TOKEN = "/securetoken.googleapis.com/v1/token"


def answer(path: str, **sent: Any) -> tuple[int, dict[str, Any]]:
    """The status and the JSON that a POST is answered with."""

    async def ask() -> tuple[int, dict[str, Any]]:
        app = web.Application()
        app.add_routes(auth_emulator.routes())
        async with TestClient(TestServer(app)) as client, client.post(path, **sent) as response:
            return response.status, await response.json()

    return asyncio.run(ask())


def refused(path: str, **sent: Any) -> str:
    """The code of an error as the SDK looks for it."""
    status, body = answer(path, **sent)
    assert status == body["error"]["code"] == 400
    return str(body["error"]["message"])


def claims(token: str) -> dict[str, Any]:
    payload = token.split(".")[1]
    decoded: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return decoded


def is_a_sign_in_of(uid: str, body: dict[str, Any]) -> None:
    said = claims(body["idToken"])
    assert (said["sub"], said["user_id"], said["aud"]) == (uid, uid, PROJECT)
    assert said["iss"] == f"https://securetoken.google.com/{PROJECT}"
    assert said["exp"] - said["iat"] == int(body["expiresIn"])
    assert said["exp"] > time.time()
    _, renewed = answer(TOKEN, data={"grant_type": "refresh_token", "refresh_token": body["refreshToken"]})
    assert renewed["user_id"] == claims(renewed["id_token"])["sub"] == uid


@pytest.mark.parametrize("token", ['{"uid": "alice"}', "x.eyJ1aWQiOiJhbGljZSJ9.x"], ids=["JSON", "JWT"])
def test_a_custom_token_signs_in_whom_it_names(token: str) -> None:
    status, body = answer(f"{ACCOUNTS}:signInWithCustomToken", json={"token": token, "returnSecureToken": True})
    assert status == 200
    assert body["isNewUser"] is False
    is_a_sign_in_of("alice", body)


@pytest.mark.parametrize(
    "token",
    [
        "",
        "alice",
        "{",
        "{}",
        '{"uid": ""}',
        '{"uid": 7}',
        json.dumps({"uid": "x" * 129}),
        "x.y",
        "x.é.z",
        "x.W10.z",
        "[]",
    ],
)
def test_a_custom_token_that_names_nobody_is_refused(token: str) -> None:
    assert refused(f"{ACCOUNTS}:signInWithCustomToken", json={"token": token}) == "INVALID_CUSTOM_TOKEN"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"7", b"\xff"])
def test_a_body_that_is_no_sign_in_is_refused(body: bytes) -> None:
    assert refused(f"{ACCOUNTS}:signInWithCustomToken", data=body) == "INVALID_CUSTOM_TOKEN"
    assert refused(f"{ACCOUNTS}:lookup", data=body) == "INVALID_ID_TOKEN"


def test_everybody_who_signs_in_anonymously_is_somebody_else() -> None:
    (_, one), (_, other) = (answer(f"{ACCOUNTS}:signUp", json={}) for _ in range(2))
    assert one["localId"] != other["localId"]
    is_a_sign_in_of(one["localId"], one)


def test_a_user_is_found_by_his_id_token() -> None:
    _, body = answer(f"{ACCOUNTS}:lookup", json={"idToken": id_token("alice")})
    assert [user["localId"] for user in body["users"]] == ["alice"]


@pytest.mark.parametrize(
    "token", [None, "", "abc", "a.b.c", id_token("")], ids=["none", "empty", "a word", "three parts", "of nobody"]
)
def test_a_user_is_not_found_by_what_is_no_id_token(token: str | None) -> None:
    assert refused(f"{ACCOUNTS}:lookup", json={"idToken": token}) == "INVALID_ID_TOKEN"


def test_a_refresh_token_gives_a_new_id_token_after_any_time() -> None:
    status, body = answer(TOKEN, data={"grant_type": "refresh_token", "refresh_token": "alice"})
    assert status == 200
    assert claims(body["id_token"])["sub"] == claims(body["access_token"])["sub"] == body["user_id"] == "alice"
    assert (body["refresh_token"], body["token_type"]) == ("alice", "Bearer")
    assert int(body["expires_in"]) > 0


@pytest.mark.parametrize("form", [{}, {"refresh_token": ""}, {"refresh_token": "x" * 129}], ids=repr)
def test_a_refresh_token_of_an_unknown_user_is_refused(form: dict[str, str]) -> None:
    assert refused(TOKEN, data={"grant_type": "refresh_token", **form}) == "INVALID_REFRESH_TOKEN"
