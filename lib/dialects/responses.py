"""The dialect of OpenAI's Responses.

Rules: https://platform.openai.com/docs/api-reference/responses. The events that end a stream are kept: they have the
whole response, and clients need it. Items, events and fields of kinds that are not known here are kept and passed on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson

from lib.dialects import payload as json_text
from lib.dialects.characters import Joiner, may_be_cut
from lib.dialects.conversation import Conversation
from lib.dialects.faults import BODY_BYTES, error_in, fault_of, fault_of_event, fault_of_status
from lib.dialects.output import Output
from lib.dialects.protocol import NO_HEADERS, Answer, Asked, Malformed, Outgoing, Read, Reading, Rest
from lib.dialects.request import is_streamed, read_request
from lib.dialects.response_events import BEGINNINGS, failure_in, steps_of
from lib.dialects.response_request import written
from lib.dialects.response_stream import stream_of
from lib.dialects.steps import Fault, Json
from lib.domain.errors import HoldfastError, InvalidRequest
from lib.domain.event import Event
from lib.runtime.catalog import Prefill

# https://platform.openai.com/docs/api-reference/responses/object, "error"
_STATUS = {
    "server_error": 500,
    "rate_limit_exceeded": 429,
    "invalid_prompt": 400,
    "vector_store_timeout": 504,
    "invalid_request_error": 400,
    "rate_limit_error": 429,
}


class Responses:
    """`POST {base_url}/responses`."""

    name = "responses"
    end_mark: Event | None = None
    ping: Event | None = None
    headers: tuple[str, ...] = ()

    def check(self, body: object) -> Asked:
        request, model = read_request(body, "input", or_text=True)
        streamed = is_streamed(request)
        if not isinstance(request.get("background"), bool | None):
            raise InvalidRequest("'background' must be true or false.", param="background")
        limit = request.get("max_output_tokens")
        if limit is not None and (type(limit) is not int or limit < 1):
            raise InvalidRequest("'max_output_tokens' must be a whole number above 0.", param="max_output_tokens")
        return Asked(model=model, streamed=streamed, output_tokens=limit, output_tokens_field="max_output_tokens")

    def outgoing(self, request: Json, *, ask_usage: bool, headers: Mapping[str, str] = NO_HEADERS) -> Outgoing:  # noqa: ARG002
        """Usage is a part of every answer, so it need not be asked for.

        `background` is between the client and this service, for which every request is one in the background.
        """
        body = {name: value for name, value in request.items() if name != "background"}
        return Outgoing(path="/responses", body=orjson.dumps(body), headers=tuple(headers.items()))

    def streaming(self, request: Json) -> Json:
        return {**request, "stream": True}

    def written(self, conversation: Conversation) -> Json:
        return written(conversation)

    def reading(self) -> Reading:
        return _Reading(self)

    def read(self, event: Event) -> Read:
        data, name = event
        if name == b"error":
            return Read(event, {}, (_as_sent(fault_of_event(data), data),), kept=False)
        payload = json_text.read_object(data)
        error = error_in(payload)
        if error is None:
            error = failure_in(payload)
        if error is not None:
            return Read(event, payload, (_as_sent(fault_of(error), data),), kept=False)
        return Read(event, payload, steps_of(payload))

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
        if payload.get("object") != "response" or not isinstance(payload.get("output"), list):
            raise Malformed
        if not streamed or failure_in(payload) is not None:
            return [own]
        return [Event(json_text.write(each), each["type"].encode()) for each in stream_of(payload)]

    def fault(self, status: int, body: bytes) -> Fault:
        return fault_of_status(status, body)

    def error(self, error: HoldfastError, own: bytes = b"") -> Event:
        """An event `error` as the API documents it, which has `error` as well, as the API sends it.

        OpenAI's SDKs raise an event that has `error`, and pass on one that has not.
        """
        theirs = json_text.read_loosely(own).get("error") if own else None
        said = theirs if isinstance(theirs, dict) else error.body()["error"]
        return Event(_shaped(said), b"error")

    def answer(self, choices: int = 1) -> Answer:
        return Output(choices)

    def rest(self, request: Json, answer: Answer, style: Prefill | None) -> Rest | None:  # noqa: ARG002
        """No continuation: the API has no way to ask for the rest of a message."""
        if not isinstance(answer, Output):
            raise TypeError("the answer is another dialect's")
        if not answer.events:
            return Rest(request, self.reading())
        return Rest(request, _Reading(self, _Seam(answer))) if answer.silent else None


class _Reading:
    """Reads one call's events. Nearly all pass unchanged. `seam` adjusts those of an answer that starts again."""

    def __init__(self, dialect: Responses, seam: _Seam | None = None):
        self._meaning = dialect.read
        self._joiner = Joiner()
        self._held = self._joiner.held
        self._seam = seam

    def read(self, event: Event) -> Read:
        if self._seam is None and not self._held and not may_be_cut(event.data):
            return _named(self._meaning(event))
        try:
            payload = json_text.read_loosely(event.data)
        except Malformed:
            return self._meaning(event)
        if not isinstance(payload, dict) or event.name == b"error":
            return self._meaning(event)
        fitted = self._joiner.joined(payload)
        if self._seam is not None:
            fits = self._seam.fit(fitted)
            if fits is None:
                return Read(event, payload, (), kept=False)
            fitted = fits
        return _named(self._meaning(event if fitted == payload else Event(json_text.write(fitted), event.name)))


class _Seam:
    """Adjusts the events of an answer that starts again to what is saved of its beginning, which has no output yet.

    There is no second beginning, items are numbered after those that have begun, and so are the events.
    """

    def __init__(self, begun: Output):
        self._begun = begun.begun
        self._shift = begun.next_index
        self._next = begun.next_sequence

    def fit(self, payload: Json) -> Json | None:
        """The event as clients see it, or None if they have had it."""
        if self._begun and payload.get("type") in BEGINNINGS:
            return None
        fitted = dict(payload)
        if type(payload.get("sequence_number")) is int:
            fitted["sequence_number"] = self._next
            self._next += 1
        if type(payload.get("output_index")) is int:
            fitted["output_index"] = payload["output_index"] + self._shift
        return fitted


def _named(read: Read) -> Read:
    """The event with its name, which is its type, and which some upstreams leave out."""
    event, payload, steps, kept, _ = read
    kind = payload.get("type")
    if event.name or not isinstance(kind, str) or not (kind.isascii() and kind.isprintable()):
        return read
    return Read(Event(event.data, kind.encode()), payload, steps, kept)


def _as_sent(fault: Fault, data: bytes) -> Fault:
    """The fault with the status that its code stands for, and with the error as this API writes it."""
    status = fault.status or _STATUS.get(fault.code) or _STATUS.get(fault.type or "")
    try:
        value: Any = json_text.whole(json_text.read_loosely(data))
    except Malformed:
        value = {}
    sent = isinstance(value, dict) and value.get("type") == "error" and isinstance(value.get("error"), dict)
    if sent and len(data) <= BODY_BYTES:
        body = json_text.write(value).decode()
    elif fault.body:
        body = _shaped(json_text.read_object(fault.body.encode())["error"]).decode()
    else:
        body = ""
    return replace(fault, status=status, passing=fault.passing or (status or 0) >= 500, body=body)


def _shaped(error: Json) -> bytes:
    """An error as the last event of a stream and as the body of a refusal. A stream's last event needs a number."""
    about = {name: error.get(name) for name in ("code", "message", "param")}
    return json_text.write({"type": "error", "sequence_number": 0, **about, "error": error})
