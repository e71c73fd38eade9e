"""Joins the events of a call in OpenAI's Responses to those that clients have seen."""

from __future__ import annotations

from lib.dialects.protocol import Read
from lib.dialects.responses.events import BEGINNINGS
from lib.dialects.responses.output import Output
from lib.dialects.steps import Json
from lib.domain.event import Event


class Again:
    """Joins an answer that starts again to what is saved of its beginning, which has no output yet.

    There is no second beginning, items are numbered after those that have begun, and so are the events.
    """

    def __init__(self, begun: Output):
        self._shift = begun.next_index
        self._next = begun.next_sequence

    def fit(self, payload: Json) -> Json | None:
        if payload.get("type") in BEGINNINGS:
            return None
        fitted = dict(payload)
        if type(payload.get("sequence_number")) is int:
            fitted["sequence_number"] = self._next
            self._next += 1
        if type(payload.get("output_index")) is int:
            fitted["output_index"] = payload["output_index"] + self._shift
        return fitted


class Cursor:
    """Leaves out the events up to number `last`, which an upstream may repeat that does not know cursors."""

    def __init__(self, last: int):
        self._last = last

    def fit(self, payload: Json) -> Json | None:
        number = payload.get("sequence_number")
        return None if type(number) is int and number <= self._last else payload


def named(read: Read) -> Read:
    """The event with its name, which is its type, and which some upstreams leave out."""
    event, payload, steps, kept, _ = read
    kind = payload.get("type")
    if event.name or not isinstance(kind, str) or not (kind.isascii() and kind.isprintable()):
        return read
    return Read(Event(event.data, kind.encode()), payload, steps, kept)
