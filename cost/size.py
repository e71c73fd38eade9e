"""The stored size of a document in bytes, by https://firebase.google.com/docs/firestore/storage-size.

Index entries are not included, because Holdfast's long fields are not indexed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

_NAME_EXTRA = 16
_DOCUMENT_EXTRA = 32


def of_document(path: str, fields: Mapping[str, Any]) -> int:
    """`path` is relative to the database: `users/alice/messages/m1`."""
    name = sum(map(_of_text, path.split("/"))) + _NAME_EXTRA
    return name + _of_fields(fields) + _DOCUMENT_EXTRA


def _of_fields(fields: Mapping[str, Any]) -> int:
    return sum(_of_text(name) + _of(value) for name, value in fields.items())


def _of(value: Any) -> int:
    match value:
        case None | bool():
            return 1
        case str():
            return _of_text(value)
        case bytes():
            return len(value)
        case int() | float() | datetime():
            return 8
        case Mapping():
            return _of_fields(value)
        case list():
            return sum(map(_of, value))
    raise TypeError(f"the size of a {type(value).__name__} is not known here")


def _of_text(value: str) -> int:
    return len(value.encode()) + 1
