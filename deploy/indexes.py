"""Indexes, exemptions and expiry: what firestore.indexes.json wants, and what Firestore has.

All of them go by a collection's name, wherever in the database it lies. So only names that no app has may be in the
file: `tests/unit/tools/test_firestore_files.py` holds that.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Composite = tuple[str, str, tuple[tuple[str, str], ...]]  # collection, scope, fields with their flags
Single = set[tuple[str, str]]  # scope and flag


def missing(composites: str, fields: str, expiring: str) -> Iterator[str]:
    """The commands that make what is not there, from what gcloud lists."""
    there = {_composite(each, _place(each)[0]) for each in _listed(composites)}
    for index in _wanted():
        if index not in there:
            collection, scope, columns = index
            flags = f"--collection-group={collection} --query-scope={scope.lower().replace('_', '-')} --async"
            shown = " ".join(f"--field-config=field-path={path},{flag}" for path, flag in columns)
            yield f"indexes composite create {flags} {shown}"
    exempt = {_place(each): _single(each["indexConfig"]) for each in _listed(fields)}
    mortal = {_place(each) for each in _listed(expiring)}
    for collection, path, indexes, ttl in _overrides():
        if exempt.get((collection, path), exempt.get((collection, "*"))) != indexes:
            shown = " ".join(f"--index={flag}" for _, flag in sorted(indexes)) or "--disable-indexes"
            yield f"indexes fields update {path} --collection-group={collection} --async {shown}"
            exempt[collection, path] = indexes
        if ttl and (collection, path) not in mortal:
            yield f"fields ttls update {path} --collection-group={collection} --async --enable-ttl"


def building(composites: str) -> Iterator[str]:
    """The indexes that are not ready yet, each with its state."""
    wanted = set(_wanted())
    for each in _listed(composites):
        index = _composite(each, _place(each)[0])
        if index in wanted and each.get("state", "READY") != "READY":
            yield f"{index[0]} ({', '.join(path for path, _ in index[2])}): {each['state']}"


def removals(composites: str, fields: str, expiring: str, kept: str = "") -> Iterator[str]:
    """The commands that undo `missing`, of what is there; of all of it where nothing is listed, as in a dry run.

    What stays is the exemption of the collection that has no expiry, since its documents do. `kept` are collections,
    comma-separated, that keep their expiry.
    """
    there = {_composite(each, _place(each)[0]): _place(each)[1] for each in _listed(composites)}
    for index in _wanted():
        if index in there or not composites:
            yield f"indexes composite delete {there.get(index, 'INDEX')}"
    exempt, mortal = ({_place(each) for each in _listed(text)} for text in (fields, expiring))
    ours = {collection for collection, _, _, ttl in _overrides() if ttl}
    inherited = {collection: indexes for collection, path, indexes, _ in _overrides() if path == "*"}
    for collection, path, indexes, ttl in _overrides():
        if ttl and collection not in kept.split(",") and ((collection, path) in mortal or not expiring):
            yield f"fields ttls update {path} --collection-group={collection} --async --disable-ttl"
        own = path == "*" or indexes != inherited.get(collection)
        if collection in ours and own and ((collection, path) in exempt or not fields):
            yield f"indexes fields update {path} --collection-group={collection} --async --clear-exemption"


def _listed(text: str) -> Any:
    return json.loads(text or "[]")


def _file() -> Any:
    return json.loads(Path("firestore.indexes.json").read_text(encoding="utf-8"))


def _place(resource: dict[str, Any]) -> tuple[str, ...]:
    """Parses a resource name of Firestore's admin API: the collection, and the field or index."""
    return tuple(resource["name"].split("/")[5::2])


def _flag(field: dict[str, Any]) -> str:
    """The flag for a field's order or array configuration."""
    return f"order={field['order']}".lower() if "order" in field else f"array-config={field.get('arrayConfig')}".lower()


def _composite(index: dict[str, Any], collection: str) -> Composite:
    """An index without the document name, which every index ends with implicitly."""
    columns = [(field["fieldPath"], _flag(field)) for field in index["fields"] if field["fieldPath"] != "__name__"]
    return collection, index["queryScope"], tuple(columns)


def _single(config: dict[str, Any]) -> Single:
    """The indexes of one field, each with its scope. The file has the order directly in the index."""
    return {(each["queryScope"], _flag(each.get("fields", [each])[0])) for each in config.get("indexes", [])}


def _wanted() -> list[Composite]:
    return [_composite(index, index["collectionGroup"]) for index in _file()["indexes"]]


def _overrides() -> Iterator[tuple[str, str, Single, bool]]:
    for each in _file()["fieldOverrides"]:
        if {scope for scope, _ in _single(each)} - {"COLLECTION"}:
            sys.exit("firestore.indexes.json: gcloud makes a field's indexes for single collections only")
        yield each["collectionGroup"], each["fieldPath"], _single(each), each.get("ttl", False)
