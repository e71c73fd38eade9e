"""OpenAI's Responses, over upstreams of any API: create, retrieve, follow, cancel and delete.

https://platform.openai.com/docs/api-reference/responses
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import orjson
from flask import Blueprint, Flask, Response, jsonify, request
from werkzeug.exceptions import RequestEntityTooLarge

from lib.dialects.conversation import Json
from lib.domain.errors import Conflict, HoldfastError, InvalidRequest, NotFound, StillRunning, Unavailable
from lib.domain.event import Event
from lib.domain.generation import Generation
from lib.serving.feed import Piece
from lib.serving.generations import Started
from lib.serving.start_request import StartRequest
from lib.serving.tail import Tail
from lib.wires import every
from lib.wires.bodies import object_in
from lib.wires.failures import shown
from lib.wires.frames import KEEP_ALIVE, frame, in_writes
from lib.wires.http import (
    bound_writes,
    ended,
    first_piece,
    header,
    named,
    refusal,
    retried,
    streamed,
    wants_bare_events,
)
from lib.wires.responses.input import items_of
from lib.wires.responses.kept import INPUT, Kept, KeptResponses, Rendering, response_id
from lib.wires.responses.request import check, portable, read, shown_of
from lib.wires.responses.stream import Numbered
from lib.wires.service import Service

SPOKEN = "responses"  # the dialect that is this API


def register(app: Flask, service: Service) -> None:
    """Adds the routes."""
    wire = Blueprint("openai_responses", __name__)
    responses = KeptResponses(service)
    settings = service.settings

    @wire.post("/v1/responses")
    def create() -> Response:
        user = service.identify(request.headers)
        started, kept, is_streamed = begin(user)
        bound_writes(settings.send_seconds)
        generation, tail, rendering = started.generation, started.tail, responses.rendering(started.generation, kept)
        try:
            if kept.get("background"):
                if is_streamed:
                    return respond(generation, tail, Piece([], 0), rendering)
                tail.close()
                shown = responses.shown(responses.find(user, response_id(generation))) if started.attached else None
                return whole(generation, shown or rendering.response("queued"))
            first = first_piece(tail, settings.status_wait_seconds)
            if is_streamed:
                return respond(generation, tail, first, rendering)
            end = ended(tail, first, rendering.take, settings.response_seconds)
            rendering.end(end)
            return whole(generation, rendering.ended(end))
        except HoldfastError as error:
            tail.close()
            return refusal(error, located(generation), foreign=generation.dialect != SPOKEN)
        except BaseException:
            tail.close()
            raise

    def begin(user: str) -> tuple[Started, Json, bool]:
        with service.bodies.json(user) as body:
            fields = object_in(body)
            check(fields)
            previous = responses.previous(user, its) if (its := fields.get("previous_response_id")) else None
            speaks = settings.catalog.serving(fields["model"]).speaks
            asking = passed(fields, previous) if SPOKEN in speaks else rendered(fields, previous)
            begun = replace(
                asking,
                chat_id=header("X-Chat-Id"),
                message_id=header("X-Message-Id"),
                idempotency_key=header("Idempotency-Key"),
                retried=retried(),
                every=every.asked(),
            )
            return service.generations.start(user, begun), orjson.loads(begun.own), bool(fields.get("stream"))

    def passed(fields: Json, previous: Kept | None) -> StartRequest:
        """For an upstream that speaks this API. It is always asked for a stream, so that there is one to follow."""
        sent = {name: value for name, value in fields.items() if name != "previous_response_id"}
        if previous is not None and INPUT in previous.request:
            sent[INPUT] = portable([*responses.conversation(previous), *items_of(fields.get(INPUT))])
        elif previous is not None:
            sent["previous_response_id"] = responses.upstream_id(previous)
        own = orjson.dumps(shown_of(fields))
        return StartRequest(body=orjson.dumps(sent), dialect=SPOKEN, beside={"stream": True}, own=own)

    def rendered(fields: Json, previous: Kept | None) -> StartRequest:
        """For an upstream that speaks another API."""
        asked = read(fields, responses.conversation(previous) if previous is not None else ())
        own = orjson.dumps(asked.kept)
        if len(own) > settings.max_request_bytes:
            raise InvalidRequest(
                f"The conversation has more than {settings.max_request_bytes} bytes with all that came before, which "
                "is the limit here (MAX_REQUEST_BYTES). Begin a new one.",
                code="conversation_too_large",
                param="previous_response_id",
            )
        return StartRequest(body=asked.conversation, own=own)

    def respond(generation: Generation, tail: Tail, first: Piece, rendering: Rendering, after: int = -1) -> Response:
        bounds = {"keepalive": settings.keepalive_seconds, "seconds": settings.response_seconds}
        pieces = chunks(tail, first, rendering, after, bare=wants_bare_events(), **bounds)
        return streamed(tail, pieces, located(generation))

    @wire.get("/v1/responses/<its_id>")
    def retrieve(its_id: str) -> Response:
        kept = responses.find(service.identify(request.headers), its_id)
        if request.args.get("stream") != "true" and "text/event-stream" not in request.headers.get("Accept", ""):
            return whole(kept.generation, responses.shown(kept))
        after = cursor()
        tail = service.generations.resume(kept.generation, 0, every.asked())
        bound_writes(settings.send_seconds)
        return respond(kept.generation, tail, Piece([], 0), responses.rendering(kept.generation, kept.request), after)

    @wire.post("/v1/responses/<its_id>/cancel")
    def cancel(its_id: str) -> Response:
        user = service.identify(request.headers)
        kept = responses.find(user, its_id, retrieve=False)
        try:
            generation, head = service.generations.stop(user, kept.generation.id)
        except Conflict:
            generation, head = service.generations.find(user, kept.generation.id)  # it is over, which is what was asked
        return whole(generation, responses.shown(Kept(generation, head, kept.request)))

    @wire.delete("/v1/responses/<its_id>")
    def delete(its_id: str) -> Response:
        user = service.identify(request.headers)
        kept = responses.find(user, its_id, retrieve=False)
        service.generations.delete(user, kept.generation.id)
        return jsonify(id=its_id, object="response", deleted=True)

    @wire.post("/v1/responses/compact")
    @wire.post("/v1/responses/input_tokens")
    def not_rendered() -> Response:
        """Without this it would be a response's id, which takes no POST."""
        raise NotFound(f"There is nothing at {request.path} here.", code="no_such_route")

    @wire.errorhandler(RequestEntityTooLarge)
    @wire.errorhandler(Exception)
    def refuse(error: Exception) -> Response:
        return refusal(shown(error), foreign=True)

    app.register_blueprint(wire)


