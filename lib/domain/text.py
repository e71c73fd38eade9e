"""Text that UTF-8 can hold."""

from __future__ import annotations


def well_formed(text: str) -> str:
    """`text` with the halves of surrogate pairs joined, and a lone half replaced."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
