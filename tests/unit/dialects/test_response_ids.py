"""What a request of OpenAI's Responses names by ids."""

from __future__ import annotations

from typing import Any

import pytest

from lib.dialects import DIALECTS
from lib.dialects.responses.dialect import Responses
from lib.dialects.responses.ids import is_reference, kept_for_account, kept_for_user, name_in

Json = dict[str, Any]
SAID: Json = {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}
FILE: Json = {"type": "input_file", "file_id": "file-1"}


@pytest.mark.parametrize(
    ("item", "named"),
    [
        ({"type": "item_reference", "id": "msg_1"}, True),
        ({"id": "msg_1"}, True),
        ({"type": None, "id": "msg_1"}, True),
        ({"id": "msg_1", **SAID}, False),
        ({"type": "reasoning", "id": "rs_1"}, False),
        (SAID, False),
    ],
)
def test_a_reference_is_said_in_long_and_in_short(item: Json, named: bool) -> None:
    assert is_reference(item) is named


@pytest.mark.parametrize(
    ("item", "field"),
    [
        ({"type": "item_reference", "id": "msg_1"}, "id"),
        ({"type": "reasoning", "id": "rs_1", "summary": []}, "id"),
        ({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "e"}, None),
        ({"type": "reasoning", "summary": []}, None),
        ({"type": "image_generation_call", "id": "ig_1"}, "id"),
        ({"type": "image_generation_call", "id": "ig_1", "result": "aGk="}, None),
        ({"type": "of_a_kind_to_come", "id": "x_1"}, "id"),
        ({"type": "mcp_approval_response", "approval_request_id": "mcpr_1"}, "approval_request_id"),
        ({"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f", "arguments": "{}"}, None),
        ({"id": "msg_1", **SAID}, None),
    ],
)
def test_an_item_is_looked_up_by_its_id_unless_it_says_all_that_it_is(item: Json, field: str | None) -> None:
    assert name_in(item) == field


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"input": [SAID, {"role": "user", "content": [FILE]}]}, "input[1].content[0].file_id"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input[0].content[0].file_id",
        ),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": [FILE]}]}, "input[0].output[0].file_id"),
        ({"input": [{"type": "computer_call_output", "output": {"file_id": "f"}}]}, "input[0].output.file_id"),
        ({"tools": [{"type": "file_search", "vector_store_ids": ["vs"]}]}, "tools[0].vector_store_ids"),
        ({"tools": [{"type": "code_interpreter", "container": "cntr_1"}]}, "tools[0].container"),
        (
            {"tools": [{"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["f"]}}]},
            "tools[0].container.file_ids",
        ),
        (
            {"tools": [{"type": "image_generation", "input_image_mask": {"file_id": "f"}}]},
            "tools[0].input_image_mask.file_id",
        ),
        ({"tools": [{"type": "shell", "environment": {"container_id": "c"}}]}, "tools[0].environment.container_id"),
        ({"prompt": {"id": "pmpt_1", "variables": {"about": FILE}}}, "prompt.variables.about.file_id"),
        ({"conversation": {"id": "conv_1"}}, "conversation"),
    ],
)
def test_what_is_kept_for_the_account_is_found_wherever_it_is_named(request_: Json, field: str) -> None:
    assert kept_for_account(request_) == field
    asked = Responses().check({"model": "m", "input": "Hi", **request_})
    assert asked.kept == field


@pytest.mark.parametrize(
    "request_",
    [
        {"input": "Hi"},
        {"input": [SAID, {"type": "function_call_output", "call_id": "c", "output": "file_id"}]},
        {"input": [{"role": "user", "content": [{"type": "input_file", "file_data": "aGk=", "filename": "file_id"}]}]},
        {"tools": [{"type": "function", "name": "f", "parameters": {"properties": {"file_id": {"type": "string"}}}}]},
        {"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}, {"type": "web_search"}]},
        {"prompt": {"id": "pmpt_1", "variables": {"name": "Ada"}}},
    ],
)
def test_what_names_nothing_that_is_kept_is_free(request_: Json) -> None:
    assert kept_for_account(request_) is None
    assert Responses().check({"model": "m", "input": "Hi", **request_}).kept is None


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": [SAID, {"id": "msg_1"}]}, "input[1].id"),
    ],
)
def test_earlier_answers_are_found_where_they_are_named(request_: Json, field: str) -> None:
    assert kept_for_user(request_) == field
    assert Responses().check({"model": "m", "input": "Hi", **request_}).kept == field


SOURCE: Json = {"type": "document", "source": {"type": "file", "file_id": "file_1"}}
KEPT_FILE = "https://generativelanguage.googleapis.com/v1beta/files/abc"


@pytest.mark.parametrize(
    ("api", "turn", "field"),
    [
        ("chat_completions", {"content": [{"type": "file", "file": {"file_id": "f"}}]}, "content[0].file.file_id"),
        ("chat_completions", {"content": [{"type": "file", "file": {"file_data": "data:,"}}]}, None),
        ("chat_completions", {"content": "file_id"}, None),
        ("messages", {"content": [{"type": "text", "text": "Hi"}, SOURCE]}, "content[1].source.file_id"),
        ("messages", {"content": [{"type": "tool_result", "content": [SOURCE]}]}, "content[0].content.file_id"),
        ("messages", {"content": [{"type": "container_upload", "file_id": "f"}]}, "content[0].file_id"),
        ("messages", {"content": [{"type": "tool_use", "input": {"file_id": "f", "source": SOURCE}}]}, None),
        ("messages", {"content": [{"type": "document", "source": {"type": "url", "url": "https://a"}}]}, None),
        ("gemini", {"parts": [{"fileData": {"fileUri": KEPT_FILE}}]}, "parts[0].fileData.fileUri"),
        ("gemini", {"parts": [{"file_data": {"file_uri": KEPT_FILE}}]}, "parts[0].file_data.file_uri"),
        ("gemini", {"parts": [{"fileData": {"fileUri": "https://youtu.be/1"}}]}, None),
    ],
)
def test_files_by_id_are_found_in_the_other_apis_too(api: str, turn: Json, field: str | None) -> None:
    turns = "contents" if api == "gemini" else "messages"
    asked = DIALECTS[api].check({"model": "m", turns: [{"role": "user", **turn}], "max_tokens": 5})
    assert asked.kept == (field and f"{turns}[0].{field}")


@pytest.mark.parametrize(
    ("container", "field"),
    [("c1", "container"), ({"id": "c1", "skills": []}, "container"), ({"skills": [{"type": "anthropic"}]}, None)],
)
def test_a_container_of_messages_is_named_by_its_id(container: str | Json, field: str | None) -> None:
    turn = {"role": "user", "content": "Hi"}
    asked = DIALECTS["messages"].check({"model": "m", "messages": [turn], "max_tokens": 5, "container": container})
    assert asked.kept == field
