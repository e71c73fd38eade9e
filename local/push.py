"""A stand-in for Firebase Cloud Messaging, so that the web example is told of answers without Google's servers.

It plays FCM's HTTP API for the worker, and the metadata server from which the worker gets its token. And it plays the
push service, as far as that goes: a browser takes real pushes from its vendor's servers alone. So the page asks for a
token here, where an app calls `getToken`, and listens to a stream, whose messages it hands to its service worker. What
comes for a page that is closed waits for it; a browser would wake the service worker.

https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages/send
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import OrderedDict
from typing import Any

from aiohttp import web

MOST_TOKENS = 1000
MOST_MESSAGES = 100  # that wait for one page
_SENDER = "000000000000"
_ACCOUNT = "/computeMetadata/v1/instance/service-accounts/default"
_GOOGLE = {"Metadata-Flavor": "Google"}
_UNREGISTERED = {
    "error": {
        "code": 404,
        "message": "Requested entity was not found.",
        "status": "NOT_FOUND",
        "details": [
            {"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": "UNREGISTERED"},
        ],
    }
}

Json = dict[str, Any]


class PushService:
    """The tokens, and what waits for each."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, asyncio.Queue[Json]] = OrderedDict()

    def for_pages(self) -> list[web.RouteDef]:
        """Routes of the page's own server: a new token, and the messages to one."""
        return [web.post("/push", self._new_token), web.get("/push/{token}", self._listen)]

    def for_worker(self) -> web.Application:
        """FCM and the metadata server: for `FCM_URL`, and for `environ`."""
        app = web.Application()
        app.add_routes(
            [
                web.post("/v1/projects/{project}/messages:send", self._send),
                web.get("/", _ping),
                web.get(f"{_ACCOUNT}/", _account),
                web.get(f"{_ACCOUNT}/token", _access_token),
                web.get("/computeMetadata/v1/universe/universe-domain", _universe),
            ]
        )
        return app

    @staticmethod
    def settings(host: str) -> dict[str, str]:
        """What the functions need to use it at `host`, a host and port."""
        return {"PUSH": "on", "FCM_URL": f"http://{host}", "GCE_METADATA_HOST": host, "GCE_METADATA_IP": host}

    async def _new_token(self, _: web.Request) -> web.Response:
        token = secrets.token_urlsafe(24)
        self._waiting[token] = asyncio.Queue(MOST_MESSAGES)
        if len(self._waiting) > MOST_TOKENS:
            self._waiting.popitem(last=False)
        return web.json_response({"token": token})

    async def _listen(self, request: web.Request) -> web.StreamResponse:
        waiting = self._waiting.get(request.match_info["token"])
        if waiting is None:
            raise web.HTTPNoContent  # an EventSource does not come back after that
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        await response.write(b": listening\n\n")
        while True:
            await response.write(b"data: %b\n\n" % json.dumps(await waiting.get()).encode())

    async def _send(self, request: web.Request) -> web.Response:
        message = (await request.json())["message"]
        waiting = self._waiting.get(message["token"])
        if waiting is None:
            return web.json_response(_UNREGISTERED, status=404)
        name = f"projects/{request.match_info['project']}/messages/{secrets.token_hex(8)}"
        if not waiting.full():
            waiting.put_nowait(pushed(message, name))
        return web.json_response({"name": name})


def pushed(message: Json, name: str) -> Json:
    """What a browser gets of a message, in the form that Firebase's SDK for service workers reads."""
    web_push = message.get("webpush", {}).get("notification", {})
    return {
        "notification": {**message.get("notification", {}), **web_push},
        "data": message.get("data", {}),
        "from": _SENDER,
        "fcmMessageId": name,
    }


async def _ping(_: web.Request) -> web.Response:
    return web.Response(headers=_GOOGLE)


async def _account(_: web.Request) -> web.Response:
    return web.json_response({"email": "local", "aliases": ["default"], "scopes": []}, headers=_GOOGLE)


async def _access_token(_: web.Request) -> web.Response:
    token = {"access_token": f"local-{int(time.time())}", "expires_in": 3600, "token_type": "Bearer"}
    return web.json_response(token, headers=_GOOGLE)


async def _universe(_: web.Request) -> web.Response:
    return web.Response(text="googleapis.com", headers=_GOOGLE)
