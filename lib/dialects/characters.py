"""Characters that an upstream has cut in two.

Pure. An upstream that counts UTF-16 units may send a character beyond the first 65,536 as half a surrogate pair in
each of two events. Neither half is text that UTF-8 can hold: who takes the events one at a time would show two marks of
a wrong character in its place.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

from lib.dialects.chat_completions import Json

_ESCAPED_HALF = re.compile(rb"\\u[dD][89abAB]")  # UTF-8 has no other way to say the first half of a pair


class Joiner:
    """Keeps a first half back that ends a text, and puts it before what comes next in the same place.

    One that nothing follows is no character, and is left out.
    """

    def __init__(self) -> None:
        self._held: dict[Hashable, str] = {}

    def joined(self, chunk: Json, data: bytes) -> Json:
        """The chunk that was read from `data`, with whole characters; the same one where nothing was cut."""
        if not self._held and not _ESCAPED_HALF.search(data):
            return chunk
        choices = chunk.get("choices")
        if not isinstance(choices, list):
            return chunk
        joined = {**chunk, "choices": [self._in_choice(choice) for choice in choices]}
        return chunk if joined == chunk else joined

    def _in_choice(self, choice: Any) -> Any:
        if not isinstance(choice, dict) or not isinstance(choice.get("delta"), dict):
            return choice
        return {**choice, "delta": self._in(choice["delta"], (choice.get("index"),))}

    def _in(self, value: Any, place: tuple[Hashable, ...]) -> Any:
        if isinstance(value, dict):
            return {key: self._in(each, (*place, key)) for key, each in value.items()}
        if isinstance(value, list):
            return [self._in(each, (*place, _index(each, at))) for at, each in enumerate(value)]
        if not isinstance(value, str) or not value:
            return value
        text = self._held.pop(place, "") + value
        if not _is_first_half(text[-1]):
            return text
        self._held[place] = text[-1]
        return text[:-1]


def _is_first_half(character: str) -> bool:
    return "\ud800" <= character <= "\udbff"


def _index(item: Any, at: int) -> Hashable:
    """What an item of a list is known by from one event to the next."""
    index = item.get("index") if isinstance(item, dict) else None
    return index if isinstance(index, int) else at
