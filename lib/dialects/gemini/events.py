"""What one response of Gemini's means: a whole answer, or an event of a stream, which has the same shape.

Rules: https://ai.google.dev/api/generate-content#v1beta.GenerateContentResponse.
"""

from __future__ import annotations

import hashlib
from typing import Any

from lib.dialects import payload as json_text
from lib.dialects.protocol import Malformed
from lib.dialects.steps import File, Finish, Json, Other, Reasoning, Source, Step, Text, ToolCall, Usage
from lib.dialects.usage import modest
from lib.domain.event import Event

OWN_ID = "holdfast-"
"""How the ids of calls begin to which the upstream gave none."""

_NO_REASONS = frozenset({"", "FINISH_REASON_UNSPECIFIED", "BLOCK_REASON_UNSPECIFIED", "BLOCKED_REASON_UNSPECIFIED"})
_SAYS_NOTHING = frozenset({"text", "thought", "thoughtSignature"})


def steps_of(event: Event, payload: Json) -> tuple[Step, ...]:
    """What an event means, whose JSON is `payload`. Errors: `Malformed`."""
    steps: list[Step] = []
    for index, candidate in indexed(payload):
        _read_candidate(candidate, index, event, steps)
    if (reason := blocked(payload)) is not None:
        steps.append(Finish(reason))
    if usage := modest(payload.get("usageMetadata")):
        steps.append(Usage(usage))
    return tuple(steps)


def indexed(payload: Json) -> list[tuple[int, Json]]:
    """The candidates and their numbers: JSON leaves out an index that is 0. Errors: `Malformed`."""
    candidates = payload.get("candidates")
    if not isinstance(candidates, list | None):
        raise Malformed
    numbered = []
    for at, candidate in enumerate(candidates or ()):
        if isinstance(candidate, dict):
            index = candidate.get("index")
            numbered.append((index if type(index) is int else at, candidate))
    return numbered


def parts_of(candidate: Json) -> list[Json]:
    """The parts of a candidate's content. Errors: `Malformed`."""
    content = candidate.get("content")
    parts = content.get("parts") if isinstance(content, dict) else content
    if not isinstance(parts, list | None):
        raise Malformed
    return [part for part in parts or () if isinstance(part, dict)]


def finish_reason(value: Any) -> str | None:
    """A reason, if it is one."""
    return value if isinstance(value, str) and value not in _NO_REASONS else None


def blocked(payload: Json) -> str | None:
    """Why the prompt was blocked, which is all that there is of such an answer."""
    feedback = payload.get("promptFeedback")
    return finish_reason(feedback.get("blockReason")) if isinstance(feedback, dict) and not indexed(payload) else None


def _read_candidate(candidate: Json, index: int, event: Event, steps: list[Step]) -> None:
    for at, part in enumerate(parts_of(candidate)):
        if (step := _part(part, index, (event, at))) is not None:
            steps.append(step)
    grounding = candidate.get("groundingMetadata")
    chunks = grounding.get("groundingChunks") if isinstance(grounding, dict) else None
    for chunk in chunks if isinstance(chunks, list) else ():
        page = chunk.get("web") if isinstance(chunk, dict) else None
        if isinstance(page, dict) and _string(page.get("uri")):
            steps.append(Source(page["uri"], _string(page.get("title")), index))
    if (reason := finish_reason(candidate.get("finishReason"))) is not None:
        steps.append(Finish(reason, index))


def _part(part: Json, choice: int, place: tuple[Event, int]) -> Step | None:
    """What a part says. A signature says nothing, wherever it is."""
    text, thought = part.get("text"), bool(part.get("thought"))
    if text and isinstance(text, str):
        return Reasoning(text, choice) if thought else Text(text, choice)
    if part.keys() <= _SAYS_NOTHING:
        return None
    match part:
        case {"functionCall": {"name": str(name), **call}} if name and not call.keys() & {
            "partialArgs",
            "willContinue",
        }:
            own = _string(call.get("id")) or _own_id(choice, *place)
            return ToolCall(-1, own, name, json_text.write(call.get("args") or {}).decode(), choice)
        case {"inlineData": {"data": str(data), **held}} if data and not thought:
            media_type = _string(held.get("mimeType")) or "application/octet-stream"
            return File(f"data:{media_type};base64,{data}", media_type, choice)
        case {"fileData": {"fileUri": str(url), **held}} if url and not thought:
            return File(url, _string(held.get("mimeType")) or "application/octet-stream", choice)
    return Other(choice)


def _own_id(choice: int, event: Event, at: int) -> str:
    """An id for a call without one. It is the same whenever the event is read."""
    digest = hashlib.sha256(b"%d/%d/" % (choice, at) + event.data)
    return OWN_ID + digest.hexdigest()[:24]


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""
