"""Prompts of one chat that take turns, asked over each client protocol."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import requests

from local.client import Client

Json = dict[str, Any]


@dataclass(frozen=True)
class Wire:
    """A client protocol: its path, its body for some words with the upstream's orders, and its errors' message."""

    path: str
    body: Callable[[str, Json], Json]
    message: Callable[[requests.Response], str]
    generation: Callable[[requests.Response], Any] = lambda answer: answer.json()["error"]["generation"]
    in_body: bool = False


def _said(answer: requests.Response) -> str:
    return str(answer.json()["error"]["message"])


def _chat(words: str, demo: Json) -> Json:
    return {"model": "demo", "stream": True, "messages": [{"role": "user", "content": words}], "demo": demo}


def _gemini(words: str, demo: Json) -> Json:
    return {"contents": [{"role": "user", "parts": [{"text": words}]}], "demo": demo}


def _ui(words: str, demo: Json) -> Json:
    message = {"id": f"asked-{uuid.uuid4().hex}", "role": "user", "parts": [{"type": "text", "text": words}]}
    return {"messages": [message], "model": "demo", "options": {"demo": demo}}


WIRES = {
    "chat_completions": Wire("/v1/chat/completions", _chat, _said),
    "responses": Wire(
        "/v1/responses", lambda words, demo: {"model": "demo", "stream": True, "input": words, "demo": demo}, _said
    ),
    "messages": Wire(
        "/v1/messages",
        lambda words, demo: {**_chat(words, demo), "max_tokens": 4096},
        _said,
        lambda answer: answer.json()["error"]["details"]["generation"],
    ),
    "gemini": Wire(
        "/v1beta/models/demo:streamGenerateContent?alt=sse",
        _gemini,
        _said,
        lambda answer: answer.json()["error"]["details"][0]["metadata"]["generation"],
    ),
    "callable": Wire("/", _chat, _said, lambda answer: answer.json()["error"]["details"]["generation"], in_body=True),
    "ai_sdk": Wire("/api/chat", _ui, lambda answer: answer.text, lambda answer: None, in_body=True),
}


class Chat:
    """One chat of a user's."""

    def __init__(self, client: Client):
        self.client = client
        self.id = f"chat-{uuid.uuid4().hex[:12]}"

    def ask(
        self,
        turn: str | None = None,
        *,
        wire: str = "chat_completions",
        tokens: int = 5,
        stream: bool = True,
        **demo: Any,
    ) -> requests.Response:
        """Asks over a protocol. The response is not read."""
        its = WIRES[wire]
        body = its.body(f"words {uuid.uuid4().hex}", {"tokens": tokens, **demo})
        headers = {} if its.in_body else {"X-Chat-Id": self.id, **({"X-Turn": turn} if turn else {})}
        more = {"turn": turn} if turn and its.in_body else {}
        if wire == "callable":
            body = {"data": {**body, "chatId": self.id, **more}}
            headers = {"Accept": "text/event-stream"} if stream else {}
        elif wire == "ai_sdk":
            body = {**body, "id": self.id, **more}
        return self.client.request("POST", its.path, json=body, headers=headers, stream=True)

    def begin(self, turn: str | None = None, **more: Any) -> str:
        """Asks, and leaves. Returns the generation's id."""
        with self.ask(turn, **more) as answer:
            assert answer.status_code == 200, answer.text
            if "X-Generation-Id" in answer.headers:
                return answer.headers["X-Generation-Id"]
            line = next(each for each in answer.iter_lines() if each.startswith(b"data: "))
            return str(json.loads(line[6:])["message"]["id"])

    def stop(self, generation: str) -> Json:
        stopped: Json = self.client.request("POST", f"/v1/generations/{generation}/stop").json()
        return stopped

    def queued(self) -> list[str]:
        """The ids of those that wait, newest first."""
        return [each["id"] for each in self.client.list(chat_id=self.id, state="queued")]

    def ended(self, *generations: str) -> list[Json]:
        return [self.client.wait_until_ended(each) for each in generations]
