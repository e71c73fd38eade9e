"""Validation of ids and tokens that come from outside: ids must be valid in Firestore and in paths."""

from __future__ import annotations

import re

from lib.domain.errors import InvalidRequest

MAX_ID_BYTES = 200
MAX_TOKEN = 4096  # characters, of a device
_RESERVED_ID = re.compile(r"__.*__")


def document_id(value: str, param: str) -> str:
    """Returns `value` if it is valid as a document id. Errors: `InvalidRequest`, which names `param`.

    Firestore requires valid UTF-8 of at most 1,500 bytes, no slash, not `.` or `..`, not `__.*__`. Holdfast allows 200
    bytes, so that a whole path stays far below Firestore's limit of 6 KiB, and only printable characters.
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


def device_token(value: str, param: str) -> str:
    """Returns `value` if it can be an FCM registration token. Errors: `InvalidRequest`, which names `param`."""
    if not value.isprintable() or len(value) > MAX_TOKEN:
        raise InvalidRequest(
            f"{param} must be an FCM registration token of at most {MAX_TOKEN} characters.", param=param
        )
    return value
