"""Reads the AI SDK's requests: UI messages become a conversation. Pure.

`useChat` posts `{id, messages, trigger, messageId}` and what its transport's `body` adds: here `model`, `system`,
`tools`, `options` and `turn`. https://ai-sdk.dev/docs/reference/ai-sdk-core/ui-message
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson

from lib.dialects.conversation import (
    Attachment,
    Conversation,
    Json,
    Part,
    Role,
    Tool,
    ToolResult,
    ToolUse,
    Turn,
    Words,
)
from lib.domain.errors import InvalidRequest
from lib.domain.ids import document_id
from lib.wires.bodies import object_in

MOST_APPROVALS = 128  # tools that need approval: their names are kept with the generation
LONGEST_NAME = 128  # characters of such a tool's name: the most that a model API takes
_DENIED = "The user denied this tool call."


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatRequest:
    """A request of `useChat`.

    `continues`: the last message is the assistant's, and the answer's parts are to be appended to it.
    `need_approval` has the names of the tools that the user must approve before each call. `parent` is the id of the
    last message, and `replaces` that of the answer that is asked for anew, where the client names it.
    """

    chat_id: str
    conversation: Conversation
    continues: bool
    need_approval: frozenset[str]
    turn: str | None
    parent: str | None
    replaces: str | None


def read(body: bytes, default_model: str | None) -> ChatRequest:
    """Errors: `InvalidRequest`, which names the field."""
    fields = object_in(body)
    chat_id = fields.get("id")
    if not isinstance(chat_id, str):
        raise InvalidRequest("'id' must be the chat's id.", param="id")
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("'messages' must be a non-empty list of UI messages.", param="messages")
    model = fields.get("model", default_model)
    if not isinstance(model, str) or not model:
        raise InvalidRequest(
            "'model' must name a model: add it to the transport's 'body', or set CHAT_MODEL for the service.",
            param="model",
        )
    system = fields.get("system")
    if not isinstance(system, str | None):
        raise InvalidRequest("'system' must be a string.", param="system")
    options = fields.get("options", {})
    if not isinstance(options, dict):
        raise InvalidRequest("'options' must be an object: fields of the model's own API.", param="options")
    given = fields.get("tools", [])
    if not isinstance(given, list):
        raise InvalidRequest("'tools' must be a list.", param="tools")
    tools = [_tool(tool, f"tools[{at}]") for at, tool in enumerate(given)]
    need_approval = frozenset(tool["name"] for tool in given if tool.get("needsApproval") is True)
    if len(need_approval) > MOST_APPROVALS or any(len(name) > LONGEST_NAME for name in need_approval):
        raise InvalidRequest(
            f"'tools' may have at most {MOST_APPROVALS} with 'needsApproval', named in {LONGEST_NAME} characters.",
            param="tools",
        )
    turn = fields.get("turn")
    if not isinstance(turn, str | None):
        raise InvalidRequest("'turn' must be a string.", param="turn")
    instructions, turns = _turns(messages, system)
    ids = [_id(message) for message in messages]
    regenerated = _id({"id": fields.get("messageId")}) if fields.get("trigger") == "regenerate-message" else None
    return ChatRequest(
        chat_id=document_id(chat_id, "id"),
        conversation=Conversation(
            model=model, turns=turns, instructions=instructions, tools=tuple(tools), options=options
        ),
        continues=messages[-1].get("role") == "assistant",
        need_approval=need_approval,
        turn=turn,
        parent=ids[-1],
        replaces=regenerated if regenerated not in ids else None,  # it may be the question's, which is sent
    )


def _id(message: Json) -> str | None:
    """A message's id, if it can be a document's. An app is free to have others."""
    with suppress(InvalidRequest):
        return document_id(given, "id") if isinstance(given := message.get("id"), str) else None
    return None


def _tool(given: Any, param: str) -> Tool:
    if not isinstance(given, dict) or not isinstance(given.get("name"), str) or not given["name"]:
        raise InvalidRequest(f"'{param}' must be an object with a 'name'.", param=param)
    schema = given.get("inputSchema", {"type": "object", "properties": {}})
    if not isinstance(schema, dict):
        raise InvalidRequest(f"'{param}.inputSchema' must be a JSON Schema.", param=f"{param}.inputSchema")
    description = given.get("description")
    if not isinstance(description, str | None):
        raise InvalidRequest(f"'{param}.description' must be a string.", param=f"{param}.description")
    return Tool(name=given["name"], parameters=schema, description=description)


def _turns(messages: list[Any], system: str | None) -> tuple[str | None, tuple[Turn, ...]]:
    instructions = [system] if system else []
    turns: list[Turn] = []
    for at, message in enumerate(messages):
        param = f"messages[{at}]"
        parts = message.get("parts") if isinstance(message, dict) else None
        if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            raise InvalidRequest(f"'{param}' must be a UI message, with a list of 'parts'.", param=param)
        match message.get("role"):
            case "system":
                instructions += [part.text for part in _read(parts, param) if isinstance(part, Words)]
            case "user":
                turns.append(Turn(role=Role.USER, parts=tuple(_read(parts, param))))
            case "assistant":
                for step in _steps(parts):
                    turns += _assistant(tuple(_read(step, param)))
            case _:
                raise InvalidRequest(f"'{param}.role' must be system, user or assistant.", param=f"{param}.role")
    return "\n\n".join(instructions) or None, tuple(turn for turn in turns if turn.parts)


def _steps(parts: list[Json]) -> Iterator[list[Json]]:
    """The parts of each of the assistant's steps: a step's tools must be answered before the next one's text."""
    step: list[Json] = []
    for part in parts:
        if part.get("type") == "step-start":
            yield step
            step = []
        else:
            step.append(part)
    yield step


