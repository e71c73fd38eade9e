"""The events of OpenAI's Responses, and what they mean.

Rules: https://platform.openai.com/docs/api-reference/responses-streaming.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lib.dialects.protocol import Malformed
from lib.dialects.steps import (
    EndMark,
    File,
    Finish,
    Json,
    Other,
    Reasoning,
    Refusal,
    Source,
    Step,
    Text,
    ToolCall,
    Usage,
    is_reason,
)
from lib.dialects.usage import modest

BEGINNINGS = frozenset({"response.created", "response.queued", "response.in_progress"})
ENDS = frozenset({"response.completed", "response.incomplete"})
"""The events after which no other comes. Each has the whole response, as do the beginnings."""
PARAGRAPH = "\n\n"
"""Stands between the parts of a summary, as each is a paragraph of its own."""

_FAILURES = frozenset({"response.failed", "response.cancelled"})


class Growing(NamedTuple):
    """A text of an item that comes in pieces. `parts`: the item's list that it is in, unless it is a field of its own.

    `place` is the event's field with the place in that list, and `kind` is the type of the part there.
    """

    field: str
    parts: str = ""
    place: str = ""
    kind: str = ""


GROWING: Mapping[str, Growing] = {
    "response.output_text": Growing("text", "content", "content_index", "output_text"),
    "response.refusal": Growing("refusal", "content", "content_index", "refusal"),
    "response.reasoning_text": Growing("text", "content", "content_index", "reasoning_text"),
    "response.reasoning_summary_text": Growing("text", "summary", "summary_index", "summary_text"),
    "response.function_call_arguments": Growing("arguments"),
    "response.mcp_call_arguments": Growing("arguments"),
    "response.custom_tool_call_input": Growing("input"),
    "response.code_interpreter_call_code": Growing("code"),
}
"""What grows, by the type of its events without `.delta` or `.done`."""


def steps_of(payload: Json) -> tuple[Step, ...]:
    """What an event, or a whole response, means: nothing, if its type is not known. Errors: `Malformed`."""
    kind = payload.get("type")
    steps: list[Step] = []
    if kind is None and payload.get("object") == "response":
        _read_whole(payload, steps)
    elif not isinstance(kind, str) or not kind:
        raise Malformed
    elif (meaning := _MEANINGS.get(kind)) is not None:
        meaning(payload, steps)
    return tuple(steps)


def response_in(payload: Json) -> Json | None:
    """The response that an event has, or that the payload is."""
    response = payload if "type" not in payload else payload.get("response")
    return response if isinstance(response, dict) else None


def failure_in(payload: Json) -> Any:
    """Why a response has failed: its error, or True if it does not say. None if it has not failed."""
    response = response_in(payload) or {}
    if response.get("error"):
        return response["error"]
    kind, status = payload.get("type"), response.get("status")
    if "cancelled" in (status, str(kind).removeprefix("response.")):
        return {"message": "The upstream cancelled the answer.", "code": "cancelled"}
    return True if kind in _FAILURES or status == "failed" else None


def finish_reason(response: Json) -> str | None:
    """Why a response has ended: `completed`, or what made it incomplete. None if it has not."""
    status = response.get("status", "completed")
    if status == "incomplete":
        details = response.get("incomplete_details")
        reason = details.get("reason") if isinstance(details, dict) else None
        return reason if is_reason(reason) else "incomplete"
    return "completed" if status == "completed" else None


def items_of(response: Json) -> list[Json]:
    """The items of a response's output. Errors: `Malformed`."""
    output = response.get("output")
    if not isinstance(output, list | None):
        raise Malformed
    return [item for item in output or () if isinstance(item, dict)]


