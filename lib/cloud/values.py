"""Plain Python values in Firestore's protobuf messages, and back.

The messages are written in place, without a wrapper object of the client library around each value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

_SIMPLE_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_RESERVED_KEY = re.compile(r"__.*__\Z")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INT64 = range(-(1 << 63), 1 << 63)


def field_path(name: str) -> str:
    """A dotted name as a field path: each part that is no plain identifier is quoted."""
    return ".".join(part if _SIMPLE_FIELD.match(part) else _quoted(part) for part in name.split("."))


def _quoted(part: str) -> str:
    escaped = part.replace("\\", "\\\\").replace("`", "\\`")
    return f"`{escaped}`"


def encode_map(fields: Mapping[str, Any], into: Any) -> None:
    """Writes the fields into a protobuf map of values."""
    for name, value in fields.items():
        safe = name
        if not name or _RESERVED_KEY.match(name):
            # Firestore rejects empty names and `__…__`; an upstream's JSON may contain both.
            safe = name.strip("_") or "_"
            while safe in fields or safe in into:
                safe += "x"
        encode_value(value, into[safe])


def encode_value(value: Any, into: Any, in_list: bool = False) -> None:
    """Writes a value into a protobuf `Value`. A whole number beyond 64 bits, or a list in a list, becomes text."""
    if value is None:
        into.null_value = 0
    elif isinstance(value, str):
        into.string_value = value
    elif isinstance(value, bool):
        into.boolean_value = value
    elif isinstance(value, int):
        if value in _INT64:
            into.integer_value = value
        else:
            into.string_value = str(value)
    elif isinstance(value, float):
        into.double_value = value
    elif isinstance(value, bytes):
        into.bytes_value = value
    elif isinstance(value, datetime):
        since = value - _EPOCH
        into.timestamp_value.seconds = since.days * 86_400 + since.seconds
        into.timestamp_value.nanos = since.microseconds * 1_000
    elif isinstance(value, Mapping):
        into.map_value.SetInParent()
        encode_map(value, into.map_value.fields)
    elif in_list:
        # Firestore has no lists of lists.
        into.string_value = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    else:
        into.array_value.SetInParent()
        for item in value:
            encode_value(item, into.array_value.values.add(), in_list=True)


def _decode(value: Any) -> Any:
    kind = value.WhichOneof("value_type")
    if kind == "null_value" or kind is None:
        return None
    if kind == "timestamp_value":
        at = value.timestamp_value
        return _EPOCH + timedelta(seconds=at.seconds, microseconds=at.nanos // 1_000)
    if kind == "map_value":
        return decode_map(value.map_value.fields)
    if kind == "array_value":
        return [_decode(item) for item in value.array_value.values]
    return getattr(value, kind)


def decode_map(fields: Any) -> dict[str, Any]:
    """The plain values of a protobuf map. Times are in UTC, to the microsecond."""
    return {name: _decode(fields[name]) for name in fields}  # items() is slower by half
