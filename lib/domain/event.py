"""One event of an upstream's answer, as it came: what the journal numbers and keeps, and what a wire frames."""

from __future__ import annotations

from typing import NamedTuple


class Event(NamedTuple):
    """The event's data (its `data` lines joined by a line feed) and its name, empty where it has none."""

    data: bytes
    name: bytes = b""
