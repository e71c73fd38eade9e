"""What a query needs of an index. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from google.cloud.firestore_v1.types import StructuredQuery

NAME = "__name__"
ASCENDING, DESCENDING, CONTAINS = "ASCENDING", "DESCENDING", "CONTAINS"
COLLECTION, COLLECTION_GROUP = "COLLECTION", "COLLECTION_GROUP"

_Field, _Unary = StructuredQuery.FieldFilter.Operator, StructuredQuery.UnaryFilter.Operator
_EQUAL = (_Field.EQUAL, _Field.IN)
_CONTAINS = (_Field.ARRAY_CONTAINS, _Field.ARRAY_CONTAINS_ANY)
_IS = (_Unary.IS_NULL, _Unary.IS_NAN)
_OR = StructuredQuery.CompositeFilter.Operator.OR

Fields = tuple[tuple[str, str], ...]  # a field's path and its mode, in an index's order


@dataclass(frozen=True, slots=True)
class Need:
    """What one conjunction of a query needs: fields that are compared for equality, and fields to sort by.

    `equal` has field paths with the mode CONTAINS for `array-contains`, and ASCENDING for `==` and `in`. `sort` ends
    with the document's name.
    """

    group: str
    scope: str
    equal: frozenset[tuple[str, str]]
    sort: Fields


def needs(query: Any) -> list[Need]:
    """The needs of a StructuredQuery message, one a disjunct.

    `in` and `array-contains-any` need what `==` and `array-contains` need. A range comparison sorts by its field, and a
    field that is compared for equality needs no sorting. Results are sorted by name in the end, in the direction of the
    last field. (https://firebase.google.com/docs/firestore/query-data/index-overview)
    """
    source = query.from_[0]
    scope = COLLECTION_GROUP if source.all_descendants else COLLECTION
    orders = [(order.field.field_path, _direction(order)) for order in query.order_by]
    return [
        Need(source.collection_id, scope, _equal(filters), _sort(orders, filters))
        for filters in _disjuncts(query.where)
    ]


def _direction(order: Any) -> str:
    return DESCENDING if order.direction == StructuredQuery.Direction.DESCENDING else ASCENDING


def _disjuncts(where: Any) -> Iterator[tuple[Any, ...]]:
    match where.WhichOneof("filter_type"):
        case None:
            yield ()
        case "composite_filter":
            parts = [list(_disjuncts(each)) for each in where.composite_filter.filters]
            if where.composite_filter.op == _OR:
                yield from (one for part in parts for one in part)
            else:
                yield from (sum(chosen, ()) for chosen in product(*parts))
        case kind:
            yield (getattr(where, kind),)


def _equal(filters: Sequence[Any]) -> frozenset[tuple[str, str]]:
    modes = ((each.field.field_path, _mode(each)) for each in filters)
    return frozenset((path, mode) for path, mode in modes if mode is not None and path != NAME)


def _mode(one: Any) -> str | None:
    """How an index finds what a filter asks for: None where it has to be sorted."""
    if one.DESCRIPTOR.name == "UnaryFilter":
        return ASCENDING if one.op in _IS else None
    if one.op in _CONTAINS:
        return CONTAINS
    return ASCENDING if one.op in _EQUAL else None


def _sort(orders: Sequence[tuple[str, str]], filters: Sequence[Any]) -> Fields:
    equal = {path for path, _ in _equal(filters)}
    named = [path for path, _ in orders]
    last = orders[-1][1] if orders else ASCENDING
    ranges = sorted({each.field.field_path for each in filters if _mode(each) is None} - {*named, NAME})
    sort = [*(each for each in orders if each[0] not in equal and each[0] != NAME), *((path, last) for path in ranges)]
    direction = next((direction for path, direction in orders if path == NAME), sort[-1][1] if sort else last)
    return (*sort, (NAME, direction))
