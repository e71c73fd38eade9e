"""Passes on the answer of an upstream that speaks OpenAI's Responses: its events, under the ids of this service. Pure.

What names a response or an item is changed, and nothing else: their ids, the response before it, and whether it is in
the background.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import orjson

from lib.dialects import payload as json_text
from lib.dialects.conversation import Json
from lib.dialects.protocol import Malformed
from lib.dialects.responses.dialect import Responses
from lib.dialects.responses.events import ENDS
from lib.dialects.responses.output import BLANK, Output
from lib.domain.end import End, State
from lib.domain.event import Event
from lib.wires.responses.ids import ItemIds
from lib.wires.responses.stream import Numbered, failure

_NAMES = ("id", "previous_response_id", "background")


class PassedStream:
    """The events of one answer. `about` are the response's fields as this service has them. `key`: the generation."""

    def __init__(self, about: Json, key: str, dialect: Responses):
        self._about = about
        self._ids = ItemIds(key)
        self._dialect = dialect
        self._answer = Output()
        self._last: tuple[Json, Event] | None = None
        self.number = -1

    def begin(self) -> list[Numbered]:
        """Nothing: the upstream begins."""
        return []

    def take(self, event: Event) -> list[Numbered]:
        """One event of the journal. The one that ends the answer is held back until all is saved."""
        try:
            read = self._dialect.read(event)
        except Malformed:
            return []  # another version of this service accepted it
        self._answer.add(read)
        if read.payload.get("type") in ENDS:
            self._last = (read.payload, event)
            return []
        return [self._numbered(read.payload, event)]

    def end(self, end: End) -> list[Numbered]:
        """The last events."""
        if end.state is State.COMPLETED and self._last is not None:
            return [self._numbered(*self._last)]
        begun = self.response("in_progress")
        events = [] if self.number >= 0 else [self._own("created", begun), self._own("in_progress", begun)]
        response = self.ended(end)
        kind = response["status"] if response["status"] in ("completed", "failed") else "incomplete"
        return [*events, self._own(kind, response)]

    def ended(self, end: End) -> Json:
        """The whole response."""
        response = self._named(self._answer.response() if self._answer.begun else {**BLANK, **self._about})
        if end.state is State.COMPLETED:
            return response
        if end.state is State.STOPPED:
            return {**response, "status": "cancelled"}
        return {**response, "status": "failed", "error": failure(end)}

    def response(self, status: str) -> Json:
        """The response object in a state in which it has no output to show."""
        return self._named({**BLANK, **self._about, "status": status})

    def theirs(self, item_id: str) -> str | None:
        """The id that an item so far has at the upstream."""
        return self._ids.theirs(item_id)

    def _named(self, response: Json) -> Json:
        names = {name: self._about[name] for name in _NAMES if name == "id" or name in response}
        if isinstance(response.get("output"), list):
            names["output"] = [
                {**item, "id": self._ids.among(place, item["id"])} if _has_id(item) else item
                for place, item in enumerate(response["output"])
            ]
        return {**response, **names}

    def _numbered(self, payload: Json, event: Event) -> Numbered:
        """The event, under the ids here. Its number is the upstream's own, if that rises."""
        changed: dict[str, Any] = {}
        place = payload.get("output_index")
        if isinstance(payload.get("response"), dict):
            changed["response"] = self._named(payload["response"])
        if _has_id(item := payload.get("item")):
            changed["item"] = {**item, "id": self._ids.at(place, item["id"])}
        if isinstance(payload.get("item_id"), str):
            changed["item_id"] = self._ids.at(place, payload["item_id"])
        number = payload.get("sequence_number")
        if type(number) is not int or number <= self.number:
            changed["sequence_number"] = number = self.number + 1
        self.number = number
        return number, Event(json_text.write({**payload, **changed}), event.name) if changed else event

    def _own(self, kind: str, response: Json) -> Numbered:
        self.number += 1
        name = f"response.{kind}"
        payload = {"type": name, "sequence_number": self.number, "response": response}
        return self.number, Event(orjson.dumps(payload), name.encode())


def _has_id(item: Any) -> TypeGuard[Json]:
    return isinstance(item, dict) and isinstance(item.get("id"), str)
