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
from lib.dialects.conversation import Conversation
from lib.dialects.faults import BODY_BYTES, error_in, fault_of, fault_of_event, fault_of_status
from lib.dialects.protocol import NO_HEADERS, Answer, Asked, Background, Malformed, Outgoing, Read, Reading, Rest
from lib.dialects.reading import SeamReading
from lib.dialects.request import fallbacks, is_streamed, last_words, read_request
from lib.dialects.responses.background import PATH, ResponseBackground
from lib.dialects.responses.events import failure_in, steps_of
from lib.dialects.responses.ids import kept_for_account, kept_for_user
from lib.dialects.responses.output import Output
from lib.dialects.responses.request import written
from lib.dialects.responses.seams import Again, named
from lib.dialects.responses.stream import stream_of
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

    def __init__(self) -> None:
        self.background: Background | None = ResponseBackground(self.read)

    def check(self, body: object) -> Asked:
        request, model = read_request(body, "input", or_text=True)
        streamed = is_streamed(request)
        if not isinstance(request.get("background"), bool | None):
            raise InvalidRequest("'background' must be true or false.", param="background")
        limit = request.get("max_output_tokens")
        if limit is not None and (type(limit) is not int or limit < 1):
            raise InvalidRequest("'max_output_tokens' must be a whole number above 0.", param="max_output_tokens")
        return Asked(
            model=model,
            streamed=streamed,
            fallbacks=fallbacks(request),
            output_tokens=limit,
            output_tokens_field="max_output_tokens",
            kept=kept_for_account(request) or kept_for_user(request),
        )

    def outgoing(self, request: Json, *, ask_usage: bool, headers: Mapping[str, str] = NO_HEADERS) -> Outgoing:  # noqa: ARG002
        """Usage is a part of every answer, so it need not be asked for.

        `background` is between the client and this service, which alone decides how it asks the upstream.
        """
        body = {name: value for name, value in request.items() if name != "background"}
        return Outgoing(path=PATH, body=orjson.dumps(body), headers=tuple(headers.items()))

    def streaming(self, request: Json) -> Json:
        return {**request, "stream": True}

    def written(self, conversation: Conversation) -> Json:
        return written(conversation)

    def question(self, request: Json) -> str:
        said = request.get("input")
        return said if isinstance(said, str) else last_words(said)

    def reading(self) -> Reading:
        return SeamReading(self.read, named)

    def read(self, event: Event) -> Read:
        data, name = event
        if name == b"error":
            return Read(event, {}, (_as_sent(fault_of_event(data), data),), kept=False)
        payload = json_text.read_object(data)
        if (error := error_in(payload)) is not None:
            return Read(event, payload, (_as_sent(fault_of(error), data),), kept=False)
        if (error := failure_in(payload)) is not None:
            return Read(event, payload, (replace(_as_sent(fault_of(error), data), over=True),), kept=False)
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
        if not answer.begun and answer.silent:
            return Rest(request, self.reading())
        return Rest(request, SeamReading(self.read, named, Again(answer))) if answer.silent else None


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
