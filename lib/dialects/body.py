"""Tells event streams from JSON bodies, by the Content-Type, and by the first bytes if these contradict it."""

from __future__ import annotations

import re
from enum import Enum

_BOM = b"\xef\xbb\xbf"
_JSON_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_SSE_LINE = re.compile(rb"(?:data|event|id|retry|error)?:")  # a field or comment that a stream may start with


class Body(Enum):
    """The kinds of response body."""

    STREAM = "server-sent events"
    JSON = "one JSON value"
    NEITHER = "something else"


def beginning(received: bytes) -> bytes:
    """The bytes without a leading byte order mark and white space. Empty if more are needed to tell the kind."""
    return received.removeprefix(_BOM).lstrip()


def kind(media_type: str, start: bytes) -> Body:
    """The kind of a body with this media type. `start` is the result of `beginning`."""
    is_json = start[:1] in (b"{", b"[")
    if media_type == "text/event-stream":
        return Body.JSON if is_json else Body.STREAM
    if _SSE_LINE.match(start):
        return Body.STREAM
    if is_json or media_type == "application/json" or media_type.endswith("+json"):
        return Body.JSON
    return Body.NEITHER


def cut_short(body: bytes) -> bool:
    """Whether a body that is no JSON ends before it has closed what it opened: a string, an object or a list.

    A connection that a proxy closes in order, with the last chunk of HTTP/1.1, does not show that by itself.
    """
    rest = _JSON_STRING.sub(b"", body)
    return b'"' in rest or rest.count(b"{") + rest.count(b"[") > rest.count(b"}") + rest.count(b"]")
