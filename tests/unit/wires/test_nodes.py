"""JSON is measured by its values and names before it is parsed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.wires.nodes import exceed

TEXT = st.text(alphabet=st.sampled_from('a,:[]{}"\\ \u2028é'))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5),
    max_leaves=30,
)


def nodes(value: Any) -> int:
    if isinstance(value, list):
        return 1 + sum(map(nodes, value))
    if isinstance(value, dict):
        return 1 + sum(1 + nodes(item) for item in value.values())
    return 1


def empty_ones(value: Any) -> int:
    if isinstance(value, list | dict):
        inner = list(value.values()) if isinstance(value, dict) else value
        return sum(map(empty_ones, inner)) if inner else 1
    return 0


@given(JSON, st.booleans())
def test_values_and_names_are_counted_and_not_what_is_within_strings(value: Any, escaped: bool) -> None:
    text = json.dumps(value, ensure_ascii=escaped).encode()
    there = nodes(value)
    assert exceed(text, there - 1)
    assert not exceed(text, there + empty_ones(value))


@pytest.mark.parametrize(
    "text",
    [
        b"[" + b"[]," * 100 + b"[]]",
        b"[" + b"{}," * 100 + b"0]",
        b"[" * 200,
        b'{"a":' * 100,
        b"[" + b'"",' * 100 + b"0]",
        b"{" + b'"":0,' * 50,
        b'["\\\\",' + b'"\\"",' * 100,
    ],
)
def test_many_small_values_exceed_whether_the_json_is_valid_or_not(text: bytes) -> None:
    assert exceed(text, 100)


@pytest.mark.parametrize("inside", [b",:[{", b'\\"', b"\\\\", b'\\\\\\",', b"\\u0022,"])
def test_a_long_text_is_one_value_whatever_is_in_it(inside: bytes) -> None:
    assert not exceed(b'{"content":"' + inside * 10_000 + b'"}', 4)
