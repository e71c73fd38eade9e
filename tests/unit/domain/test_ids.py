"""Ids from users: an accepted one is always valid in a path."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.domain.errors import InvalidRequest
from lib.domain.ids import MAX_ID_BYTES, document_id


@pytest.mark.parametrize(
    "value",
    [
        "a",
        "abc-DEF_123",
        "0",
        "with space",
        "día 漢字 😀",
        "...",
        ".a",
        "_",
        "__",
        "___",
        "__a",
        "a__",
        "__a__b",
        "%2F",
        "a" * MAX_ID_BYTES,
        "é" * (MAX_ID_BYTES // 2),
    ],
)
def test_an_id_that_firestore_and_a_path_take_is_taken_as_it_is(value: str) -> None:
    assert document_id(value, "X-Chat-Id") == value


@pytest.mark.parametrize(
    "value",
    [
        "",
        ".",
        "..",
        "/",
        "a/b",
        "____",
        "__a__",
        "__día__",
        "a\nb",
        "a\x00",
        "\u2028",
        "\ud83d",
        "\u200b",
        "a" * (MAX_ID_BYTES + 1),
        "é" * (MAX_ID_BYTES // 2) + "a",
    ],
)
def test_an_id_that_they_do_not_take_is_refused_with_the_name_of_what_it_was_given_for(value: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        document_id(value, "X-Chat-Id")
    assert (refused.value.status, refused.value.code, refused.value.param) == (400, "invalid_id", "X-Chat-Id")
    assert refused.value.message.startswith("X-Chat-Id ")
    assert refused.value.message.isprintable()


@given(st.text() | st.from_regex(r"_*[a./]?_*", fullmatch=True))
def test_no_id_that_is_taken_can_break_a_path_or_be_refused_by_firestore(value: str) -> None:
    try:
        taken = document_id(value, "id")
    except InvalidRequest:
        return
    assert 1 <= len(taken.encode()) <= 1500
    assert "/" not in taken
    assert taken not in (".", "..")
    assert not (len(taken) >= 4 and taken.startswith("__") and taken.endswith("__"))
