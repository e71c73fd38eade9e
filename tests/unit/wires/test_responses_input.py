"""The turns that items of OpenAI's Responses become."""

from __future__ import annotations

from typing import Any

import pytest

from lib.dialects.conversation import Attachment, Role, ToolResult, ToolUse, Turn, Words
from lib.domain.errors import InvalidRequest
from lib.wires.responses.input import items_of, read

CALL = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "look", "arguments": '{"a":1}'}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "There."}
USE = ToolUse(id="c1", name="look", arguments='{"a":1}')
RESULT = ToolResult(id="c1", name="look", output="There.")


def says(role: str, content: Any) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": content}


def turns(*items: dict[str, Any], earlier: int = 0) -> list[Turn]:
    return read(items, earlier).turns


def user(*parts: Any) -> Turn:
    return Turn(role=Role.USER, parts=parts)


def assistant(*parts: Any) -> Turn:
    return Turn(role=Role.ASSISTANT, parts=parts)


def refused(*items: dict[str, Any], earlier: int = 0) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refusal:
        read(items, earlier)
    return refusal.value


def test_a_text_is_a_message_of_the_user_s() -> None:
    assert turns(*items_of("Hi")) == [user(Words(text="Hi"))]


@pytest.mark.parametrize("given", [None, "", [], 7, {"role": "user"}])
def test_an_input_that_says_nothing_is_refused(given: Any) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        read(items_of(given))
    assert refusal.value.param.startswith("input")


def test_an_item_that_is_no_object_is_named() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        items_of([says("user", "Hi"), "Hi"])
    assert refusal.value.param == "input[1]"


def test_messages_are_turns_of_their_own_and_instructions_are_kept_in_order() -> None:
    said = read(
        [
            says("developer", "Be brief."),
            says("user", "Hi"),
            {"role": "assistant", "content": [{"type": "output_text", "text": "Hello"}], "phase": "commentary"},
            says("assistant", [{"type": "refusal", "refusal": "No."}]),
            says("system", [{"type": "input_text", "text": "Be kind."}]),
            {"role": "user", "content": "Well?"},
        ]
    )
    assert said.instructions == ["Be brief.", "Be kind."]
    assert said.turns == [
        user(Words(text="Hi")),
        assistant(Words(text="Hello")),
        assistant(Words(text="No.")),
        user(Words(text="Well?")),
    ]


def test_calls_join_what_the_assistant_said_and_results_join_each_other() -> None:
    again = {**CALL, "call_id": "c2", "name": "see"}
    late = {**OUTPUT, "call_id": "c2", "output": [{"type": "input_text", "text": "7"}]}
    assert turns(says("user", "Hi"), says("assistant", "I look."), CALL, again, OUTPUT, late, says("user", "So?")) == [
        user(Words(text="Hi")),
        assistant(Words(text="I look."), USE, ToolUse(id="c2", name="see", arguments='{"a":1}')),
        user(RESULT, ToolResult(id="c2", name="see", output="7")),
        user(Words(text="So?")),
    ]


def test_text_between_a_call_and_its_result_is_in_the_call_s_turn() -> None:
    assert turns(CALL, says("assistant", "I look."), OUTPUT) == [assistant(USE, Words(text="I look.")), user(RESULT)]


def test_reasoning_is_left_out_and_pictures_are_the_assistant_s() -> None:
    drawn = {"type": "image_generation_call", "id": "ig_1", "result": "AA"}
    assert turns({"type": "reasoning", "id": "rs_1", "summary": []}, says("user", "Hi"), drawn) == [
        user(Words(text="Hi")),
        assistant(Attachment(url="data:image/png;base64,AA", media_type="image/png")),
    ]


@pytest.mark.parametrize(
    ("part", "attached"),
    [
        (
            {"type": "input_image", "image_url": "https://a.example/a.webp?x=1", "detail": "auto"},
            Attachment(url="https://a.example/a.webp?x=1", media_type="image/webp"),
        ),
        (
            {"type": "input_image", "image_url": "https://a.example/a"},
            Attachment(url="https://a.example/a", media_type="image/jpeg"),
        ),
        (
            {"type": "input_image", "image_url": "data:image/png;base64,AA"},
            Attachment(url="data:image/png;base64,AA", media_type="image/png"),
        ),
        (
            {"type": "input_file", "filename": "a.txt", "file_data": "QQ=="},
            Attachment(url="data:text/plain;base64,QQ==", media_type="text/plain", name="a.txt"),
        ),
        (
            {"type": "input_file", "file_data": "data:application/pdf;base64,QQ=="},
            Attachment(url="data:application/pdf;base64,QQ==", media_type="application/pdf"),
        ),
        (
            {"type": "input_file", "file_url": "https://a.example/a.pdf"},
            Attachment(url="https://a.example/a.pdf", media_type="application/pdf"),
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "AA", "format": "mp3"}},
            Attachment(url="data:audio/mpeg;base64,AA", media_type="audio/mpeg"),
        ),
    ],
)
def test_images_and_files_are_attachments(part: dict[str, Any], attached: Attachment) -> None:
    assert turns(says("user", [{"type": "input_text", "text": "See"}, part])) == [user(Words(text="See"), attached)]


@pytest.mark.parametrize(
    ("item", "param", "words"),
    [
        ({"type": "item_reference", "id": "msg_1"}, "input[0].type", "item_reference"),
        ({"type": "web_search_call"}, "input[0].type", "web_search_call"),
        (says("critic", "Hi"), "input[0].role", "role"),
        (says("user", 7), "input[0].content", "text"),
        (says("user", [{"type": "input_video"}]), "input[0].content[0].type", "input_video"),
        (says("user", [{"type": "input_image", "file_id": "f"}]), "input[0].content[0].image_url", "by their id"),
        (says("user", [{"type": "input_file", "file_id": "f"}]), "input[0].content[0].file_data", "by their id"),
        (
            says("user", [{"type": "input_audio", "input_audio": {"format": "ogg"}}]),
            "input[0].content[0]",
            "wav or mp3",
        ),
        ({**CALL, "arguments": {}}, "input[0].arguments", "text"),
        (OUTPUT, "input[0].call_id", "'c1'"),
    ],
)
def test_what_can_t_be_said_in_a_turn_is_named(item: dict[str, Any], param: str, words: str) -> None:
    refusal = refused(item, says("user", "Hi"))
    assert (refusal.param, words in refusal.message) == (param, True)


def test_a_result_with_pictures_is_named() -> None:
    result = {**OUTPUT, "output": [{"type": "input_image", "image_url": "https://a.example/a.png"}]}
    assert refused(CALL, result).param == "input[1].output"


def test_places_are_counted_from_where_the_request_s_own_items_begin() -> None:
    assert refused(says("user", "Hi"), CALL, says("critic", "Hi"), earlier=2).param == "input[0].role"
    assert turns(CALL, OUTPUT, earlier=1) == [assistant(USE), user(RESULT)]
