"""The public application: the routes of all client protocols, error handling and CORS.

`serving` decides what a request does, and each protocol's module how it is written. Nothing imported here may be able
to call the upstream.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches

from flask import Flask, Response, request
from flask_cors import CORS
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map

from lib.dialects.protocol import Dialect
from lib.domain.errors import NotFound
from lib.runtime.settings import Settings
from lib.serving.generations import Generations
from lib.wires import gemini, messages, openai_chat, usage
from lib.wires import generations as generations_wire
from lib.wires.ai_sdk import wire as ai_sdk
from lib.wires.bodies import Bodies
from lib.wires.failures import shown
from lib.wires.firebase_callable import wire as firebase_callable
from lib.wires.http import EXPOSED_HEADERS, refusal
from lib.wires.responses import wire as responses
from lib.wires.service import Service

_PREFLIGHT_SECONDS = 3600
_MOST_PARTS = 8  # of a wrong path that are looked at


def create_api(
    settings: Settings,
    generations: Generations,
    identify: Callable[[Headers], str],
    dialects: Mapping[str, Dialect],
) -> Flask:
    """The public API as a Flask application.

    `identify` returns the uid for a request's headers. Its errors: `Unauthenticated`, `Unavailable`.
    """
    app = Flask(__name__)
    CORS(app, origins=list(settings.cors_origins), expose_headers=list(EXPOSED_HEADERS), max_age=_PREFLIGHT_SECONDS)
    bodies = Bodies(settings)
    app.after_request(bodies.discard)
    service = Service(settings=settings, generations=generations, identify=identify, dialects=dialects, bodies=bodies)
    for wire in (openai_chat, responses, messages, gemini, generations_wire, firebase_callable, ai_sdk, usage):
        wire.register(app, service)

    @app.errorhandler(Exception)
    def refuse(error: Exception) -> Response:
        return refusal(shown(error))

    @app.errorhandler(HTTPException)
    def unroutable(error: HTTPException) -> Response:
        words = f"There is nothing at {request.method} {request.path[:100]}."
        allowed = dict(error.get_headers()).get("Allow")
        if allowed:
            words += f" It takes {allowed}."
        elif meant := _meant(request.path, app.url_map):
            words += f" Did you mean {meant}?"
        answer = refusal(NotFound(words, code="no_such_route"))
        answer.status_code = error.code or 500
        if allowed:
            answer.headers["Allow"] = allowed
        return answer

    return app


def _meant(path: str, routes: Map) -> str | None:
    """The path that a wrong one was probably meant to be: most often the base URL's version is missing or twice."""
    parts = path.strip("/").split("/")[-_MOST_PARTS:]
    ends = ["/" + "/".join(parts[at:]) for at in range(len(parts))]
    there = routes.bind("")
    nearly = (each for end in ends for each in (end, f"/v1{end}") if len(end) > 1 and there.allowed_methods(each))
    return next(nearly, None) or next(
        iter(get_close_matches(path, [rule.rule for rule in routes.iter_rules()], 1)), None
    )
