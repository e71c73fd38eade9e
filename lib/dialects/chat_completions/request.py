"""Writes a conversation as a request for chat completions.

Format: https://platform.openai.com/docs/api-reference/chat/create
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
from lib.dialects.request import check_options, given, parts_of
from lib.domain.errors import InvalidRequest

_AUDIO = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/mpeg": "mp3", "audio/mp3": "mp3"}
_OWN = ("model", "messages", "tools", "stream")


def written(conversation: Conversation) -> Json:
    """The request. Errors: `InvalidRequest`, which names what this API can't express."""
    check_options(conversation, _OWN)
    messages: list[Json] = []
    if conversation.instructions:
        messages.append({"role": "system", "content": conversation.instructions})
    for turn in conversation.turns:
        messages += _assistant(turn) if turn.role is Role.ASSISTANT else _user(turn)
    tools = [{"type": "function", "function": _function(tool)} for tool in conversation.tools]
    return {
        **given(
            max_tokens=conversation.output_tokens,  # which more servers know than its newer name
            temperature=conversation.temperature,
            top_p=conversation.top_p,
            tool_choice=_choice(conversation.tool_choice) if conversation.tool_choice else None,
            parallel_tool_calls=conversation.parallel_tools,
            response_format=_format(conversation.format) if conversation.format else None,
            reasoning_effort=conversation.effort,
        ),
        **conversation.options,
        "model": conversation.model,
        "messages": messages,
        **({"tools": tools} if tools else {}),
    }


def file_by_id(request: Json) -> str | None:
    """The first field with the id of a file that the upstream keeps for its account."""
    for place, part in parts_of(request, "messages", "content"):
        if isinstance(file := part.get("file"), dict) and file.get("file_id"):
            return f"{place}.file.file_id"
    return None


def _choice(choice: ToolChoice) -> Any:
    return {"type": "function", "function": {"name": choice.name}} if choice.name else str(choice.mode)


def _format(wanted: Format) -> Json:
    if wanted.schema is None:
        return {"type": "json_object"}
    about = given(description=wanted.description, strict=wanted.strict)
    return {"type": "json_schema", "json_schema": {"name": wanted.name, "schema": wanted.schema, **about}}


def _assistant(turn: Turn) -> list[Json]:
    calls = [
        {"id": part.id, "type": "function", "function": {"name": part.name, "arguments": part.arguments}}
        for part in turn.parts
        if isinstance(part, ToolUse)
    ]
    text = "".join(part.text for part in turn.parts if isinstance(part, Words))
    if not text and not calls:
        return []  # a turn of pictures or reasoning alone, which this API takes from users only
    message: Json = {"role": "assistant", "content": text or None}
    if calls:
        message["tool_calls"] = calls
    return [message]


def _user(turn: Turn) -> list[Json]:
    results = [
        {"role": "tool", "tool_call_id": part.id, "content": part.output}
        for part in turn.parts
        if isinstance(part, ToolResult)
    ]
    said = [part for part in turn.parts if isinstance(part, Words | Attachment)]
    if not said:
        return results
    if all(isinstance(part, Words) for part in said):
        content: Any = "".join(part.text for part in said if isinstance(part, Words))
    else:
        content = [{"type": "text", "text": part.text} if isinstance(part, Words) else _attached(part) for part in said]
    return [*results, {"role": "user", "content": content}]


def _attached(file: Attachment) -> Json:
    kind = file.media_type.partition(";")[0].strip().lower()
    if kind.startswith("image/"):
        return {"type": "image_url", "image_url": {"url": file.url}}
    if not file.url.startswith("data:"):
        raise InvalidRequest(
            f"The model's API takes no file by its address ({kind}): send it as a 'data:' URL.", param="messages"
        )
    if kind in _AUDIO:
        return {"type": "input_audio", "input_audio": {"data": file.url.partition(",")[2], "format": _AUDIO[kind]}}
    return {"type": "file", "file": {"filename": file.name or "file", "file_data": file.url}}


def _function(tool: Tool) -> Json:
    about = given(description=tool.description or None, strict=tool.strict)
    return {"name": tool.name, **about, "parameters": tool.parameters}
