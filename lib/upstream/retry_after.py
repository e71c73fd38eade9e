"""How long an upstream asks to be left alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST_SECONDS = 86_400.0
_NUMBER = re.compile(r"\d+(\.\d*)?|\.\d+", re.ASCII)


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds, at most `LONGEST_SECONDS`; 0.0 where none are asked for.

    `Retry-After` has seconds or a date (RFC 9110, section 10.2.3), and from some upstreams fractions of a second.
    `retry-after-ms`, of Azure and OpenAI, is the more exact of the two.
    """
    milliseconds = headers.get("retry-after-ms", "").strip()
    if _NUMBER.fullmatch(milliseconds):
        return min(float(milliseconds) / 1000, LONGEST_SECONDS)
    value = headers.get("Retry-After", "").strip()
    if _NUMBER.fullmatch(value):
        return min(float(value), LONGEST_SECONDS)
    try:
        date = parsedate_to_datetime(value)
    except (TypeError, ValueError, OverflowError):
        return 0.0
    left = (date if date.tzinfo else date.replace(tzinfo=UTC)) - datetime.now(UTC)
    return max(0.0, min(left.total_seconds(), LONGEST_SECONDS))
