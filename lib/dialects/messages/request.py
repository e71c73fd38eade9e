"""Writes a conversation as a request for Anthropic's Messages.

Format: https://platform.claude.com/docs/en/api/messages
"""

from __future__ import annotations

import base64
import re
from typing import Any
from urllib.parse import unquote_to_bytes

from lib.dialects import payload as json_text
from lib.dialects.conversation import (
    Attachment,
    Conversation,
    Json,
    Part,
    Role,
    Tool,
    ToolMode,
    ToolResult,
    ToolUse,
    Turn,
    Words,
)
from lib.dialects.protocol import Malformed
from lib.dialects.request import check_options, given, parts_of
from lib.domain.errors import InvalidRequest

# Limits that models take, by what their names have in Anthropic's and in others' spelling: the first that fits. The API
# wants a limit, and refuses one above the model's. https://platform.claude.com/docs/en/about-claude/models/overview
_MOST_TOKENS = (
    (re.compile(r"claude-(v?2|instant|3-(opus|sonnet|haiku))"), 4_096),
    (re.compile(r"claude-3[-.]5"), 8_192),
    (re.compile(r"claude-opus-4(?![-.][2-9](?!\d))"), 32_000),  # 4 and 4.1, with or without a date
    (re.compile(r"claude-"), 64_000),
)
_ANY_MODELS_TOKENS = 4_096
_OWN = ("model", "messages", "system", "tools", "stream")
_CHOICES = {ToolMode.AUTO: "auto", ToolMode.NONE: "none", ToolMode.REQUIRED: "any"}
_EFFORTS = ("low", "medium", "high", "xhigh")  # https://platform.claude.com/docs/en/build-with-claude/effort


def written(conversation: Conversation) -> Json:
    """The request. Its limit is None if the conversation has none. Errors: `InvalidRequest`, for what it can't say."""
    check_options(conversation, _OWN)
    messages: list[Json] = []
    for turn in conversation.turns:
        content = [each for part in _results_first(turn) if (each := _block(part)) is not None]
        if content and messages and messages[-1]["role"] == str(turn.role):
            messages[-1]["content"] += content  # sides must take turns
        elif content:
            messages.append({"role": str(turn.role), "content": content})
    request: Json = {
        "max_tokens": conversation.output_tokens,
        **given(
            temperature=conversation.temperature,
            top_p=conversation.top_p,
            tool_choice=_choice(conversation),
            output_config=_output(conversation) or None,
        ),
        **conversation.options,
        "model": conversation.model,
        "messages": messages,
    }
    if conversation.instructions:
        request["system"] = conversation.instructions
    if conversation.tools:
        request["tools"] = [_tool(tool) for tool in conversation.tools]
    return request


def most_tokens(model: str) -> int:
    """The limit for a conversation that sets none, in tokens: as high as this model surely takes."""
    return next((most for name, most in _MOST_TOKENS if name.search(model.lower())), _ANY_MODELS_TOKENS)


def kept_by_id(request: Json) -> str | None:
    """The first field with the id of a file or a container that the upstream keeps for its account."""
    container = request.get("container")
    if isinstance(container, str) or (isinstance(container, dict) and container.get("id")):
        return "container"
    for place, part in parts_of(request, "messages", "content"):
        inner = part.get("content") if part.get("type") == "tool_result" else None
        for block in (part, *(inner if isinstance(inner, list) else ())):
            source = block.get("source") if isinstance(block, dict) else None
            if isinstance(source, dict) and source.get("file_id"):
                return f"{place}.{'source' if block is part else 'content'}.file_id"
        if part.get("type") == "container_upload":
            return f"{place}.file_id"
    return None


def _choice(conversation: Conversation) -> Json | None:
    choice = conversation.tool_choice
    if choice is not None and choice.name:
        said: Json = {"type": "tool", "name": choice.name}
    elif choice is not None:
        said = {"type": _CHOICES[choice.mode]}
    else:
        said = {"type": "auto"}
    if conversation.parallel_tools is False and said["type"] != "none":
        said["disable_parallel_tool_use"] = True
    elif choice is None:
        return None
    return said if conversation.tools else None


def _output(conversation: Conversation) -> Json:
    wanted, effort = conversation.format, conversation.effort
    if wanted is not None and wanted.schema is None:
        raise InvalidRequest("The model's API takes no format of JSON without a schema: give one.", param="format")
    if effort is not None and effort not in _EFFORTS:
        raise InvalidRequest(f"The model's API takes an effort of {', '.join(_EFFORTS)}.", param="effort")
    return given(format={"type": "json_schema", "schema": wanted.schema} if wanted is not None else None, effort=effort)


def _results_first(turn: Turn) -> list[Part]:
    """The parts in the order that the API wants: results of tools come before anything else."""
    if turn.role is Role.ASSISTANT:
        return [*turn.parts]
    return sorted(turn.parts, key=lambda part: not isinstance(part, ToolResult))


def _block(part: Part) -> Json | None:
    match part:
        case Words():
            return {"type": "text", "text": part.text} if part.text.strip() else None  # which the API refuses
        case ToolUse():
            return {"type": "tool_use", "id": part.id, "name": part.name, "input": _arguments(part)}
        case ToolResult():
            failed = {"is_error": True} if part.is_error else {}
            return {"type": "tool_result", "tool_use_id": part.id, "content": part.output, **failed}
        case Attachment():
            return _attached(part)


def _arguments(call: ToolUse) -> Any:
    """Arguments that are no object came from another API's model; the API wants one."""
    try:
        value = json_text.read_loosely(call.arguments.encode()) if call.arguments.strip() else {}
    except Malformed:
        value = None
    return value if isinstance(value, dict) else {"input": call.arguments}


def _attached(file: Attachment) -> Json:
    kind = file.media_type.partition(";")[0].strip().lower()
    image = kind.startswith("image/")
    if not image and kind not in ("application/pdf", "text/plain"):
        raise InvalidRequest(
            f"The model's API takes images, PDFs and plain text, and no {kind[:100]}.", param="messages"
        )
    block: Json = {"type": "image" if image else "document"}
    if not image and file.name:
        block["title"] = file.name
    if not file.url.startswith("data:"):
        return {**block, "source": {"type": "url", "url": file.url}}
    head, _, data = file.url.partition(",")
    if kind == "text/plain":
        return {**block, "source": {"type": "text", "media_type": kind, "data": _decoded(head, data)}}
    return {**block, "source": {"type": "base64", "media_type": kind, "data": data}}


def _decoded(head: str, data: str) -> str:
    try:
        return (base64.b64decode(data) if head.endswith(";base64") else unquote_to_bytes(data)).decode()
    except ValueError as error:
        raise InvalidRequest("A file of plain text must be UTF-8, in a valid 'data:' URL.", param="messages") from error


def _tool(tool: Tool) -> Json:
    about = given(description=tool.description or None, strict=tool.strict)
    return {"name": tool.name, **about, "input_schema": tool.parameters}
