"""The request for Gemini that a conversation becomes."""

from __future__ import annotations

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
from lib.dialects.gemini.dialect import Gemini
from lib.dialects.gemini.events import OWN_ID
from lib.dialects.gemini.request import UNSIGNED
from lib.domain.errors import InvalidRequest

written = Gemini().written


def asking(*parts: Words | Attachment | ToolResult | ToolUse, role: Role = Role.USER) -> Conversation:
    return Conversation(model="demo", turns=(Turn(role=role, parts=parts),))


def test_a_conversation_with_tools_is_a_request_that_the_dialect_itself_accepts() -> None:
    uses = (ToolUse(id="t", name="look", arguments='{"a":1}'), ToolUse(id=OWN_ID + "1", name="see", arguments=""))
    results = (
        ToolResult(id="t", name="look", output="No.", is_error=True),
        ToolResult(id=OWN_ID + "1", name="see", output="7"),
    )
    conversation = Conversation(
        model="demo",
        instructions="Be brief.",
        turns=(
            Turn(role=Role.USER, parts=(Words(text="Where?"),)),
            Turn(role=Role.ASSISTANT, parts=(Words(text="I look."), *uses)),
            Turn(role=Role.USER, parts=results[:1]),
            Turn(role=Role.USER, parts=results[1:]),
        ),
        tools=(Tool(name="look", parameters={"type": "object"}, description="Looks."), Tool(name="see", parameters={})),
        options={"generationConfig": {"temperature": 0}},
    )
    request = written(conversation)
    assert request == {
        "generationConfig": {"temperature": 0},
        "model": "demo",
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "Where?"}]},
            {
                "role": "model",
                "parts": [
                    {"text": "I look."},
                    {
                        "functionCall": {"id": "t", "name": "look", "args": {"a": 1}},
                        "thoughtSignature": UNSIGNED,
                    },
                    {"functionCall": {"name": "see", "args": {}}},
                ],
            },
            {
                "role": "user",
                "parts": [
                    {"functionResponse": {"id": "t", "name": "look", "response": {"error": "No."}}},
                    {"functionResponse": {"name": "see", "response": {"output": 7}}},
                ],
            },
        ],
        "tools": [
            {
                "functionDeclarations": [
                    {"name": "look", "description": "Looks.", "parametersJsonSchema": {"type": "object"}},
                    {"name": "see", "parametersJsonSchema": {}},
                ]
            }
        ],
    }
    assert Gemini().check(request).model == "demo"


@pytest.mark.parametrize(
    ("output", "response"),
    [('{"a": 1}', {"a": 1}), ("[1]", {"output": [1]}), ("seven", {"output": "seven"}), ("", {})],
)
def test_a_result_is_an_object_or_becomes_the_output_of_one(output: str, response: object) -> None:
    (content,) = written(asking(ToolResult(id="t", name="look", output=output)))["contents"]
    assert content["parts"][0]["functionResponse"]["response"] == response


@pytest.mark.parametrize(("arguments", "sent"), [("", {}), ("[1]", {"input": [1]}), ("{", {"input": "{"})])
def test_arguments_that_are_no_object_are_wrapped_in_one(arguments: str, sent: object) -> None:
    use = ToolUse(id="t", name="look", arguments=arguments)
    (content,) = written(asking(use, role=Role.ASSISTANT))["contents"]
    assert content["parts"][0]["functionCall"]["args"] == sent


def test_files_go_by_address_or_with_their_data() -> None:
    (content,) = written(
        asking(
            Attachment(url="https://a.example/a.png", media_type="image/png"),
            Attachment(url="data:application/pdf;base64,CCCC", media_type="application/pdf", name="a.pdf"),
            Attachment(url="data:text/plain,a%20b", media_type="text/plain; charset=utf-8"),
        )
    )["contents"]
    assert content["parts"] == [
        {"fileData": {"mimeType": "image/png", "fileUri": "https://a.example/a.png"}},
        {"inlineData": {"mimeType": "application/pdf", "data": "CCCC"}},
        {"inlineData": {"mimeType": "text/plain", "data": "YSBi"}},
    ]


@pytest.mark.parametrize("name", ["contents", "systemInstruction", "system_instruction", "tools", "model", "stream"])
def test_options_can_not_say_what_the_request_says(name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"'{name}'"):
        written(Conversation(model="demo", turns=(), options={name: "x"}))


def test_empty_texts_and_turns_are_left_out() -> None:
    assert written(asking(Words(text="")))["contents"] == []


def test_what_is_asked_of_the_answer_goes_into_the_api_s_own_fields() -> None:
    look = Tool(name="look", parameters={})
    asked = {
        "output_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.1,
        "effort": "low",
        "format": Format(schema={"type": "object"}),
    }
    named = ToolChoice(mode=ToolMode.REQUIRED, name="look")
    options = {"generationConfig": {"topK": 3, "topP": 0.2}}
    request = written(
        Conversation(model="demo", turns=(), tools=(look,), tool_choice=named, thoughts=True, options=options, **asked)
    )
    assert request == {
        "model": "demo",
        "contents": [],
        "generationConfig": {
            "maxOutputTokens": 9,
            "temperature": 0.5,
            "topP": 0.2,
            "topK": 3,
            "responseMimeType": "application/json",
            "responseJsonSchema": {"type": "object"},
            "thinkingConfig": {"thinkingBudget": 1024, "includeThoughts": True},
        },
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["look"]}},
        "tools": [{"functionDeclarations": [{"name": "look", "parametersJsonSchema": {}}]}],
    }


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"parallel_tools": False, "tools": (Tool(name="look", parameters={}),)}, "parallel_tool_calls"),
        ({"effort": "xhigh"}, "effort"),
    ],
)
def test_what_the_api_has_no_word_for_is_named(asked: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        written(Conversation(model="demo", turns=(), **asked))
    assert refused.value.param == param
