"""The sizes that Firestore refuses and its emulator takes (https://cloud.google.com/firestore/quotas).

A transaction is at most 10 MiB, and a document has at most 40,000 index entries. An update with a mask is counted by
what it writes alone, since the rest of the document is not known here.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from typing import Any

from local.firestore_proxy.indexes import Composite, Indexes
from local.firestore_proxy.query import ASCENDING, COLLECTION, CONTAINS, DESCENDING

MAX_COMMIT_BYTES = 10 << 20
MAX_INDEX_ENTRIES = 40_000


def too_much(request: bytes, writes: Sequence[Any], indexes: Indexes | None) -> str | None:
    """Why a commit is refused as INVALID_ARGUMENT, or None."""
    if len(request) > MAX_COMMIT_BYTES:
        return "Transaction too big. Decrease transaction size."
    for write in writes:
        if indexes is not None and entries(write.update, indexes) > MAX_INDEX_ENTRIES:
            return f"Too many index entries for document {write.update.name}."
    return None


def entries(document: Any, indexes: Indexes) -> int:
    """How many index entries a document has, of single fields and of composite indexes."""
    group = document.name.rpartition("/")[0].rpartition("/")[2]
    paths = dict(_leaves("", document.fields))
    of_fields = sum(
        len(value.array_value.values) * (CONTAINS in modes)
        if value.WhichOneof("value_type") == "array_value"
        else len(modes & {ASCENDING, DESCENDING})
        for path, value in paths.items()
        for modes in [indexes.modes(group, path, COLLECTION)]
    )
    of_composites = [each for each in indexes.composites if each.group == group and _covers(each, paths)]
    return int(of_fields) + len(of_composites)


def _covers(index: Composite, paths: Container[str]) -> bool:
    """An index has an entry for a document that has all of its fields."""
    return all(path in paths for path, _ in index.fields[:-1])


def _leaves(outer: str, fields: Any) -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if value.WhichOneof("value_type") == "map_value":
            yield from _leaves(f"{outer}{name}.", value.map_value.fields)
        else:
            yield f"{outer}{name}", value
