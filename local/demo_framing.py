"""Server-sent events as the demo upstream writes them: in the usual way, or in an unusual valid one that is a fault."""

from __future__ import annotations

import json
from collections.abc import Callable


def framing(kind: str | None) -> Callable[[bytes, bytes], bytes]:
    """Returns the function that encodes a payload and its name, if it has one, as a server-sent event.

    In the usual way, or in an unusual valid one.
    """
    match kind:
        case "crlf":
            return lambda payload, name: _named(name, b"\r\n") + b"data: " + payload + b"\r\n\r\n"
        case "no_space":
            return lambda payload, name: _named(name).replace(b": ", b":") + b"data:" + payload + b"\n\n"
        case "comments":
            return lambda payload, name: b": ping\n\n" + _named(name) + b"data: " + payload + b"\n\n"
        case "multi_line":
            return lambda payload, name: _named(name) + b"data: " + b"\ndata: ".join(_lines(payload)) + b"\n\n"
        case "unnamed":
            return lambda payload, _: b"data: " + payload + b"\n\n"
        case _:
            return lambda payload, name: _named(name) + b"data: " + payload + b"\n\n"


def _named(name: bytes, end: bytes = b"\n") -> bytes:
    return b"event: " + name + end if name else b""


def _lines(payload: bytes) -> list[bytes]:
    if not payload.startswith(b"{"):
        return [payload]
    return json.dumps(json.loads(payload), ensure_ascii=False, indent=1).encode().split(b"\n")
