"""The Firebase callable protocol, as `httpsCallable(…)` uses it, unary and streaming.

The rules are those of the "Protocol specification for https.onCall" and of the client SDKs, which are stricter: all
lines of a stream are `data: {json}`, and every response ends with one result or one error.

The message fields are Holdfast's own, whichever API the answer comes from. `delta` is the visible text that an event
adds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import orjson
from flask import Flask, Response, request

from lib.dialects.protocol import Dialect, Malformed
from lib.domain.end import End, State
from lib.domain.errors import HoldfastError, InvalidRequest, Unavailable
from lib.domain.event import Event
from lib.domain.generation import Generation
from lib.domain.message import Said
from lib.serving.feed import Piece
from lib.serving.generations import Started
from lib.serving.tail import Tail
from lib.wires.failures import UpstreamRefusal, shown, summary
from lib.wires.firebase_callable.request import Resume, Start, Stop, Usage, read
from lib.wires.firebase_callable.values import encoded, line
from lib.wires.http import STREAM_HEADERS, bound_writes, streamed
from lib.wires.service import Service
from lib.wires.usage import usage_of

_PARAMS = {
    "X-Chat-Id": "chatId",
    "X-Message-Id": "messageId",
    "Idempotency-Key": "idempotencyKey",
    "X-Turn": "turn",
}
_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    409: "ALREADY_EXISTS",
    413: "INVALID_ARGUMENT",
    415: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_HTTP = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}

_SAID = ("finishReason", "reasoning", "refusal", "toolCalls")  # in the result, if the answer has them
_KEY_REFUSED = "upstream_key"  # the operator must fix it, so the app's retries can't help
_JSON_HEADERS = {"Content-Type": "application/json"}

Json = dict[str, Any]

log = logging.getLogger(__name__)


def register(app: Flask, service: Service) -> None:
    """Adds the route."""

    @app.post("/")
    def call() -> Response:
        wants_stream = "text/event-stream" in request.headers.get("Accept", "")
        bound_writes(service.settings.send_seconds)
        try:
            user = service.identify(request.headers)
            asked = begin(user)
            if isinstance(asked, Stop | Usage):
                told = stopped(user, asked) if isinstance(asked, Stop) else {"data": encoded(usage_of(user, service))}
                return Response(reply(told, wants_stream), headers=STREAM_HEADERS if wants_stream else _JSON_HEADERS)
            generation, tail = (asked.generation, asked.tail) if isinstance(asked, Started) else follow(user, asked)
            return respond(generation, tail, wants_stream)
        except Exception as error:
            fields, status = failure(shown(error))
            if wants_stream:  # in a stream, errors have status 200 too
                return Response(line({"error": fields}), headers=STREAM_HEADERS)
            after = fields["details"].get("retryAfter")
            headers = {**_JSON_HEADERS, **({"Retry-After": str(after)} if after else {})}
            return Response(orjson.dumps({"error": fields}), status=status, headers=headers)

    def stopped(user: str, asked: Stop) -> Json:
        generation, _ = service.generations.stop(user, asked.generation)
        return result(*service.generations.answer(generation))

    def begin(user: str) -> Started | Resume | Stop | Usage:
        """Reads the call. A start is made while its body counts as held."""
        with service.bodies.json(user) as body:
            asked = read(body)
            return service.generations.start(user, asked.request) if isinstance(asked, Start) else asked

    def follow(user: str, asked: Resume) -> tuple[Generation, Tail]:
        generation, head = service.generations.find(user, asked.generation)
        if asked.after > head.last:
            raise InvalidRequest(f"'after' must be from 0 to {head.last}, the last there is.", param="after")
        return generation, service.generations.resume(generation, asked.after, asked.every)

    def respond(generation: Generation, tail: Tail, wants_stream: bool) -> Response:
        def ending() -> Json:
            return ended(*service.generations.answer(generation))

        bounds = {"keepalive": service.settings.keepalive_seconds, "seconds": service.settings.response_seconds}
        if wants_stream:
            dialect = service.dialects.get(generation.dialect)
            return streamed(tail, messages(generation, tail, dialect, ending, **bounds))
        for _ in tail.follow(Piece([], tail.cursor), **bounds):
            pass
        return Response(reply(ending(), streamed=False), headers=_JSON_HEADERS)


def result(generation: Generation, seq: int, said: Said) -> Json:
    """The result of a call that did not fail. If `state` is not final, `seq` is the cursor to resume from."""
    more = {name: said.fields[name] for name in _SAID if said.fields.get(name)}
    return {
        "id": generation.id,
        "chatId": generation.chat_id,
        "messageId": generation.message_id,
        "state": str(generation.state),
        "reason": generation.reason,
        "seq": seq,
        "content": said.fields["content"],
        "usage": encoded(generation.usage),
        "error": summary(generation.error),
        **{name: encoded(value) for name, value in more.items()},
    }


class Failed(UpstreamRefusal):
    """A generation without an answer. The error's details identify the generation."""

    def __init__(self, generation: Generation):
        super().__init__(End(state=State.FAILED, reason=generation.reason, error=generation.error))
        self.generation = generation


