"""The OpenAI protocol: chat completions, as server-sent events or as one body, and the list of models."""

from __future__ import annotations

from collections.abc import Callable

from flask import Flask, Response, jsonify, request
from werkzeug.datastructures import Headers

from lib.dialects.protocol import Dialect
from lib.runtime.settings import Settings
from lib.serving.generations import Generations
from lib.wires import native


def register(
    app: Flask, settings: Settings, generations: Generations, identify: Callable[[Headers], str], dialect: Dialect
) -> None:
    """Adds the routes. `dialect` is chat completions. `identify` returns the uid for a request's headers."""

    native.register(app, "/v1/chat/completions", dialect, settings, generations, identify)

    @app.get("/v1/models")
    def models() -> Response:
        identify(request.headers)
        data = [
            {"id": model, "object": "model", "created": 0, "owned_by": upstream}
            for model, upstream in settings.catalog.models()
        ]
        return jsonify(object="list", data=data)
