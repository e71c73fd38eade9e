"""An event's JSON, as it is read and written: what every dialect does before it asks what the JSON means.

JSON may escape half a surrogate pair, which no UTF-8 can hold. What is read here for its meaning never has one.
"""

from __future__ import annotations

import json
from typing import Any

import orjson

from lib.dialects.protocol import Malformed
from lib.dialects.steps import Json

LEVELS = 100  # of objects and lists in one event


def read_object(data: bytes) -> Json:
    """The object that `data` is, each text in it well-formed. Errors: `Malformed`."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        value = whole(read_loosely(data))
    if type(value) is not dict:
        raise Malformed
    if len(data) > 2 * LEVELS and data.count(b"{") + data.count(b"[") > LEVELS and too_deep(value, data):
        raise Malformed
    return value


def read_loosely(data: bytes) -> Any:
    """JSON that may have halves of surrogate pairs, which are left as they are. Errors: `Malformed`.

    Upstreams that cut text by UTF-16 units send such halves, and orjson refuses them.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Malformed from error
    if too_deep(value, data):
        raise Malformed
    return value


def write(value: Any) -> bytes:
    """JSON text. A lone half of a surrogate pair is escaped, and so is all that is not ASCII with it."""
    try:
        return orjson.dumps(value)
    except TypeError:  # or a number beyond 64 bits
        return json.dumps(value, separators=(",", ":")).encode()


def too_deep(value: Any, data: bytes) -> bool:
    """Whether JSON, as it was read from `data`, is nested beyond reason."""
    if data.count(b"{") + data.count(b"[") <= LEVELS:
        return False
    inner: list[Any] = [value]
    for _ in range(LEVELS):
        inner = [
            member
            for item in inner
            if isinstance(item, dict | list)
            for member in (item.values() if isinstance(item, dict) else item)
        ]
    return bool(inner)


def well_formed(text: str) -> str:
    """`text` with the halves of surrogate pairs joined, and a lone half replaced: what UTF-8 can hold."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def whole(value: Any) -> Any:
    """JSON in which every text is well-formed."""
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, dict):
        return {well_formed(key): whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [whole(item) for item in value]
    return value
