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
    strict: bool | None = None


class ToolMode(StrEnum):
    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolChoice:
    """Whether the model may or must call tools. `name`: it must call this one."""

    mode: ToolMode
    name: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """The answer's text is to be JSON of this JSON Schema, or any object if there is no schema."""

    name: str = "answer"
    schema: Json | None = None
    description: str | None = None
    strict: bool | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """A request for the next turn.

    `parallel_tools`: whether one turn may call several tools. `output_tokens` is the most that the answer may have, and
    `output_tokens_field` what the client calls that.
    `effort` is how much to think: none, minimal, low, medium, high or xhigh. `thoughts`: thinking is to be shown. None
    means the upstream's default. `options` are fields of the API that the model's upstream supports.
    """

    model: str
    turns: tuple[Turn, ...]
    instructions: str | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tools: bool | None = None
    output_tokens: int | None = None
    output_tokens_field: str = ""
    temperature: float | None = None
    top_p: float | None = None
    format: Format | None = None
    effort: str | None = None
    thoughts: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
