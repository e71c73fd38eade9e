"""A client protocol that is a model API: requests and answers pass through unchanged between client and upstream.

Everything that such protocols share: they differ in their dialect and in their path.
"""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint, Flask, Response, request
from werkzeug.datastructures import Headers
from werkzeug.exceptions import RequestEntityTooLarge

from lib.dialects.protocol import Asked, Dialect
from lib.domain.errors import HoldfastError
from lib.domain.generation import Generation
from lib.runtime.settings import Settings
from lib.serving.generations import Generations, Started
from lib.serving.start_request import StartRequest
from lib.serving.tail import Tail
from lib.wires.bodies import Bodies
from lib.wires.failures import shown
from lib.wires.responses import (
    bound_writes,
    first_piece,
    header,
    in_frames,
    named,
    refusal,
    retried,
    whole_body,
)


def register(
    app: Flask,
    path: str,
    dialect: Dialect,
    settings: Settings,
    generations: Generations,
    identify: Callable[[Headers], str],
    bodies: Bodies,
) -> None:
    """Adds the route at `path`, whose errors are the dialect's too. `identify` returns the uid for headers."""
    wire = Blueprint(dialect.name, __name__)

    @wire.post(path)
    def start() -> Response:
        started = begin(identify(request.headers))
        return respond(started.generation, started.tail, started.asked)

    def begin(user: str) -> Started:
        with bodies.json(user) as body:
            return generations.start(
                user,
                StartRequest(
                    body=body,
                    chat_id=header("X-Chat-Id"),
                    message_id=header("X-Message-Id"),
                    idempotency_key=header("Idempotency-Key"),
                    dialect=dialect.name,
                    retried=retried(),
                    headers={name: value for name in dialect.headers if (value := header(name))},
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
            return refusal(error, named(generation), dialect)
        except BaseException:
            tail.close()
            raise
        return in_frames(generation, tail, first, dialect, settings)

    @wire.errorhandler(RequestEntityTooLarge)
    @wire.errorhandler(Exception)
    def refuse(error: Exception) -> Response:
        return refusal(shown(error), dialect=dialect)

    app.register_blueprint(wire)
