"""Joins characters that an upstream has divided between two events.

An upstream that counts UTF-16 units may send a character outside the basic multilingual plane as one surrogate in each
of two events. UTF-8 can't encode a lone surrogate, so a viewer that handles the events one at a time would show two
replacement characters.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

from lib.dialects.steps import Json

_ESCAPED_HALF = re.compile(rb"\\u[dD][89abAB]")  # in valid UTF-8, a surrogate can only be escaped


may_be_cut = _ESCAPED_HALF.search
"""Whether an event may contain half a character."""


class Joiner:
    """Holds back a first half at the end of a text, and puts it before the next text in the same place.

    A place is the path to a text, including the `index` fields of the objects on it. A half that nothing follows is
    dropped.
    """

    def __init__(self) -> None:
        self.held: dict[Hashable, str] = {}

    def joined(self, payload: Json) -> Json:
        """The payload with whole characters. The same object if nothing changes."""
        joined: Json = self._in(payload, ())
        return payload if joined == payload else joined

    def _in(self, value: Any, place: tuple[Hashable, ...]) -> Any:
        if isinstance(value, dict):
            place = (*place, *_indexes(value))
            return {key: self._in(each, (*place, key)) for key, each in value.items()}
        if isinstance(value, list):
            return [self._in(each, place if _indexes(each) else (*place, at)) for at, each in enumerate(value)]
        if not isinstance(value, str) or not value:
            return value
        text = self.held.pop(place, "") + value
        if not "\ud800" <= text[-1] <= "\udbff":
            return text
        self.held[place] = text[-1]
        return text[:-1]


def _indexes(value: Any) -> tuple[Hashable, ...]:
    """The `index` fields that identify an object across events."""
    if not isinstance(value, dict):
        return ()
    return tuple(each for key, each in value.items() if key.endswith("index") and isinstance(each, int))
