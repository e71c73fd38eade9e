"""The AI SDK's `useChat`, with no server in between: start, resume and stop of a chat's answer.

`GET` has no cursor: the client starts over with the whole answer, and 204 means that nothing runs. A client's `stop()`
only closes its connection, so an app calls the stop route as well.
https://ai-sdk.dev/docs/ai-sdk-ui/chatbot-resume-streams
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from flask import Blueprint, Flask, Response, jsonify, request

from lib.dialects.protocol import Dialect, Malformed
from lib.domain.end import LIVE, End, State
from lib.domain.errors import Conflict, Unavailable
from lib.domain.generation import Generation
from lib.domain.ids import document_id
from lib.serving.feed import Piece
from lib.serving.start_request import StartRequest
from lib.serving.tail import Tail
from lib.wires import every
from lib.wires.ai_sdk.messages import read
from lib.wires.ai_sdk.stream import UiStream
from lib.wires.failures import Interrupted, UpstreamRefusal, shown, summary
from lib.wires.frames import KEEP_ALIVE
from lib.wires.http import bound_writes, first_piece, header, named, refusal, status_wait, streamed
from lib.wires.service import Service

STREAM_VERSION = {"x-vercel-ai-ui-message-stream": "v1"}


def register(app: Flask, service: Service) -> None:
    """Adds the routes."""
    wire = Blueprint("ai_sdk", __name__)

    @wire.post("/api/chat")
    def start() -> Response:
        generation, tail, rendered = begin(service.identify(request.headers))
        bound_writes(service.settings.send_seconds)
        try:
            first = first_piece(tail, status_wait(generation, service.settings))
        except BaseException:
            tail.close()
            raise
        return respond(generation, tail, first, rendered)

    def begin(user: str) -> tuple[Generation, Tail, UiStream]:
        with service.bodies.json(user) as body:
            asked = read(body, service.settings.chat_model)
            request = StartRequest(
                body=asked.conversation,
                chat_id=asked.chat_id,
                message_id=header("X-Message-Id"),
                turn=header("X-Turn") or asked.turn,
                parent_id=header("X-Parent-Id") or asked.parent,
                replaces_id=header("X-Replaces-Id") or asked.replaces,
                push_token=header("X-Push-Token"),
                idempotency_key=header("Idempotency-Key"),
                every=every.asked(),
                need_approval=asked.need_approval,
            )
            started = service.generations.start(user, request)
            message_id = None if asked.continues else started.generation.message_id
            return started.generation, started.tail, UiStream(message_id, asked.need_approval)

    @wire.get("/api/chat/<chat_id>/stream")
    def resume(chat_id: str) -> Response:
        user, wanted = service.identify(request.headers), every.asked()
        live = newest_live(user, chat_id)
        if live is None:
            return Response(status=204)
        tail = service.generations.resume(live, 0, wanted)
        bound_writes(service.settings.send_seconds)
        return respond(live, tail, Piece([], 0), UiStream(live.message_id, live.need_approval))

    @wire.post("/api/chat/<chat_id>/stop")
    def stop(chat_id: str) -> Response:
        user = service.identify(request.headers)
        live = newest_live(user, chat_id)
        try:
            stopped = service.generations.stop(user, live.id)[0] if live else None
        except Conflict:
            stopped = None  # it ended just now
        return jsonify(stopped=stopped.id) if stopped else Response(status=204)

    def newest_live(user: str, chat_id: str) -> Generation | None:
        chat = document_id(chat_id, "chatId")
        found = service.generations.list(user, chat_id=chat, states=LIVE, after=None, limit=1)
        return next((generation for generation, _ in found if not generation.state.terminal), None)

    def respond(generation: Generation, tail: Tail, first: Piece, rendered: UiStream) -> Response:
        dialect = service.dialects.get(generation.dialect)
        bounds = {"keepalive": service.settings.keepalive_seconds, "seconds": service.settings.response_seconds}
        pieces = chunks(generation, tail, first, dialect, rendered, **bounds)
        return streamed(tail, pieces, {**named(generation), **STREAM_VERSION})

    @wire.errorhandler(Exception)
    def refuse(error: Exception) -> Response:
        """`useChat` shows the body's text as the error's message."""
        told = shown(error)
        answer = refusal(told)
        answer.set_data(told.message)
        answer.content_type = "text/plain; charset=utf-8"
        return answer

    app.register_blueprint(wire)


def chunks(
    generation: Generation,
    tail: Tail,
    first: Piece,
    dialect: Dialect | None,
    rendered: UiStream,
    *,
    keepalive: float,
    seconds: float,
) -> Iterator[bytes]:
    """The stream of an answer, whole from its first event on. Ends after at most `seconds`, and closes the tail.

    `dialect` is the answer's, or None if this version does not know it.
    """
    try:
        yield rendered.begin(_metadata(generation, State.STREAMING))
        for piece in tail.follow(first, keepalive=keepalive, seconds=seconds):
            said = b""
            for event in piece.events:
                if dialect is not None:
                    with suppress(Malformed):  # another version of this service accepted it
                        said += rendered.add(dialect.read(event).steps)
            if said or piece.end is None:
                yield said or KEEP_ALIVE
        if piece.end is None:
            yield rendered.failed("This response has lasted as long as it may. Reload to go on.")
        else:
            yield _end(generation, piece.end, rendered)
    except Unavailable as error:
        shown(error)
        yield rendered.failed("The answer can't be read now. Reload to go on.")
    except Exception as error:
        yield rendered.failed(shown(error).message)


def _end(generation: Generation, end: End, rendered: UiStream) -> bytes:
    about = _metadata(generation, end.state) | {"usage": end.usage, "reason": end.reason, "error": summary(end.error)}
    if end.state is State.COMPLETED:
        return rendered.finished(about)
    if end.state is State.STOPPED:
        return rendered.stopped(about)
    error = UpstreamRefusal(end) if end.state is State.FAILED else Interrupted(end)
    return rendered.failed(error.message, about)


def _metadata(generation: Generation, state: State) -> dict[str, Any]:
    return {"generationId": generation.id, "messageId": generation.message_id, "state": str(state)}
