"""The message as an app shows it: a document of its own, whole from the moment a generation is asked for.

Pure. Says what is in the document at each stage, and how what is too large for one document is laid out in several.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lib.domain.end import Fields, State
from lib.domain.generation import Generation

INLINE_BYTES = 700 << 10  # of text in the message's own document; Firestore takes 1 MiB with all names and numbers
PART_BYTES = 900 << 10
_SHORT = 256  # characters: an id, a name, a reason; it stays where it is,
_SHORT_BYTES = 100 << 10  # unless there are very many of them
_LEVELS = 15
_MEMBERS = 5_000
_NAME_BYTES = 1_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """What an upstream's events add up to.

    `fields` are the message's own: `content`, and where there are such `reasoning`, `refusal`, `toolCalls`,
    `finishReason`, `choices` and `extra`. `model` is the upstream's word for it, `usage` as the upstream sent it;
    `input_tokens` and `output_tokens` are read from it.
    """

    fields: Fields
    model: str | None = None
    usage: Fields | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A further piece of one of the message's texts; `field` is its dotted place in the message.

    Like the message, and unlike generations and journals, it does not expire.
    """

    id: str
    field: str
    text: str

    def fields(self) -> Fields:
        return {"field": self.field, "text": self.text}


def opening(generation: Generation) -> Fields:
    """The message from the first moment on."""
    return {
        "role": "assistant",
        "content": "",
        "state": str(State.QUEUED),
        "reason": None,
        "model": generation.model,
        "usage": None,
        "error": None,
        "stoppedBy": None,
        "generationId": generation.id,
        "createdAt": generation.created_at,
        "updatedAt": generation.created_at,
        "finishedAt": None,
    }


def started(now: datetime) -> Fields:
    """What changes when the answer begins."""
    return {"state": str(State.STREAMING), "updatedAt": now}


def ended(generation: Generation, said: Said) -> tuple[Fields, list[Part]]:
    """What changes when the answer has ended, and the parts that its own document can't hold.

    The parts' ids have the attempt in them: a worker that lost its lease can't overwrite those of the one that has it.
    """
    kept = {name: _kept(value) for name, value in said.fields.items()}
    fields, parts = spill(kept, prefix=f"{generation.attempt}-")
    return {
        **fields,
        "parts": [part.id for part in parts],
        "state": str(generation.state),
        "reason": generation.reason,
        "model": said.model or generation.model,
        "usage": generation.usage,
        "error": generation.error,
        "stoppedBy": "user" if generation.state is State.STOPPED else None,
        "updatedAt": generation.finished_at,
        "finishedAt": generation.finished_at,
    }, parts


def plain(fields: Fields) -> Fields:
    """What of the fields Firestore takes in any case: the words, and none of an upstream's structures."""
    return {
        name: value for name, value in fields.items() if isinstance(value, str | datetime | None) or name == "parts"
    }


def _kept(value: Any) -> Any:
    """A structure that Firestore can hold, or its JSON text.

    Firestore takes 20 levels of maps and lists, names of 1,500 bytes, and 40,000 entries in indexes for a document.
    """
    levels = members = 0
    inner = [value]
    while inner:
        levels += 1
        members += len(inner)
        if levels > _LEVELS or members > _MEMBERS:
            return json.dumps(value, ensure_ascii=False)
        maps = [item for item in inner if isinstance(item, Mapping)]
        if any(len(name.encode()) > _NAME_BYTES for item in maps for name in item):
            return json.dumps(value, ensure_ascii=False)
        inner = [member for item in maps for member in item.values()] + [
            member for item in inner if isinstance(item, list) for member in item
        ]
    return value


def spill(fields: Mapping[str, Any], prefix: str, inline: int = INLINE_BYTES) -> tuple[Fields, list[Part]]:
    """The fields with at most `inline` bytes of text, and the rest of each text in parts of at most `PART_BYTES`.

    Short texts stay, up to `_SHORT_BYTES` beyond that.
    """
    parts: list[Part] = []
    left = inline

    def place(value: Any, path: str) -> Any:
        nonlocal left
        if isinstance(value, Mapping):
            return {key: place(item, f"{path}.{key}" if path else str(key)) for key, item in value.items()}
        if isinstance(value, list):
            return [place(item, f"{path}.{index}") for index, item in enumerate(value)]
        if not isinstance(value, str):
            return value
        if len(value) <= _SHORT and left > -_SHORT_BYTES:
            left -= len(value.encode())
            return value
        kept, rest = cut(value, left)
        left -= len(kept.encode())
        for piece in pieces(rest, PART_BYTES):
            parts.append(Part(f"{prefix}{len(parts):05}", path, piece))
        return kept

    return place(fields, ""), parts


def cut(text: str, size: int) -> tuple[str, str]:
    """`text` in two: as many whole characters as `size` bytes of UTF-8 hold, and the rest."""
    if len(text) * 4 <= size:
        return text, ""
    encoded = text.encode()
    if len(encoded) <= size:
        return text, ""
    kept = encoded[: max(size, 0)].decode(errors="ignore")
    return kept, text[len(kept) :]


def pieces(text: str, size: int) -> list[str]:
    """`text` in pieces of at most `size` bytes of UTF-8 each, in whole characters."""
    found = []
    while text:
        piece, text = cut(text, size)
        found.append(piece)
    return found
