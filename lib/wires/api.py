"""The public door: HTTP in, JSON or server-sent events out.

Reads requests and writes responses; what they mean is `generations`', what a stream looks like is `stream`'s. No module
imported from here may know how to call the upstream.
"""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import orjson
from flask import Flask, Response, current_app, jsonify, request
from flask_cors import CORS
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from lib.cloud.documents import Unreachable
from lib.cloud.tokens import AppTokens, UserTokens
from lib.domain.errors import (
    HoldfastError,
    InvalidRequest,
    NotFound,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
)
from lib.domain.generation import Generation, State, document_id
from lib.runtime.settings import Settings
from lib.serving.generations import MAX_PAGE, ChatRequest, Generations
from lib.serving.tail import Piece, Tail
from lib.wires import firebase_callable
from lib.wires import openai_chat as stream
from lib.wires.firebase_callable import Resume, Start, Stop
from lib.wires.openai_chat import UpstreamRefusal

PAGE = 20
_STREAM = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
}
_JSON = {"Content-Type": "application/json"}
_EXPOSED = ["X-Generation-Id", "Location", "Retry-After"]
_PREFLIGHT_SECONDS = 3600

log = logging.getLogger(__name__)


def create_api(settings: Settings, generations: Generations, users: UserTokens, apps: AppTokens | None = None) -> Flask:
    """The public API as a Flask application. With `apps`, every call must have an App Check token."""
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_request_bytes
    CORS(app, origins=list(settings.cors_origins), expose_headers=_EXPOSED, max_age=_PREFLIGHT_SECONDS)

    def uid() -> str:
        if apps is not None:
            apps.verify(request.headers.get("X-Firebase-AppCheck"))
        return users.uid(request.headers.get("Authorization"))

    @app.post("/v1/chat/completions")
    def complete() -> Response:
        user = uid()
        if request.mimetype != "application/json":
            raise UnsupportedMediaType("Send the body as JSON, with 'Content-Type: application/json'.")
        started = generations.start(
            user,
            ChatRequest(
                body=request.get_data(),
                chat_id=_header("X-Chat-Id"),
                message_id=_header("X-Message-Id"),
                idempotency_key=_header("Idempotency-Key"),
            ),
        )
        return respond(started.generation, started.tail, streamed=bool(started.request.get("stream")), refusing=True)

    @app.post("/")
    def call() -> Response:
        """The Firebase callable protocol, in which a stream's errors have the status 200 as well."""
        streamed = "text/event-stream" in request.headers.get("Accept", "")
        _bound_writes(settings.send_seconds)
        try:
            user = uid()
            if request.mimetype != "application/json":
                raise UnsupportedMediaType("Send the body as JSON, with 'Content-Type: application/json'.")
            return answer_call(user, firebase_callable.read(request.get_data()), streamed)
        except Exception as error:
            failure, status = firebase_callable.failure(_shown_error(error))
            if streamed:
                return Response(firebase_callable.line({"error": failure}), headers=_STREAM)
            return Response(orjson.dumps({"error": failure}), status=status, mimetype="application/json")

    def answer_call(user: str, asked: Start | Resume | Stop, streamed: bool) -> Response:
        if isinstance(asked, Stop):
            generation, _ = generations.stop(user, asked.generation)
            ended = firebase_callable.result(*generations.answer(generation))
            return Response(firebase_callable.reply(ended, streamed), headers=_STREAM if streamed else _JSON)
        if isinstance(asked, Resume):
            generation, head = generations.find(user, asked.generation)
            if asked.after > head.last:
                raise InvalidRequest(f"'after' must be from 0 to {head.last}, the last there is.", param="after")
            tail = generations.resume(generation, asked.after)
        else:
            started = generations.start(user, asked.request)
            generation, tail = started.generation, started.tail

        def ending() -> dict[str, Any]:
            return firebase_callable.ended(*generations.answer(generation))

        bounds = {"keepalive": settings.keepalive_seconds, "seconds": settings.response_seconds}
        if streamed:
            messages = firebase_callable.messages(generation, tail, ending, **bounds)
            answer = Response(_sent(messages, _connections()), headers=_STREAM)
            answer.call_on_close(tail.close)
            return answer
        for _ in tail.follow(Piece([], tail.cursor), **bounds):
            pass
        return Response(firebase_callable.reply(ending(), streamed=False), headers=_JSON)

    @app.get("/v1/generations/<generation_id>")
    def show(generation_id: str) -> Response:
        generation, head = generations.find(uid(), generation_id)
        if "text/event-stream" not in request.headers.get("Accept", ""):
            return jsonify(_shown(generation, head.last))
        after = _cursor(head.last)
        return respond(generation, generations.resume(generation, after), streamed=True, refusing=False)

    @app.get("/v1/generations")
    def index() -> Response:
        user = uid()
        limit = _limit()
        chat_id = request.args.get("chat_id")
        cursor = request.args.get("cursor")
        found = generations.list(
            user,
            chat_id=document_id(chat_id, "chat_id") if chat_id is not None else None,
            states=_states(),
            after=document_id(cursor, "cursor") if cursor else None,
            limit=limit,
        )
        following = found[-1][0].id if len(found) == limit else None
        return jsonify(data=[_shown(generation, last) for generation, last in found], next=following)

    @app.post("/v1/generations/<generation_id>/stop")
    def stop(generation_id: str) -> tuple[Response, int]:
        generation, head = generations.stop(uid(), generation_id)
        return jsonify(_shown(generation, head.last)), 200 if generation.state.terminal else 202

    @app.delete("/v1/generations/<generation_id>")
    def delete(generation_id: str) -> tuple[str, int]:
        generations.delete(uid(), generation_id)
        return "", 204

    @app.get("/v1/models")
    def models() -> Response:
        uid()
        data = [
            {"id": model, "object": "model", "created": 0, "owned_by": upstream}
            for model, upstream in settings.catalog.models()
        ]
        return jsonify(object="list", data=data)

    def respond(generation: Generation, tail: Tail, *, streamed: bool, refusing: bool) -> Response:
        """The answer from where `tail` is. `refusing`: an upstream's refusal is this response's status."""
        _bound_writes(settings.send_seconds)
        headers = {"X-Generation-Id": generation.id, "Location": f"/v1/generations/{generation.id}"}
        try:
            piece = stream.first_piece(tail, settings.status_wait_seconds) if refusing else Piece([], tail.cursor)
            if not streamed:
                whole = stream.body(tail, piece, settings.response_seconds)
                return Response(whole, mimetype="application/json", headers=headers)
        except HoldfastError as error:
            tail.close()
            return _refusal(error, headers)
        except BaseException:
            tail.close()
            raise
        frames = stream.frames(tail, piece, keepalive=settings.keepalive_seconds, seconds=settings.response_seconds)
        answer = Response(_sent(frames, _connections()), headers={**headers, **_STREAM})
        answer.call_on_close(tail.close)
        return answer

    @app.errorhandler(RequestEntityTooLarge)
    @app.errorhandler(Exception)
    def refuse(error: Exception) -> Response:
        return _refusal(_shown_error(error), {})

    @app.errorhandler(HTTPException)
    def unroutable(error: HTTPException) -> Response:
        answer = _refusal(NotFound(f"There is nothing at {request.method} {request.path}.", code="no_such_route"), {})
        answer.status_code = error.code or 500
        if "Allow" in dict(error.get_headers()):
            answer.headers["Allow"] = dict(error.get_headers())["Allow"]
        return answer

    return app


