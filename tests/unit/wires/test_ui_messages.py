"""The conversation that UI messages become."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lib.dialects.conversation import Attachment, Role, Tool, ToolResult, ToolUse, Turn, Words
from lib.domain.errors import InvalidRequest
from lib.wires.ai_sdk.messages import ChatRequest, read

TOOL = {"type": "tool-look", "toolCallId": "t1", "input": {"at": "x"}}


def user(text: str) -> dict[str, Any]:
    return {"id": "u", "role": "user", "parts": [{"type": "text", "text": text}]}


def assistant(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"id": "a", "role": "assistant", "parts": list(parts)}


def asked(*messages: Any, **fields: Any) -> ChatRequest:
    body = {"id": "c1", "messages": list(messages), "trigger": "submit-message", "model": "demo", **fields}
    return read(json.dumps(body).encode(), None)


def said(role: Role, *parts: Any) -> Turn:
    return Turn(role=role, parts=parts)


def test_texts_are_turns_and_what_the_system_says_are_instructions() -> None:
    system = {"role": "system", "parts": [{"type": "text", "text": "Be brief."}]}
    found = asked(system, user("Hi"), assistant({"type": "text", "text": "Hello"}), user("Bye"), system="Be kind.")
    assert found.conversation.instructions == "Be kind.\n\nBe brief."
    assert found.conversation.turns == (
        said(Role.USER, Words(text="Hi")),
        said(Role.ASSISTANT, Words(text="Hello")),
        said(Role.USER, Words(text="Bye")),
    )
    assert (found.chat_id, found.continues) == ("c1", False)


def test_files_are_attachments_by_address_or_with_their_data() -> None:
    file = {"type": "file", "mediaType": "image/png", "filename": "a.png", "url": "data:image/png;base64,AA"}
    found = asked({"role": "user", "parts": [file]})
    assert found.conversation.turns[0].parts == (
        Attachment(url="data:image/png;base64,AA", media_type="image/png", name="a.png"),
    )


@pytest.mark.parametrize(
    ("part", "result"),
    [
        ({"state": "output-available", "output": {"n": 1}}, ToolResult(id="t1", name="look", output='{"n":1}')),
        ({"state": "output-available", "output": "plain"}, ToolResult(id="t1", name="look", output="plain")),
        ({"state": "output-error", "errorText": "No."}, ToolResult(id="t1", name="look", output="No.", is_error=True)),
        (
            {"state": "output-denied", "approval": {"id": "p", "approved": False, "reason": "Too dear."}},
            ToolResult(id="t1", name="look", output="The user denied this tool call. Too dear.", is_error=True),
        ),
        (
            {"state": "approval-responded", "approval": {"id": "p", "approved": False}},
            ToolResult(id="t1", name="look", output="The user denied this tool call.", is_error=True),
        ),
    ],
    ids=["JSON", "text", "an error", "denied", "just denied"],
)
def test_a_tool_call_and_its_result_are_two_turns(part: dict[str, Any], result: ToolResult) -> None:
    found = asked(user("Hi"), assistant({"type": "step-start"}, {**TOOL, **part}))
    assert found.conversation.turns[1:] == (
        said(Role.ASSISTANT, ToolUse(id="t1", name="look", arguments='{"at":"x"}')),
        said(Role.USER, result),
    )
    assert found.continues


def test_each_step_of_an_answer_is_a_turn_so_that_results_precede_what_was_said_of_them() -> None:
    done = {**TOOL, "state": "output-available", "output": "7"}
    dynamic = {**done, "type": "dynamic-tool", "toolName": "leap", "toolCallId": "t2"}
    steps = [{"type": "step-start"}, {"type": "text", "text": "I look."}, done, {"type": "step-start"}, dynamic]
    found = asked(user("Hi"), assistant(*steps, {"type": "step-start"}, {"type": "text", "text": "It is 7."}))
    assert [[type(part).__name__ for part in turn.parts] for turn in found.conversation.turns] == [
        ["Words"],
        ["Words", "ToolUse"],
        ["ToolResult"],
        ["ToolUse"],
        ["ToolResult"],
        ["Words"],
    ]


def test_what_is_for_the_user_s_eyes_alone_is_not_sent_to_the_model() -> None:
    parts = [
        {"type": "reasoning", "text": "Hm"},
        {"type": "source-url", "sourceId": "s", "url": "https://a.example"},
        {"type": "data-weather", "data": {}},
        {**TOOL, "state": "input-streaming"},
    ]
    assert asked(user("Hi"), assistant(*parts), user("Bye")).conversation.turns == (
        said(Role.USER, Words(text="Hi")),
        said(Role.USER, Words(text="Bye")),
    )


def test_tools_are_functions_and_some_need_approval() -> None:
    pay = {"name": "pay", "description": "Pays.", "inputSchema": {"type": "object"}, "needsApproval": True}
    found = asked(user("Hi"), tools=[pay, {"name": "look"}], options={"temperature": 0})
    assert found.conversation.tools == (
        Tool(name="pay", description="Pays.", parameters={"type": "object"}),
        Tool(name="look", parameters={"type": "object", "properties": {}}),
    )
    assert found.need_approval == {"pay"}
    assert found.conversation.options == {"temperature": 0}


def test_a_chat_without_a_model_has_the_service_s() -> None:
    body = json.dumps({"id": "c1", "messages": [user("Hi")]}).encode()
    assert read(body, "theirs").conversation.model == "theirs"
    with pytest.raises(InvalidRequest, match="CHAT_MODEL"):
        read(body, None)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"id": 7}, "id"),
        ({"id": "a/b"}, "id"),
        ({"messages": []}, "messages"),
        ({"messages": ["Hi"]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, "messages[0]"),
        ({"messages": [{"role": "robot", "parts": []}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "parts": [{"type": "text"}]}]}, "messages[0]"),
        ({"messages": [{"role": "user", "parts": [{"type": "file", "url": "x"}]}]}, "messages[0]"),
        ({"messages": [{"role": "assistant", "parts": [{**TOOL, "state": "input-available"}]}]}, "messages[0]"),
        ({"model": ""}, "model"),
        ({"system": 7}, "system"),
        ({"tools": {}}, "tools"),
        ({"tools": [{}]}, "tools[0]"),
        ({"tools": [{"name": "a", "inputSchema": 7}]}, "tools[0].inputSchema"),
        ({"tools": [{"name": "a", "description": 7}]}, "tools[0].description"),
        ({"tools": [{"name": f"a{n}", "needsApproval": True} for n in range(129)]}, "tools"),
        ({"tools": [{"name": "a" * 129, "needsApproval": True}]}, "tools"),
        ({"options": []}, "options"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    body = {"id": "c1", "messages": [user("Hi")], "model": "demo", **fields}
    with pytest.raises(InvalidRequest) as refused:
        read(json.dumps(body).encode(), None)
    assert refused.value.param == param


@pytest.mark.parametrize("body", [b"{", b"[]", b"7"])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read(body, "demo")


def test_an_answer_s_parent_is_the_last_message_and_a_regenerated_one_says_what_it_replaces() -> None:
    first, last = {**user("Hi"), "id": "u1"}, {**user("And?"), "id": "u2"}
    assert (asked(first).parent, asked(first).replaces) == ("u1", None)
    anew = {"trigger": "regenerate-message"}
    assert (asked(first, last, messageId="a2", **anew).parent, asked(first, last, messageId="a2", **anew).replaces) == (
        "u2",
        "a2",
    )
    assert asked(first, last, **anew).replaces is None, "the client has not named it"
    assert asked(first, last, messageId="u2", **anew).replaces is None, "the question's own id"
    assert asked(first, last, messageId="u2").replaces is None, "an edited question replaces no answer"


@pytest.mark.parametrize("its_id", [None, 7, "a/b", "x" * 201, "__a__"])
def test_a_message_whose_id_can_be_no_document_s_has_no_answer_that_names_it(its_id: object) -> None:
    assert asked({**user("Hi"), "id": its_id}).parent is None
    assert asked(user("Hi"), trigger="regenerate-message", messageId=its_id).replaces is None


def test_a_turn_is_a_word() -> None:
    assert asked(user("Hi"), turn="queue").turn == "queue"
    with pytest.raises(InvalidRequest) as refused:
        asked(user("Hi"), turn=1)
    assert refused.value.param == "turn"
