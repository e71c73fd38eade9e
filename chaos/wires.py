"""The protocols in which a viewer asks and follows, as clients speak them: requests, and what the responses tell.

Nothing here may judge, wait or come back: see `viewer`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import requests

from chaos.dialects import DONE, RESPONSES, Dialect
from chaos.question import CHAT, Question
from chaos.saved import LIVE
from local.client import Client, Frame, Stream

GONE = "204"  # nothing runs any more
TOO_EARLY = "204, although it runs"
_COMES_BACK = frozenset({"still_running", "unavailable"})  # errors that may end a response although the answer goes on

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Begun:
    """The generation's id is known."""

    generation: str


@dataclass(frozen=True, slots=True)
class Said:
    """Text that has no number: a response begins with the answer's first word."""

    text: str


@dataclass(frozen=True, slots=True)
class Over:
    """The response has ended: with the answer's end, or with a code, or with None where the answer goes on."""

    end: str | None


Told = Begun | Said | Over | Frame


class Wire(Protocol):
    """One viewer's protocol. `numbered`: it tells of events by their numbers, and can go on after one.

    `exact`: an event's data is as the upstream sent it. `rendered`: its events are its own, with numbers of their own.
    `dialect` is the API in which it is refused.
    """

    name: str
    numbered: bool
    exact: bool
    rendered: bool
    dialect: Dialect

    def __init__(self, client: Client, question: Question): ...

    def ask(self) -> requests.Response:
        """Starts the answer, or attaches to the one that the same request started."""
        ...

    def follow(self, generation: str, after: int) -> requests.Response:
        """Comes back for the rest after an event, or for the whole answer."""
        ...

    def told(self, response: requests.Response, after: int) -> Iterator[Told]:
        """What a response tells that is no refusal, until it has ended or breaks off."""
        ...


class Native:
    """The stream of the model's own API, whose rest every client can get by the generation's id."""

    name = "native"
    numbered = True
    exact = True
    rendered = False

    def __init__(self, client: Client, question: Question):
        self.dialect = question.dialect
        self._client = client
        self._question = question

    def ask(self) -> requests.Response:
        return _posted(
            self._client,
            self.dialect.path(self._question.model, self._question.streamed),
            self._question.body_in(self.dialect),
            {"X-Chat-Id": CHAT, "X-Message-Id": self._question.name},
        )

    def follow(self, generation: str, after: int) -> requests.Response:
        return self._client.resume(generation, after).response

    def told(self, response: requests.Response, after: int) -> Iterator[Told]:
        dialect = self.dialect
        yield Begun(response.headers["X-Generation-Id"])
        place = after
        for frame in Stream(response).frames():
            if frame.data == dialect.mark:
                yield Over(DONE)
                return
            said = json.loads(frame.data)
            if frame.id is None and said.get("error"):
                yield _over(dialect.code(said))
                return
            if frame.id is not None or not dialect.numbered:  # or it keeps the connection alive
                place = frame.id or place + 1
                yield Frame(place, frame.data, frame.name)
        if dialect.mark is None:
            yield Over(DONE)


class Whole(Native):
    """The whole body of the model's own API. Who comes back asks again."""

    name = "whole"
    numbered = False

    def follow(self, generation: str, after: int) -> requests.Response:
        return self.ask()

    def told(self, response: requests.Response, after: int) -> Iterator[Told]:
        yield Begun(response.headers["X-Generation-Id"])
        yield Said(self.dialect.text(response.json()))
        yield Over(DONE)


class Responses(Native):
    """OpenAI's Responses over any API. Its events have numbers of their own, and only who asked in it follows in it."""

    name = "responses"
    exact = False
    rendered = True

    def __init__(self, client: Client, question: Question):
        super().__init__(client, question)
        self.dialect = RESPONSES

    def follow(self, generation: str, after: int) -> requests.Response:
        path = f"{RESPONSES.path('', True)}/resp_{generation}?stream=true"
        return self._client.request("GET", f"{path}&starting_after={after - 1}" if after else path, stream=True)

    def told(self, response: requests.Response, after: int) -> Iterator[Told]:
        yield Begun(response.headers["X-Generation-Id"])
        place = after
        for frame in Stream(response).frames():
            said = json.loads(frame.data)
            failed = said if said.get("error") else said.get("response", {})
            if failed.get("error"):
                yield _over(self.dialect.code(failed))
                return
            place = frame.id or place + 1  # the last one has none
            yield Frame(place, frame.data, frame.name)
        yield Over(DONE)


