"""The routes of `useChat`, as HTTP."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
import requests

from local.client import Client, question


def asked(chat: str, tokens: int, **demo: Any) -> dict[str, Any]:
    parts = [{"type": "text", "text": uuid.uuid4().hex}]
    options = {"max_tokens": tokens, "demo": demo}
    return {"id": chat, "messages": [{"id": "u1", "role": "user", "parts": parts}], "model": "demo", "options": options}


def chunks(answer: requests.Response) -> list[dict[str, Any]]:
    data = [line.removeprefix("data: ") for line in answer.text.split("\n") if line.startswith("data: ")]
    assert data.pop() == "[DONE]"
    return [json.loads(each) for each in data]


@pytest.fixture
def chat() -> str:
    return uuid.uuid4().hex


def test_a_stream_says_its_version_and_its_generation(client: Client, chat: str) -> None:
    answer = client.request("POST", "/api/chat", json=asked(chat, 5, rate=0))
    assert answer.headers["x-vercel-ai-ui-message-stream"] == "v1"
    assert chunks(answer)[0]["messageMetadata"]["generationId"] == answer.headers["X-Generation-Id"]


def test_a_stopped_answer_ends_as_an_abort(client: Client, chat: str) -> None:
    answer = client.request("POST", "/api/chat", json=asked(chat, 2000, rate=50), stream=True)
    stopped = client.request("POST", f"/api/chat/{chat}/stop")
    assert stopped.json() == {"stopped": answer.headers["X-Generation-Id"]}
    assert chunks(answer)[-1] == {"type": "abort"}


def test_of_several_answers_that_which_runs_is_resumed_though_a_newer_one_has_ended(client: Client, chat: str) -> None:
    running = client.request("POST", "/api/chat", json=asked(chat, 2000, rate=50), stream=True)
    assert client.request("POST", "/api/chat", json=asked(chat, 3, rate=0)).status_code == 200
    resumed = client.request("GET", f"/api/chat/{chat}/stream", stream=True)
    assert resumed.headers["X-Generation-Id"] == running.headers["X-Generation-Id"]
    client.request("POST", f"/api/chat/{chat}/stop")
    assert chunks(resumed)[-1] == {"type": "abort"}


def test_another_user_s_chat_of_the_same_name_is_not_seen(client: Client, chat: str) -> None:
    running = client.request("POST", "/api/chat", json=asked(chat, 2000, rate=50), stream=True)
    other = Client(client.url, f"{client.user}-other")
    assert other.request("GET", f"/api/chat/{chat}/stream").status_code == 204
    assert other.request("POST", f"/api/chat/{chat}/stop").status_code == 204
    client.request("POST", f"/api/chat/{chat}/stop")
    assert chunks(running)[-1] == {"type": "abort"}


def test_an_answer_of_another_client_is_resumed_as_a_ui_stream(client: Client, chat: str) -> None:
    """It was started over chat completions, in the same chat."""
    with client.stream(question(uuid.uuid4().hex, 200, rate=100), X_Chat_Id=chat, X_Message_Id="m1"):
        resumed = client.request("GET", f"/api/chat/{chat}/stream")
    assert chunks(resumed)[0]["messageId"] == "m1"


def test_a_wrong_request_is_refused_in_plain_words(client: Client, chat: str) -> None:
    answer = client.request("POST", "/api/chat", json={"id": chat, "messages": []})
    assert (answer.status_code, answer.text) == (400, "'messages' must be a non-empty list of UI messages.")
    answer = requests.post(f"{client.url}/api/chat", json={}, timeout=30)
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
