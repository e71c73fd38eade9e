"""A scripted upstream call, and pieces of chat completions."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import Any

from lib.upstream.call import Head
from lib.upstream.fault import UpstreamFault

SSE = "text/event-stream"
JSON = "application/json"
BROKEN = UpstreamFault("upstream_disconnected", "It broke off.", passing=True)
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
DONE = b"data: [DONE]\n\n"

Piece = bytes | Exception | Callable[[], object]


class ScriptedCall:
    """Opens with a head, and returns its pieces one by one, up to a fault or the end.

    A piece that is a function is called, and may wait.
    """

    def __init__(self, head: Head | str | Exception, *pieces: Piece):
        self._head = head_of(content_type=head) if isinstance(head, str) else head
        self._pieces = deque(pieces)
        self._fault: Exception | None = None
        self.closed = False
        self.was_cut = False

    def open(self) -> Head:
        if isinstance(self._head, Exception):
            raise self._head
        return self._head

    def read(self) -> bytes:
        while self._fault is None and self._pieces:
            piece = self._pieces.popleft()
            if isinstance(piece, bytes):
                if piece:  # an empty one would be the end
                    return piece
            elif isinstance(piece, Exception):
                self._fault = piece
            else:
                piece()
        if self._fault is not None:
            raise self._fault
        return b""

    @property
    def left(self) -> int:
        """The number of unread pieces."""
        return len(self._pieces)

    def cut(self) -> None:
        self.was_cut = True

    def close(self) -> None:
        self.closed = True


def head_of(status: int = 200, content_type: str = SSE, retry_after: float = 0.0) -> Head:
    media_type = content_type.partition(";")[0].strip().lower()
    return Head(status=status, content_type=content_type, media_type=media_type, retry_after=retry_after)


def data(payload: Any) -> bytes:
    """A payload as an event of a stream."""
    return b"data: " + (payload if isinstance(payload, bytes) else json.dumps(payload).encode()) + b"\n\n"


def delta(finish: str | None = None, index: int = 0, **fields: Any) -> dict[str, Any]:
    return {"id": "c1", "choices": [{"index": index, "delta": fields, "finish_reason": finish}]}


def hello() -> list[bytes]:
    return [data(delta(role="assistant")), data(delta(content="Hel")), data(delta(content="lo"))]


def completion(**more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "Hello"}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return {"id": "c1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, **more}
