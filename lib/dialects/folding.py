"""Merging the pieces of a streamed answer into whole JSON, whatever fields an upstream gives it.

Three rules, for every dialect. Text is appended, and nothing else is: what is no text is kept as it was said first, or
replaced by what is richer. Items of a list are the same one where index and kind say so. Folding takes time
proportional to what is folded: a text is a list of pieces until it is asked for, and a list knows its items by name.

What is folded is shared with the payloads it came from, which nobody may change; `unfolded` gives what can be saved.
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
"""The fields whose strings are pieces of a text. Every other string is a name, a kind, a format or an address."""

_RUN = "logprobs"  # its lists have an entry a token, and two tokens that are equal are two


class Pieces(list[str]):
    """A text that is still growing. It is joined once, at the end: appending to a string copies it each time."""


class Fields(dict[str, Any]):
    """An object that is still growing."""


class Items(list[Any]):
    """A list that is still growing. `named` has its items by index, and by index and id, and there by kind.

    Under no kind is the item that was named last, whatever it is.
    """

    __slots__ = ("named",)

    def __init__(self, items: list[Any] | None = None):
        super().__init__(items or ())
        self.named: dict[Hashable, dict[str, Fields]] = {}


def fold(into: Fields, piece: Json) -> None:
    """Merges one event's `piece` into what the events before it add up to."""
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
    """Of two things that an upstream said in the same place about the whole answer, the one that says more.

    Neither is changed. Anything is richer than nothing, and a longer list than a shorter one; objects are merged.
    """
    if not have:
        return said if said or have is None else have
    if isinstance(have, dict) and isinstance(said, dict):
        return {**have, **{key: richer(have.get(key), value) for key, value in said.items()}}
    if isinstance(have, list) and isinstance(said, list) and len(said) > len(have):
        return said
    return have


def unfolded(value: Any) -> Any:
    """What was folded, as plain JSON that does not grow any more."""
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
        if type(have) is Pieces:  # a text that goes on in parts
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
    """Whether nothing tells that an item is a piece of another: it has no index, id or name, and no text to append."""
    if type(item) is not dict:
        return True
    index, own, _ = _names(item)
    return index is None and not own and not _title(item) and not _grows(item)


def _add_loose(have: Items, items: list[Any]) -> None:
    """Adds items of which some upstreams say all with every event, and others only what is new.

    Numbers are always new: they are tokens, or what is known of each.
    """
    size, known = len(items), len(have)
    if items and all(type(item) in (int, float) for item in items):
        have += items
    elif size > known:
        have += items[known:] if items[:known] == have else items
    elif items and items not in (have[:size], have[-size:]):
        have += items


def _same(have: Items, item: Json, *, first: bool) -> Fields | None:
    """The item of the list that `item` is a piece of, if there is one.

    What has an index is a piece of the one with that index, whatever its id: some upstreams make up an id for each
    piece. But an id together with a name begins another tool call. What has none of these goes on with the last one;
    only an event's first item can.
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
        # An id that is new, without a name: a piece of a tool call under an id made up for it, or else another thing.
        return last if type(last) is Fields and "function" in item and "function" in last else None
    if not _grows(item) or not _agree(last, item, lenient=False):
        return None
    if type(last) is not Fields:
        have[-1] = grown = Fields()
        fold(grown, last)
        return grown
    return last


def _names(item: Json) -> tuple[int | None, str, str]:
    """What an item may be known by: its index, id and kind."""
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
    """The name that an item gives itself, or the function in it."""
    name = item.get("name")
    if name:
        return name
    return next((value["name"] for value in item.values() if isinstance(value, dict) and value.get("name")), None)


def _grows(item: Json) -> bool:
    """Whether it has text to append. What has an address is a thing of its own, and bare data may be."""
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
    """Whether what an item says beside its text is what the list's item has. `lenient`: or only no string differs."""
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