class Callable:
    """The Firebase callable, streamed."""

    name = "callable"
    numbered = True
    exact = False
    rendered = False

    def __init__(self, client: Client, question: Question):
        self.dialect = question.dialect
        self._client = client
        self._question = question

    def ask(self) -> requests.Response:
        named = {"model": self._question.model, "chatId": CHAT, "messageId": self._question.name}
        return self._called({**self._question.body, **named})

    def follow(self, generation: str, after: int) -> requests.Response:
        return self._called({"resume": generation, "after": after})

    def _called(self, data: Json) -> requests.Response:
        return _posted(self._client, "/", {"data": data}, {"Accept": "text/event-stream"})

    def told(self, response: requests.Response, after: int) -> Iterator[Told]:
        for frame in Stream(response).frames():
            said = json.loads(frame.data)
            if "error" in said:
                details = said["error"]["details"]
                refused = said["error"]["status"] == "UNAVAILABLE" and "id" not in details
                yield Over(None) if refused else _over(details["code"])
                return
            if "result" in said:
                yield _ended(said["result"])
                return
            message = said["message"]
            if message.get("type") == "start":
                yield Begun(message["id"])
            elif "seq" in message:
                event = message["event"]
                yield Frame(message["seq"], json.dumps(event), self._question.dialect.event_name(event))


class AiSdk:
    """The AI SDK's `useChat`, which knows no numbers and starts over with the whole answer."""

    name = "ai_sdk"
    numbered = False
    exact = False
    rendered = False

    def __init__(self, client: Client, question: Question):
        self.dialect = question.dialect
        self._client = client
        self._question = question

    def ask(self) -> requests.Response:
        words = {"type": "text", "text": self._question.name}
        asked = {
            "id": CHAT,
            "messages": [{"id": "asked", "role": "user", "parts": [words]}],
            "model": self._question.model,
            "options": {name: value for name, value in self._question.body.items() if name in ("demo", "max_tokens")},
        }
        return _posted(self._client, "/api/chat", asked, {"X-Message-Id": self._question.name})

    def follow(self, generation: str, after: int) -> requests.Response:
        return self._client.request("GET", f"/api/chat/{CHAT}/stream", stream=True)

    def told(self, response: requests.Response, after: int) -> Iterator[Told]:
        if response.status_code == 204:
            live = any(each["state"] in LIVE for each in self._client.list(chat_id=CHAT))
            yield Over(TOO_EARLY if live else GONE)
            return
        about: Json = {}
        for frame in Stream(response).frames():
            chunk = json.loads(frame.data)
            about = chunk.get("messageMetadata", about)
            match chunk["type"]:
                case "start":
                    yield Begun(about["generationId"])
                case "text-delta":
                    yield Said(chunk["delta"])
                case "finish" | "abort":
                    yield Over(DONE)
                    return
                case "error":
                    yield _ended(about)
                    return


WIRES: tuple[type[Wire], ...] = (Native, Callable, AiSdk, Responses)


def refused(dialect: Dialect, response: requests.Response) -> Over:
    """What an error response tells. With a generation's id it is the answer's own failure, or the end of its wait."""
    try:
        code = dialect.code(response.json())
    except (ValueError, KeyError, TypeError):
        code = f"status {response.status_code}"
    if response.status_code == 503 and "X-Generation-Id" not in response.headers:
        return Over(None)
    return _over(code)


def _over(code: str) -> Over:
    return Over(None if code in _COMES_BACK else code)


def _ended(about: Json) -> Over:
    """What a state tells, with the reason and the error of a generation."""
    if about["state"] in LIVE:
        return Over(None)
    if about["state"] in ("completed", "stopped"):
        return Over(DONE)
    return Over(about["error"]["code"] if about["error"] else about["reason"])


def _posted(client: Client, path: str, body: Json, headers: dict[str, str]) -> requests.Response:
    return client.request("POST", path, json=body, headers=headers, stream=True)
