"""The systems that are measured, and how to ask them for an answer: over HTTP, as their own client libraries do.

A system may deliver an answer in two ways, each of which is a path with its own name. This module interprets a path's
events, and `Response` records when they arrived.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import orjson

from bench.plan import DIRECT, GENKIT, RESUMABLE
from bench.question import Question
from bench.response import Response, ask
from local.process import Process
from local.token import id_token

CHAT = "bench"
LIVE, SUBSCRIBER, RESUMED = "live", "subscriber", "resumed"
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Visit:
    """One reader's view of an answer: its path, the time of the request, and the response."""

    path: str
    asked: int
    response: Response

    @property
    def answer(self) -> str:
        """The answer's name in Firestore. Empty if the response does not tell it."""
        return self.response.header("X-Generation-Id") or self.response.header("X-Genkit-Stream-Id")

    def tokens(self) -> Iterator[tuple[int, str]]:
        """Each token, with the time at which it was read."""
        for at, data in self.response.events():
            if said := _said(data):
                yield at, said

    def end(self) -> int | None:
        """When the reader got the end of the complete answer, or None."""
        for at, data in self.response.events():
            if data == b"[DONE]" or (data.startswith(b'{"result"') and b'"whole"' in data):
                return at
        return None


def _said(data: bytes) -> str:
    if data == b"[DONE]":
        return ""
    event = orjson.loads(data)
    if "message" in event:  # Genkit's flow streams one token per message
        return str(event["message"])
    return "".join(choice["delta"].get("content") or "" for choice in event.get("choices", ()))


class System(Protocol):
    """`own` are its processes. `queue` and `store` are other processes that it needs."""

    name: str
    own: Sequence[Process]
    queue: Sequence[Process]
    store: Sequence[Process]

    async def visit(self, question: Question, into: list[Visit]) -> None:
        """Asks for an answer, and adds each reader's visit to `into` when it starts. Returns when all have ended."""


@dataclass
class Direct:
    """The client reads the upstream directly, which is the best possible result."""

    url: str
    name: str = DIRECT
    own: Sequence[Process] = ()
    queue: Sequence[Process] = ()
    store: Sequence[Process] = ()

    async def visit(self, question: Question, into: list[Visit]) -> None:
        response = await ask(f"{self.url}/v1/chat/completions", method="POST", headers=JSON, body=question.body)
        into.append(Visit(self.name, response.sent, response))
        await response.ended


@dataclass
class Holdfast:
    """This service, as it is deployed."""

    url: str
    name: str
    own: Sequence[Process]
    queue: Sequence[Process]
    store: Sequence[Process]

    async def visit(self, question: Question, into: list[Visit]) -> None:
        response = await self.start(question)
        into.append(Visit(self.name, response.sent, response))
        await response.ended

    async def start(self, question: Question) -> Response:
        return await ask(
            f"{self.url}/v1/chat/completions",
            method="POST",
            headers={**JSON, **user(question), "X-Chat-Id": CHAT},
            body=question.body,
        )

    async def resume(self, question: Question, generation: str, after: int = 0) -> Response:
        return await ask(
            f"{self.url}/v1/generations/{generation}?after={after}",
            headers={**user(question), "Accept": "text/event-stream"},
        )

    async def stop(self, question: Question, generation: str) -> Response:
        return await ask(f"{self.url}/v1/generations/{generation}/stop", method="POST", headers=user(question))


def user(question: Question) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {id_token(question.seed)}"}


@dataclass
class Genkit:
    """`FirestoreStreamManager`: the asking client reads the live path, and a second one attaches through Firestore."""

    url: str
    own: Sequence[Process]
    store: Sequence[Process]
    name: str = GENKIT
    queue: Sequence[Process] = ()

    async def visit(self, question: Question, into: list[Visit]) -> None:
        headers = {**JSON, "Accept": "text/event-stream"}
        live = await ask(
            f"{self.url}/answer", method="POST", headers=headers, body=orjson.dumps({"data": question.fields})
        )
        into.append(Visit(f"{self.name}, {LIVE}", live.sent, live))
        await live.begun
        attached = await self.attach(live.header("X-Genkit-Stream-Id"))
        into.append(Visit(f"{self.name}, {SUBSCRIBER}", live.sent, attached))
        await asyncio.gather(live.ended, attached.ended)

    async def attach(self, stream: str) -> Response:
        headers = {**JSON, "Accept": "text/event-stream", "x-genkit-stream-id": stream}
        return await ask(f"{self.url}/answer", method="POST", headers=headers, body=b'{"data":null}')


@dataclass
class Resumable:
    """`resumable-stream` on Redis: the asking client reads the stream directly, and a second one through Redis."""

    url: str
    own: Sequence[Process]
    store: Sequence[Process]
    name: str = RESUMABLE
    queue: Sequence[Process] = ()

    async def visit(self, question: Question, into: list[Visit]) -> None:
        live = await ask(f"{self.url}/{question.seed}", method="POST", headers=JSON, body=question.body)
        into.append(Visit(f"{self.name}, {LIVE}", live.sent, live))
        await live.begun
        resumed = await self.attach(question.seed)
        into.append(Visit(f"{self.name}, {RESUMED}", live.sent, resumed))
        await asyncio.gather(live.ended, resumed.ended)

    async def attach(self, stream: str) -> Response:
        return await ask(f"{self.url}/{stream}")
