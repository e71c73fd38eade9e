"""JSON as the demo upstream sends it."""

from __future__ import annotations

import json
from typing import Any

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode  # json.dumps would make one per call


def dumps(value: Any) -> bytes:
    """Compact JSON in UTF-8, as providers send it: characters beyond ASCII are not escaped."""
    return _encode(value).encode()
