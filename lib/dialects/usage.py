"""Token usage as upstreams send it: what of it can be stored. The counts in it are read in `counts`."""

from __future__ import annotations

from typing import Any

from lib.dialects import payload as json_text
from lib.dialects.steps import Json

_BYTES = 1400  # of JSON; it limits names too, for which Firestore allows 1,500 bytes
_LEVELS = 5


def is_modest(usage: Any) -> bool:
    """Whether a usage object is small and flat enough to be stored in three documents."""
    if not isinstance(usage, dict):
        return False
    levels = 0
    inner: list[Any] = [usage]
    while inner:
        levels += 1
        inner = [item for value in inner if isinstance(value, dict) for item in value.values()]
        if levels > _LEVELS or any(isinstance(value, list) for value in inner):
            return False
    return len(json_text.write(usage)) <= _BYTES


def modest(usage: Any) -> Json:
    """The fields of a usage object that say something and can be stored."""
    if not isinstance(usage, dict):
        return {}
    kept = {key: value for key, value in usage.items() if value is not None and is_modest({key: value})}
    return kept if is_modest(kept) else {}
