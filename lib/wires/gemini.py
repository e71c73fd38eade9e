"""The Gemini protocol: generated content, as server-sent events or as one body.

https://ai.google.dev/api/generate-content. Google's SDKs read each line of a stream but `data:` as an error's JSON
(Python), or drop an event that begins with another line (JavaScript), so that there are no numbers and no comments.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Flask, request

from lib.domain.errors import InvalidRequest, NotFound
from lib.wires import native
from lib.wires.service import Service

PATH = "/<any(v1, v1beta):version>/models/<path:model>:<method>"  # the SDKs differ in the version
_STREAMED = {"generateContent": False, "streamGenerateContent": True}


def register(app: Flask, service: Service) -> None:
    """Adds the route."""
    native.register(app, PATH, service.dialects["gemini"], service, beside=_asked, bare=True)


def _asked(model: str, method: str, version: str) -> Mapping[str, Any]:  # noqa: ARG001
    """What the path says of a request. Errors: `NotFound`, `InvalidRequest`."""
    streamed = _STREAMED.get(method)
    if streamed is None:
        words = f"There is no method '{method[:100]}' here. Use {' or '.join(_STREAMED)}."
        raise NotFound(words, code="no_such_method")
    if streamed and request.args.get("alt") != "sse":
        raise InvalidRequest("A stream is sent as server-sent events only: ask for it with '?alt=sse'.", param="alt")
    return {"model": model, "stream": streamed}
