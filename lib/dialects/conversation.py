"""A conversation, independent of the model API: how client protocols that belong to no API say what they ask for.

Pure values. A wire reads its own request into a `Conversation`, and the dialect of the model's upstream writes a
request from it. What an API can't express is an error that names it; nothing is left out in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Json = dict[str, Any]


class Role(StrEnum):
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """Text of a turn."""

    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Attachment:
    """An image or another file. `url` is an address, or a `data:` URL with the contents."""

    url: str
    media_type: str
    name: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolUse:
    """A tool call of the assistant's. `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolResult:
    """The result of the tool call `id`, as text: an error's message if `is_error`."""

    id: str
    name: str
    output: str
    is_error: bool = False


Part = Words | Attachment | ToolUse | ToolResult


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """Consecutive parts of one side. Results of tools are in a turn of the user's side that follows their calls."""

    role: Role
    parts: tuple[Part, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tool:
    """A function that the model may call. `parameters` is a JSON Schema."""

    name: str
    parameters: Json
    description: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """A request for the next turn. `options` are fields of the API that the model's upstream supports."""

    model: str
    turns: tuple[Turn, ...]
    instructions: str | None = None
    tools: tuple[Tool, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
