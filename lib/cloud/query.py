"""Firestore's structured queries: written from plain values, and the index that one needs.

The messages are written in place, as in `values`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lib.cloud.values import encode_value, field_path

Filter = tuple[str, str, Any]

_NAME = "__name__"
_OPERATORS = {
    "<": "LESS_THAN",
    "<=": "LESS_THAN_OR_EQUAL",
    "==": "EQUAL",
    ">=": "GREATER_THAN_OR_EQUAL",
    ">": "GREATER_THAN",
    "in": "IN",
}


def write_filters(query: Any, collection: str, where: Iterable[Filter]) -> None:
    """Selects the documents of a collection that match all filters."""
    query.from_.add(collection_id=collection)
    for field, operator, value in where:
        filters = query.where.composite_filter
        filters.op = filters.AND
        each = filters.filters.add().field_filter
        each.field.field_path = field_path(field)
        each.op = each.Operator.Value(_OPERATORS[operator])
        encode_value(value, each.value)


def write_order(query: Any, order: str, *, descending: bool) -> None:
    """Orders by a field and then by name."""
    direction = query.DESCENDING if descending else query.ASCENDING
    for name in (order, _NAME):
        query.order_by.add(field={"field_path": field_path(name)}, direction=direction)


def write_start(query: Any, value: Any, name: str) -> None:
    """Starts an ordered query after the document with this value and full name."""
    encode_value(value, query.start_at.values.add())
    query.start_at.values.add(reference_value=name)


def write_selection(query: Any, fields: Iterable[str]) -> None:
    """Reads only these fields, or without any only the names."""
    for name in [*fields] or [_NAME]:
        query.select.fields.add(field_path=field_path(name))


def index_of(query: Any) -> str:
    """The index that a query needs: the collection's id and the fields, without any value."""
    fields = {each.field_filter.field.field_path: "" for each in query.where.composite_filter.filters}
    for each in query.order_by:
        fields.pop(each.field.field_path, None)
        fields[each.field.field_path] = " desc" if each.direction == query.DESCENDING else " asc"
    fields.pop(_NAME, None)
    return f"{query.from_[0].collection_id}: {', '.join(name + direction for name, direction in fields.items())}"
