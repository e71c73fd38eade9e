"""White space at the end of a saved text, which is not sent to the upstream that is to continue it."""

from __future__ import annotations


class Space:
    """`left` is what the upstream may repeat. It is removed from the beginning of the continuation."""

    def __init__(self, left: str = ""):
        self._left = left

    def without(self, text: str) -> str:
        """The continuation's next piece, without what it repeats of the saved white space."""
        if not self._left or not text:
            return text
        again = 0
        while again < min(len(text), len(self._left)) and text[again] == self._left[again]:
            again += 1
        self._left = self._left[again:] if again == len(text) else ""
        return text[again:]
