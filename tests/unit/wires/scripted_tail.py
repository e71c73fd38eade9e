"""A scripted tail for the wires."""

from __future__ import annotations

import json
from typing import cast

from lib.domain.end import End
from lib.domain.event import Event
from lib.serving.feed import Piece
from lib.serving.tail import Tail


class ScriptedTail:
    """Returns its pieces, then nothing. An exception among them is raised."""

    generation_id = "g1"
    closing = False
    follow = Tail.follow

    def __init__(self, *script: Piece | Exception, cursor: int = 0):
        self.script = list(script)
        self.cursor = cursor
        self.waits: list[float] = []
        self.closed = False

    @property
    def tail(self) -> Tail:
        return cast(Tail, self)

    def next(self, seconds: float) -> Piece:
        self.waits.append(seconds)
        piece = self.script.pop(0) if self.script else Piece([], self.cursor)
        if isinstance(piece, Exception):
            raise piece
        self.cursor = piece.last
        return piece

    def close(self) -> None:
        self.closed = True


def piece(*numbers: int, end: End | None = None) -> Piece:
    """A chunk for each number, with the text `w` and the number."""
    return Piece([Event(chunk(number)) for number in numbers], numbers[-1] if numbers else 0, end)


def chunk(number: int) -> bytes:
    delta = {"content": f"w{number}"}
    return json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}).encode()
