"""Reads and writes the JSON of events, for all dialects.

JSON may contain an escaped lone surrogate, which UTF-8 can't encode. Text returned by `read_object` never contains one.
"""

from __future__ import annotations

import json
from typing import Any

import orjson

from lib.dialects.protocol import Malformed
from lib.dialects.steps import Json
from lib.domain.text import well_formed

LEVELS = 100  # of objects and lists in one event


def read_object(data: bytes) -> Json:
    """Parses an object and makes its texts well-formed. Errors: `Malformed`."""
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
    """Parses JSON and keeps lone surrogates. Errors: `Malformed`.

    Upstreams that divide text by UTF-16 units send lone surrogates, which orjson rejects.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Malformed from error
    if too_deep(value, data):
        raise Malformed
    return value


def write(value: Any) -> bytes:
    """Writes JSON. If there is a lone surrogate, everything that is not ASCII is escaped."""
    try:
        return orjson.dumps(value)
    except TypeError:  # or a number beyond 64 bits
        return json.dumps(value, separators=(",", ":")).encode()


def too_deep(value: Any, data: bytes) -> bool:
    """Whether JSON that was parsed from `data` is nested deeper than `LEVELS`."""
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


def whole(value: Any) -> Any:
    """A copy of a JSON value in which every text is well-formed."""
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, dict):
        return {well_formed(key): whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [whole(item) for item in value]
    return value
