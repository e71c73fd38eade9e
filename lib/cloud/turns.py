"""The order of a chat's turns, as a document: `holdfastTurns/{hash of the chat's path}`.

`turns` has the ids of the live generations of a chat that take turns; the first one's turn it is. A generation gets
into it in the commit that creates it, over the version that was read, so that of two devices one is first. It leaves it
in the commit that ends it, which reads nothing. The document says nothing of whose chat it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from lib.cloud.documents import Create, Documents, Put, TakeOut, Version, Write
from lib.domain.collections import GENERATIONS
from lib.domain.generation import LISTED_FIELDS, Generation
from lib.domain.turn import turns_path


@dataclass(frozen=True, slots=True)
class Order:
    """The ids of a chat's turns, and the version of the document that has them, or None if there is none."""

    path: str
    ids: tuple[str, ...] = ()
    version: Version = None


class Turns:
    """The orders of all chats. One expires `retention` after its last change."""

    def __init__(self, documents: Documents, retention: timedelta):
        self._documents = documents
        self._retention = retention

    def order(self, message_path: str) -> Order:
        """The order of the chat that a message lies in. Errors: `Unreachable`."""
        path = turns_path(message_path)
        (found,) = self._documents.get(path)
        return Order(path, tuple(found.fields.get("turns", ())), found.version) if found else Order(path)

    def live(self, ids: Sequence[str]) -> list[Generation]:
        """Those of the generations that have not ended, without their requests. Errors: `Unreachable`."""
        if not ids:
            return []
        found = self._documents.get(*(f"{GENERATIONS}/{each}" for each in ids), select=LISTED_FIELDS)
        there = [
            Generation.from_fields(its_id, {"request": b"", **each.fields})
            for its_id, each in zip(ids, found, strict=True)
            if each is not None
        ]
        return [each for each in there if not each.state.terminal]

    def changed(self, order: Order, ids: Sequence[str], now: datetime) -> Write:
        """The write that replaces an order that was read. It fails if another one was faster."""
        fields = {"turns": list(ids), "expireAt": now + self._retention}
        return Create(order.path, fields) if order.version is None else Put(order.path, fields, order.version)

    def left(self, generation: Generation, now: datetime) -> Write:
        """The write that takes a generation out of its chat's order, whatever that is by then."""
        path = turns_path(generation.message_path)
        return TakeOut(path, "turns", generation.id, {"expireAt": now + self._retention})
