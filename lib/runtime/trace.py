"""The trace context of the current work: parsed from a request, added to log lines, passed on to the queue.

One value and one context variable. The context is propagated even if no spans are made; `telemetry` makes those.
"""

from __future__ import annotations

import re
import secrets
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Self

_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_CLOUD = re.compile(r"(?!0{32})([0-9a-fA-F]{32})(?:/([0-9]{1,20}))?(?:;o=([0-9]))?")
_SPANS = range(1, 1 << 64)


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace context: the trace's id (32 hex digits), the parent span's id (16), and whether the trace is recorded."""

    trace_id: str
    span_id: str
    sampled: bool

    @property
    def traceparent(self) -> str:
        """The `traceparent` header of "Trace Context" (W3C)."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"

    @classmethod
    def from_headers(cls, traceparent: str | None, cloud: str | None) -> Self | None:
        """Parses a `traceparent` header, or else Google's older `X-Cloud-Trace-Context`.

        The latter is `TRACE_ID/SPAN_ID;o=OPTIONS`. Its span id is decimal, and 0 if there is none.
        """
        found = _TRACEPARENT.fullmatch((traceparent or "").strip())
        if found and not (found[1] == "00" and found[5]):
            return cls(found[2], found[3], bool(int(found[4], 16) & 1))
        found = _CLOUD.fullmatch((cloud or "").strip())
        if found is None:
            return None
        span = int(found[2] or 0)
        span_id = f"{span:016x}" if span in _SPANS else secrets.token_hex(8)
        return cls(found[1].lower(), span_id, found[3] == "1")


current: ContextVar[Trace | None] = ContextVar("trace", default=None)
