"""Merges the pieces of a streamed answer into whole JSON, including fields that this service does not know.

Three rules hold for every dialect. Only text is appended; other values keep their first content or are replaced by a
richer one. List items are pieces of the same item if their index and kind match. Folding takes linear time: a text is a
list of pieces until it is read, and a list has an index of its items.

Folded values share objects with the payloads, so nobody may change those. `unfolded` returns plain JSON to save.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from lib.dialects.steps import Json

TEXT = frozenset(
    {
        "arguments",
        "content",
        "data",
        "input",
        "partial_json",
        "reasoning",
        "reasoning_content",
        "reasoning_text",
        "refusal",
        "signature",
        "summary",
        "text",
        "thinking",
        "transcript",
    }
)
"""The fields whose strings are pieces of a text. All other strings are names, kinds, formats or addresses."""

_RUN = "logprobs"  # its lists have an entry per token, and equal entries are different tokens


class Pieces(list[str]):
    """A growing text. It is joined once, at the end, because appending to a string copies it each time."""


class Fields(dict[str, Any]):
    """A growing object."""


class Items(list[Any]):
    """A growing list. `named` maps an item's index, and its index and id, to the items of each kind.

    The kind "" maps to the latest of these items, whatever its kind.
    """

    __slots__ = ("named",)

    def __init__(self, items: list[Any] | None = None):
        super().__init__(items or ())
        self.named: dict[Hashable, dict[str, Fields]] = {}


def fold(into: Fields, piece: Json) -> None:
    """Merges one event's `piece` into the result of the events before it."""
    for key, value in piece.items():
        kind = type(value)
        if kind is str:
            if key in TEXT:
                have = into.get(key)
                if type(have) is Pieces:
                    have.append(value)
                else:
                    _begin_text(into, key, have, value)
            elif not into.get(key):
                into[key] = value
        elif value is None:
            into.setdefault(key, None)
        elif key == _RUN:
            into[key] = _longer_run(into.get(key), value)
        elif kind is dict:
            have = into.get(key)
            if type(have) is not Fields:
                if have:
                    continue
                have = into[key] = Fields()
            fold(have, value)
        elif kind is list:
            _fold_list(into, key, value)
        elif not into.get(key):
            into[key] = value


def richer(have: Any, said: Any) -> Any:
    """The richer of two values that an upstream sent in the same place. Neither is changed.

    Anything is richer than nothing, and a longer list is richer than a shorter one. Objects are merged.
    """
    if not have:
        return said if said or have is None else have
    if isinstance(have, dict) and isinstance(said, dict):
        return {**have, **{key: richer(have.get(key), value) for key, value in said.items()}}
    if isinstance(have, list) and isinstance(said, list) and len(said) > len(have):
        return said
    return have


def unfolded(value: Any) -> Any:
    """A folded value as plain JSON."""
    kind = type(value)
    if kind is Pieces:
        return "".join(value)
    if kind is Fields:
        return {key: unfolded(item) for key, item in value.items()}
    if kind is Items:
        return [unfolded(item) for item in value]
    return value


def _begin_text(into: Fields, key: str, have: Any, text: str) -> None:
    if type(have) is Items:
        if not text:
            return
        last = have[-1].get("text") if have and type(have[-1]) is Fields else None
        if type(last) is Pieces:
            last.append(text)
        else:
            have.append(Fields(type="text", text=Pieces([text])))
    elif type(have) is not Fields:
        into[key] = Pieces([text])


def _fold_list(into: Fields, key: str, items: list[Any]) -> None:
    have = into.get(key)
    if type(have) is not Items:
        if type(have) is Pieces:  # a text that continues in parts
            have = Items([Fields(type="text", text=have)] if any(have) else None)
        elif have:
            return
        else:
            have = Items()
        into[key] = have
    if key not in TEXT and all(_is_loose(item) for item in items):
        _add_loose(have, items)
        return
    for at, item in enumerate(items):
        if type(item) is not dict:
            have.append(item)
            continue
        same = _same(have, item, first=at == 0)
        if same is None:
            same = Fields()
            have.append(same)
        fold(same, item)
        _name(have, item, same)


