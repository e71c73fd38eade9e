"""The message document that applications show. It exists, with all its fields, from the start of a generation.

Pure. Defines the document's fields at each stage, and how content that is too large for one document is divided.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lib.domain.end import Fields, State
from lib.domain.generation import Generation
from lib.domain.usage import Spent

INLINE_BYTES = 700 << 10  # of text in the message document; Firestore allows 1 MiB including names and numbers
PART_BYTES = 900 << 10
_SHORT = 256  # characters: ids, names and reasons stay in the message document,
_SHORT_BYTES = 100 << 10  # up to this many bytes beyond `INLINE_BYTES`
_LEVELS = 15
_MEMBERS = 2_000  # five such fields, at up to three index entries a member, stay below 40,000
_NAME_BYTES = 1_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """The answer that an upstream's events add up to.

    `fields` go into the message: `content`, and if present `reasoning`, `refusal`, `toolCalls`, `finishReason`,
    `choices` and `extra`. `model` and `usage` are as the upstream sent them, and `input_tokens` and `output_tokens` are
    read from `usage`. `calls` is what each upstream call took, as far as it was seen.
    """

    fields: Fields
    model: str | None = None
    usage: Fields | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    calls: tuple[Spent, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """The continuation of a text that did not fit into the message document. `field` is the text's dotted path there.

    Like the message, and unlike generations and journals, parts do not expire.
    """

    id: str
    field: str
    text: str

    def fields(self) -> Fields:
        return {"field": self.field, "text": self.text}


def opening(generation: Generation) -> Fields:
    """The message's initial fields."""
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
        "parent": generation.parent,
        "replaces": generation.replaces,
        "createdAt": generation.created_at,
        "updatedAt": generation.created_at,
        "finishedAt": None,
    }


def started(now: datetime) -> Fields:
    """The fields that change when the answer starts."""
    return {"state": str(State.STREAMING), "updatedAt": now}


def ended(generation: Generation, said: Said) -> tuple[Fields, list[Part]]:
    """The fields that change when the answer has ended, and the parts that do not fit into the message document.

    Part ids contain the attempt's number, so a worker that has lost its lease can't overwrite its successor's.
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
    """The fields that Firestore is certain to accept: texts and dates, but no structures from an upstream."""
    return {
        name: value for name, value in fields.items() if isinstance(value, str | datetime | None) or name == "parts"
    }


def _kept(value: Any) -> Any:
    """The value itself if Firestore can store it, and otherwise its JSON text.

    Firestore allows 20 levels of maps and lists, names of 1,500 bytes, and 40,000 index entries per document.
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
    """The fields cut to at most `inline` bytes of text, and the rest of each text in parts of at most `PART_BYTES`.

    Short texts are kept whole, up to `_SHORT_BYTES` beyond `inline`.
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
    """Cuts `text` in two: the whole characters that fit into `size` bytes of UTF-8, and the rest."""
    if len(text) * 4 <= size:
        return text, ""
    encoded = text.encode()
    if len(encoded) <= size:
        return text, ""
    kept = encoded[: max(size, 0)].decode(errors="ignore")
    return kept, text[len(kept) :]


def pieces(text: str, size: int) -> list[str]:
    """Cuts `text` into pieces of at most `size` bytes of UTF-8 each, between characters."""
    found = []
    while text:
        piece, text = cut(text, size)
        found.append(piece)
    return found
