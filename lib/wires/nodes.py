"""Counts what JSON text would become in memory, before it is parsed. Pure.

A body of `[],[],…` takes thirty times its size as objects. So a request is measured by its values and names, in time
that grows linearly with its bytes.
"""

from __future__ import annotations

_MARKS = (b",", b":", b"[", b"{")


def exceed(text: bytes, limit: int) -> bool:
    """Whether JSON text has more than `limit` values and names.

    Each of them follows a mark, or is the whole text. Empty lists and objects, and what is not valid JSON, may count
    for more than they are.
    """
    # The first is the usual case, even with the marks that are within strings.
    return _marks(text) >= limit and count(text, limit) > limit


def count(text: bytes, limit: int) -> int:
    """How many values and names JSON text has, counted as `exceed` does; beyond `limit` any larger number."""
    plain = text.replace(rb"\\", b"").replace(rb"\"", b"")
    strings = plain.count(b'"') // 2
    if strings > limit:  # each is a value or a name, and the next step makes an object of each
        return strings
    return _marks(b"".join(plain.split(b'"')[::2])) + 1


def _marks(text: bytes) -> int:
    return sum(map(text.count, _MARKS))
