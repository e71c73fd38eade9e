"""A character that an upstream divides between two events arrives whole, in one event; nothing else is changed."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.dialects.characters import Joiner, may_be_cut
from lib.dialects.chat_completions.dialect import ChatCompletions
from lib.domain.event import Event
from lib.domain.text import well_formed

FIRST, SECOND = "\ud83e", "\udd8a"
FOX = "🦊"


def chunk(index: int = 0, **delta: Any) -> dict[str, Any]:
    return {"id": "c", "choices": [{"index": index, "delta": delta}]}


def joined(*chunks: dict[str, Any]) -> list[dict[str, Any]]:
    joiner = Joiner()
    return [joiner.joined(each) for each in chunks]


def deltas(*chunks: dict[str, Any]) -> list[dict[str, Any]]:
    return [each["choices"][0]["delta"] for each in joined(*chunks)]


def test_the_halves_of_a_character_come_together_in_the_second_event() -> None:
    found = deltas(chunk(content=f"a{FIRST}"), chunk(content=f"{SECOND}b"))
    assert [well_formed(each["content"]) for each in found] == ["a", f"{FOX}b"]


def test_a_half_waits_while_nothing_arrives_in_its_place() -> None:
    found = deltas(chunk(content=FIRST), chunk(content=""), chunk(role="assistant"), chunk(content=SECOND))
    assert well_formed("".join(each.get("content", "") for each in found)) == FOX


def test_each_place_has_a_half_of_its_own() -> None:
    def call(index: int, arguments: str) -> dict[str, Any]:
        return {"index": index, "function": {"arguments": arguments}}

    first, second = deltas(
        chunk(content=f"x{FIRST}", reasoning=f"y{FIRST}", tool_calls=[call(0, FIRST), call(1, f"z{FIRST}")]),
        chunk(tool_calls=[call(1, SECOND), call(0, "!")], reasoning=SECOND, content="."),
    )
    assert (first["content"], first["reasoning"]) == ("x", "y")
    assert well_formed(second["content"]) == "\ufffd."
    assert well_formed(second["reasoning"]) == FOX
    one, zero = (each["function"]["arguments"] for each in second["tool_calls"])
    assert (well_formed(one), well_formed(zero)) == (FOX, "\ufffd!")


def test_each_choice_has_halves_of_its_own() -> None:
    first, other, second = deltas(chunk(0, content=FIRST), chunk(1, content="a"), chunk(0, content=SECOND))
    assert (first["content"], other["content"], well_formed(second["content"])) == ("", "a", FOX)


def test_a_half_that_nothing_follows_is_left_out() -> None:
    assert [each.get("content") for each in deltas(chunk(content=f"a{FIRST}"), chunk())] == ["a", None]


def test_a_text_anywhere_in_an_event_is_joined() -> None:
    def event(text: str, at: int) -> dict[str, Any]:
        return {"type": "delta", "output_index": at, "delta": text, "parts": [{"text": text}, text]}

    found = joined(event(f"a{FIRST}", 0), event(f"b{FIRST}", 1), event(SECOND, 0), event(SECOND, 1))
    assert [well_formed(each["delta"]) for each in found] == ["a", "b", FOX, FOX]
    assert [well_formed(each["parts"][1]) for each in found] == ["a", "b", FOX, FOX]


@pytest.mark.parametrize(
    "event",
    [
        chunk(content=f"whole {FOX}"),
        chunk(content=SECOND),
        chunk(content=None),
        chunk(content=7),
        {"choices": [{"delta": None}, None, 7]},
        {"choices": None, "note": f"cut {FIRST} in the middle"},
    ],
    ids=str,
)
def test_an_event_in_which_nothing_is_cut_is_the_same_one(event: dict[str, Any]) -> None:
    assert joined(event)[0] is event


def test_a_cut_is_looked_for_only_where_there_may_be_one() -> None:
    assert may_be_cut(json.dumps(FIRST).encode())
    assert may_be_cut(json.dumps(FIRST).upper().replace("U", "u").encode())
    for whole in (f'"{FOX}"'.encode(), json.dumps(SECOND).encode(), b'"\\n\\u00e9"', b"{}"):
        assert not may_be_cut(whole)


@given(st.lists(st.text(st.sampled_from(["a", "é", FOX, FIRST, SECOND]))))
def test_what_the_events_add_one_at_a_time_is_what_they_add_up_to(pieces: list[str]) -> None:
    """The text as in a segment and a callable's delta, as in the message, and as a viewer reads it later."""
    chat = ChatCompletions()
    reading, answer = chat.reading(), chat.answer()
    added, seen = [], []
    for piece in pieces:
        read = reading.read(Event(json.dumps(chunk(content=piece)).encode()))
        answer.add(read)
        added.append(read.text)
        seen.append(chat.read(read.event).text)
    assert orjson.dumps(added)
    assert "".join(added) == "".join(seen) == answer.said().fields["content"]
    assert (
        orjson.loads(answer.body())["choices"][:1]
        == [
            {"index": 0, "message": {"role": "assistant", "content": "".join(added)}, "finish_reason": None}
            for _ in pieces
        ][:1]
    )
    whole = "".join(pieces)
    assert "".join(added) == well_formed(whole.removesuffix(FIRST))
