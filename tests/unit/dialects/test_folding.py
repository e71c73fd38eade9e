"""Folding pieces restores the whole: only text is appended, in linear time."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.dialects.folding import TEXT, Fields, fold, richer, unfolded
from lib.dialects.steps import Json


def folded(*pieces: Json) -> Json:
    into = Fields()
    for piece in pieces:
        fold(into, piece)
    result: Json = unfolded(into)
    return result


# Text, and what is none


names = st.sampled_from(sorted(TEXT))
scalars = st.none() | st.booleans() | st.integers(1, 9) | st.text("abc", max_size=3)
others = st.sampled_from(["id", "type", "format", "severity", "url", "model", "status", "native_finish_reason", "x"])


@given(names, st.lists(st.text(max_size=4), min_size=1))
def test_a_field_that_is_text_is_its_pieces_one_after_the_other(name: str, pieces: list[str]) -> None:
    assert folded(*[{name: piece} for piece in pieces]) == {name: "".join(pieces)}


@given(others, st.lists(scalars, min_size=1))
def test_a_field_that_is_no_text_is_what_was_said_first_of_what_says_anything(name: str, said: list[Any]) -> None:
    found = folded(*[{name: value} for value in said])[name]
    assert found == next((value for value in said if value), found)
    assert not found or found in said
    assert folded({"a": {name: said[0]}}, *[{"a": {name: value}} for value in said]) == {"a": {name: found}}


@pytest.mark.parametrize("nothing", [None, "", 0, False, {}, []])
@pytest.mark.parametrize("real", ["x", 3, True, {"a": 1}, [1]])
def test_anything_is_richer_than_nothing(nothing: Any, real: Any) -> None:
    assert folded({"x": nothing}, {"x": real}) == folded({"x": real}, {"x": nothing}) == {"x": real}
    assert richer(nothing, real) == richer(real, nothing) == real


def test_objects_are_merged_and_a_longer_list_replaces_a_shorter_one() -> None:
    assert folded({"x": {"a": 1, "b": {"c": ""}}}, {"x": {"a": 2, "b": {"c": "d"}}}) == {"x": {"a": 1, "b": {"c": "d"}}}
    assert richer({"a": 1, "b": [1]}, {"a": 2, "b": [1, 2], "c": 3}) == {"a": 1, "b": [1, 2], "c": 3}
    assert (richer([1, 2], [3]), richer([1], [2])) == ([1, 2], [1])
    assert richer({"a": 1}, "x") == {"a": 1}
    assert (richer(None, ""), richer("", None), richer(None, None)) == ("", "", None)


def test_what_is_said_in_another_kind_later_does_not_replace_what_was_said() -> None:
    assert folded({"x": "a"}, {"x": {"b": 1}}, {"x": [1]}, {"x": 2}) == {"x": "a"}
    assert folded({"x": {"b": 1}}, {"x": "a"}, {"x": [1]}) == {"x": {"b": 1}}
    assert folded({"text": {"b": 1}}, {"text": "a"}) == {"text": {"b": 1}}
    assert folded({"text": 1}, {"text": "a"}, {"text": "b"}) == {"text": "ab"}


# Lists


def test_items_are_the_same_one_by_index_and_kind() -> None:
    def item(kind: str, text: str, **more: Any) -> Json:
        return {"x": [{"type": kind, "index": 0, "text": text, **more}]}

    assert folded(item("a", "1"), item("b", "2"), item("a", "3", format="f"), item("b", "4", format="f"))["x"] == [
        {"type": "a", "index": 0, "text": "13", "format": "f"},
        {"type": "b", "index": 0, "text": "24", "format": "f"},
    ]
    assert folded({"x": [{"index": 0, "text": "1"}]}, item("a", "2"), {"x": [{"index": 0, "text": "3"}]})["x"] == [
        {"index": 0, "text": "123", "type": "a"}
    ]


def test_items_of_one_id_and_two_kinds_are_two() -> None:
    kinds = [{"id": "r", "index": 0, "type": kind, "data": kind} for kind in ("summary", "encrypted")]
    assert folded(*[{"x": [kind]} for kind in kinds]) == {"x": kinds}


def test_an_item_without_index_continues_the_one_of_its_id() -> None:
    assert folded(
        {"x": [{"id": "a", "name": "f", "arguments": "1"}]},
        {"x": [{"id": "b", "name": "g", "arguments": "2"}]},
        {"x": [{"id": "a", "arguments": "3"}]},
        {"x": [{"id": "c", "name": "f", "arguments": "4"}]},
    )["x"] == [
        {"id": "a", "name": "f", "arguments": "13"},
        {"id": "b", "name": "g", "arguments": "2"},
        {"id": "c", "name": "f", "arguments": "4"},
    ]


def test_a_piece_of_a_call_under_an_id_made_up_for_it_continues_the_last_call() -> None:
    assert folded(
        {"x": [{"id": "a", "function": {"name": "f", "arguments": "1"}}]},
        {"x": [{"id": "b", "function": {"arguments": "2"}}]},
    )["x"] == [{"id": "a", "function": {"name": "f", "arguments": "12"}}]


def test_two_calls_of_one_index_by_another_name_are_two_though_neither_has_an_id() -> None:
    calls = [{"index": 0, "function": {"name": name, "arguments": "{}"}} for name in "ab"]
    assert folded(*[{"x": [call]} for call in calls])["x"] == calls


def test_a_name_without_index_or_id_begins_another_item() -> None:
    calls = [{"function": {"name": "f", "arguments": each}} for each in ("1", "2")]
    assert folded({"x": calls}) == folded(*[{"x": [call]} for call in calls]) == {"x": calls}


@pytest.mark.parametrize(
    "items",
    [
        [{"type": "image_url", "image_url": {"url": "A"}}, {"type": "image_url", "image_url": {"url": "B"}}],
        [{"type": "image", "data": "A"}, {"type": "image", "data": "B"}],
        [{"type": "text", "text": "a"}, {"type": "image", "data": "B"}],
        [{"type": "text", "text": "a", "url": "u"}, {"type": "text", "text": "b", "url": "u"}],
        [{"type": "text", "text": "a"}, {"type": "thinking", "thinking": "b"}],
        [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "lang": "no"}],
        [{"type": "text", "text": "a", "lang": "en"}, {"type": "text", "text": "b", "lang": "no"}],
        [{"index": 0, "image": {"url": "A"}}, {"index": 0, "image": {"url": "B"}}],
        [{"index": 0, "id": "a", "name": "f"}, {"index": 0, "id": "b", "name": "f"}],
        ["a", "b"],
        [1, 1],
        [None, {"a": 1}],
    ],
)
def test_items_that_nothing_makes_one_are_two(items: list[Any]) -> None:
    assert folded(*[{"x": [item]} for item in items]) == {"x": items}


@pytest.mark.parametrize(
    ("pieces", "whole"),
    [
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "a"}], {"type": "text", "text": "aa"}),
        ([{"f": 1, "text": "a"}, {"f": 1, "text": "b"}], {"f": 1, "text": "ab"}),
        ([{"type": "text", "text": "a", "f": 1}, {"text": "b"}], {"type": "text", "text": "ab", "f": 1}),
        (
            [{"type": "t", "thinking": "a", "signature": None}, {"type": "t", "thinking": "", "signature": "s"}],
            {"type": "t", "thinking": "a", "signature": "s"},
        ),
        ([{"type": "text"}, {"type": "text", "text": "a"}], {"type": "text", "text": "a"}),
        ([{"index": 3, "text": "a"}, {"index": 3, "id": "z", "text": "b"}], {"index": 3, "text": "ab", "id": "z"}),
        ([{"index": 0, "a": 1}, {"index": 0, "b": "c"}], {"index": 0, "a": 1, "b": "c"}),
    ],
)
def test_items_that_continue_the_last_one_are_one(pieces: list[Json], whole: Json) -> None:
    before = copy.deepcopy(pieces)
    assert folded(*[{"x": [piece]} for piece in pieces]) == {"x": [whole]}
    assert pieces == before


@pytest.mark.parametrize("item", ["u", {"type": "url_citation", "url_citation": {"url": "u", "content": "c"}}])
def test_what_some_upstreams_say_with_every_event_is_there_once(item: Any) -> None:
    other = {"type": "url_citation", "url_citation": {"url": "v", "content": "c"}}
    assert folded({"x": [item]}, {"x": [item]}) == {"x": [item]}
    assert folded({"x": [item]}, {"x": [item, other]}, {"x": [item, other]}, {"x": [item]}) == {"x": [item, other]}
    assert folded({"x": [item]}, {"x": [other]}, {"x": [other]}) == {"x": [item, other]}


def test_numbers_are_always_new() -> None:
    assert folded({"token_ids": [5]}, {"token_ids": [5]}, {"token_ids": [5, 6]}) == {"token_ids": [5, 5, 5, 6]}


def test_an_event_s_own_items_are_not_pieces_of_each_other() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert folded({"content": parts}) == {"content": parts}


def test_one_id_under_two_names_is_two_calls() -> None:
    calls = [{"id": "0", "function": {"name": name, "arguments": "{}"}} for name in "ab"]
    assert folded({"x": calls}) == folded(*[{"x": [call]} for call in calls]) == {"x": calls}


def test_what_is_said_of_each_token_is_always_new() -> None:
    token = {"tokens": ["a"], "content": [{"token": "a"}], "offset": 1, "refusal": None}
    assert folded({"logprobs": token}, {"logprobs": None}, {"logprobs": token}) == {
        "logprobs": {"tokens": ["a", "a"], "content": [{"token": "a"}, {"token": "a"}], "offset": 1, "refusal": None}
    }


def test_a_text_continues_in_parts_and_back() -> None:
    text = {"type": "text", "text": "b"}
    assert folded({"content": "a"}, {"content": [text]}, {"content": ""}, {"content": "c"}) == {
        "content": [{"type": "text", "text": "abc"}]
    }
    thinking = {"type": "thinking", "thinking": "hm"}
    assert folded({"content": ""}, {"content": [thinking]}) == {"content": [thinking]}
    assert folded({"content": ""}, {"content": [text, {"type": "image", "data": "d"}]}, {"content": "c"}) == {
        "content": [text, {"type": "image", "data": "d"}, {"type": "text", "text": "c"}]
    }


# Any message, cut anywhere

words = st.text(max_size=8)
leaves = st.sampled_from([None, True, 7, "x", "f-v1", ["u"], {"a": {"b": "c"}}])


@st.composite
def messages(draw: st.DrawFn) -> Json:
    """A message as a vendor may send it: texts, structures, and lists of indexed items that have texts of their own."""
    message: Json = draw(st.dictionaries(others, leaves, max_size=4))
    message |= {name: draw(words) for name in draw(st.sets(names, max_size=4))}
    for name in draw(st.sets(st.sampled_from(["tool_calls", "reasoning_details", "thinking_blocks"]))):
        message[name] = [
            {
                "index": index,
                **draw(st.dictionaries(st.sampled_from(["id", "type", "format"]), st.sampled_from("xyz"))),
                **{text: draw(words) for text in draw(st.sets(names, min_size=1, max_size=2))},
                "function": {"name": "f", "arguments": draw(words)},
            }
            for index in range(draw(st.integers(1, 3)))
        ]
    return message


def cut(draw: st.DrawFn, value: Json) -> tuple[Json, Json]:
    """An object in two pieces: texts are cut anywhere, and other values are in one or both."""
    one: Json = {}
    two: Json = {}
    for key, item in value.items():
        if key in TEXT and isinstance(item, str):
            at = draw(st.integers(0, len(item)))
            one[key], two[key] = item[:at], item[at:]
        elif key == "function":
            one[key], two[key] = cut(draw, item)
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            halves = [cut(draw, each) for each in item]
            one[key], two[key] = [half for half, _ in halves], [half for _, half in halves]
        elif key in ("index", "type", "name"):  # by which items are known
            one[key] = two[key] = item
        else:
            where = draw(st.integers(0, 2))
            if where != 1:
                one[key] = item
            if where != 0:
                two[key] = item
    return one, two


@settings(max_examples=80)
@given(st.data(), messages())
def test_any_message_cut_anywhere_adds_up_to_itself(data: st.DataObject, message: Json) -> None:
    pieces = [message]
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(pieces) - 1))
        pieces[at : at + 1] = cut(data.draw, pieces[at])
    before = orjson.dumps(pieces)
    assert folded(*pieces) == message
    assert orjson.dumps(pieces) == before


# Linear


def steps_of(work: Callable[[], object]) -> int:
    """The number of executed lines of Python."""
    count = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal count
        count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


STREAMS: dict[str, Callable[[int], Iterable[Json]]] = {
    "text": lambda n: ({"content": "a"} for _ in range(n)),
    "logprobs": lambda n: ({"logprobs": {"content": [{"token": str(at), "bytes": [at]}]}} for at in range(n)),
    "parts": lambda n: ({"content": [{"type": "text", "text": "a"}]} for _ in range(n)),
    "images": lambda n: ({"images": [{"type": "image", "data": str(at)}]} for at in range(n)),
    "citations": lambda n: ({"annotations": [str(at)]} for at in range(n)),
    "calls": lambda n: ({"calls": [{"index": at, "id": str(at), "name": "f", "arguments": "a"}]} for at in range(n)),
    "one call": lambda n: ({"calls": [{"index": 0, "function": {"arguments": "a"}}]} for _ in range(n)),
    "ids": lambda n: ({"calls": [{"index": 0, "id": str(at), "arguments": "a"}]} for at in range(n)),
    "details": lambda n: ({"details": [{"index": 0, "type": "t", "text": "a"}]} for _ in range(n)),
}


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_twice_the_pieces_take_twice_the_work(stream: Callable[[int], Iterable[Json]]) -> None:
    def work(size: int) -> int:
        pieces = list(stream(size))
        return steps_of(lambda: folded(*pieces))

    assert work(800) < 2.5 * work(400)


class Watched(str):
    """A text that counts how often one is compared with another."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Watched.compared += 1
        return str.__eq__(self, other)


@pytest.mark.parametrize("wrapped", [lambda text: text, lambda text: {"type": "image", "image": {"at": text}}])
def test_an_item_is_compared_with_a_few_others_however_many_there_are(wrapped: Callable[[str], Any]) -> None:
    def compared(size: int) -> int:
        Watched.compared = 0
        pieces = [{"x": [wrapped(Watched(at))]} for at in range(size)]
        assert len(folded(*pieces)["x"]) == size
        return Watched.compared

    assert 0 < compared(800) < 2.5 * compared(400)
