"""The request for chat completions that a conversation becomes."""

from __future__ import annotations

import pytest

from lib.dialects.chat_completions.dialect import ChatCompletions
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
from lib.domain.errors import InvalidRequest

written = ChatCompletions().written
PNG = Attachment(url="https://a.example/a.png", media_type="image/png")


def asking(*parts: Words | Attachment | ToolResult) -> Conversation:
    return Conversation(model="demo", turns=(Turn(role=Role.USER, parts=parts),))


def test_a_conversation_with_tools_is_a_request_that_the_dialect_itself_accepts() -> None:
    conversation = Conversation(
        model="demo",
        instructions="Be brief.",
        turns=(
            Turn(role=Role.USER, parts=(Words(text="Where"), Words(text=" is it?"))),
            Turn(role=Role.ASSISTANT, parts=(Words(text="I look."), ToolUse(id="t", name="look", arguments="{}"))),
            Turn(role=Role.USER, parts=(ToolResult(id="t", name="look", output="There."), Words(text="Well?"))),
        ),
        tools=(Tool(name="look", parameters={"type": "object"}, description="Looks."),),
        options={"temperature": 0},
    )
    request = written(conversation)
    call = {"id": "t", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    function = {"name": "look", "description": "Looks.", "parameters": {"type": "object"}}
    assert request == {
        "temperature": 0,
        "model": "demo",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Where is it?"},
            {"role": "assistant", "content": "I look.", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "t", "content": "There."},
            {"role": "user", "content": "Well?"},
        ],
        "tools": [{"type": "function", "function": function}],
    }
    assert ChatCompletions().check(request).model == "demo"


def test_pictures_go_by_address_and_other_files_with_their_data() -> None:
    wav = Attachment(url="data:audio/wav;base64,BB", media_type="audio/wav")
    pdf = Attachment(url="data:application/pdf;base64,CC", media_type="application/pdf", name="a.pdf")
    content = written(asking(Words(text="See"), PNG, wav, pdf))["messages"][0]["content"]
    assert content == [
        {"type": "text", "text": "See"},
        {"type": "image_url", "image_url": {"url": "https://a.example/a.png"}},
        {"type": "input_audio", "input_audio": {"data": "BB", "format": "wav"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,CC"}},
    ]


def test_a_file_that_the_api_can_not_fetch_is_refused_with_the_remedy() -> None:
    with pytest.raises(InvalidRequest, match="data:"):
        written(asking(Attachment(url="https://a.example/a.pdf", media_type="application/pdf")))


def test_options_can_not_say_what_the_request_says() -> None:
    with pytest.raises(InvalidRequest, match="'messages'"):
        written(Conversation(model="demo", turns=(), options={"messages": []}))


def test_an_answer_of_pictures_alone_is_left_out() -> None:
    turns = (Turn(role=Role.ASSISTANT, parts=(PNG,)), Turn(role=Role.USER, parts=(Words(text="Hi"),)))
    assert written(Conversation(model="demo", turns=turns))["messages"] == [{"role": "user", "content": "Hi"}]


def test_what_is_asked_of_the_answer_goes_into_the_api_s_own_fields() -> None:
    look = Tool(name="look", parameters={}, strict=True)
    wanted = Format(name="place", schema={"type": "object"}, strict=True)
    asked = {
        "output_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.1,
        "effort": "low",
        "parallel_tools": False,
        "format": wanted,
    }
    named = ToolChoice(mode=ToolMode.REQUIRED, name="look")
    request = written(Conversation(model="demo", turns=(), tools=(look,), tool_choice=named, **asked))
    assert request == {
        "model": "demo",
        "messages": [],
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.1,
        "reasoning_effort": "low",
        "parallel_tool_calls": False,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "place", "schema": {"type": "object"}, "strict": True},
        },
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "tools": [{"type": "function", "function": {"name": "look", "strict": True, "parameters": {}}}],
    }


def test_an_option_of_the_api_s_own_goes_before() -> None:
    loose = Conversation(model="demo", turns=(), tool_choice=ToolChoice(mode=ToolMode.NONE), format=Format())
    request = written(loose)
    assert (request["tool_choice"], request["response_format"]) == ("none", {"type": "json_object"})
    limited = Conversation(
        model="demo", turns=(), output_tokens=9, options={"max_completion_tokens": 8, "max_tokens": 7}
    )
    assert (written(limited)["max_completion_tokens"], written(limited)["max_tokens"]) == (8, 7)
