"""A character that an upstream cuts in two comes whole, in one event; nothing else is changed."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.dialects.characters import Joiner
from lib.dialects.chat_completions import Answer, read, visible_text, well_formed

FIRST, SECOND = "\ud83e", "\udd8a"
FOX = "🦊"


def chunk(index: int = 0, **delta: Any) -> dict[str, Any]:
    return {"id": "c", "choices": [{"index": index, "delta": delta}]}


def joined(*chunks: dict[str, Any]) -> list[dict[str, Any]]:
    joiner = Joiner()
    return [joiner.joined(each, json.dumps(each).encode()) for each in chunks]


def deltas(*chunks: dict[str, Any]) -> list[dict[str, Any]]:
    return [each["choices"][0]["delta"] for each in joined(*chunks)]


def test_the_halves_of_a_character_come_together_in_the_second_event() -> None:
    found = deltas(chunk(content=f"a{FIRST}"), chunk(content=f"{SECOND}b"))
    assert [well_formed(each["content"]) for each in found] == ["a", f"{FOX}b"]


def test_a_half_waits_while_nothing_is_said_in_its_place() -> None:
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


@pytest.mark.parametrize(
    "event",
    [
        chunk(content=f"whole {FOX}"),
        chunk(content=SECOND),
        chunk(content=None),
        chunk(content=7),
        {"choices": [{"delta": None}, None, 7]},
        {"choices": None, "note": f"cut {FIRST}"},
        {"note": f"cut {FIRST}"},
        {"choices": [{"index": 0, "message": {"content": FIRST}}]},
    ],
    ids=str,
)
def test_an_event_in_which_nothing_is_cut_is_the_same_one(event: dict[str, Any]) -> None:
    assert joined(event)[0] is event


@settings(deadline=None)
@given(st.lists(st.text(st.sampled_from(["a", "é", FOX, FIRST, SECOND]))))
def test_what_the_events_add_one_at_a_time_is_what_they_add_up_to(pieces: list[str]) -> None:
    """As a segment's text and a callable's delta are made, and as the message is."""
    answer = Answer()
    added = []
    for each in joined(*[chunk(content=piece) for piece in pieces]):
        answer.add(read(json.dumps(each).encode()) or {})
        added.append(well_formed(visible_text(each)))
    assert orjson.dumps(added)
    assert "".join(added) == answer.message()["content"]
    whole = "".join(pieces)
    assert "".join(added) == well_formed(whole.removesuffix(FIRST))
