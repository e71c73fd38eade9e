"""`GET /v1/responses/{id}/input_items`: what a response answers, in pages.

https://platform.openai.com/docs/api-reference/responses/input-items
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lib.dialects.conversation import Json
from lib.domain.errors import InvalidRequest

_MOST, _UNLESS_ASKED = 100, 20
_ORDERS = ("asc", "desc")


def page(items: Sequence[Json], asked: Mapping[str, str]) -> Json:
    """One page of the items, which are oldest first, by the query that asks for it. Errors: `InvalidRequest`."""
    order, limit = asked.get("order", "desc"), asked.get("limit", str(_UNLESS_ASKED))
    if order not in _ORDERS:
        raise InvalidRequest("'order' must be asc or desc.", param="order")
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 3 and 1 <= int(limit) <= _MOST):
        raise InvalidRequest(f"'limit' must be a whole number from 1 to {_MOST}.", param="limit")
    ordered = list(items if order == "asc" else reversed(items))
    first = _place(ordered, asked, "after") + 1 if "after" in asked else 0
    last = _place(ordered, asked, "before") if "before" in asked else len(ordered)
    ordered = ordered[first:last]
    some = ordered[-int(limit) :] if "before" in asked and "after" not in asked else ordered[: int(limit)]
    return {
        "object": "list",
        "data": some,
        "first_id": some[0]["id"] if some else None,
        "last_id": some[-1]["id"] if some else None,
        "has_more": len(some) < len(ordered),
    }


def _place(ordered: Sequence[Json], asked: Mapping[str, str], name: str) -> int:
    for place, item in enumerate(ordered):
        if item["id"] == asked[name]:
            return place
    raise InvalidRequest(f"'{name}' must be the id of an item that this list has.", param=name)
