"""Answers that wait before one of their tokens for as long as a test needs, however slow the machine is."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, Self

from local.demo_fields import BadField, Check, checked, line, whole

_FIELDS: dict[str, Check] = {"text": line, "at": whole(0, 1_000_000)}


class Hold:
    """Holds the answers to requests with this text, which are streams, before their token number `at`."""

    def __init__(self, text: str, at: int):
        self.text = text
        self.at = at
        self._moved = asyncio.Event()

    @classmethod
    def read(cls, given: Any) -> Self:
        """Parses `{"text": …, "at": …}`. Raises `BadField`."""
        fields = checked(given, _FIELDS, "hold")
        for missing in _FIELDS.keys() - fields:
            raise BadField(f"hold.{missing}", "is missing")
        return cls(**fields)

    def is_for(self, request: bytes) -> bool:
        """Whether a request, as JSON, has the text."""
        return json.dumps(self.text)[1:-1].encode() in request

    def holds(self, step: int) -> bool:
        return step >= self.at

    async def over(self, step: int) -> None:
        """Waits until token number `step` is held no more."""
        while self.holds(step):
            await self._moved.wait()

    def move(self, at: int = sys.maxsize) -> None:
        """Holds before another token, or none, from now on."""
        self.at = at
        self._moved.set()
        self._moved = asyncio.Event()
