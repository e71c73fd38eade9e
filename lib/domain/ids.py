"""Ids that users give: what Firestore and a path can take."""

from __future__ import annotations

import re

from lib.domain.errors import InvalidRequest

MAX_ID_BYTES = 200
_RESERVED_ID = re.compile(r"__.*__")


def document_id(value: str, param: str) -> str:
    """`value`, if Firestore and a path can take it as a document's id. Errors: `InvalidRequest` that names `param`.

    Firestore: valid UTF-8 of at most 1,500 bytes, no slash, not `.` or `..`, not `__.*__`. Holdfast allows 200 bytes,
    so that a whole path stays far below Firestore's 6 KiB, and nothing that can't be printed.
    """
    remedy = f"give 1 to {MAX_ID_BYTES} bytes of printable characters without '/', not '.', '..' or '__…__'"
    if (
        not value
        or not value.isprintable()
        or "/" in value
        or value in (".", "..")
        or _RESERVED_ID.fullmatch(value)
        or len(value.encode("utf-8", "replace")) > MAX_ID_BYTES
    ):
        raise InvalidRequest(f"{param} can't be used as an id: {remedy}.", code="invalid_id", param=param)
    return value
