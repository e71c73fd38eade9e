"""The public door: HTTP in, JSON or server-sent events out.

Reads requests and writes responses; what they mean is `generations`', what a stream looks like is `stream`'s. No module
imported from here may know how to call the upstream.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

import orjson
from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from lib import stream
from lib.auth import UserTokens
from lib.documents import Unreachable
from lib.errors import HoldfastError, InvalidRequest, NotFound, TooLarge, Unavailable, UnsupportedMediaType
from lib.generations import MAX_PAGE, ChatRequest, Generations
from lib.model import Generation, State, document_id
from lib.settings import Settings
from lib.stream import UpstreamRefusal
from lib.tail import Piece, Tail

PAGE = 20
_STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

log = logging.getLogger(__name__)


def create_api(settings: Settings, generations: Generations, users: UserTokens) -> Flask:
    """The public API as a Flask application."""
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_request_bytes

    def uid() -> str:
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

    @app.get("/healthz")
    def health() -> Response:
        return jsonify(status="ok")

    def respond(generation: Generation, tail: Tail, *, streamed: bool, refusing: bool) -> Response:
        """The answer from where `tail` is. `refusing`: an upstream's refusal is this response's status."""
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
        answer = Response(
            stream.frames(tail, piece, keepalive=settings.keepalive_seconds, seconds=settings.response_seconds),
            content_type="text/event-stream; charset=utf-8",
            headers={**headers, **_STREAM_HEADERS},
        )
        answer.call_on_close(tail.close)
        return answer

    @app.errorhandler(HoldfastError)
    def refuse(error: HoldfastError) -> Response:
        return _refusal(error, {})

    @app.errorhandler(Unreachable)
    def unreachable(error: Unreachable) -> Response:
        log.warning("Firestore can't be reached", extra={"cause": str(error)})
        return _refusal(Unavailable("The database can't be reached. Try again.", retry_after=1), {})

    @app.errorhandler(RequestEntityTooLarge)
    def too_large(_error: RequestEntityTooLarge) -> Response:
        return _refusal(TooLarge(f"The body is larger than {settings.max_request_bytes} bytes, the limit here."), {})

    @app.errorhandler(HTTPException)
    def unroutable(error: HTTPException) -> Response:
        answer = _refusal(NotFound(f"There is nothing at {request.method} {request.path}.", code="no_such_route"), {})
        answer.status_code = error.code or 500
        if "Allow" in dict(error.get_headers()):
            answer.headers["Allow"] = dict(error.get_headers())["Allow"]
        return answer

    @app.errorhandler(Exception)
    def unexpected(_error: Exception) -> Response:
        log.exception("request failed")
        return _refusal(HoldfastError("Something went wrong here. Try again."), {})

    return app


def _refusal(error: HoldfastError, headers: dict[str, str]) -> Response:
    if isinstance(error, UpstreamRefusal) and error.upstream_body:
        answer = Response(error.upstream_body, status=error.status)
        answer.headers["Content-Type"] = error.content_type or "text/plain; charset=utf-8"
    else:
        answer = Response(orjson.dumps(error.body()), status=error.status, mimetype="application/json")
    answer.headers.update(headers)
    if error.retry_after:
        answer.headers["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


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
