"""The indexes of a `firestore.indexes.json`, and whether a query can be answered from them.

Firestore has a collection-scope index of each field, ascending, descending and (of arrays) for `array-contains`, unless
the file's `fieldOverrides` say otherwise; and the composite indexes that the file names. Equality comparisons are
answered by merging indexes, also single-field ones. A sort order needs an index that ends with exactly it.
(https://firebase.google.com/docs/firestore/query-data/index-overview, "Taking advantage of index merging" in
https://firebase.google.com/docs/firestore/query-data/indexing, and
https://firebase.google.com/docs/reference/firestore/indexes for the file.)

A direction is never reversed, and an index that nobody built does not exist.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from google.cloud.firestore_admin_v1.types import Index as IndexMessage

from local.firestore_proxy.query import ASCENDING, COLLECTION, CONTAINS, DESCENDING, NAME, Fields, Need

AUTOMATIC = frozenset({ASCENDING, DESCENDING, CONTAINS})
_CONSOLE = "https://console.firebase.google.com/v1/r/project/{project}/firestore/indexes?"


@dataclass(frozen=True, slots=True)
class Composite:
    """An index of several fields, or of one whose override names it. `fields` ends with the document's name."""

    group: str
    scope: str
    fields: Fields


@dataclass(frozen=True, slots=True)
class Indexes:
    """`overrides` has the modes of fields that are not indexed as usual, by group, field path and scope."""

    composites: Sequence[Composite]
    overrides: Mapping[tuple[str, str], frozenset[tuple[str, str]]]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads the file. Errors: KeyError or ValueError, if it is not one."""
        given = json.loads(path.read_text())
        composites = [
            Composite(each["collectionGroup"], each["queryScope"], _named(tuple(map(_field, each["fields"]))))
            for each in given["indexes"]
        ]
        overrides = {
            (each["collectionGroup"], each["fieldPath"]): frozenset(
                (_field({"fieldPath": "", **index})[1], index["queryScope"]) for index in each["indexes"]
            )
            for each in given["fieldOverrides"]
        }
        return cls(composites, overrides)

    def while_building(self) -> Indexes:
        """What can be used until the file's indexes are READY: the automatic ones that it leaves alone."""
        return Indexes([], dict.fromkeys(self.overrides, frozenset()))

    def modes(self, group: str, path: str, scope: str) -> frozenset[str]:
        """How a single field is indexed. A map's fields inherit its exemption; `*` stands for all fields."""
        names = path.split(".")
        for field in (*(".".join(names[:count]) for count in range(len(names), 0, -1)), "*"):
            if (group, field) in self.overrides:
                return frozenset(mode for mode, within in self.overrides[group, field] if within == scope)
        return AUTOMATIC if scope == COLLECTION else frozenset()

    def answer(self, need: Need) -> bool:
        """Whether these indexes answer one conjunction of a query."""
        if not need.equal and need.sort == ((NAME, ASCENDING),):
            return True
        served = [found for index in self._candidates(need) if (found := _serves(index, need)) is not None]
        return bool(served) and frozenset[tuple[str, str]]().union(*served) == need.equal

    def _candidates(self, need: Need) -> Iterator[Fields]:
        for path in {path for path, _ in (*need.equal, *need.sort)} - {NAME}:
            for mode in self.modes(need.group, path, need.scope):
                yield _named(((path, mode),))
        yield from (each.fields for each in self.composites if (each.group, each.scope) == (need.group, need.scope))


def _serves(index: Fields, need: Need) -> frozenset[tuple[str, str]] | None:
    """The equality comparisons that an index answers in the order that is needed, or None."""
    begin = len(index) - len(need.sort)
    if begin < 0 or index[begin:] != need.sort:
        return None
    found = frozenset((path, CONTAINS if mode == CONTAINS else ASCENDING) for path, mode in index[:begin])
    return found if found <= need.equal else None


def _field(given: Mapping[str, Any]) -> tuple[str, str]:
    return given["fieldPath"], given.get("order") or given["arrayConfig"]


def _named(fields: Fields) -> Fields:
    """With the document's name at the end, which is sorted like the last field."""
    if fields[-1][0] == NAME:
        return fields
    return (*fields, (NAME, DESCENDING if fields[-1][1] == DESCENDING else ASCENDING))


def refusal(need: Need, project: str, building: bool) -> str:
    """What Firestore says of a query without an index, with the link that would create it."""
    console = _CONSOLE.format(project=project)
    fields = [*sorted(need.equal), *(each for each in need.sort if each[0] != NAME)]
    link = (
        f"{console}{'create_exemption' if len(fields) == 1 else 'create_composite'}={_encoded(need, project, fields)}"
    )
    if building:
        return (
            "The query requires an index. That index is currently building and cannot be used yet. "
            f"See its status here: {link}"
        )
    if len(fields) == 1:
        (path, mode) = fields[0]
        kind = f"{need.scope}_{ {ASCENDING: 'ASC', DESCENDING: 'DESC', CONTAINS: 'CONTAINS'}[mode] }"
        return (
            f"The query requires a {kind} index for collection {need.group} and field {path}. "
            f"You can create it here: {link}"
        )
    return f"The query requires an index. You can create it here: {link}"


def _encoded(need: Need, project: str, fields: Sequence[tuple[str, str]]) -> str:
    index = IndexMessage(
        name=f"projects/{project}/databases/(default)/collectionGroups/{need.group}/indexes/_",
        query_scope=need.scope,
        fields=[
            {"field_path": path, "array_config" if mode == CONTAINS else "order": mode}
            for path, mode in (*fields, need.sort[-1])
        ],
    )
    return urlsafe_b64encode(IndexMessage.serialize(index)).decode().rstrip("=")
