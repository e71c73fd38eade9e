"""The OpenAI protocol: chat completions, as server-sent events or as one body, and the list of models.

Requests and answers pass through unchanged between client and upstream.
"""

from __future__ import annotations

from collections.abc import Callable

from flask import Flask, Response, jsonify, request
from werkzeug.datastructures import Headers

from lib.dialects.protocol import Asked, Dialect
from lib.domain.errors import HoldfastError
from lib.domain.generation import Generation
from lib.runtime.settings import Settings
from lib.serving.generations import Generations, Started
from lib.serving.start_request import StartRequest
from lib.serving.tail import Tail
from lib.wires.bodies import Bodies
from lib.wires.responses import (
    bound_writes,
    first_piece,
    header,
    in_frames,
    named,
    refusal,
    whole_body,
)


def register(
    app: Flask,
    settings: Settings,
    generations: Generations,
    identify: Callable[[Headers], str],
    dialect: Dialect,
    bodies: Bodies,
) -> None:
    """Adds the routes. `dialect` is chat completions. `identify` returns the uid for a request's headers."""

    @app.post("/v1/chat/completions")
    def complete() -> Response:
        started = start(identify(request.headers))
        return respond(started.generation, started.tail, started.asked)

    def start(user: str) -> Started:
        with bodies.json(user) as body:
            return generations.start(
                user,
                StartRequest(
                    body=body,
                    chat_id=header("X-Chat-Id"),
                    message_id=header("X-Message-Id"),
                    idempotency_key=header("Idempotency-Key"),
                    dialect=dialect.name,
                ),
            )

    def respond(generation: Generation, tail: Tail, asked: Asked) -> Response:
        bound_writes(settings.send_seconds)
        try:
            first = first_piece(tail, settings.status_wait_seconds)
            if not asked.streamed:
                body = whole_body(tail, first, dialect, asked.choices, settings.response_seconds)
                return Response(body, mimetype="application/json", headers=named(generation))
        except HoldfastError as error:
            tail.close()
            return refusal(error, named(generation))
        except BaseException:
            tail.close()
            raise
        return in_frames(generation, tail, first, dialect, settings)

    @app.get("/v1/models")
    def models() -> Response:
        identify(request.headers)
        data = [
            {"id": model, "object": "model", "created": 0, "owned_by": upstream}
            for model, upstream in settings.catalog.models()
        ]
        return jsonify(object="list", data=data)