def _longer_run(have: Any, more: Any) -> Any:
    if isinstance(more, dict):
        run = have if type(have) is Fields else Fields()
        for key, value in more.items():
            run[key] = _longer_run(run.get(key), value)
        return run
    if isinstance(more, list):
        run_of_items = have if type(have) is Items else Items()
        run_of_items += more
        return run_of_items
    return more if have is None else have


def _is_loose(item: Any) -> bool:
    """Whether an item can't be a piece of another: it has no index, id or name, and no text to append."""
    if type(item) is not dict:
        return True
    index, own, _ = _names(item)
    return index is None and not own and not _title(item) and not _grows(item)


def _add_loose(have: Items, items: list[Any]) -> None:
    """Adds items. Some upstreams repeat the whole list with every event, and others send only new items.

    Numbers are always new items: they are tokens, or data about tokens.
    """
    size, known = len(items), len(have)
    if items and all(type(item) in (int, float) for item in items):
        have += items
    elif size > known:
        have += items[known:] if items[:known] == have else items
    elif items and items not in (have[:size], have[-size:]):
        have += items


def _same(have: Items, item: Json, *, first: bool) -> Fields | None:
    """The item in the list that `item` is a piece of, or None if it is a new one.

    An item with an index is a piece of the item with that index, whatever its id, because some upstreams generate an id
    for each piece. But an id together with a name starts another tool call. An item without index, id and name is a
    piece of the last item, if it is the first in its event.
    """
    index, own, kind = _names(item)
    title = _title(item)
    same = _find(have, (index, own), kind) if own else None
    if same is not None:
        return None if title and title != (_title(same) or title) else same
    if index is not None:
        same = _find(have, index, kind)
        if same is None or (title and (title != (_title(same) or title) or (own and same.get("id")))):
            return None
        return same if _grows(item) or _agree(same, item, lenient=True) else None
    if title or not first or not have or not isinstance(have[-1], dict):
        return None
    last = have[-1]
    if own:
        # A new id without a name: a piece of a tool call with a generated id, or otherwise a new item.
        return last if type(last) is Fields and "function" in item and "function" in last else None
    if not _grows(item) or not _agree(last, item, lenient=False):
        return None
    if type(last) is not Fields:
        have[-1] = grown = Fields()
        fold(grown, last)
        return grown
    return last


def _names(item: Json) -> tuple[int | None, str, str]:
    """What may identify an item: its index, id and kind."""
    index, own, kind = item.get("index"), item.get("id"), item.get("type")
    return (
        index if type(index) is int else None,
        own if isinstance(own, str) else "",
        kind if isinstance(kind, str) else "",
    )


def _find(have: Items, name: Hashable, kind: str) -> Fields | None:
    kinds = have.named.get(name)
    if kinds is None:
        return None
    last = kinds[""]
    return kinds.get(kind) or (None if last.get("type") else last)


def _name(have: Items, item: Json, same: Fields) -> None:
    index, own, kind = _names(item)
    names: list[Hashable] = [] if index is None else [index]
    if own:
        names += [(None, own)] if index is None else [(index, own), (None, own)]
    for name in names:
        kinds = have.named.setdefault(name, {})
        kinds[""] = same
        if kind:
            kinds[kind] = same


def _title(item: Json) -> Any:
    """The name of an item, or of an object in it, such as a tool call's function."""
    name = item.get("name")
    if name:
        return name
    return next((value["name"] for value in item.values() if isinstance(value, dict) and value.get("name")), None)


def _grows(item: Json) -> bool:
    """Whether an item has text to append. An item with a URL is always a whole one, and data alone may be too."""
    if item.get("url"):
        return False
    for key, value in item.items():
        if key in TEXT:
            if key != "data" and isinstance(value, str | list):
                return True
        elif isinstance(value, dict) and _grows(value):
            return True
    return False


def _agree(have: Json, item: Json, *, lenient: bool) -> bool:
    """Whether two items agree, apart from texts. `lenient`: compares only strings that both items have."""
    for key, value in item.items():
        if not value or key in TEXT or key in ("id", "index"):
            continue
        said = have.get(key)
        if isinstance(value, dict) and isinstance(said, dict):
            if not _agree(said, value, lenient=lenient):
                return False
        elif said != value and not (lenient and (not said or not isinstance(value, str))):
            return False
    return True
