"""The events of Anthropic's Messages: what they mean, and those that a whole message is made of.

Rules: https://platform.claude.com/docs/en/build-with-claude/streaming.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lib.dialects import payload as json_text
from lib.dialects.protocol import Malformed
from lib.dialects.steps import Finish, Json, Other, Reasoning, Refusal, Source, Step, Text, ToolCall, Usage, is_reason
from lib.dialects.usage import modest


def steps_of(kind: str, payload: Json) -> tuple[Step, ...]:
    """What an event of this kind means: nothing, if the kind is not known. Errors: `Malformed`."""
    steps: list[Step] = []
    if (meaning := _MEANINGS.get(kind)) is not None:
        meaning(payload, steps)
    return tuple(steps)


def inner_error(payload: Json) -> Any:
    """An error in the message, in a delta, or as the stop reason, where proxies put it. None if there is none."""
    for said in (payload, payload.get("message"), payload.get("delta")):
        if isinstance(said, dict):
            if said.get("error"):
                return said["error"]
            if said.get("stop_reason") == "error":
                return True
    return None


def stream_of(message: Json) -> list[Json]:
    """The events of a stream that adds up to a whole message, without the end mark."""
    blank: Json = {"content": [], "stop_reason": None, "stop_sequence": None}
    ended = ("stop_reason", "stop_sequence", "stop_details", "container")
    events: list[Json] = [{"type": "message_start", "message": {**message, **blank}}]
    for index, block in enumerate(message["content"]):
        if not isinstance(block, dict):
            continue
        start, deltas = _opened(block)
        events.append({"type": "content_block_start", "index": index, "content_block": start})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    delta = {name: message[name] for name in ended if name in message}
    usage = message.get("usage")
    return [*events, {"type": "message_delta", "delta": delta, **({"usage": usage} if usage else {})}]


def _opened(block: Json) -> tuple[Json, list[Json]]:
    """A block as a stream begins it, and the deltas that follow."""
    start, deltas = dict(block), []
    for field, kind in (("thinking", "thinking_delta"), ("signature", "signature_delta"), ("text", "text_delta")):
        if isinstance(block.get(field), str) and f"{block.get('type')}" in ("text", "thinking"):
            start[field] = ""
            deltas.append({"type": kind, field: block[field]})
    if block.get("type") == "text" and isinstance(block.get("citations"), list):
        start["citations"] = []
        deltas += [{"type": "citations_delta", "citation": citation} for citation in block["citations"]]
    if isinstance(block.get("input"), dict):
        start["input"] = {}
        deltas.append({"type": "input_json_delta", "partial_json": json_text.write(block["input"]).decode()})
    return start, deltas


def _read_start(payload: Json, steps: list[Step]) -> None:
    message = payload.get("message")
    if not isinstance(message, dict):
        raise Malformed
    _read_message(message, steps)


def _read_message(message: Json, steps: list[Step]) -> None:
    """Reads a whole message, or the beginning of a streamed one, which rarely has content."""
    content = message.get("content")
    if not isinstance(content, list | None):
        raise Malformed
    for place, block in enumerate(content or ()):
        if isinstance(block, dict):
            _read_block(block, place, steps)
    _read_end(message, message.get("usage"), steps)


def _read_block_start(payload: Json, steps: list[Step]) -> None:
    block = payload.get("content_block")
    if not isinstance(block, dict):
        raise Malformed
    _read_block(block, _place(payload), steps)


def _read_block(block: Json, place: int, steps: list[Step]) -> None:
    match block.get("type"):
        case "text":
            _add_words(Text, block.get("text"), steps)
        case "thinking":
            _add_words(Reasoning, block.get("thinking"), steps)
        case "tool_use":
            given = block.get("input")
            arguments = given if isinstance(given, str) else json_text.write(given).decode() if given else ""
            steps.append(ToolCall(place, _string(block.get("id")), _string(block.get("name")), arguments))
        case _:
            steps.append(Other())


def _read_block_delta(payload: Json, steps: list[Step]) -> None:
    delta = payload.get("delta")
    if type(delta) is not dict:
        raise Malformed
    match delta.get("type"):
        case "text_delta":
            _add_words(Text, delta.get("text"), steps)
        case "thinking_delta":
            _add_words(Reasoning, delta.get("thinking"), steps)
        case "input_json_delta":
            if delta.get("partial_json") and isinstance(delta["partial_json"], str):
                steps.append(ToolCall(_place(payload), "", "", delta["partial_json"]))
        case "citations_delta" if isinstance(delta.get("citation"), dict) and _string(delta["citation"].get("url")):
            steps.append(Source(delta["citation"]["url"], _string(delta["citation"].get("title"))))
        case "signature_delta":
            pass  # it signs what was said, and says nothing itself
        case _:
            steps.append(Other())


def _read_message_delta(payload: Json, steps: list[Step]) -> None:
    delta = payload.get("delta")
    _read_end(delta if isinstance(delta, dict) else {}, payload.get("usage"), steps)


def _read_end(said: Json, usage: Any, steps: list[Step]) -> None:
    reason, details = said.get("stop_reason"), said.get("stop_details")
    if reason == "refusal" and isinstance(details, dict):
        _add_words(Refusal, details.get("explanation"), steps)
    if is_reason(reason):
        steps.append(Finish(str(reason)))
    if kept := modest(usage):
        steps.append(Usage(kept))


def _add_words(kind: type[Text | Reasoning | Refusal], text: Any, steps: list[Step]) -> None:
    if text and isinstance(text, str):
        steps.append(kind(text))


def _place(payload: Json) -> int:
    index = payload.get("index")
    return index if type(index) is int else -1


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


_MEANINGS: Mapping[str, Callable[[Json, list[Step]], None]] = {
    "content_block_delta": _read_block_delta,
    "content_block_start": _read_block_start,
    "message": _read_message,
    "message_delta": _read_message_delta,
    "message_start": _read_start,
}
