"""What a response's body is: told by its Content-Type, and by its first bytes where these disagree with that."""

from __future__ import annotations

import re
from enum import Enum

_BOM = b"\xef\xbb\xbf"
_SSE_LINE = re.compile(rb"(?:data|event|id|retry|error)?:")  # of a field that streams begin with, or a comment


class Body(Enum):
    """How a body is to be read."""

    STREAM = "server-sent events"
    JSON = "one JSON value"
    NEITHER = "something else"


def beginning(received: bytes) -> bytes:
    """What decides: the bytes without a byte order mark and white space before them; none where more must come."""
    return received.removeprefix(_BOM).lstrip()


def kind(media_type: str, start: bytes) -> Body:
    """How to read a body of this media type that begins with `start`, as `beginning` gives it."""
    is_json = start[:1] in (b"{", b"[")
    if media_type == "text/event-stream":
        return Body.JSON if is_json else Body.STREAM
    if _SSE_LINE.match(start):
        return Body.STREAM
    if is_json or media_type == "application/json" or media_type.endswith("+json"):
        return Body.JSON
    return Body.NEITHER
