"""The OpenAI protocol: chat completions, as server-sent events or as one body, and the list of models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Flask, Response, jsonify, request
from werkzeug.datastructures import Headers

from lib.dialects.protocol import Dialect
from lib.domain.errors import InvalidRequest, NotFound
from lib.runtime.settings import Settings
from lib.serving.generations import Generations
from lib.wires import native
from lib.wires.bodies import Bodies


def register(
    app: Flask,
    settings: Settings,
    generations: Generations,
    identify: Callable[[Headers], str],
    dialect: Dialect,
    bodies: Bodies,
) -> None:
    """Adds the routes. `dialect` is chat completions. `identify` returns the uid for a request's headers."""

    native.register(app, "/v1/chat/completions", dialect, settings, generations, identify, bodies)

    @app.get("/v1/models")
    def models() -> Response:
        identify(request.headers)
        named = [each for each in settings.catalog.models() if not each[0].endswith("*")]  # a pattern is no model
        return jsonify(object="list", data=[shown(*each) for each in named])

    @app.get("/v1/models/<path:model>")
    def model(model: str) -> Response:
        identify(request.headers)
        try:
            return jsonify(shown(model, settings.catalog.serving(model).name))
        except InvalidRequest as error:
            raise NotFound(error.message, code=error.code, param=error.param) from error


def shown(model: str, upstream: str) -> dict[str, Any]:
    """A model in the shape of OpenAI's list."""
    return {"id": model, "object": "model", "created": 0, "owned_by": upstream}
