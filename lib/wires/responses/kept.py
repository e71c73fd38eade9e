"""The responses that are kept: found by their ids, shown in whatever state they are, and gone on with.

A response's id is its generation's, so nothing else has to be looked up.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import orjson

from lib.dialects.conversation import Json
from lib.dialects.protocol import Malformed
from lib.dialects.responses.dialect import Responses
from lib.dialects.responses.output import Output
from lib.domain.end import End, State
from lib.domain.errors import InvalidRequest, NotFound
from lib.domain.event import Event
from lib.domain.generation import Generation
from lib.domain.segment import Head
from lib.wires.bodies import Reading
from lib.wires.responses.ids import named
from lib.wires.responses.input import items_of
from lib.wires.responses.passed import PassedStream
from lib.wires.responses.request import SHOWN
from lib.wires.responses.stream import Numbered, ResponseStream
from lib.wires.service import Service

INPUT = "input"
REFERENCES = "references"
"""What is kept of a request beside its fields: our ids of the items that it names, by their places in its input."""
_PREVIOUS = "previous_response_id"
MOST_BEFORE = 100  # responses that are read to list what came before one
_ID = re.compile(r"resp_([0-9a-f]{32})")


def response_id(generation: Generation) -> str:
    return f"resp_{generation.id}"


class Rendering(Protocol):
    """One answer as this protocol says it: rendered from steps, or passed on."""

    number: int
    """The number of the last event so far."""

    def begin(self) -> list[Numbered]: ...

    def take(self, event: Event) -> list[Numbered]: ...

    def end(self, end: End) -> list[Numbered]: ...

    def response(self, status: str) -> Json: ...

    def ended(self, end: End) -> Json: ...


@dataclass(frozen=True, slots=True)
class Kept:
    """A response: its generation, its journal's head, and what is kept of its request.

    That has the conversation's items, unless the upstream keeps those.
    """

    generation: Generation
    head: Head
    request: Json


class KeptResponses:
    """The responses that users have."""

    def __init__(self, service: Service):
        self._service = service

    def find(self, reading: Reading, its_id: str, *, retrieve: bool = True) -> Kept:
        """A response of the user who reads. Errors: `NotFound`, also if it is another user's; those of `reading`.

        `retrieve`: it must be one that may be retrieved. One that was asked for with `store: false` may not, but it may
        be cancelled and deleted.
        """
        missing = NotFound(f"Response with id '{its_id[:100]}' not found.", code="response_not_found")
        found = _ID.fullmatch(its_id)
        if found is None:
            raise missing
        try:
            generation, head = self._service.generations.find(reading.user, found[1])
        except NotFound as error:
            raise missing from error
        reading.hold(self._service.generations.own_request_bytes(generation), "asked")
        own = self._service.generations.own_request(generation)
        request = reading.parsed(own) if own else None
        if request is None or (retrieve and request.get("store") is False):
            raise missing
        return Kept(generation, head, request)

    def rendering(self, generation: Generation, request: Json) -> Rendering:
        """Says an answer from its first event on."""
        about = {
            "id": response_id(generation),
            "object": "response",
            "created_at": int(generation.created_at.timestamp()),
            "model": generation.model,
            **SHOWN,
            **{name: value for name, value in request.items() if name not in (INPUT, REFERENCES)},
        }
        dialect = self._service.dialects.get(generation.dialect)
        if isinstance(dialect, Responses):
            return PassedStream(about, generation.id, dialect)
        return ResponseStream(about, generation.id, dialect, queued=bool(request.get("background")))

    def shown(self, kept: Kept) -> Json:
        """The response as it is now. One that is not over has no output yet: a stream has."""
        if kept.head.end is None:
            waits = kept.generation.state is State.QUEUED and kept.request.get("background")
            return self.rendering(kept.generation, kept.request).response("queued" if waits else "in_progress")
        return self._replayed(kept, kept.head.end).ended(kept.head.end)

    def items(self, reading: Reading, kept: Kept) -> list[tuple[Json, str | None]]:
        """The items of the output, each with the id that it has at an upstream that keeps it. None of one not over."""
        if kept.head.end is None:
            return []
        rendering = self._replayed(kept, kept.head.end)
        theirs = rendering.theirs if isinstance(rendering, PassedStream) else lambda _: None
        text = orjson.dumps(rendering.ended(kept.head.end)["output"])
        reading.hold(len(text), "answered")
        return [(item, theirs(str(item.get("id")))) for item in reading.parsed(text)]

    def _replayed(self, kept: Kept, end: End) -> Rendering:
        rendering = self.rendering(kept.generation, kept.request)
        for event in self._service.generations.events(kept.generation, kept.head):
            rendering.take(event)
        rendering.end(end)
        return rendering

    def given(self, reading: Reading, kept: Kept) -> list[Json]:
        """The items of a response's input that are kept with it, each with its id: all, or those of its own request."""
        return self._given(reading, kept)[0]

    def _given(self, reading: Reading, kept: Kept) -> tuple[list[Json], str | None]:
        """The same, and the id of the response whose items come before those, unless they are among them."""
        if INPUT in kept.request:
            return named(kept.request[INPUT], kept.generation.id), None
        reading.hold(self._service.generations.request_bytes(kept.generation), "sent")
        sent = reading.parsed(self._service.generations.request(kept.generation))
        items = list(items_of(sent[INPUT]))
        for place, its_id in kept.request.get(REFERENCES, {}).items():
            items[int(place)] = {**items[int(place)], "id": its_id}
        return named(items, kept.generation.id), kept.request[_PREVIOUS] if _PREVIOUS in sent else None

    def asked(self, reading: Reading, kept: Kept) -> list[Json]:
        """All items that a response answers, oldest first: of a long conversation, those of its last `MOST_BEFORE`.

        Errors: those of `reading`.
        """
        found, before = self._given(reading, kept)
        for _ in range(MOST_BEFORE):
            if before is None:
                break
            try:
                kept = self.find(reading, before)
            except NotFound:
                break  # it was deleted, or is too old
            answered = [item for item, _ in self.items(reading, kept)]
            given, before = self._given(reading, kept)
            found = [*given, *answered, *found]
        return found

    def previous(self, reading: Reading, its_id: str | None) -> Kept | None:
        """The response that another is to follow, if there is one. Errors: `InvalidRequest`; those of `reading`."""
        if not its_id:
            return None
        try:
            kept = self.find(reading, its_id)
        except NotFound as error:
            words = f"Previous response with id '{its_id[:100]}' not found."
            raise InvalidRequest(words, code="previous_response_not_found", param=_PREVIOUS) from error
        if kept.head.end is None:
            words = f"Previous response with id '{its_id[:100]}' is not over yet: wait for it, or cancel it."
            raise InvalidRequest(words, code="previous_response_in_progress", param=_PREVIOUS)
        return kept

    def conversation(self, reading: Reading, kept: Kept) -> list[Json]:
        """The items of a conversation up to and with this response. Errors: `InvalidRequest`."""
        if INPUT not in kept.request:
            raise InvalidRequest(
                "The previous response is one of an upstream that keeps the conversation itself, and this model has "
                "another upstream: send the conversation's items as 'input'.",
                code="previous_response_elsewhere",
                param=_PREVIOUS,
            )
        return [*self.given(reading, kept), *self.shown(kept)["output"]]

    def all_items(self, reading: Reading, kept: Kept) -> list[Json]:
        """The items of a conversation up to and with this response, wherever they are. Errors: those of `reading`."""
        return [*self.asked(reading, kept), *self.shown(kept)["output"]]

    def upstream_id(self, kept: Kept) -> str:
        """The id that a response has at its upstream, which speaks this API. Errors: `InvalidRequest`."""
        dialect = self._service.dialects[kept.generation.dialect]
        answer = Output()
        for event in self._service.generations.events(kept.generation, kept.head):
            with suppress(Malformed):
                answer.add(dialect.read(event))
            if answer.id:
                return answer.id
        words = "The previous response did not begin, so there is nothing to follow: send the conversation as 'input'."
        raise InvalidRequest(words, code="previous_response_not_found", param=_PREVIOUS)
