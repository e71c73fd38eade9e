"""A client protocol that is a model API: requests and answers pass through unchanged between client and upstream.

Everything that such protocols share: they differ in their dialect and in their path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flask import Blueprint, Flask, Response, request

from lib.dialects.protocol import Asked, Dialect
from lib.domain.errors import HoldfastError
from lib.domain.generation import Generation
from lib.serving.generations import Started
from lib.serving.start_request import StartRequest
from lib.serving.tail import Tail
from lib.wires import every
from lib.wires.failures import shown
from lib.wires.http import (
    bound_writes,
    first_piece,
    header,
    in_frames,
    named,
    place,
    refusal,
    retried,
    status_wait,
    whole_body,
)
from lib.wires.service import Service


def register(
    app: Flask,
    path: str,
    dialect: Dialect,
    service: Service,
    *,
    beside: Callable[..., Mapping[str, Any]] = dict,
    bare: bool = False,
) -> None:
    """Adds the route at `path`, whose errors are the dialect's too.

    `beside` returns the fields of a request that are not in its body, given the variable parts of its path. `bare`: the
    API's own clients know only lines of `data:`.
    """
    wire = Blueprint(dialect.name, __name__)

    @wire.post(path)
    def start(**named_in_path: str) -> Response:
        started = begin(service.identify(request.headers), beside(**named_in_path))
        return respond(started.generation, started.tail, started.asked)

    def begin(user: str, beside: Mapping[str, Any]) -> Started:
        with service.bodies.json(user) as body:
            return service.generations.start(
                user,
                StartRequest(
                    body=body,
                    **place(),
                    idempotency_key=header("Idempotency-Key"),
                    dialect=dialect.name,
                    retried=retried(),
                    every=every.asked(),
                    beside=beside,
                    headers={name: value for name in dialect.headers if (value := header(name))},
                ),
            )

    def respond(generation: Generation, tail: Tail, asked: Asked) -> Response:
        bound_writes(service.settings.send_seconds)
        try:
            first = first_piece(tail, status_wait(generation, service.settings))
            if not asked.streamed:
                body = whole_body(tail, first, dialect, asked.choices, service.settings.response_seconds)
                return Response(body, mimetype="application/json", headers=named(generation))
        except HoldfastError as error:
            tail.close()
            return refusal(error, named(generation), dialect)
        except BaseException:
            tail.close()
            raise
        return in_frames(generation, tail, first, dialect, service.settings, bare=bare)

    @wire.errorhandler(Exception)
    def refuse(error: Exception) -> Response:
        return refusal(shown(error), dialect=dialect)

    app.register_blueprint(wire)
