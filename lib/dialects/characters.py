"""Characters that an upstream has cut in two.

An upstream that counts UTF-16 units may send a character beyond the first 65,536 as half a surrogate pair in each of
two events. Neither half is text that UTF-8 can hold: a viewer that takes the events one at a time would show two
replacement characters in its place.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

from lib.dialects.steps import Json

_ESCAPED_HALF = re.compile(rb"\\u[dD][89abAB]")  # UTF-8 has no other way to say the first half of a pair


may_be_cut = _ESCAPED_HALF.search
"""Whether an event may have half a character."""


class Joiner:
    """Keeps a first half back that ends a text, and puts it before what comes next in the same place.

    A place is the path to a text, with the indexes that the objects on it give themselves. A half that nothing follows
    is no character, and is left out.
    """

    def __init__(self) -> None:
        self.held: dict[Hashable, str] = {}

    def joined(self, payload: Json) -> Json:
        """The payload with whole characters; the same one where nothing was cut."""
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
    """What an object is known by from one event to the next."""
    if not isinstance(value, dict):
        return ()
    return tuple(each for key, each in value.items() if key.endswith("index") and isinstance(each, int))
