"""Steps: the meaning of one event, independent of the model API.

The engine determines from steps how an answer ended, and client protocols of other APIs are written from them. `choice`
is the number of the answer among those that one request asked for, starting with 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

Json = dict[str, Any]


class Text(NamedTuple):
    """Visible text to append."""

    text: str
    choice: int = 0


class Reasoning(NamedTuple):
    """Thinking to append."""

    text: str
    choice: int = 0


class Refusal(NamedTuple):
    """Text of a refusal by the model, to append."""

    text: str
    choice: int = 0


class ToolCall(NamedTuple):
    """A piece of a tool call, as the upstream sent it: most send `id` and `name` once, some with every piece.

    `place` tells the calls of a choice apart. It is -1 if the upstream leaves it out: the piece is of the call with
    this id, or of the last one. A name with another id than that of the call at this place starts a new call. A piece
    without a name at a place where no call began is of no call, but of a tool that the upstream itself runs.
    """

    place: int
    id: str
    name: str
    arguments: str
    choice: int = 0


class File(NamedTuple):
    """A picture or another file, as an address or a `data:` URL."""

    url: str
    media_type: str
    choice: int = 0


class Source(NamedTuple):
    """A page that the answer cites."""

    url: str
    title: str
    choice: int = 0


class Other(NamedTuple):
    """Other output: audio, or a part that this service does not know."""

    choice: int = 0


class Usage(NamedTuple):
    """The token usage so far, as the upstream sent it. A later one replaces each field that it has."""

    usage: Json


class Finish(NamedTuple):
    """The upstream's finish reason for a choice. Later output of the same choice withdraws it."""

    reason: str
    choice: int = 0


class EndMark(NamedTuple):
    """The API's mark for the end of the stream."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """The upstream's own error, with limited length.

    `status` is an HTTP status from 400 to 599, if the upstream sent one. `passing` means that the error is transient,
    so that another call may succeed. `about_key`: the upstream refused this service's key, whatever the status says.
    `over`: the answer itself has failed, so that nothing more of it can be read. `body` is the error as JSON text in
    the API's own format, or empty.
    """

    message: str
    code: str
    type: str | None = None
    param: str | None = None
    status: int | None = None
    passing: bool = False
    about_key: bool = False
    over: bool = False
    body: str = ""


def is_reason(value: Any) -> bool:
    """Whether this is a finish reason. Some upstreams send "null" or an empty string instead of null."""
    return isinstance(value, str) and value not in ("", "null")


Output = Text | Reasoning | Refusal | ToolCall | File | Source | Other
Step = Output | Usage | Finish | EndMark | Fault
WORDS = (Text, Reasoning, Refusal)
OUTPUT = (*WORDS, ToolCall, File, Source, Other)
