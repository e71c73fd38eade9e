"""The ids of responses and of their items. Each has the generation's, so that it is found again by itself. Pure.

An item of an answer is `msg_{generation}_{place}`, and one of the input `msg_{generation}_in{place}`. The upstream's
own ids are not shown: all users share the service's key, so such an id says nothing about who may use it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lib.dialects.conversation import Json

_ITEM = re.compile(r"[a-z]{1,24}_([0-9a-f]{32})_(?:in)?[0-9]{1,6}")
_PREFIX = re.compile(r"[a-z]{1,24}")
_PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "image_generation_call": "ig",
    "compaction": "cmp",
}


def generation_of(item_id: object) -> str | None:
    """The generation that an item's id names, if it is an id of ours."""
    found = _ITEM.fullmatch(item_id) if isinstance(item_id, str) else None
    return found[1] if found else None


class ItemIds:
    """The ids here of one answer's items, by those that they have at the upstream."""

    def __init__(self, generation: str):
        self._generation = generation
        self._ours: dict[str, str] = {}
        self._theirs: dict[str, str] = {}

    def at(self, place: object, theirs: str) -> str:
        """The id here of the item at this place of the output, from an event about it. Without a place, the last one's.

        An answer that was asked for a second time may have an id twice.
        """
        if type(place) is int:
            prefix = _PREFIX.match(theirs)
            ours = f"{prefix[0] if prefix else 'item'}_{self._generation}_{place}"
            self._ours[theirs], self._theirs[ours] = ours, theirs
        return self._ours.get(theirs, theirs)

    def among(self, place: int, theirs: str) -> str:
        """The id here of an item in a whole output, which may lack some that had a place."""
        return self._ours.get(theirs) or self.at(place, theirs)

    def theirs(self, ours: str) -> str | None:
        return self._theirs.get(ours)


def named(items: Sequence[Json], generation: str) -> list[Json]:
    """The items of an input, each whole and with an id of ours. One that has such an id keeps it."""
    seen: set[str] = set()
    found = []
    for place, item in enumerate(items):
        kind = str(item.get("type") or "message")
        own = str(item.get("id"))
        if kind == "item_reference":
            found.append(item)  # which has the id of another item
            continue
        if generation_of(own) is None or own in seen:
            own = f"{_PREFIXES.get(kind, 'item')}_{generation}_in{place}"
        seen.add(own)
        found.append({**_whole(item, kind), "id": own})
    return found


def _whole(item: Json, kind: str) -> Json:
    """The item as a response shows it, where a request may leave out what goes without saying."""
    if kind in ("function_call", "function_call_output"):
        return {"status": "completed", **item}
    if kind != "message":
        return item
    content = item.get("content")
    if isinstance(content, str):
        said = item.get("role") == "assistant"
        more: Json = {"annotations": []} if said else {}
        content = [{"type": "output_text" if said else "input_text", "text": content, **more}]
    return {"status": "completed", **item, "type": kind, "content": content}