def _shown_error(error: Exception) -> HoldfastError:
    """An error as a client may see it."""
    if isinstance(error, HoldfastError):
        return error
    if isinstance(error, Unreachable):
        log.warning("Firestore can't be reached", extra={"cause": str(error)})
        return Unavailable("The database can't be reached. Try again.", retry_after=1)
    if isinstance(error, RequestEntityTooLarge):
        limit = current_app.config["MAX_CONTENT_LENGTH"]
        return TooLarge(f"The body is larger than {limit} bytes, the limit here.")
    log.error("request failed", exc_info=error)
    return HoldfastError("Something went wrong here. Try again.")


def _refusal(error: HoldfastError, headers: dict[str, str]) -> Response:
    if isinstance(error, UpstreamRefusal) and error.upstream_body:
        answer = Response(error.upstream_body, status=error.status, content_type=error.content_type)
    else:
        answer = Response(orjson.dumps(error.body()), status=error.status, mimetype="application/json")
    answer.headers.update(headers)
    if error.retry_after:
        answer.headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, Unauthenticated):
        answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


def _bound_writes(seconds: float) -> None:
    """A client that reads nothing blocks the thread that writes to it; after this time the write fails."""
    for connection in _connections():
        connection.settimeout(seconds)


def _sent(pieces: Iterator[bytes], connections: Sequence[socket.socket]) -> Iterator[bytes]:
    """A stream's pieces. Where they can't be sent the connection ends at once, with what its client did not take.

    gunicorn would wait two seconds for such a client to hang up, in the one thread that takes new connections.
    """
    try:
        yield from pieces
    except GeneratorExit:
        for connection in connections:
            try:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has ended already
        raise