def _assistant(parts: tuple[Part, ...]) -> list[Turn]:
    results = tuple(part for part in parts if isinstance(part, ToolResult))
    said = tuple(part for part in parts if not isinstance(part, ToolResult))
    return [Turn(role=Role.ASSISTANT, parts=said), Turn(role=Role.USER, parts=results)]


def _read(parts: Iterable[Json], param: str) -> Iterator[Part]:
    """The meaning of each part. Reasoning, sources and an app's own data are for the user's eyes, not for the model."""
    for part in parts:
        kind = part.get("type")
        if kind == "text":
            yield Words(text=_text(part, "text", param))
        elif kind == "file":
            name = part.get("filename")
            yield Attachment(
                url=_text(part, "url", param),
                media_type=_text(part, "mediaType", param),
                name=name if isinstance(name, str) else None,
            )
        elif isinstance(kind, str) and (kind == "dynamic-tool" or kind.startswith("tool-")):
            name = _text(part, "toolName", param) if kind == "dynamic-tool" else kind.removeprefix("tool-")
            yield from _call(part, name, param)


def _call(part: Json, name: str, param: str) -> Iterator[Part]:
    call, state = _text(part, "toolCallId", param), part.get("state")
    if state == "input-streaming":
        return  # it broke off, so it was never made
    given, raw = part.get("input"), part.get("rawInput")
    yield ToolUse(id=call, name=name, arguments=raw if given is None and isinstance(raw, str) else _json(given or {}))
    approval = part.get("approval")
    if state == "output-available":
        output = part.get("output")
        yield ToolResult(id=call, name=name, output=output if isinstance(output, str) else _json(output))
    elif state == "output-error":
        yield ToolResult(id=call, name=name, output=_text(part, "errorText", param), is_error=True)
    elif state == "output-denied" or (isinstance(approval, dict) and approval.get("approved") is False):
        reason = approval.get("reason") if isinstance(approval, dict) else None
        words = f"{_DENIED} {reason}" if isinstance(reason, str) and reason else _DENIED
        yield ToolResult(id=call, name=name, output=words, is_error=True)
    else:
        raise InvalidRequest(
            f"The tool call '{call[:100]}' in '{param}' has no output: add it with addToolOutput, then send.",
            code="tool_output_missing",
            param=param,
        )


def _text(part: Json, field: str, param: str) -> str:
    value = part.get(field)
    if not isinstance(value, str):
        raise InvalidRequest(f"A part of type '{part.get('type')}' in '{param}' must have '{field}'.", param=param)
    return value


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
