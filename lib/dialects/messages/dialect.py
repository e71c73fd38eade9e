"""The dialect of Anthropic's Messages.

Rules: https://platform.claude.com/docs/en/build-with-claude/streaming and https://platform.claude.com/docs/en/api/errors.
Blocks, deltas and events of kinds that are not known here are kept and passed on, as these pages ask of clients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson

from lib.dialects import payload as json_text
from lib.dialects.conversation import Conversation
from lib.dialects.faults import BODY_BYTES, error_in, fault_of, fault_of_event, fault_of_status
from lib.dialects.messages.events import inner_error, steps_of, stream_of
from lib.dialects.messages.prefill import Seam, continued
from lib.dialects.messages.request import kept_by_id, most_tokens, written
from lib.dialects.messages.turn import Turn
from lib.dialects.protocol import NO_HEADERS, Answer, Asked, Background, Malformed, Outgoing, Read, Reading, Rest
from lib.dialects.reading import SeamReading
from lib.dialects.request import fallbacks, is_streamed, last_words, read_request
from lib.dialects.steps import EndMark, Fault, Json
from lib.domain.errors import HoldfastError, InvalidRequest
from lib.domain.event import Event
from lib.runtime.catalog import Prefill

VERSION = "2023-06-01"
_NAMES = {
    kind: kind.encode()
    for kind in (
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "ping",
        "error",
    )
}
# The status of each type of error. The credentials of a call are the service's own, so errors about them are left out.
_STATUS = {
    "invalid_request_error": 400,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_TYPES = {401: "authentication_error", 402: "billing_error", 403: "permission_error"} | {
    status: kind for kind, status in _STATUS.items()
}


class Messages:
    """`POST {base_url}/messages`."""

    name = "messages"
    end_mark: Event | None = Event(b'{"type":"message_stop"}', b"message_stop")
    ping: Event | None = Event(b'{"type": "ping"}', b"ping")
    headers: tuple[str, ...] = ("anthropic-version", "anthropic-beta")
    background: Background | None = None

    def check(self, body: object) -> Asked:
        request, model = read_request(body, "messages")
        limit = request.get("max_tokens")
        if limit is not None and (type(limit) is not int or limit < 0):
            raise InvalidRequest("'max_tokens' must be a whole number.", param="max_tokens")
        streamed = is_streamed(request)
        return Asked(
            model=model,
            streamed=streamed,
            fallbacks=fallbacks(request),
            output_tokens=limit,
            kept=kept_by_id(request),
        )

    def outgoing(self, request: Json, *, ask_usage: bool, headers: Mapping[str, str] = NO_HEADERS) -> Outgoing:  # noqa: ARG002
        """Usage is a part of every answer, so it need not be asked for.

        A limit must be sent. Where it is null, as in what a conversation without one is written as, it becomes one that
        the model takes. Whether the field may be missing is the upstream's to say.
        """
        sent = {"anthropic-version": VERSION, **headers}
        if request.get("max_tokens", 0) is None:
            request = {**request, "max_tokens": most_tokens(request["model"])}
        return Outgoing(path="/messages", body=orjson.dumps(request), headers=tuple(sent.items()))

    def streaming(self, request: Json) -> Json:
        return {**request, "stream": True}

    def written(self, conversation: Conversation) -> Json:
        return written(conversation)

    def question(self, request: Json) -> str:
        return last_words(request.get("messages"))

    def reading(self) -> Reading:
        return SeamReading(self.read, _named)

    def read(self, event: Event) -> Read:
        data, name = event
        if name == b"error":
            return Read(event, {}, (_as_sent(fault_of_event(data), data),), kept=False)
        payload = json_text.read_object(data)
        error = error_in(payload)
        if error is None:
            error = inner_error(payload)
        if error is not None:
            return Read(event, payload, (_as_sent(fault_of(error), data),), kept=False)
        kind = payload.get("type")
        if kind == "message_stop":
            return Read(event, payload, (EndMark(),), kept=False)
        if kind == "ping":
            return Read(event, payload, (), kept=False)
        if not isinstance(kind, str) or not kind:
            raise Malformed
        return Read(event, payload, steps_of(kind, payload))

    def events(self, body: bytes, *, streamed: bool) -> list[Event]:
        payload = json_text.read_loosely(body)
        if isinstance(payload, list) and (error := error_in(payload)) is not None:
            return [Event(json_text.write({"type": "error", "error": error}), b"error")]
        if not isinstance(payload, dict):
            raise Malformed
        # The only line ends inside an event are line feeds; in JSON, a carriage return is only white space.
        own = Event(body.removeprefix(b"\xef\xbb\xbf").replace(b"\r", b""))
        if error_in(payload) is not None:
            return [own]
        if payload.get("type") != "message" or not isinstance(payload.get("content"), list):
            raise Malformed
        return (
            [Event(json_text.write(each), _NAMES[each["type"]]) for each in stream_of(payload)] if streamed else [own]
        )

    def fault(self, status: int, body: bytes) -> Fault:
        return fault_of_status(status, body)

    def error(self, error: HoldfastError, own: bytes = b"") -> Event:
        """`details.error_code` is what Anthropic's SDKs show as the error's code."""
        if own and _is_error(json_text.read_loosely(own)):
            return Event(own, b"error")
        kind = _TYPES.get(error.status) or (error.type if error.type in _STATUS else None)
        said = {
            "type": kind or ("api_error" if error.status >= 500 else "invalid_request_error"),
            "message": error.message,
            "details": {"error_code": error.code, **({"param": error.param} if error.param else {}), **error.details},
        }
        return Event(json_text.write({"type": "error", "error": said}), b"error")

    def answer(self, choices: int = 1) -> Answer:
        return Turn(choices)

    def rest(self, request: Json, answer: Answer, style: Prefill | None) -> Rest | None:
        if not isinstance(answer, Turn):
            raise TypeError("the answer is another dialect's")
        if not answer.events:
            return Rest(request, self.reading())
        if answer.silent:
            return Rest(request, SeamReading(self.read, _named, Seam(answer)))
        rest = continued(request, answer) if style is not None else None
        return Rest(rest[0], SeamReading(self.read, _named, rest[1])) if rest is not None else None


def _named(read: Read) -> Read:
    """The event with its name, which Anthropic's SDKs need, and which some upstreams leave out."""
    event, payload, steps, kept, _ = read
    name = _NAMES.get(payload.get("type", ""))
    return read if name is None or event.name else Read(Event(event.data, name), payload, steps, kept)


def _is_error(value: Any) -> bool:
    """Whether this is an error in the shape of this API."""
    return isinstance(value, dict) and value.get("type") == "error" and isinstance(value.get("error"), dict)


def _as_sent(fault: Fault, data: bytes) -> Fault:
    """The fault with the status that its type stands for, and with the error as it came."""
    try:
        value: Any = json_text.read_loosely(data)
    except Malformed:
        value = None
    if _is_error(value) and len(data) <= BODY_BYTES:
        body = data.decode("utf-8", "replace")
    elif fault.body:
        body = json_text.write({"type": "error", **json_text.read_object(fault.body.encode())}).decode()
    else:
        body = ""
    return replace(fault, status=fault.status or _STATUS.get(fault.type or ""), body=body)
