"""Routes for existing generations, whichever protocol started them: show, follow, list, stop and delete."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from flask import Flask, Response, jsonify, request

from lib.domain.end import State
from lib.domain.errors import InvalidRequest
from lib.domain.generation import Generation
from lib.domain.ids import document_id
from lib.serving.feed import Piece
from lib.serving.generations import MAX_PAGE
from lib.wires import every
from lib.wires.failures import summary
from lib.wires.http import in_frames
from lib.wires.service import Service

PAGE = 20


def register(app: Flask, service: Service) -> None:
    """Adds the routes."""

    @app.get("/v1/generations/<generation_id>")
    def show(generation_id: str) -> Response:
        generation, head = service.generations.find(service.identify(request.headers), generation_id)
        if "text/event-stream" not in request.headers.get("Accept", ""):
            return jsonify(shown(generation, head.last))
        tail = service.generations.resume(generation, cursor(head.last), every.asked())
        return in_frames(
            generation, tail, Piece([], tail.cursor), service.dialects.get(generation.dialect), service.settings
        )

    @app.get("/v1/generations")
    def index() -> Response:
        user = service.identify(request.headers)
        limit = page_size()
        chat_id = request.args.get("chat_id")
        after = request.args.get("cursor")
        found = service.generations.list(
            user,
            chat_id=document_id(chat_id, "chat_id") if chat_id is not None else None,
            states=states(),
            after=document_id(after, "cursor") if after else None,
            limit=limit,
        )
        following = found[-1][0].id if len(found) == limit else None
        return jsonify(data=[shown(generation, last) for generation, last in found], next=following)

    @app.post("/v1/generations/<generation_id>/stop")
    def stop(generation_id: str) -> tuple[Response, int]:
        generation, head = service.generations.stop(service.identify(request.headers), generation_id)
        return jsonify(shown(generation, head.last)), 200 if generation.state.terminal else 202

    @app.delete("/v1/generations/<generation_id>")
    def delete(generation_id: str) -> tuple[str, int]:
        service.generations.delete(service.identify(request.headers), generation_id)
        return "", 204


def cursor(last: int) -> int:
    """The number of the last event that the client has, from `?after=` or `Last-Event-ID`. The default is 0."""
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


def page_size() -> int:
    value = request.args.get("limit", str(PAGE))
    if not value.isascii() or not value.isdigit() or len(value) > 4 or not 1 <= int(value) <= MAX_PAGE:
        raise InvalidRequest(f"'limit' must be a whole number from 1 to {MAX_PAGE}.", param="limit")
    return int(value)


def states() -> list[State]:
    given = [state for value in request.args.getlist("state") for state in value.split(",") if state]
    try:
        return [State(state) for state in given]
    except ValueError as error:
        known = ", ".join(State)
        raise InvalidRequest(f"'state' must be one of {known}, or several with commas.", param="state") from error


def shown(generation: Generation, last: int) -> dict[str, Any]:
    """A generation as its owner sees it; `last` is the number of its last event."""
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
        "turn": generation.turn,
        "parent": generation.parent,
        "replaces": generation.replaces,
        "usage": generation.usage,
        "error": summary(generation.error),
        "createdAt": _time(generation.created_at),
        "startedAt": _time(generation.started_at),
        "finishedAt": _time(generation.finished_at),
        "expireAt": _time(generation.expire_at),
    }


def _time(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z") if moment else None
