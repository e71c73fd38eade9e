"""One event of an upstream's answer, unchanged. The journal numbers and stores events, and the wires frame them."""

from __future__ import annotations

from typing import NamedTuple


class Event(NamedTuple):
    """An event's data (its `data` lines joined by line feeds), and its name or empty bytes."""

    data: bytes
    name: bytes = b""
