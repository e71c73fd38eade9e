"""Who is measured, and how an answer is asked of each: by HTTP, as its own client library would.

A system may show one answer in two ways; each way is a path with a name of its own. What a path's events mean is
known here; when they came is `Response`'s.
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
    """One reader's view of an answer: by which path, since when it was asked for, and what came."""

    path: str
    asked: int
    response: Response

    @property
    def answer(self) -> str:
        """The name under which Firestore has the answer; empty where the response doesn't say."""
        return self.response.header("X-Generation-Id") or self.response.header("X-Genkit-Stream-Id")

    def tokens(self) -> Iterator[tuple[int, str]]:
        """Each token, and the moment it was read."""
        for at, data in self.response.events():
            if said := _said(data):
                yield at, said

    def end(self) -> int | None:
        """When the reader was told that the answer is whole; None where it was not."""
        for at, data in self.response.events():
            if data == b"[DONE]" or (data.startswith(b'{"result"') and b'"whole"' in data):
                return at
        return None


def _said(data: bytes) -> str:
    if data == b"[DONE]":
        return ""
    event = orjson.loads(data)
    if "message" in event:  # Genkit's: the flow streams one token a message
        return str(event["message"])
    return "".join(choice["delta"].get("content") or "" for choice in event.get("choices", ()))


class System(Protocol):
    """`own` are its processes; `queue` and `store` what it needs besides."""

    name: str
    own: Sequence[Process]
    queue: Sequence[Process]
    store: Sequence[Process]

    async def visit(self, question: Question, into: list[Visit]) -> None:
        """Asks, and adds each reader's visit as soon as it is there; ends when all of them have ended."""


@dataclass
class Direct:
    """The client reads the upstream itself: the limit of what can be had here."""

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
    """`FirestoreStreamManager`: who asks reads the live path, a second client attaches and reads from Firestore."""

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
    """`resumable-stream` on Redis: who asks reads the stream itself, a second client resumes it through Redis."""

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
