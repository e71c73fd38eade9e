"""Compacts a conversation: what users said stays, and a summary by the model stands for the rest. Pure.

OpenAI's own `POST /v1/responses/compact` returns an item that only OpenAI can read. This one works for models of every
upstream: the item has the summary, which the client has anyway, and is a message of the user's where it is sent back.
https://platform.openai.com/docs/api-reference/responses/compact
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from lib.dialects.conversation import Json
from lib.domain.errors import HoldfastError, InvalidRequest
from lib.wires.responses.ids import named

KIND = "compaction"
CONTENT = "encrypted_content"

_MARK = "holdfast-summary-1."  # not encrypted: it is the client's own conversation
_NOT_ASKED = ("background", "stream", "tools", "tool_choice", "text", "include")
_ASK = (
    "Summarise this conversation for the model that goes on with it and sees the summary instead of what you see. Keep "
    "every fact, decision, name, number, result of a function and open question that may matter later, and what the "
    "user wants. Leave out courtesies. Reply with the summary alone."
)
_BEFORE = "A summary of the conversation so far:\n\n"


class NotSummarised(HoldfastError):
    """The model did not finish its summary."""

    status = 502
    code = "compaction_incomplete"


def summarising(fields: Json, items: Sequence[Json]) -> Json:
    """The request for a summary of a conversation, of which `items` are what the request itself has.

    Calls and their results are told in words, since some APIs take none without the functions.
    """
    asked = {name: value for name, value in fields.items() if name not in _NOT_ASKED}
    question: Json = {"type": "message", "role": "user", "content": _ASK}
    return {**asked, "input": [*(said for item in items for said in _told(item)), question], "store": False}


def compacted(response: Json, asked: Sequence[Json], generation: str) -> Json:
    """The compacted conversation, from the response with the summary and the items before. Errors: `NotSummarised`."""
    parts = [part for item in response["output"] if item.get("type") == "message" for part in item["content"]]
    summary = "".join(part["text"] for part in parts if part.get("type") == "output_text")
    if response["status"] != "completed" or not summary.strip():
        raise NotSummarised("The model did not finish its summary of the conversation. Try again, or another model.")
    content = _MARK + base64.urlsafe_b64encode(summary.encode()).decode()
    users = [item for item in named(asked, generation) if item.get("type") == "message" and item.get("role") == "user"]
    return {
        "id": response["id"],
        "object": "response.compaction",
        "created_at": response["created_at"],
        "output": [*users, {"id": f"cmp_{generation}_0", "type": KIND, CONTENT: content}],
        "usage": response["usage"],
    }


def opened(items: Sequence[Json]) -> list[Json]:
    """The items with each summary of ours as a message. Errors: `InvalidRequest` for one that was changed."""
    return [_opened(item, at) if _is_ours(item) else item for at, item in enumerate(items)]


def _is_ours(item: Json) -> bool:
    return item.get("type") == KIND and str(item.get(CONTENT)).startswith(_MARK)


def _opened(item: Json, at: int) -> Json:
    try:
        summary = base64.urlsafe_b64decode(item[CONTENT].removeprefix(_MARK)).decode()
    except (binascii.Error, ValueError) as error:
        param = f"input[{at}].{CONTENT}"
        raise InvalidRequest(f"'{param}' must be as 'compact' returned it, unchanged.", param=param) from error
    return {"type": "message", "role": "user", "content": _BEFORE + summary}


def _told(item: Json) -> Iterator[Json]:
    match item.get("type", "message"):
        case "message":
            yield item
        case "function_call":
            yield _words("assistant", f"I call {item.get('name')} with {item.get('arguments')}")
        case "function_call_output":
            yield _words("user", f"The result: {_text(item.get('output'))}")
        case "compaction":
            yield item


def _words(role: str, text: str) -> Json:
    return {"type": "message", "role": role, "content": text}


def _text(output: Any) -> str:
    return output if isinstance(output, str) else orjson.dumps(output).decode()
