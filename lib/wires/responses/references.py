"""What a request's input names by ids: items of the user's own earlier responses, and of nobody else's."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from lib.dialects.conversation import Json
from lib.dialects.responses.ids import APPROVED, REFERENCE, is_reference, name_in
from lib.domain.errors import InvalidRequest, NotFound
from lib.runtime.catalog import Upstream
from lib.wires.bodies import Reading
from lib.wires.responses.ids import generation_of
from lib.wires.responses.kept import Kept, KeptResponses
from lib.wires.responses.request import portable

MOST_RESPONSES = 100  # that one request may name items of: each takes some reads


@dataclass(frozen=True, slots=True)
class Named:
    """An item that was named, in the response that it is of."""

    item: Json
    kept: Kept
    theirs: str | None
    """Its id at the upstream, if that keeps it."""


class References:
    """What one request of a user's names. Each response is read once. Each method has the errors of `reading`, too."""

    def __init__(self, responses: KeptResponses, reading: Reading):
        self.reading = reading
        self._responses = responses
        self._read: dict[str, list[Named]] = {}

    def whole(self, items: Sequence[Json]) -> list[Json]:
        """The items with those in place that are named. Errors: `NotFound`, `InvalidRequest`."""
        return [
            self._named(item["id"], f"input[{at}].id").item if is_reference(item) else item
            for at, item in enumerate(items)
        ]

    def shown(self, items: Sequence[Json]) -> list[Json]:
        """The items with those in place that are named, as far as they are still kept."""
        found = []
        for item in items:
            with suppress(NotFound, InvalidRequest):
                item = self._named(item["id"], "id").item if is_reference(item) else item
            found.append(item)
        return found

    def sent(self, items: Sequence[Json], upstream: Upstream) -> tuple[list[Json], dict[int, str]]:
        """The items for an upstream that speaks this API, and the ids of ours that they had, by their places.

        No id of a client's reaches the upstream: what it keeps is named by its own, and all else goes without. Errors:
        as `whole`, unless the upstream takes any id of its account.
        """
        found: list[Json] = []
        ids: dict[int, str] = {}
        for at, item in enumerate(items):
            name = name_in(item)
            if name is not None and upstream.account_ids and generation_of(item[name]) is None:
                found.append(item)
                continue
            if generation_of(item.get("id")) is not None:
                ids[len(found)] = item["id"]
            if name is None:
                found.append({key: value for key, value in item.items() if key != "id"})
            else:
                found += _sent(item, name, self._named(item[name], f"input[{at}].{name}"), upstream)
        return found, {place: its_id for place, its_id in ids.items() if place < len(found)}

    def _named(self, item_id: object, param: str) -> Named:
        missing = NotFound(
            f"Item with id '{str(item_id)[:100]}' of '{param}' not found: it must be of a response of yours that is "
            "kept here. Send the whole item instead, or 'previous_response_id'.",
            code="item_not_found",
            param=param,
        )
        generation = generation_of(item_id)
        if generation is None:
            raise missing
        if generation not in self._read:
            if len(self._read) == MOST_RESPONSES:
                raise InvalidRequest(
                    f"'input' names items of more than {MOST_RESPONSES} responses: send 'previous_response_id'.",
                    param="input",
                )
            self._read[generation] = self._items_of(generation, missing, param)
        for named in self._read[generation]:
            if named.item.get("id") == item_id:
                return named
        raise missing

    def _items_of(self, generation: str, missing: NotFound, param: str) -> list[Named]:
        try:
            kept = self._responses.find(self.reading, f"resp_{generation}")
        except NotFound as error:
            raise missing from error
        if kept.head.end is None:
            words = f"The response of the item that '{param}' names is not over yet: wait for it, or cancel it."
            raise InvalidRequest(words, code="item_in_progress", param=param)
        output = [Named(item, kept, theirs) for item, theirs in self._responses.items(self.reading, kept)]
        return [*output, *(Named(item, kept, None) for item in self._responses.given(self.reading, kept))]


def _sent(item: Json, name: str, named: Named, upstream: Upstream) -> list[Json]:
    """What is sent for an item that names one. Nothing, if that means nothing to this upstream."""
    if named.theirs is None or named.kept.generation.upstream != upstream.name:
        return portable([named.item])
    if name == APPROVED:
        return [{**item, APPROVED: named.theirs}]
    return [{"type": REFERENCE, "id": named.theirs}]
