"""Reads the events of one call in OpenAI's Responses, and joins them to those that clients have seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from lib.dialects import payload as json_text
from lib.dialects.characters import Joiner, may_be_cut
from lib.dialects.output import Output
from lib.dialects.protocol import Malformed, Read
from lib.dialects.response_events import BEGINNINGS
from lib.dialects.steps import Json
from lib.domain.event import Event


class Seam(Protocol):
    """What joins a call's events to those of the calls before."""

    def fit(self, payload: Json) -> Json | None:
        """The event as clients see it, or None if they have had it."""
        ...


class ResponseReading:
    """Reads one call's events by `meaning`. Nearly all pass unchanged. `seam`: it is not the first call."""

    def __init__(self, meaning: Callable[[Event], Read], seam: Seam | None = None):
        self._meaning = meaning
        self._joiner = Joiner()
        self._held = self._joiner.held
        self._seam = seam

    def read(self, event: Event) -> Read:
        if self._seam is None and not self._held and not may_be_cut(event.data):
            return _named(self._meaning(event))
        try:
            payload = json_text.read_loosely(event.data)
        except Malformed:
            return self._meaning(event)
        if not isinstance(payload, dict) or event.name == b"error":
            return self._meaning(event)
        fitted = self._joiner.joined(payload)
        if self._seam is not None:
            fits = self._seam.fit(fitted)
            if fits is None:
                return Read(event, payload, (), kept=False)
            fitted = fits
        return _named(self._meaning(event if fitted == payload else Event(json_text.write(fitted), event.name)))


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


def _named(read: Read) -> Read:
    """The event with its name, which is its type, and which some upstreams leave out."""
    event, payload, steps, kept, _ = read
    kind = payload.get("type")
    if event.name or not isinstance(kind, str) or not (kind.isascii() and kind.isprintable()):
        return read
    return Read(Event(event.data, kind.encode()), payload, steps, kept)
