"""The responses that are kept: found by their ids, shown in whatever state they are, and gone on with.

A response's id is its generation's, so nothing else has to be looked up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import orjson

from lib.dialects.conversation import Json
from lib.domain.end import State
from lib.domain.errors import InvalidRequest, NotFound
from lib.domain.generation import Generation
from lib.domain.segment import Head
from lib.wires.responses_request import SHOWN
from lib.wires.responses_stream import ResponseStream
from lib.wires.service import Service

_ID = re.compile(r"resp_([0-9a-f]{32})")


def response_id(generation: Generation) -> str:
    return f"resp_{generation.id}"


@dataclass(frozen=True, slots=True)
class Kept:
    """A response: its generation, its journal's head, and what is kept of its request."""

    generation: Generation
    head: Head
    request: Json


class KeptResponses:
    """The responses that users have."""

    def __init__(self, service: Service):
        self._service = service

    def find(self, user: str, its_id: str, *, retrieve: bool = True) -> Kept:
        """A user's response. Errors: `NotFound`, also if it is another user's.

        `retrieve`: it must be one that may be retrieved. One that was asked for with `store: false` may not, but it may
        be cancelled and deleted.
        """
        missing = NotFound(f"Response with id '{its_id[:100]}' not found.", code="response_not_found")
        found = _ID.fullmatch(its_id)
        if found is None:
            raise missing
        try:
            generation, head = self._service.generations.find(user, found[1])
        except NotFound as error:
            raise missing from error
        own = self._service.generations.own_request(generation)
        request = orjson.loads(own) if own else None
        if request is None or (retrieve and request.get("store") is False):
            raise missing
        return Kept(generation, head, request)

    def stream(self, generation: Generation, request: Json) -> ResponseStream:
        """Renders an answer from its first event on."""
        about = {
            "id": response_id(generation),
            "object": "response",
            "created_at": int(generation.created_at.timestamp()),
            "model": generation.model,
            **SHOWN,
            **{name: value for name, value in request.items() if name != "input"},
        }
        dialect = self._service.dialects.get(generation.dialect)
        return ResponseStream(about, generation.id, dialect, queued=bool(request.get("background")))

    def shown(self, kept: Kept) -> Json:
        """The response as it is now. One that is not over has no output yet: a stream has."""
        stream = self.stream(kept.generation, kept.request)
        if kept.head.end is None:
            waits = kept.generation.state is State.QUEUED and kept.request.get("background")
            return stream.response("queued" if waits else "in_progress")
        for event in self._service.generations.events(kept.generation, kept.head):
            stream.take(event)
        stream.end(kept.head.end)
        return stream.ended(kept.head.end)

    def conversation(self, user: str, its_id: str) -> list[Json]:
        """The items of a conversation up to and with this response. Errors: `InvalidRequest`."""
        param = "previous_response_id"
        try:
            kept = self.find(user, its_id)
        except NotFound as error:
            words = f"Previous response with id '{its_id[:100]}' not found."
            raise InvalidRequest(words, code="previous_response_not_found", param=param) from error
        if kept.head.end is None:
            words = f"Previous response with id '{its_id[:100]}' is not over yet: wait for it, or cancel it."
            raise InvalidRequest(words, code="previous_response_in_progress", param=param)
        items: list[Json] = kept.request["input"]
        return [*items, *self.shown(kept)["output"]]
