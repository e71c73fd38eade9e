"""Puts the pieces of tool calls together, as protocols need it that are written from steps. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from lib.dialects.steps import ToolCall


@dataclass(slots=True)
class Call:
    """A tool call so far. `number` counts the answer's calls, starting with 1."""

    id: str
    name: str
    number: int
    pieces: list[str] = field(default_factory=list)

    @property
    def arguments(self) -> str:
        return "".join(self.pieces)


class Calls:
    """The tool calls of one choice, in order. A call without an id gets `unnamed` and its number."""

    def __init__(self, unnamed: str):
        self._unnamed = unnamed
        self._places: dict[int, Call] = {}
        self.all: list[Call] = []

    def add(self, step: ToolCall) -> Call | None:
        """The call that a piece belongs to, which may be a new one, or none. `ToolCall` has the rule."""
        if step.place < 0:
            known = next((call for call in self.all if call.id == step.id), None) if step.id else None
            known = known or (self.all[-1] if self.all and not step.id else None)
        else:
            known = self._places.get(step.place)
        if known is None and not step.name:
            return None
        if known is None or (step.name and step.id and step.id != known.id):
            number = len(self.all) + 1
            known = Call(step.id or f"{self._unnamed}{number}", step.name, number)
            self.all.append(known)
        if step.place >= 0:
            self._places[step.place] = known
        if step.arguments:
            known.pieces.append(step.arguments)
        return known
