"""How coarse a viewer wants its stream: `?every=0.5`, the header `X-Every`, or a callable's field `every`.

Both are needed: an `EventSource` can't send headers, and Google's SDKs can't send a query.
"""

from __future__ import annotations

from typing import Any

from flask import request

from lib.domain.errors import InvalidRequest

MOST_SECONDS = 5.0  # less than a proxy or a user waits before it takes a stream for dead


def asked() -> float:
    """How many seconds there are to be between two pieces of this request's stream; 0: as they come.

    Errors: `InvalidRequest`.
    """
    for name, value in (("every", request.args.get("every")), ("X-Every", request.headers.get("X-Every"))):
        if value:
            try:
                return seconds(float(value), name)
            except ValueError:
                return seconds(None, name)
    return 0.0


def seconds(value: Any, name: str) -> float:
    """A number of seconds that a client gives as `name`. Errors: `InvalidRequest`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_SECONDS:
        raise InvalidRequest(
            f"'{name}' must be the seconds between two pieces of the stream: a number from 0 to {MOST_SECONDS:g}.",
            code="invalid_every",
            param=name,
        )
    return float(value)
