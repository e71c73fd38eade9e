"""OpenAI's Responses, over upstreams of any API: create, retrieve, follow, cancel and delete.

https://platform.openai.com/docs/api-reference/responses
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import orjson
from flask import Blueprint, Flask, Response, jsonify, request

from lib.dialects.conversation import Json
from lib.dialects.responses.ids import kept_for_account
from lib.domain.errors import Conflict, HoldfastError, InvalidRequest, NotFound, StillRunning, Unavailable
from lib.domain.event import Event
from lib.domain.generation import Generation
from lib.runtime.catalog import Upstream
from lib.serving.feed import Piece
from lib.serving.generations import Started
from lib.serving.start_request import StartRequest, kept_elsewhere
from lib.serving.tail import Tail
from lib.wires import every, nodes
from lib.wires.bodies import object_in
from lib.wires.failures import shown
from lib.wires.frames import KEEP_ALIVE, frame, in_writes
from lib.wires.http import (
    bound_writes,
    ended,
    first_piece,
    header,
    named,
    place,
    refusal,
    retried,
    status_wait,
    streamed,
    wants_bare_events,
)
from lib.wires.responses.compaction import compacted, opened, summarising
from lib.wires.responses.input import items_of
from lib.wires.responses.input_items import page
from lib.wires.responses.kept import INPUT, REFERENCES, Kept, KeptResponses, Rendering, response_id
from lib.wires.responses.references import References
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
        with ExitStack() as held:
            started, shown, is_streamed = begin(user, held)
            bound_writes(settings.send_seconds)
            generation, tail = started.generation, started.tail
            rendering = responses.rendering(generation, shown)
            try:
                if shown.get("background"):
                    if is_streamed:
                        return respond(generation, tail, Piece([], 0), rendering, held)
                    tail.close()
                    if not started.attached:
                        return whole(generation, rendering.response("queued"))
                    with service.bodies.reading(user) as reading:
                        return whole(generation, responses.shown(responses.find(reading, response_id(generation))))
                first = first_piece(tail, status_wait(generation, settings))
                if is_streamed:
                    return respond(generation, tail, first, rendering, held)
                end = ended(tail, first, rendering.take, settings.response_seconds)
                rendering.end(end)
                return whole(generation, rendering.ended(end))
            except HoldfastError as error:
                tail.close()
                return refusal(error, located(generation), foreign=generation.dialect != SPOKEN)
            except BaseException:
                tail.close()
                raise

    def begin(user: str, held: ExitStack) -> tuple[Started, Json, bool]:
        """Starts an answer. What is shown of its request counts as held until `held` is closed."""
        with service.bodies.json(user) as body, service.bodies.reading(user) as reading:
            fields = object_in(body)
            check(fields)
            previous = responses.previous(reading, fields.get("previous_response_id"))
            started, shown = start(user, fields, previous, References(responses, reading), held)
            return started, shown, bool(fields.get("stream"))

    def start(
        user: str, fields: Json, previous: Kept | None, references: References, held: ExitStack, *, placed: bool = True
    ) -> tuple[Started, Json]:
        """The generation, and what is shown of its request. `placed`: it is where the headers say."""
        upstream = settings.catalog.serving(fields["model"])
        if SPOKEN in upstream.speaks:
            asking = passed(fields, previous, upstream, references)
        else:
            asking = rendered(fields, previous, references)
        begun = replace(
            asking,
            **(place() if placed else {}),
            idempotency_key=header("Idempotency-Key"),
            retried=retried(),
            every=every.asked(),
        )
        shown = held_shown(user, orjson.loads(begun.own), held)
        return service.generations.start(user, begun), shown

    def passed(fields: Json, previous: Kept | None, upstream: Upstream, references: References) -> StartRequest:
        """For an upstream that speaks this API. It is always asked for a stream, so that there is one to follow."""
        sent = {name: value for name, value in fields.items() if name != "previous_response_id"}
        own, earlier = shown_of(fields), []
        if previous is not None and INPUT in previous.request:
            earlier = portable(responses.conversation(references.reading, previous))
        elif previous is not None:
            sent["previous_response_id"] = responses.upstream_id(previous)
        if earlier or not isinstance(fields.get(INPUT), str):
            items, places = references.sent(opened(items_of(fields.get(INPUT))), upstream)
            sent[INPUT] = [*earlier, *items]
            own |= {REFERENCES: {str(at + len(earlier)): its_id for at, its_id in places.items()}} if places else {}
        if not upstream.account_ids and (kept := kept_for_account(sent)):
            raise kept_elsewhere(kept)
        body = bounded(orjson.dumps(sent))
        return StartRequest(body=body, dialect=SPOKEN, beside={"stream": True}, own=orjson.dumps(own), ids_checked=True)

    def rendered(fields: Json, previous: Kept | None, references: References) -> StartRequest:
        """For an upstream that speaks another API."""
        whole = {**fields, INPUT: references.whole(opened(items_of(fields.get(INPUT))))}
        asked = read(whole, responses.conversation(references.reading, previous) if previous is not None else ())
        return StartRequest(body=asked.conversation, own=bounded(orjson.dumps(asked.kept)))

    def held_shown(user: str, kept: Json, held: ExitStack) -> Json:
        """What is shown of a request, which may have long instructions, and lives as long as a stream of the answer."""
        shown = {name: value for name, value in kept.items() if name != INPUT}
        held.enter_context(service.bodies.kept(user, len(orjson.dumps(shown)), "shown"))
        return shown

    def bounded(conversation: bytes) -> bytes:
        """A conversation, checked as one body is, since it grows with each response. Errors: `InvalidRequest`."""
        size, values = settings.max_request_bytes, settings.max_request_nodes
        if len(conversation) > size:
            most = f"{size} bytes with all that came before, which is the limit here (MAX_REQUEST_BYTES)"
        elif nodes.exceed(conversation, values):
            most = f"{values} values and names with all that came before, which is the limit here (MAX_REQUEST_NODES)"
        else:
            return conversation
        raise InvalidRequest(
            f"The conversation has more than {most}. Begin a new one.",
            code="conversation_too_large",
            param="previous_response_id",
        )

    def respond(
        generation: Generation, tail: Tail, first: Piece, rendering: Rendering, held: ExitStack, after: int = -1
    ) -> Response:
        bounds = {"keepalive": settings.keepalive_seconds, "seconds": settings.response_seconds}
        pieces = chunks(tail, first, rendering, after, bare=wants_bare_events(), **bounds)
        answer = streamed(tail, pieces, located(generation))
        answer.call_on_close(held.pop_all().close)
        return answer

    @wire.get("/v1/responses/<its_id>")
    def retrieve(its_id: str) -> Response:
        user = service.identify(request.headers)
        with service.bodies.reading(user) as reading, ExitStack() as held:
            kept = responses.find(reading, its_id)
            if request.args.get("stream") != "true" and "text/event-stream" not in request.headers.get("Accept", ""):
                return whole(kept.generation, responses.shown(kept))
            after = cursor()
            rendering = responses.rendering(kept.generation, held_shown(user, kept.request, held))
            tail = service.generations.resume(kept.generation, 0, every.asked())
            bound_writes(settings.send_seconds)
            return respond(kept.generation, tail, Piece([], 0), rendering, held, after)

    @wire.get("/v1/responses/<its_id>/input_items")
    def input_items(its_id: str) -> Response:
        user = service.identify(request.headers)
        with service.bodies.reading(user) as reading:
            kept = responses.find(reading, its_id)
            items = References(responses, reading).shown(responses.asked(reading, kept))
            shown = orjson.dumps(page(items, request.args))
        return Response(shown, mimetype="application/json", headers=named(kept.generation))

    @wire.post("/v1/responses/<its_id>/cancel")
    def cancel(its_id: str) -> Response:
        user = service.identify(request.headers)
        with service.bodies.reading(user) as reading:
            kept = responses.find(reading, its_id, retrieve=False)
            try:
                generation, head = service.generations.stop(user, kept.generation.id)
            except Conflict:  # it is over, which is what was asked
                generation, head = service.generations.find(user, kept.generation.id)
            return whole(generation, responses.shown(Kept(generation, head, kept.request)))

    @wire.delete("/v1/responses/<its_id>")
    def delete(its_id: str) -> Response:
        user = service.identify(request.headers)
        with service.bodies.reading(user) as reading:
            service.generations.delete(user, responses.find(reading, its_id, retrieve=False).generation.id)
        return jsonify(id=its_id, object="response", deleted=True)

    @wire.post("/v1/responses/compact")
    def compact() -> Response:
        user = service.identify(request.headers)
        # What is read is held to the end, which needs what users said.
        with service.bodies.json(user) as body, service.bodies.reading(user) as reading, ExitStack() as held:
            fields = object_in(body)
            check(fields)
            previous, items = responses.previous(reading, fields.get("previous_response_id")), []
            references = References(responses, reading)
            if fields.get(INPUT) is not None or previous is None:
                items = references.whole(opened(items_of(fields.get(INPUT))))
            before = responses.all_items(reading, previous) if previous is not None else []
            if previous is not None and INPUT in previous.request:  # else the upstream has what came before
                del fields["previous_response_id"]
                asked, previous = summarising(fields, [*before, *items]), None
            else:
                asked = summarising(fields, items)
            started, kept = start(user, asked, previous, references, held, placed=False)
            return summary(started, kept, [*before, *items])

    def summary(started: Started, kept: Json, items: Sequence[Json]) -> Response:
        """The compacted conversation, once the model has told it."""
        bound_writes(settings.send_seconds)
        generation, tail, rendering = started.generation, started.tail, responses.rendering(started.generation, kept)
        try:
            end = ended(
                tail, first_piece(tail, status_wait(generation, settings)), rendering.take, settings.response_seconds
            )
            rendering.end(end)
            result = compacted(rendering.ended(end), items, generation.id)
            return Response(orjson.dumps(result), mimetype="application/json", headers=named(generation))
        except HoldfastError as error:
            return refusal(error, named(generation), foreign=generation.dialect != SPOKEN)
        finally:
            tail.close()

    @wire.post("/v1/responses/input_tokens")
    def not_rendered() -> Response:
        """Without this it would be a response's id, which takes no POST."""
        raise NotFound(f"There is nothing at {request.path} here.", code="no_such_route")

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
