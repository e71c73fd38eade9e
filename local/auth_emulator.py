"""The few calls of Firebase Authentication that a page needs to sign somebody in, so that the real web SDK can be used.

This is not Firebase's Auth emulator (npm `firebase-tools`, 312 MB): it stands in for it, under the same paths and with
the same unsigned tokens, for `connectAuthEmulator` and then `signInWithCustomToken`, `signInAnonymously` and what the
SDK does of itself: look its user up, and get a new token. Whoever asks to be somebody is that. It keeps no accounts: a
refresh token is the user's id, so that a sign-in outlives a restart.
"""

from __future__ import annotations

import base64
import json
import secrets
from typing import Any

from aiohttp import web

from local.token import HOURS, id_token

_MAX_UID = 128  # characters, as Firebase has it
_ACCOUNTS = "/identitytoolkit.googleapis.com/v1/accounts"
_TOKEN = "/securetoken.googleapis.com/v1/token"
_SECONDS = str(HOURS * 3600)


class _Refused(Exception):
    """The message is a code that the SDK knows."""


def routes() -> list[web.RouteDef]:
    """To be added to a web application, at its root: the SDK takes an emulator's host and port, and no path."""
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
    """With a custom token; like Firebase's emulator it takes `{"uid": …}` as one."""
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
    """A form in and snake case out, unlike the rest: it is another of Google's services."""
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
    """What a token says, whoever made it."""
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
