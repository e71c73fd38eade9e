"""What each upstream call of an answer took: what the upstream said, else what was seen of it.

An answer that is asked for again, or for its rest, is billed by its upstream once more, so each call is counted.
"""

from __future__ import annotations

from lib.dialects.counts import counted
from lib.dialects.steps import OUTPUT, WORDS, Finish, Json, Step, ToolCall, Usage
from lib.domain.usage import Spent

CHARACTERS_A_TOKEN = 4


class Calls:
    """The calls of one answer. `add` takes the steps of each event, and `begin` says that a new call follows."""

    def __init__(self) -> None:
        self._ended: list[Spent] = []
        self._usage: Json = {}
        self._events = self._characters = 0
        self._finished = False

    def add(self, steps: tuple[Step, ...]) -> None:
        has_output = False
        for step in steps:
            if isinstance(step, OUTPUT):
                has_output = True
                if isinstance(step, WORDS):
                    self._characters += len(step.text)
                elif isinstance(step, ToolCall):
                    self._characters += len(step.name) + len(step.arguments)
            elif isinstance(step, Usage):
                self._usage |= step.usage
            elif isinstance(step, Finish):
                self._finished = True
        self._events += has_output

    def begin(self) -> None:
        """What follows is of another call."""
        self._ended.append(self._current())
        self._usage, self._events, self._characters, self._finished = {}, 0, 0, False

    @property
    def spent(self) -> tuple[Spent, ...]:
        """What each call has taken so far."""
        return *self._ended, self._current()

    def _current(self) -> Spent:
        """A count of output before the finish is of what was sent by then, and may be of less than was seen.

        Seen are at least as many tokens as there were events with output, and about one for every four characters.
        """
        said = counted(self._usage)
        seen = max(self._events, -(-self._characters // CHARACTERS_A_TOKEN))
        output = said.output if said.output and self._finished else max(said.output, seen)
        return Spent(said.input, output, said.cached)


def seen(text: str) -> Spent:
    """What is counted of an answer of which only the text can be read."""
    return Spent(output=-(-len(text) // CHARACTERS_A_TOKEN))
