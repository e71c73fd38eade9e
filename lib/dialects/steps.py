"""Steps: what one event of an upstream's answer means, whichever API it is written in.

The engine decides by steps how an answer ended, and wires that are not the upstream's own say answers by them.
`choice` is the number of the answer among those that one request asked for, 0 for the first or only one.
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
    """A refusal's words to append: the model declined."""

    text: str
    choice: int = 0


class ToolCall(NamedTuple):
    """A piece of a tool call, as the upstream sent it: most say `id` and `name` once, some with every piece.

    `place` is the call's number within the choice, or -1 where the upstream leaves it out: then it is the call with
    this id, or the last one. A name with an id other than that of the call at its place begins another call.
    """

    place: int
    id: str
    name: str
    arguments: str
    choice: int = 0


class Other(NamedTuple):
    """Output of another kind: an image, audio, a part that this service does not know."""

    choice: int = 0


class Usage(NamedTuple):
    """What the answer has cost so far, as the upstream says it. A later one replaces it."""

    usage: Json


class Finish(NamedTuple):
    """The upstream says that a choice has ended, and why. Output of that choice after it withdraws it."""

    reason: str
    choice: int = 0


class EndMark(NamedTuple):
    """The API's own mark that nothing comes after it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """The upstream's own error, in its own words, bounded.

    `status` is an HTTP status from 400 to 599 where the upstream named one; `passing` tells whether another call may
    do better; `body` is the error as JSON text in the API's own shape, empty where there is none.
    """

    message: str
    code: str
    type: str | None = None
    param: str | None = None
    status: int | None = None
    passing: bool = False
    body: str = ""


Output = Text | Reasoning | Refusal | ToolCall | Other
Step = Output | Usage | Finish | EndMark | Fault
WORDS = (Text, Reasoning, Refusal)
OUTPUT = (*WORDS, ToolCall, Other)
