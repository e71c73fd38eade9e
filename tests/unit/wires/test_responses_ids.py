"""The ids of responses' items."""

from __future__ import annotations

from typing import Any

import pytest

from lib.wires.responses.ids import ItemIds, generation_of, named

Json = dict[str, Any]
GENERATION = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize("its_id", [f"msg_{GENERATION}_0", f"item_{GENERATION}_in12", f"fco_{GENERATION}_in0"])
def test_an_id_names_its_generation(its_id: str) -> None:
    assert generation_of(its_id) == GENERATION


@pytest.mark.parametrize("its_id", [None, 7, "", f"msg_{GENERATION}", f"resp_{GENERATION}", f"msg_{GENERATION}_0\n"])
def test_any_other_id_names_none(its_id: object) -> None:
    assert generation_of(its_id) is None


def test_an_item_has_one_id_in_all_events_and_in_the_whole_output() -> None:
    ids = ItemIds(GENERATION)
    ours = ids.at(1, "msg_up")
    assert ours == f"msg_{GENERATION}_1"
    assert ids.at(None, "msg_up") == ids.among(0, "msg_up") == ours
    assert ids.theirs(ours) == "msg_up"
    assert ids.among(2, "rs_up") == f"rs_{GENERATION}_2"
    assert ids.at(None, "unknown") == "unknown"
    assert ids.theirs("unknown") is None


def test_an_upstream_s_id_that_comes_again_is_another_item_s() -> None:
    ids = ItemIds(GENERATION)
    first, second = ids.at(0, "msg_0"), ids.at(1, "msg_0")
    assert first != second
    assert ids.among(0, "msg_0") == second


def test_items_of_an_input_are_whole_and_keep_the_ids_that_they_have_here() -> None:
    kept = f"msg_{'f' * 32}_0"
    said, answer, again, call, result, other = named(
        [
            {"role": "user", "content": "Hi", "id": "msg_client"},
            {"type": "message", "role": "assistant", "content": "Ho", "id": kept},
            {"type": "message", "role": "assistant", "content": [], "id": kept, "status": "incomplete"},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "1"},
            {"type": "of_a_kind_to_come"},
        ],
        GENERATION,
    )
    assert said == {
        "id": f"msg_{GENERATION}_in0",
        "type": "message",
        "role": "user",
        "status": "completed",
        "content": [{"type": "input_text", "text": "Hi"}],
    }
    assert (answer["id"], answer["content"]) == (kept, [{"type": "output_text", "text": "Ho", "annotations": []}])
    assert (again["id"], again["status"]) == (f"msg_{GENERATION}_in2", "incomplete")
    assert (call["id"], call["status"]) == (f"fc_{GENERATION}_in3", "completed")
    assert (result["id"], other["id"]) == (f"fco_{GENERATION}_in4", f"item_{GENERATION}_in5")
    reference = {"type": "item_reference", "id": "msg_upstream"}
    assert named([reference], GENERATION) == [reference]
