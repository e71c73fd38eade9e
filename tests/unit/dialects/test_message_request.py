"""The request for Anthropic's Messages that a conversation becomes."""

from __future__ import annotations

import base64
from typing import Any

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
from lib.dialects.messages.dialect import Messages
from lib.domain.errors import InvalidRequest

written = Messages().written


def asking(*parts: Words | Attachment | ToolResult) -> Conversation:
    return Conversation(model="demo", turns=(Turn(role=Role.USER, parts=parts),))


def test_a_conversation_with_tools_is_a_request_that_the_dialect_itself_accepts() -> None:
    conversation = Conversation(
        model="demo",
        instructions="Be brief.",
        turns=(
            Turn(role=Role.USER, parts=(Words(text="Where?"),)),
            Turn(role=Role.ASSISTANT, parts=(Words(text="I look."), ToolUse(id="t", name="look", arguments='{"a":1}'))),
            Turn(role=Role.USER, parts=(ToolResult(id="t", name="look", output="No.", is_error=True),)),
            Turn(role=Role.USER, parts=(Words(text="Well?"),)),
        ),
        tools=(Tool(name="look", parameters={"type": "object"}, description="Looks."),),
        options={"temperature": 0},
    )
    request = written(conversation)
    use = {"type": "tool_use", "id": "t", "name": "look", "input": {"a": 1}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": "No.", "is_error": True}
    assert request == {
        "max_tokens": None,
        "temperature": 0,
        "model": "demo",
        "system": "Be brief.",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Where?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "I look."}, use]},
            {"role": "user", "content": [result, {"type": "text", "text": "Well?"}]},
        ],
        "tools": [{"name": "look", "description": "Looks.", "input_schema": {"type": "object"}}],
    }
    assert Messages().check(request).model == "demo"


def test_results_come_before_anything_else_in_a_turn() -> None:
    (message,) = written(asking(Words(text="So?"), ToolResult(id="t", name="look", output="7")))["messages"]
    assert [block["type"] for block in message["content"]] == ["tool_result", "text"]


def test_files_go_by_address_or_with_their_data() -> None:
    text = base64.b64encode("Grüße".encode()).decode()
    (message,) = written(
        asking(
            Attachment(url="https://a.example/a.png", media_type="image/png"),
            Attachment(url="data:application/pdf;base64,CC", media_type="application/pdf", name="a.pdf"),
            Attachment(url=f"data:text/plain;base64,{text}", media_type="text/plain"),
            Attachment(url="data:text/plain,a%20b", media_type="text/plain"),
        )
    )["messages"]
    assert message["content"] == [
        {"type": "image", "source": {"type": "url", "url": "https://a.example/a.png"}},
        {
            "type": "document",
            "title": "a.pdf",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "CC"},
        },
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Grüße"}},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "a b"}},
    ]


def test_what_the_api_does_not_take_is_refused_by_its_name() -> None:
    with pytest.raises(InvalidRequest, match="audio/wav"):
        written(asking(Attachment(url="data:audio/wav;base64,BB", media_type="audio/wav")))
    with pytest.raises(InvalidRequest, match="UTF-8"):
        written(asking(Attachment(url="data:text/plain;base64,/w==", media_type="text/plain")))


def test_options_can_set_the_limit_and_not_what_the_request_says() -> None:
    assert written(Conversation(model="demo", turns=(), options={"max_tokens": 9}))["max_tokens"] == 9
    with pytest.raises(InvalidRequest, match="'system'"):
        written(Conversation(model="demo", turns=(), options={"system": "x"}))


@pytest.mark.parametrize(("arguments", "sent"), [("", {}), ("[1]", {"input": "[1]"}), ("{", {"input": "{"})])
def test_arguments_that_are_no_object_are_wrapped_in_one(arguments: str, sent: object) -> None:
    turns = (Turn(role=Role.ASSISTANT, parts=(ToolUse(id="t", name="look", arguments=arguments),)),)
    assert written(Conversation(model="demo", turns=turns))["messages"][0]["content"][0]["input"] == sent


def test_empty_texts_which_the_api_refuses_are_left_out() -> None:
    assert written(asking(Words(text=" ")))["messages"] == []


def test_what_is_asked_of_the_answer_goes_into_the_api_s_own_fields() -> None:
    look = Tool(name="look", parameters={}, strict=True)
    asked = {
        "output_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.1,
        "effort": "low",
        "format": Format(schema={"type": "object"}),
    }
    named = ToolChoice(mode=ToolMode.REQUIRED, name="look")
    request = written(
        Conversation(model="demo", turns=(), tools=(look,), tool_choice=named, parallel_tools=False, **asked)
    )
    assert request == {
        "model": "demo",
        "messages": [],
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.1,
        "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}, "effort": "low"},
        "tool_choice": {"type": "tool", "name": "look", "disable_parallel_tool_use": True},
        "tools": [{"name": "look", "strict": True, "input_schema": {}}],
    }


@pytest.mark.parametrize(
    ("choice", "parallel", "said"),
    [
        (None, None, None),
        (None, True, None),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        (ToolMode.REQUIRED, None, {"type": "any"}),
        (ToolMode.NONE, False, {"type": "none"}),
        (ToolMode.AUTO, True, {"type": "auto"}),
    ],
)
def test_a_choice_of_tools_says_whether_several_may_be_called(
    choice: ToolMode | None, parallel: bool | None, said: dict[str, object] | None
) -> None:
    chosen = ToolChoice(mode=choice) if choice else None
    tools = (Tool(name="look", parameters={}),)
    asked = Conversation(model="demo", turns=(), tools=tools, tool_choice=chosen, parallel_tools=parallel)
    assert written(asked).get("tool_choice") == said
    without = Conversation(model="demo", turns=(), tool_choice=chosen, parallel_tools=parallel)
    assert "tool_choice" not in written(without)


@pytest.mark.parametrize(("asked", "param"), [({"format": Format()}, "format"), ({"effort": "minimal"}, "effort")])
def test_what_the_api_has_no_word_for_is_named(asked: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        written(Conversation(model="demo", turns=(), **asked))
    assert refused.value.param == param
