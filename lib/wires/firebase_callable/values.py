"""Encodes and decodes values of the Firebase callable protocol. Pure.

The rules are those of the "Protocol specification for https.onCall" and of the client SDKs, which are stricter: objects
must not have a key `@type` of their own, and a line of a stream must not contain any kind of line end.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from lib.domain.errors import InvalidRequest

_INT64 = "type.googleapis.com/google.protobuf.Int64Value"
_WRAPPED = frozenset({_INT64, "type.googleapis.com/google.protobuf.UInt64Value"})
_EXACT = range(-(1 << 53) + 1, 1 << 53)  # exact in a JavaScript number
_INT64_RANGE = range(-(1 << 63), 1 << 63)
_WRAPPED_RANGE = range(-(1 << 63), 1 << 64)
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,20}")
_TYPE_KEY = re.compile(r"@+type")
_ESCAPED_KEY = re.compile(r"@@+type")


def decoded(value: Any) -> Any:
    """Decodes a value. The SDKs of iOS and Android wrap every 64-bit integer."""
    if isinstance(value, list):
        return [decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get("@type")
    if isinstance(kind, str) and kind in _WRAPPED:
        return _unwrapped(value.get("value"))
    return {key[1:] if _ESCAPED_KEY.fullmatch(key) else key: decoded(item) for key, item in value.items()}


def _unwrapped(value: Any) -> int:
    if not _WHOLE_NUMBER.fullmatch(str(value)) or int(value) not in _WRAPPED_RANGE:
        raise InvalidRequest("A wrapped whole number must have a 'value' of 64 bits, in digits.", param="data")
    return int(value)


def encoded(value: Any) -> Any:
    """Encodes a value so that the SDKs can decode it.

    A key `@type` becomes `@@type` (and that one `@@@type`, and so on), because the SDKs reserve it. An integer that is
    not exact in JavaScript is wrapped as the protocol specifies, and beyond 64 bits becomes a string.
    """
    if isinstance(value, list):
        return [encoded(item) for item in value]
    if isinstance(value, dict):
        return {f"@{key}" if _TYPE_KEY.fullmatch(key) else key: encoded(item) for key, item in value.items()}
    if isinstance(value, int) and not isinstance(value, bool) and value not in _EXACT:
        return {"@type": _INT64, "value": str(value)} if value in _INT64_RANGE else str(value)
    return value


def line(value: dict[str, Any]) -> bytes:
    """One line of the stream. Unicode line ends are escaped, because iOS splits the stream at them too."""
    data = orjson.dumps(value).replace(b"\xc2\x85", b"\\u0085")
    return b"data: %b\n\n" % data.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