def parts_of(item: Json, name: str) -> list[Json]:
    """The parts of an item's `content` or `summary`."""
    parts = item.get(name)
    return [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []


def _read_whole(response: Json, steps: list[Step]) -> None:
    for place, item in enumerate(items_of(response)):
        _read_item(item, place, steps)
    _read_end(response, steps)


def _read_item(item: Json, place: int, steps: list[Step]) -> None:
    """Reads an item, which in a stream is empty at first."""
    match item.get("type"):
        case "message":
            for part in parts_of(item, "content"):
                _read_part(part, steps)
        case "reasoning":
            for part in parts_of(item, "content"):
                _read_part(part, steps)
            for at, part in enumerate(parts_of(item, "summary")):
                _add_words(Reasoning, f"{PARAGRAPH if at else ''}{_string(part.get('text'))}", steps)
        case "function_call":
            named = _string(item.get("call_id")), _string(item.get("name"))
            steps.append(ToolCall(place, *named, _string(item.get("arguments"))))
        case "image_generation_call" if image := _string(item.get("result")):
            kind = f"image/{_string(item.get('output_format')) or 'png'}"
            steps.append(File(f"data:{kind};base64,{image}", kind))
        case _:
            steps.append(Other())


def _read_part(part: Json, steps: list[Step]) -> None:
    match part.get("type"):
        case "output_text":
            _add_words(Text, part.get("text"), steps)
            for note in part.get("annotations") or ():
                _add_source(note, steps)
        case "reasoning_text":
            _add_words(Reasoning, part.get("text"), steps)
        case "refusal":
            _add_words(Refusal, part.get("refusal"), steps)
        case _:
            steps.append(Other())


def _read_beginning(payload: Json, _steps: list[Step]) -> None:
    if response_in(payload) is None:
        raise Malformed


def _read_ending(payload: Json, steps: list[Step]) -> None:
    response = response_in(payload)
    if response is None:
        raise Malformed
    items_of(response)
    _read_end({**response, "status": payload["type"].removeprefix("response.")}, steps)
    steps.append(EndMark())


def _read_end(response: Json, steps: list[Step]) -> None:
    if (reason := finish_reason(response)) is not None:
        steps.append(Finish(reason))
    if usage := modest(response.get("usage")):
        steps.append(Usage(usage))


def _read_item_added(payload: Json, steps: list[Step]) -> None:
    _read_item(_object(payload, "item"), _place(payload), steps)


def _read_item_done(payload: Json, steps: list[Step]) -> None:
    """A whole item. All of it has been said before, but for a picture."""
    item = _object(payload, "item")
    if item.get("type") == "image_generation_call":
        _read_item(item, _place(payload), steps)


def _read_part_added(payload: Json, steps: list[Step]) -> None:
    _read_part(_object(payload, "part"), steps)


def _read_summary_part(payload: Json, steps: list[Step]) -> None:
    if payload.get("summary_index"):
        steps.append(Reasoning(PARAGRAPH))


def _read_arguments(payload: Json, steps: list[Step]) -> None:
    if piece := _piece(payload):
        steps.append(ToolCall(_place(payload), "", "", piece))


def _read_annotation(payload: Json, steps: list[Step]) -> None:
    _add_source(payload.get("annotation"), steps)


def _words(kind: type[Text | Reasoning | Refusal]) -> Callable[[Json, list[Step]], None]:
    def read(payload: Json, steps: list[Step]) -> None:
        if piece := _piece(payload):
            steps.append(kind(piece))

    return read


def _piece(payload: Json) -> str:
    delta = payload.get("delta")
    if type(delta) is not str:
        raise Malformed
    return delta


def _object(payload: Json, name: str) -> Json:
    value = payload.get(name)
    if type(value) is not dict:
        raise Malformed
    return value


def _add_words(kind: type[Text | Reasoning | Refusal], text: Any, steps: list[Step]) -> None:
    if text and isinstance(text, str):
        steps.append(kind(text))


def _add_source(note: Any, steps: list[Step]) -> None:
    if isinstance(note, dict) and note.get("type") == "url_citation" and _string(note.get("url")):
        steps.append(Source(note["url"], _string(note.get("title"))))


def _place(payload: Json) -> int:
    index = payload.get("output_index")
    return index if type(index) is int else -1


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


_MEANINGS: Mapping[str, Callable[[Json, list[Step]], None]] = {
    "response.output_text.delta": _words(Text),
    "response.refusal.delta": _words(Refusal),
    "response.reasoning_text.delta": _words(Reasoning),
    "response.reasoning_summary_text.delta": _words(Reasoning),
    "response.function_call_arguments.delta": _read_arguments,
    "response.output_text.annotation.added": _read_annotation,
    "response.content_part.added": _read_part_added,
    "response.reasoning_summary_part.added": _read_summary_part,
    "response.output_item.added": _read_item_added,
    "response.output_item.done": _read_item_done,
    **dict.fromkeys(BEGINNINGS, _read_beginning),
    **dict.fromkeys(ENDS, _read_ending),
}
