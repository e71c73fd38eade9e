"""A minimal stand-in for Firebase's Auth emulator, so that pages can sign in with the real web SDK.

Firebase's own emulator (npm `firebase-tools`) takes 312 MB. This one has the same paths and the same unsigned tokens.
It supports `connectAuthEmulator`, `signInWithCustomToken`, `signInAnonymously`, and the SDK's own calls to look up the
user and to refresh the token. Anybody can sign in as anybody. There are no accounts: the refresh token is the user's
id, so a sign-in survives a restart.
"""

from __future__ import annotations

import base64
import json
import secrets
from typing import Any

from aiohttp import web

from local.token import HOURS, id_token

_MAX_UID = 128  # characters; Firebase's limit
_ACCOUNTS = "/identitytoolkit.googleapis.com/v1/accounts"
_TOKEN = "/securetoken.googleapis.com/v1/token"
_SECONDS = str(HOURS * 3600)


class _Refused(Exception):
    """A refused call. The message is an error code that the SDK knows."""


def routes() -> list[web.RouteDef]:
    """Routes for the root of a web application: the SDK takes an emulator's host and port, but no path."""
    return [
        web.post(f"{_ACCOUNTS}:signUp", _sign_up),
        web.post(f"{_ACCOUNTS}:signInWithCustomToken", _sign_in),
        web.post(f"{_ACCOUNTS}:lookup", _look_up),
        web.post(_TOKEN, _refresh),
    ]


async def _sign_up(_: web.Request) -> web.Response:
    uid = secrets.token_hex(14)
    return web.json_response({**_tokens(uid), "localId": uid})


async def _sign_in(request: web.Request) -> web.Response:
    """Signs in with a custom token. Like Firebase's emulator, accepts `{"uid": …}` as one."""
    try:
        custom = str((await _fields(request)).get("token", ""))
        uid = _uid((json.loads(custom) if custom.startswith("{") else _claims(custom)).get("uid"))
    except (ValueError, _Refused):
        return _error("INVALID_CUSTOM_TOKEN")
    return web.json_response({**_tokens(uid), "isNewUser": False})


async def _look_up(request: web.Request) -> web.Response:
    try:
        uid = _uid(_claims(str((await _fields(request)).get("idToken", ""))).get("sub"))
    except (ValueError, _Refused):
        return _error("INVALID_ID_TOKEN")
    return web.json_response({"users": [{"localId": uid, "providerUserInfo": []}]})


async def _refresh(request: web.Request) -> web.Response:
    """Refreshes a token. Takes a form and returns snake case, unlike the rest: Google has another service for this."""
    try:
        uid = _uid((await request.post()).get("refresh_token"))
    except (ValueError, _Refused):
        return _error("INVALID_REFRESH_TOKEN")
    token = id_token(uid)
    return web.json_response(
        {
            "access_token": token,
            "id_token": token,
            "refresh_token": uid,
            "expires_in": _SECONDS,
            "token_type": "Bearer",
            "user_id": uid,
        }
    )


def _tokens(uid: str) -> dict[str, object]:
    return {"idToken": id_token(uid), "refreshToken": uid, "expiresIn": _SECONDS}


async def _fields(request: web.Request) -> dict[str, Any]:
    given = await request.json()
    return given if isinstance(given, dict) else {}


def _claims(token: str) -> dict[str, Any]:
    """A token's claims, without verification."""
    parts = token.split(".")
    if len(parts) != 3:
        raise _Refused
    claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    return claims if isinstance(claims, dict) else {}


def _uid(given: object) -> str:
    if not isinstance(given, str) or not 0 < len(given) <= _MAX_UID:
        raise _Refused
    return given


def _error(code: str) -> web.Response:
    return web.json_response({"error": {"code": 400, "message": code}}, status=400)
