"""Writes a conversation as a request for Gemini.

Format: https://ai.google.dev/api/generate-content#request-body
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
    ToolChoice,
    ToolMode,
    ToolResult,
    ToolUse,
    Words,
)
from lib.dialects.gemini.events import OWN_ID
from lib.dialects.protocol import Malformed
from lib.dialects.request import check_options, given, parts_of
from lib.domain.errors import InvalidRequest

# Stands for the signature of a call that has lost its own: https://ai.google.dev/gemini-api/docs/thought-signatures
UNSIGNED = "skip_thought_signature_validator"
_FILES = re.compile(r"^https?://generativelanguage\.googleapis\.com/|^files/", re.IGNORECASE)
_OWN = ("model", "stream", "contents", "tools", "systemInstruction", "system_instruction")
_MODES = {ToolMode.AUTO: "AUTO", ToolMode.NONE: "NONE", ToolMode.REQUIRED: "ANY"}
# Tokens to think for, as Google's own OpenAI-compatible API has them: https://ai.google.dev/gemini-api/docs/openai#thinking
_BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24_576}
_ROLES = {Role.USER: "user", Role.ASSISTANT: "model"}


def written(conversation: Conversation) -> Json:
    """The request. Errors: `InvalidRequest`, which names what this API can't express."""
    check_options(conversation, _OWN)
    contents: list[Json] = []
    for turn in conversation.turns:
        parts = [each for part in turn.parts if (each := _part(part)) is not None]
        call = next((part for part in parts if "functionCall" in part), None)
        if call is not None:
            call["thoughtSignature"] = UNSIGNED  # the first call of a turn must be signed
        role = _ROLES[turn.role]
        if parts and contents and contents[-1]["role"] == role:
            contents[-1]["parts"] += parts  # results of calls that were made together must come together
        elif parts:
            contents.append({"role": role, "parts": parts})
    config, options = _config(conversation), conversation.options.get("generationConfig") or {}
    request: Json = {**conversation.options, "model": conversation.model, "contents": contents}
    if config and isinstance(options, dict):
        request["generationConfig"] = {**config, **options}
    if conversation.instructions:
        request["systemInstruction"] = {"parts": [{"text": conversation.instructions}]}
    if conversation.tools:
        request["tools"] = [{"functionDeclarations": [_declared(tool) for tool in conversation.tools]}]
        if conversation.tool_choice is not None:
            request.setdefault("toolConfig", {"functionCallingConfig": _calling(conversation.tool_choice)})
    return request


def file_by_id(request: Json) -> str | None:
    """The first field with the address of a file that the upstream keeps for its account.

    Only those of https://ai.google.dev/api/files: other addresses name what anybody can read, or a bucket's own rules.
    """
    for place, part in parts_of(request, "contents", "parts"):
        for data, uri in (("fileData", "fileUri"), ("file_data", "file_uri")):
            if isinstance(file := part.get(data), dict) and _FILES.search(str(file.get(uri))):
                return f"{place}.{data}.{uri}"
    return None


def _config(conversation: Conversation) -> Json:
    if conversation.parallel_tools is False and conversation.tools:
        raise InvalidRequest("The model's API can't be told to call one tool at a time.", param="parallel_tool_calls")
    effort, wanted = conversation.effort, conversation.format
    if effort is not None and effort not in _BUDGETS:
        raise InvalidRequest(f"The model's API takes an effort of {', '.join(_BUDGETS)}.", param="effort")
    thinking = given(
        thinkingBudget=_BUDGETS[effort] if effort is not None else None,
        includeThoughts=True if conversation.thoughts else None,
    )
    return given(
        maxOutputTokens=conversation.output_tokens,
        temperature=conversation.temperature,
        topP=conversation.top_p,
        responseMimeType="application/json" if wanted is not None else None,
        responseJsonSchema=wanted.schema if wanted is not None else None,
        thinkingConfig=thinking or None,
    )


def _calling(choice: ToolChoice) -> Json:
    return {"mode": _MODES[choice.mode], **({"allowedFunctionNames": [choice.name]} if choice.name else {})}


def _part(part: Part) -> Json | None:
    match part:
        case Words():
            return {"text": part.text} if part.text else None
        case ToolUse():
            return {"functionCall": {**_id(part), "name": part.name, "args": _object(part.arguments, "input")}}
        case ToolResult():
            response = {"error": part.output} if part.is_error else _object(part.output, "output")
            return {"functionResponse": {**_id(part), "name": part.name, "response": response}}
        case Attachment():
            return _attached(part)


def _id(part: ToolUse | ToolResult) -> Json:
    """The upstream's own id. One that it never gave would be of no use to it."""
    return {"id": part.id} if part.id and not part.id.startswith(OWN_ID) else {}


def _object(text: str, name: str) -> Json:
    """JSON text as the object that the API wants; anything else becomes its field `name`."""
    try:
        value: Any = json_text.read_loosely(text.encode()) if text.strip() else {}
    except Malformed:
        value = text
    return value if isinstance(value, dict) else {name: value}


def _attached(file: Attachment) -> Json:
    kind = file.media_type.partition(";")[0].strip().lower()
    if not file.url.startswith("data:"):
        return {"fileData": {"mimeType": kind, "fileUri": file.url}}
    head, _, data = file.url.partition(",")
    if not head.endswith(";base64"):
        data = base64.b64encode(unquote_to_bytes(data)).decode()
    return {"inlineData": {"mimeType": kind, "data": data}}


def _declared(tool: Tool) -> Json:
    described = {"description": tool.description} if tool.description else {}
    return {"name": tool.name, **described, "parametersJsonSchema": tool.parameters}
