"""Reads the events of one call: joins characters that are cut in two, and the call's events to those before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from lib.dialects import payload as json_text
from lib.dialects.characters import Joiner, may_be_cut
from lib.dialects.protocol import Malformed, Read
from lib.dialects.steps import Json
from lib.domain.event import Event


class Seam(Protocol):
    """What joins a call's events to those of the calls before."""

    def fit(self, payload: Json) -> Json | None:
        """The event as clients see it, or None if they have had it."""
        ...


class SeamReading:
    """Reads one call's events by `meaning`. Nearly all pass unchanged.

    `named` gives an event the name that clients know it by. `seam`: it is not the answer's first call. An event that is
    rewritten keeps its name as long as it keeps its type.
    """

    def __init__(self, meaning: Callable[[Event], Read], named: Callable[[Read], Read], seam: Seam | None = None):
        self._meaning = meaning
        self._named = named
        self._joiner = Joiner()
        self._held = self._joiner.held
        self._seam = seam

    def read(self, event: Event) -> Read:
        if self._seam is None and not self._held and not may_be_cut(event.data):
            return self._named(self._meaning(event))
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
        if fitted != payload:
            name = event.name if fitted.get("type") == payload.get("type") else b""
            event = Event(json_text.write(fitted), name)
        return self._named(self._meaning(event))
