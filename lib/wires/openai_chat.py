"""The OpenAI protocol: chat completions, as server-sent events or as one body, and the list of models."""

from __future__ import annotations

from typing import Any

from flask import Flask, Response, jsonify, request

from lib.domain.errors import InvalidRequest, NotFound
from lib.wires import native
from lib.wires.service import Service


def register(app: Flask, service: Service) -> None:
    """Adds the routes."""

    native.register(app, "/v1/chat/completions", service.dialects["chat_completions"], service)

    @app.get("/v1/models")
    def models() -> Response:
        service.identify(request.headers)
        named = [
            each for each in service.settings.catalog.models() if not each[0].endswith("*")
        ]  # a pattern is no model
        return jsonify(object="list", data=[shown(*each) for each in named])

    @app.get("/v1/models/<path:model>")
    def model(model: str) -> Response:
        service.identify(request.headers)
        try:
            return jsonify(shown(model, service.settings.catalog.serving(model).name))
        except InvalidRequest as error:
            raise NotFound(error.message, code=error.code, param=error.param) from error


def shown(model: str, upstream: str) -> dict[str, Any]:
    """A model in the shape of OpenAI's list."""
    return {"id": model, "object": "model", "created": 0, "owned_by": upstream}