def failure(error: HoldfastError) -> tuple[Json, int]:
    """The error in the SDKs' format, `{"status", "message", "details"}`, and the HTTP status for a unary response."""
    status = _STATUS.get(error.status, "INTERNAL")
    details: Json = {"code": error.code, "param": _PARAMS.get(error.param or "", error.param), **error.details}
    if error.retry_after:
        details["retryAfter"] = error.retry_after
    if error.code == "generation_ended":
        status = "FAILED_PRECONDITION"
    if error.code == "answer_running":
        status = "ABORTED"
    if isinstance(error, Failed):
        status = "INTERNAL" if error.code == _KEY_REFUSED else _upstream_failure(error.upstream_status)
        details |= {"id": error.generation.id, "state": str(error.generation.state), "reason": error.generation.reason}
        details["upstreamStatus"] = error.upstream_status
    return {"status": status, "message": error.message, "details": details}, _HTTP[status]


def _upstream_failure(status: Any) -> str:
    """The status of an upstream's refusal. A 401 or 403 concerns this service's key, not the caller."""
    if status == 429:
        return "RESOURCE_EXHAUSTED"
    if status in (400, 404, 413, 422):
        return "INVALID_ARGUMENT"
    if status in (408, 504):
        return "DEADLINE_EXCEEDED"
    return "UNAVAILABLE" if isinstance(status, int) and status >= 500 else "INTERNAL"


def messages(
    generation: Generation,
    tail: Tail,
    dialect: Dialect | None,
    ending: Callable[[], Json],
    *,
    keepalive: float,
    seconds: float,
) -> Iterator[bytes]:
    """The stream of a call: a start message, one message per event, heartbeats, and one result or error.

    `dialect` is the answer's, or None if this version does not know it. `ending` returns the result, after the end or
    after `seconds`. Closes the tail.
    """
    opening = {"type": "start", "id": generation.id, "chatId": generation.chat_id, "messageId": generation.message_id}
    try:
        yield line({"message": opening})
        nothing = Piece([], tail.cursor)
        for piece in tail.follow(nothing, keepalive=keepalive, seconds=seconds):
            if piece.events:
                for seq, event in enumerate(piece.events, piece.first):
                    yield line({"message": {"seq": seq, **_said(event, dialect)}})
            elif piece.end is None and piece is not nothing:
                yield line({"message": {"type": "heartbeat"}})
        yield line({"result": _sent(ending(), tail.cursor)})
    except Unavailable as error:
        shown(error)
        yield line({"error": failure(Unavailable("The answer can't be read now. Resume it."))[0]})
    except HoldfastError as error:
        yield line({"error": failure(error)[0]})
    except Exception:
        log.exception("a call's stream failed")  # without a final message the app would wait for ever
        yield line({"error": failure(HoldfastError("Something went wrong here. Resume it."))[0]})


def _sent(ended: Json, seq: int) -> Json:
    """The result of a stream that has sent the events up to `seq`. If there are more, the client must resume."""
    if ended["seq"] <= seq:
        return ended
    return {**ended, "seq": seq, "state": str(State.STREAMING), "reason": None, "usage": None}


def _said(event: Event, dialect: Dialect | None) -> Json:
    """The message for an event: the visible text that it adds, and its JSON."""
    try:
        if dialect is not None:
            read = dialect.read(event)
            return {"delta": read.text, "event": encoded(read.payload)}
        return {"delta": "", "event": encoded(orjson.loads(event.data))}
    except (Malformed, orjson.JSONDecodeError):
        return {"delta": "", "event": None}  # another version of this service accepted it


def reply(ended: Json, streamed: bool) -> bytes:
    """A response that consists only of the call's result."""
    return line({"result": ended}) if streamed else orjson.dumps({"result": ended})


def ended(generation: Generation, seq: int, said: Said) -> Json:
    """The result, if there is an answer. Errors: `Failed`."""
    if generation.state is State.FAILED:
        raise Failed(generation)
    return result(generation, seq, said)