def located(generation: Generation) -> dict[str, str]:
    """The headers that identify a response."""
    return {**named(generation), "Location": f"/v1/responses/{response_id(generation)}"}


def whole(generation: Generation, response: Mapping[str, Any]) -> Response:
    """A response with the whole object."""
    return Response(orjson.dumps(response), mimetype="application/json", headers=located(generation))


def cursor() -> int:
    """The number of the last event that the client has, from `?starting_after=` or `Last-Event-ID`; -1 if none."""
    asked, last = request.args.get("starting_after"), request.headers.get("Last-Event-ID")
    given = asked or last
    if not given:
        return -1
    if not given.isascii() or not given.isdigit() or len(given) > 15:
        raise InvalidRequest(
            "'starting_after' must be the sequence_number of an event: a whole number from 0.",
            code="invalid_cursor",
            param="starting_after",
        )
    return int(given) if asked else int(given) - 1  # an `id:` is one more: 0 is that of a client which has no event


def chunks(
    tail: Tail, first: Piece, rendering: Rendering, after: int, *, keepalive: float, seconds: float, bare: bool
) -> Iterator[bytes]:
    """The events after number `after`. Ends after at most `seconds`, and closes the tail.

    The last event has no `id:`, so that a client that resumes by ids knows that no more follow. `bare`: none has one.
    """

    def framed(events: list[Numbered]) -> Iterator[bytes]:
        return in_writes([frame(event, None if bare else number + 1) for number, event in events if number > after])

    try:
        yield from framed(rendering.begin())
        for piece in tail.follow(first, keepalive=keepalive, seconds=seconds):
            yield from framed([each for event in piece.events for each in rendering.take(event)])
            if not piece.events and piece.end is None:
                yield b"\n" if bare else KEEP_ALIVE
        if piece.end is not None:
            *others, (number, last) = rendering.end(piece.end)
            yield from framed(others)
            if number < after:
                words = f"'starting_after' is {after}, and the last event's number is {number}."
                error: HoldfastError = InvalidRequest(words, code="invalid_cursor", param="starting_after")
                yield _failed(error, number)
            elif number > after:
                yield frame(last)
            return
        told = max(rendering.number, after)
        words = f"This response has lasted as long as it may. Retrieve the rest with starting_after={told}."
        yield _failed(StillRunning(words), told)
    except Unavailable as error:
        shown(error)
        told = max(rendering.number, after)
        words = f"The answer can't be read now. Retrieve the rest with starting_after={told}."
        yield _failed(Unavailable(words), told)
    except Exception as error:
        yield _failed(shown(error), max(rendering.number, after))


def _failed(error: HoldfastError, number: int) -> bytes:
    """An error of ours as an event, which is none of the answer's: its number is that of the last one of those."""
    told: Json = {"code": error.code, "message": error.message, "param": error.param}
    return frame(Event(orjson.dumps({"type": "error", "sequence_number": number, **told, **error.body()}), b"error"))
