"""The limits of a request, over each client protocol: a status and words that it knows, and the cap that was passed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import requests

from local.client import Client

Json = dict[str, Any]

TOO_LARGE, TOO_MANY = "A" * (10 << 20), [{}] * 50_001


def chat(text: object, more: Json) -> Json:
    return {"model": "demo", "messages": [{"role": "user", "content": text}], **more}


def ui(text: object, more: Json) -> Json:
    parts = [{"type": "text", "text": text}]
    return {"id": "c", "model": "demo", "messages": [{"id": "m", "role": "user", "parts": parts}], "options": more}


WIRES: dict[str, tuple[str, Callable[[object, Json], Json]]] = {
    "chat completions": ("/v1/chat/completions", chat),
    "responses": ("/v1/responses", lambda text, more: {"model": "demo", "input": [{"content": text}], **more}),
    "messages": ("/v1/messages", lambda text, more: {**chat(text, {"max_tokens": 3}), **more}),
    "gemini": (
        "/v1/models/demo:generateContent",
        lambda text, more: {"contents": [{"parts": [{"text": text}]}], **more},
    ),
    "callable": ("/", lambda text, more: {"data": chat(text, more)}),
    "useChat": ("/api/chat", ui),
}
SAID: Mapping[str, Callable[[requests.Response], str]] = {
    "chat completions": lambda answer: answer.json()["error"]["message"],
    "responses": lambda answer: answer.json()["error"]["message"],
    "messages": lambda answer: answer.json()["error"]["message"] if answer.json()["type"] == "error" else "",
    "gemini": lambda answer: answer.json()["error"]["message"] if answer.json()["error"]["status"] else "",
    "callable": lambda answer: answer.json()["error"]["message"] if answer.json()["error"]["status"] else "",
    "useChat": lambda answer: answer.text if answer.headers["Content-Type"].startswith("text/plain") else "",
}
CHOICES = {"gemini": {"generationConfig": {"candidateCount": 5}}}  # others have `n`, and two APIs have one answer alone
TOKENS = {
    "responses": {"max_output_tokens": 65_537},
    "gemini": {"generation_config": {"max_output_tokens": 65_537}},
}


def refused(client: Client, wire: str, text: object = "x", more: Json | None = None) -> tuple[int, str]:
    path, asked = WIRES[wire]
    answer = client.request("POST", path, data=json.dumps(asked(text, more or {})), headers=_JSON)
    return answer.status_code, SAID[wire](answer)


_JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("wire", WIRES)
def test_a_body_that_is_too_large(client: Client, wire: str) -> None:
    status, said = refused(client, wire, TOO_LARGE)
    assert status == (400 if wire == "callable" else 413)  # its codes have no other status for that
    assert "10485760 bytes, which is the limit here (MAX_REQUEST_BYTES)" in said


@pytest.mark.parametrize("wire", WIRES)
def test_a_body_of_too_many_values(client: Client, wire: str) -> None:
    status, said = refused(client, wire, TOO_MANY)
    assert status == 400
    assert "more than 50000 values and names, which is the limit here (MAX_REQUEST_NODES)" in said


@pytest.mark.parametrize("wire", ["chat completions", "gemini", "callable", "useChat"])
def test_too_many_answers_of_one_request(client: Client, wire: str) -> None:
    status, said = refused(client, wire, more=CHOICES.get(wire, {"n": 5}))
    assert status == 400
    assert "may be 4 at most here (MAX_CHOICES), and is 5" in said


@pytest.mark.parametrize("wire", WIRES)
def test_too_many_output_tokens(client: Client, wire: str) -> None:
    status, said = refused(client, wire, more=TOKENS.get(wire, {"max_tokens": 65_537}))
    assert status == 400
    assert "may be 65536 at most here (MAX_OUTPUT_TOKENS), and is 65537" in said