def _connections() -> list[socket.socket]:
    return [request.environ[name] for name in ("gunicorn.socket", "werkzeug.socket") if name in request.environ]


def _header(name: str) -> str | None:
    """A header as text. WSGI gives a header's bytes as Latin-1 (PEP 3333); an id may be any UTF-8."""
    value = request.headers.get(name)
    if value is None:
        return None
    try:
        return value.encode("latin-1").decode()
    except UnicodeError as error:
        raise InvalidRequest(f"{name} must be UTF-8.", code="invalid_id", param=name) from error


def _cursor(last: int) -> int:
    """The number of the last event a client has: `?after=`, or the `Last-Event-ID` header, or none."""
    for name, value in (("after", request.args.get("after")), ("Last-Event-ID", request.headers.get("Last-Event-ID"))):
        if not value:
            continue
        if not value.isascii() or not value.isdigit() or len(value) > 15 or int(value) > last:
            raise InvalidRequest(
                f"'{name}' must be the id of an event of this generation: a whole number from 0 to {last}.",
                code="invalid_cursor",
                param=name,
            )
        return int(value)
    return 0


def _limit() -> int:
    value = request.args.get("limit", str(PAGE))
    if not value.isascii() or not value.isdigit() or len(value) > 4 or not 1 <= int(value) <= MAX_PAGE:
        raise InvalidRequest(f"'limit' must be a whole number from 1 to {MAX_PAGE}.", param="limit")
    return int(value)


def _states() -> list[State]:
    given = [state for value in request.args.getlist("state") for state in value.split(",") if state]
    try:
        return [State(state) for state in given]
    except ValueError as error:
        known = ", ".join(State)
        raise InvalidRequest(f"'state' must be one of {known}, or several with commas.", param="state") from error


def _shown(generation: Generation, last: int) -> dict[str, Any]:
    """A generation as its owner sees it."""
    error = generation.error
    return {
        "id": generation.id,
        "object": "generation",
        "state": generation.state,
        "reason": generation.reason,
        "chatId": generation.chat_id,
        "messageId": generation.message_id,
        "model": generation.model,
        "lastSeq": last,
        "attempt": generation.attempt,
        "usage": generation.usage,
        "error": {"message": error.get("message"), "code": error.get("code")} if error else None,
        "createdAt": _time(generation.created_at),
        "startedAt": _time(generation.started_at),
        "finishedAt": _time(generation.finished_at),
        "expireAt": _time(generation.expire_at),
    }


def _time(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z") if moment else None
