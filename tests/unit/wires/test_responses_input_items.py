"""The pages of a response's input."""

from __future__ import annotations

from typing import Any

import pytest

from lib.domain.errors import InvalidRequest
from lib.wires.responses.input_items import page

ITEMS = [{"id": f"i{number}"} for number in range(25)]


@pytest.mark.parametrize(
    ("asked", "ids", "has_more"),
    [
        ({}, range(24, 4, -1), True),
        ({"limit": "100"}, range(24, -1, -1), False),
        ({"order": "asc", "limit": "3"}, range(3), True),
        ({"order": "asc", "limit": "3", "after": "i21"}, range(22, 25), False),
        ({"order": "asc", "limit": "2", "after": "i21"}, range(22, 24), True),
        ({"order": "asc", "limit": "2", "before": "i21"}, range(19, 21), True),
        ({"order": "asc", "before": "i2"}, range(2), False),
        ({"order": "asc", "after": "i2", "before": "i5"}, range(3, 5), False),
        ({"limit": "2", "after": "i3"}, range(2, 0, -1), True),
        ({"after": "i0"}, (), False),
    ],
)
def test_a_page_has_the_items_that_are_asked_for(asked: dict[str, str], ids: Any, has_more: bool) -> None:
    expected = [f"i{number}" for number in ids]
    found = page(ITEMS, asked)
    assert [item["id"] for item in found["data"]] == expected
    assert (found["object"], found["has_more"]) == ("list", has_more)
    assert (found["first_id"], found["last_id"]) == ((expected[0], expected[-1]) if expected else (None, None))


@pytest.mark.parametrize(
    "asked", [{"order": "up"}, {"limit": "0"}, {"limit": "101"}, {"limit": "-1"}, {"after": "i25"}, {"before": ""}]
)
def test_a_wrong_query_is_an_error_that_names_the_field(asked: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest) as wrong:
        page(ITEMS, asked)
    assert wrong.value.param == next(iter(asked))
