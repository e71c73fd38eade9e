"""Writes a conversation as a request for OpenAI's Responses.

Format: https://platform.openai.com/docs/api-reference/responses/create
"""

from __future__ import annotations

from typing import Any

from lib.dialects.conversation import (
    Attachment,
    Conversation,
    Format,
    Json,
    Role,
    Tool,
    ToolChoice,
    ToolResult,
    ToolUse,
    Turn,
    Words,
)
from lib.dialects.request import check_options, given
from lib.domain.errors import InvalidRequest

_OWN = ("model", "input", "instructions", "tools", "stream", "background")


def written(conversation: Conversation) -> Json:
    """The request. Errors: `InvalidRequest`, which names what this API can't express."""
    check_options(conversation, _OWN)
    items = [item for turn in conversation.turns for item in _items(turn)]
    asked = given(
        max_output_tokens=conversation.output_tokens,
        temperature=conversation.temperature,
        top_p=conversation.top_p,
        tool_choice=_choice(conversation.tool_choice) if conversation.tool_choice else None,
        parallel_tool_calls=conversation.parallel_tools,
        text={"format": _format(conversation.format)} if conversation.format else None,
        reasoning=given(effort=conversation.effort, summary="auto" if conversation.thoughts else None) or None,
    )
    request: Json = {**asked, **conversation.options, "model": conversation.model, "input": items}
    if conversation.instructions:
        request["instructions"] = conversation.instructions
    if conversation.tools:
        request["tools"] = [_tool(tool) for tool in conversation.tools]
    return request


def _choice(choice: ToolChoice) -> Any:
    return {"type": "function", "name": choice.name} if choice.name else str(choice.mode)


def _format(wanted: Format) -> Json:
    if wanted.schema is None:
        return {"type": "json_object"}
    about = given(description=wanted.description, strict=wanted.strict)
    return {"type": "json_schema", "name": wanted.name, "schema": wanted.schema, **about}


def _items(turn: Turn) -> list[Json]:
    """The items of a turn, in order: consecutive texts and files are one message, and the rest are items themselves."""
    items: list[Json] = []
    spoken: list[Json] | None = None
    for part in turn.parts:
        match part:
            case ToolUse():
                call = {"call_id": part.id, "name": part.name, "arguments": part.arguments or "{}"}
                items.append({"type": "function_call", **call})
                spoken = None
            case ToolResult():
                items.append({"type": "function_call_output", "call_id": part.id, "output": part.output})
                spoken = None
            case Words() | Attachment():
                content = _content(part, turn.role)
                if content is None:
                    continue
                if spoken is None:
                    spoken = []
                    items.append({"type": "message", "role": str(turn.role), "content": spoken})
                spoken.append(content)
    return items


def _content(part: Words | Attachment, role: Role) -> Json | None:
    if isinstance(part, Words):
        kind = "output_text" if role is Role.ASSISTANT else "input_text"
        return {"type": kind, "text": part.text} if part.text else None
    return (
        _attached(part) if role is Role.USER else None
    )  # pictures of the model's, which this API takes from users only


def _attached(file: Attachment) -> Json:
    kind = file.media_type.partition(";")[0].strip().lower()
    if kind.startswith("image/"):
        return {"type": "input_image", "image_url": file.url, "detail": "auto"}
    if kind.startswith(("audio/", "video/")):
        raise InvalidRequest(f"The model's API takes images and documents, and no {kind[:100]}.", param="messages")
    if file.url.startswith("data:"):
        return {"type": "input_file", "filename": file.name or "file", "file_data": file.url}
    return {"type": "input_file", "file_url": file.url}


def _tool(tool: Tool) -> Json:
    """A tool, whose schema is taken as it is: a strict one must have every property required."""
    described = {"description": tool.description} if tool.description else {}
    return {
        "type": "function",
        "name": tool.name,
        **described,
        "parameters": tool.parameters,
        "strict": bool(tool.strict),
    }
