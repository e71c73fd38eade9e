"""The request for OpenAI's Responses that a conversation becomes."""

from __future__ import annotations

import pytest

from lib.dialects.conversation import (
    Attachment,
    Conversation,
    Format,
    Role,
    Tool,
    ToolChoice,
    ToolMode,
    ToolResult,
    ToolUse,
    Turn,
    Words,
)
from lib.dialects.responses.dialect import Responses
from lib.domain.errors import InvalidRequest

written = Responses().written


def asking(*parts: Words | Attachment) -> Conversation:
    return Conversation(model="demo", turns=(Turn(role=Role.USER, parts=parts),))


def test_a_conversation_with_tools_is_a_request_that_the_dialect_itself_accepts() -> None:
    conversation = Conversation(
        model="demo",
        instructions="Be brief.",
        turns=(
            Turn(role=Role.USER, parts=(Words(text="Where?"),)),
            Turn(
                role=Role.ASSISTANT,
                parts=(
                    Words(text="I "),
                    Words(text="look."),
                    ToolUse(id="t", name="look", arguments='{"a":1}'),
                    ToolUse(id="u", name="rest", arguments=""),
                    Words(text="Wait."),
                ),
            ),
            Turn(role=Role.USER, parts=(ToolResult(id="t", name="look", output="No.", is_error=True), Words(text="?"))),
        ),
        tools=(Tool(name="look", parameters={"type": "object"}, description="Looks."),),
        options={"temperature": 0, "store": False},
    )
    request = written(conversation)
    assert request == {
        "temperature": 0,
        "store": False,
        "model": "demo",
        "instructions": "Be brief.",
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Where?"}]},
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "I "}, {"type": "output_text", "text": "look."}],
            },
            {"type": "function_call", "call_id": "t", "name": "look", "arguments": '{"a":1}'},
            {"type": "function_call", "call_id": "u", "name": "rest", "arguments": "{}"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Wait."}]},
            {"type": "function_call_output", "call_id": "t", "output": "No."},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "?"}]},
        ],
        "tools": [
            {
                "type": "function",
                "name": "look",
                "description": "Looks.",
                "parameters": {"type": "object"},
                "strict": False,
            }
        ],
    }
    assert Responses().check(request).model == "demo"


def test_files_go_by_address_or_with_their_data() -> None:
    (message,) = written(
        asking(
            Words(text=""),
            Attachment(url="https://a.example/a.png", media_type="image/png"),
            Attachment(url="data:application/pdf;base64,CC", media_type="application/pdf", name="a.pdf"),
            Attachment(url="data:text/plain,a", media_type="text/plain; charset=utf-8"),
            Attachment(url="https://a.example/a.pdf", media_type="application/pdf"),
        )
    )["input"]
    assert message["content"] == [
        {"type": "input_image", "image_url": "https://a.example/a.png", "detail": "auto"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,CC"},
        {"type": "input_file", "filename": "file", "file_data": "data:text/plain,a"},
        {"type": "input_file", "file_url": "https://a.example/a.pdf"},
    ]


def test_what_the_api_does_not_take_is_refused_by_its_name() -> None:
    with pytest.raises(InvalidRequest, match="audio/wav"):
        written(asking(Attachment(url="data:audio/wav;base64,BB", media_type="audio/wav")))


def test_pictures_of_the_model_s_are_left_out() -> None:
    turn = Turn(role=Role.ASSISTANT, parts=(Attachment(url="https://a.example/a.png", media_type="image/png"),))
    assert written(Conversation(model="demo", turns=(turn,)))["input"] == []


@pytest.mark.parametrize("name", ["input", "instructions", "background"])
def test_options_can_t_set_what_the_request_says_itself(name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"'{name}'"):
        written(Conversation(model="demo", turns=(), options={name: "x"}))


def test_what_is_asked_of_the_answer_goes_into_the_api_s_own_fields() -> None:
    look = Tool(name="look", parameters={}, strict=True)
    wanted = Format(name="place", schema={"type": "object"}, description="Where.")
    asked = {
        "output_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.1,
        "effort": "low",
        "parallel_tools": False,
        "format": wanted,
    }
    named = ToolChoice(mode=ToolMode.REQUIRED, name="look")
    request = written(Conversation(model="demo", turns=(), tools=(look,), tool_choice=named, thoughts=True, **asked))
    assert request == {
        "model": "demo",
        "input": [],
        "max_output_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.1,
        "reasoning": {"effort": "low", "summary": "auto"},
        "parallel_tool_calls": False,
        "text": {
            "format": {"type": "json_schema", "name": "place", "schema": {"type": "object"}, "description": "Where."}
        },
        "tool_choice": {"type": "function", "name": "look"},
        "tools": [{"type": "function", "name": "look", "parameters": {}, "strict": True}],
    }
