"""What a request of OpenAI's Responses names by an id, which the upstream looks up under the key it is called with.

That key is the service's, and all users share it: whoever knows an id could reach what is another user's.
https://platform.openai.com/docs/api-reference/responses/create
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from lib.dialects.steps import Json

REFERENCE = "item_reference"
APPROVED = "approval_request_id"

# Items that say all that they are, whether or not they have an id.
_WHOLE = frozenset(
    {
        "additional_tools",
        "message",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
        "computer_call_output",
        "local_shell_call",
        "local_shell_call_output",
        "shell_call",
        "shell_call_output",
        "apply_patch_call",
        "apply_patch_call_output",
        "tool_search_call",
        "tool_search_output",
    }
)
_KEPT = ("file_id", "file_ids", "container_id", "vector_store_ids")


def is_reference(item: Json) -> bool:
    """Whether an item of the input is another one's id: `{"type": "item_reference", "id"}`, or the id alone."""
    kind = item.get("type")
    return kind == REFERENCE or (kind is None and set(item) <= {"id", "type"} and "id" in item)


def name_in(item: Json) -> str | None:
    """The field with the id by which an item is looked up. None if it says all that it is."""
    if APPROVED in item:
        return APPROVED
    if is_reference(item):
        return "id"
    kind = item.get("type", "message")
    whole = kind in _WHOLE or item.get("encrypted_content") or (kind == "image_generation_call" and item.get("result"))
    return None if whole or "id" not in item else "id"


def kept_for_account(request: Json) -> str | None:
    """The first field that names what the upstream keeps for its account: files, containers, and the like."""
    if request.get("conversation") is not None:
        return "conversation"
    prompt = request.get("prompt")
    variables = prompt.get("variables") if isinstance(prompt, dict) else None
    for name, value in variables.items() if isinstance(variables, dict) else ():
        if named := _named(value, f"prompt.variables.{name}"):
            return named
    for at, tool in enumerate(_objects(request.get("tools"))):
        if named := _in_tool(tool, f"tools[{at}]"):
            return named
    return _in_input(request.get("input"))


def kept_for_user(request: Json) -> str | None:
    """The first field that names an earlier response, or an item of one."""
    if request.get("previous_response_id") is not None:
        return "previous_response_id"
    for at, item in enumerate(_objects(request.get("input"))):
        if name := name_in(item):
            return f"input[{at}].{name}"
    return None


def _in_input(given: Any) -> str | None:
    for at, item in enumerate(_objects(given)):
        place = f"input[{at}]"
        for name in ("content", "output"):
            held = item.get(name)
            found = _first(held, f"{place}.{name}") if isinstance(held, list) else _named(held, f"{place}.{name}")
            if found:
                return found
        if named := _named(item, place) or _named(item.get("environment"), f"{place}.environment"):
            return named
    return None


def _in_tool(tool: Json, place: str) -> str | None:
    if isinstance(tool.get("container"), str):
        return f"{place}.container"
    inner = (_named(tool.get(name), f"{place}.{name}") for name in ("container", "environment", "input_image_mask"))
    return _named(tool, place) or next(filter(None, inner), None)


def _first(parts: Iterable[Any], place: str) -> str | None:
    return next(filter(None, (_named(part, f"{place}[{at}]") for at, part in enumerate(parts))), None)


def _named(held: Any, place: str) -> str | None:
    """The field of an object that is an id, or a list of ids."""
    return next((f"{place}.{name}" for name in _KEPT if held.get(name)), None) if isinstance(held, dict) else None


def _objects(given: Any) -> Iterator[Json]:
    yield from (each for each in given if isinstance(each, dict)) if isinstance(given, list) else ()
