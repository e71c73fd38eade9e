"""The conversation that a request of OpenAI's Responses becomes, and what is kept of it."""

from __future__ import annotations

from typing import Any

import pytest

from lib.dialects import DIALECTS
from lib.dialects.conversation import Format, Tool, ToolChoice, ToolMode
from lib.domain.errors import InvalidRequest
from lib.wires.responses.request import ResponsesRequest, check, portable, read

ASKED: dict[str, Any] = {"model": "demo", "input": "Hi"}
LOOK = {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": True}
SEE = {"type": "function", "name": "see", "description": "Sees."}
SCHEMA = {"type": "json_schema", "name": "place", "schema": {"type": "object"}, "strict": True}


def asking(**fields: Any) -> ResponsesRequest:
    check({**ASKED, **fields})
    return read({**ASKED, **fields})


def refused(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refusal:
        asking(**fields)
    return refusal.value


def test_all_that_a_conversation_can_say_is_in_it() -> None:
    conversation = read(
        {
            **ASKED,
            "instructions": "Be brief.",
            "input": [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": "Hi"}],
            "tools": [LOOK, SEE],
            "tool_choice": {"type": "function", "name": "look"},
            "parallel_tool_calls": False,
            "max_output_tokens": 9,
            "temperature": 0.5,
            "top_p": 1,
            "text": {"format": SCHEMA, "verbosity": "medium"},
            "reasoning": {"effort": "low", "summary": "auto"},
            "top_k": 3,
        }
    ).conversation
    assert conversation.instructions == "Be brief.\n\nBe kind."
    assert conversation.tools == (
        Tool(name="look", parameters={"type": "object"}, strict=True),
        Tool(name="see", parameters={"type": "object", "properties": {}}, description="Sees."),
    )
    assert conversation.tool_choice == ToolChoice(mode=ToolMode.REQUIRED, name="look")
    assert conversation.format == Format(name="place", schema={"type": "object"}, strict=True)
    assert (conversation.parallel_tools, conversation.output_tokens) == (False, 9)
    assert (conversation.temperature, conversation.top_p) == (0.5, 1)
    assert (conversation.effort, conversation.thoughts) == ("low", True)
    assert conversation.options == {"top_k": 3}


def test_what_says_nothing_to_the_model_is_neither_refused_nor_passed_on() -> None:
    said = {
        "include": ["reasoning.encrypted_content"],
        "max_tool_calls": 3,
        "metadata": {"a": "b"},
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "service_tier": "auto",
        "store": False,
        "stream": True,
        "stream_options": {"include_obfuscation": False},
        "truncation": "disabled",
        "user": "u",
    }
    plain = read(ASKED)
    assert read({**ASKED, **said}).conversation == plain.conversation
    assert not plain.conversation.options


def test_what_answers_show_of_the_request_is_kept_with_all_items_so_far() -> None:
    earlier = [{"type": "message", "role": "user", "content": "Before"}]
    kept = read({**ASKED, "metadata": {"a": "b"}, "tools": [SEE], "reasoning": {"effort": "low"}}, earlier).kept
    assert kept == {
        "metadata": {"a": "b"},
        "reasoning": {"effort": "low", "summary": None},
        "tools": [{**SEE, "parameters": None, "strict": None}],
        "input": [
            *earlier,
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        ],
    }


@pytest.mark.parametrize("choice", ["auto", "none", "required"])
def test_a_choice_of_tools_may_be_a_word(choice: str) -> None:
    assert read({**ASKED, "tool_choice": choice}).conversation.tool_choice == ToolChoice(mode=ToolMode(choice))


def test_only_the_allowed_tools_are_offered() -> None:
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "see"}]}
    request = read({**ASKED, "tools": [LOOK, SEE], "tool_choice": choice})
    assert [tool.name for tool in request.conversation.tools] == ["see"]
    assert request.conversation.tool_choice == ToolChoice(mode=ToolMode.REQUIRED)
    assert [tool["name"] for tool in request.kept["tools"]] == ["look", "see"]


@pytest.mark.parametrize(("given", "format"), [({"type": "text"}, None), ({"type": "json_object"}, Format())])
def test_a_format_without_a_schema(given: dict[str, str], format: Format | None) -> None:
    assert read({**ASKED, "text": {"format": given}}).conversation.format == format


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [LOOK, {"type": "mcp", "server_label": "a"}]}, "tools[1].type"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"context_management": [{}]}, "context_management"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"truncation": "auto"}, "truncation"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
    ],
)
def test_what_can_t_be_rendered_is_named(fields: dict[str, Any], param: str) -> None:
    refusal = refused(**fields)
    assert (refusal.code, refusal.param) == ("unsupported_parameter", param)
    assert param.removesuffix(".type") in refusal.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"background": 1}, "background"),
        ({"background": True, "store": False}, "background"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{**LOOK, "parameters": "{}"}]}, "tools[0].parameters"),
        ({"tools": [{**LOOK, "description": 1}]}, "tools[0].description"),
        ({"tools": [{**LOOK, "strict": 1}]}, "tools[0].strict"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format"),
        ({"reasoning": {"effort": 1}}, "reasoning.effort"),
        ({"previous_response_id": 1}, "previous_response_id"),
        ({"stream": "yes"}, "stream"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    assert refused(**fields).param == param


@pytest.mark.parametrize("name", ["chat_completions", "messages", "gemini", "responses"])
def test_every_api_takes_the_request(name: str) -> None:
    """Each dialect accepts what it writes itself."""
    fields = {
        **ASKED,
        "tools": [LOOK],
        "tool_choice": "required",
        "max_output_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.5,
        "text": {"format": SCHEMA},
        "reasoning": {"effort": "low", "summary": "auto"},
    }
    dialect = DIALECTS[name]
    asked = dialect.check(dialect.streaming(dialect.written(read(fields).conversation)))
    assert (asked.model, asked.streamed, asked.output_tokens) == ("demo", True, 9)


def test_items_that_another_upstream_made_go_without_what_only_that_knows() -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"}
    made = [{"type": "reasoning", "id": "rs_1", "summary": []}, {**call, "id": "fc_1", "status": "completed"}]
    assert portable(made) == [call]
