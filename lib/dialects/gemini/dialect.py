"""The dialect of Google's Gemini, as the Gemini API and Vertex AI speak it.

Rules: https://ai.google.dev/api/generate-content and https://cloud.google.com/apis/design/errors.
The path of a request says which model it is for, and whether it is for a stream. Here these are fields of the request,
`model` and `stream`, beside those of the API. Fields and parts that are not known here are kept and passed on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import orjson

from lib.dialects import payload as json_text
from lib.dialects.conversation import Conversation
from lib.dialects.faults import error_in, fault_of, fault_of_event, fault_of_status
from lib.dialects.gemini.candidates import Candidates
from lib.dialects.gemini.events import steps_of
from lib.dialects.gemini.request import file_by_id, written
from lib.dialects.protocol import NO_HEADERS, Answer, Asked, Background, Malformed, Outgoing, Read, Reading, Rest
from lib.dialects.reading import SeamReading
from lib.dialects.request import is_streamed, last_words, read_request
from lib.dialects.steps import Fault, Json
from lib.domain.errors import HoldfastError, InvalidRequest
from lib.domain.event import Event
from lib.runtime.catalog import Prefill

_FIELDS = frozenset({"candidates", "promptFeedback", "usageMetadata", "modelVersion", "responseId"})
_OURS = frozenset({"model", "stream"})
_MAX_CHOICES = 8
# Of several names for a status, the first is the usual one. All: googleapis/google/rpc/code.proto
_STATUS = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ABORTED": 409,
    "ALREADY_EXISTS": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "INTERNAL": 500,
    "UNKNOWN": 500,
    "DATA_LOSS": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
_NAMES = {status: name for name, status in reversed(_STATUS.items())}


class Gemini:
    """`POST {base_url}/models/{model}:generateContent` and `:streamGenerateContent?alt=sse`."""

    name = "gemini"
    end_mark: Event | None = None
    ping: Event | None = None
    headers: tuple[str, ...] = ()
    background: Background | None = None

    def check(self, body: object) -> Asked:
        request, model = read_request(body, "contents")
        streamed = is_streamed(request)
        config = _given(request, "generationConfig")
        if not isinstance(config, dict | None):
            raise InvalidRequest("'generationConfig' must be an object.", param="generationConfig")
        count = _given(config or {}, "candidateCount")
        if count is not None and (type(count) is not int or not 1 <= count <= _MAX_CHOICES):
            field = "generationConfig.candidateCount"
            raise InvalidRequest(f"'{field}' must be a whole number from 1 to {_MAX_CHOICES}.", param=field)
        limit = _given(config or {}, "maxOutputTokens")
        if limit is not None and (type(limit) is not int or limit < 1):
            field = "generationConfig.maxOutputTokens"
            raise InvalidRequest(f"'{field}' must be a whole number above 0.", param=field)
        return Asked(
            model=model,
            streamed=streamed,
            choices=count or 1,
            choices_field="generationConfig.candidateCount",
            output_tokens=limit,
            output_tokens_field="generationConfig.maxOutputTokens",
            kept=file_by_id(request),
        )

    def outgoing(self, request: Json, *, ask_usage: bool, headers: Mapping[str, str] = NO_HEADERS) -> Outgoing:  # noqa: ARG002
        """Usage is a part of every answer, so it need not be asked for."""
        method = "streamGenerateContent?alt=sse" if request.get("stream") else "generateContent"
        body = {name: value for name, value in request.items() if name not in _OURS}
        return Outgoing(
            path=f"/models/{quote(request['model'], safe='@')}:{method}",
            body=orjson.dumps(body),
            headers=tuple(headers.items()),
        )

    def streaming(self, request: Json) -> Json:
        return {**request, "stream": True}

    def written(self, conversation: Conversation) -> Json:
        return written(conversation)

    def question(self, request: Json) -> str:
        return last_words(request.get("contents"), "parts", role="user")

    def reading(self) -> Reading:
        return SeamReading(self.read, _nameless)

    def read(self, event: Event) -> Read:
        data, name = event
        if name == b"error":
            return Read(event, {}, (_named(fault_of_event(data)),), kept=False)
        payload = json_text.read_object(data)
        error = error_in(payload)
        if error is not None:
            return Read(event, payload, (_named(fault_of(_coded(error))),), kept=False)
        if not payload.keys() & _FIELDS:
            raise Malformed
        return Read(event, payload, steps_of(event, payload))

    def events(self, body: bytes, *, streamed: bool) -> list[Event]:  # noqa: ARG002
        """A whole response is an event of a stream as well. A stream that is not asked for as events is a list."""
        payload = json_text.read_loosely(body)
        if isinstance(payload, list) and payload:
            return [Event(json_text.write(each)) for each in payload]
        if not isinstance(payload, dict):
            raise Malformed
        # The only line ends inside an event are line feeds; in JSON, a carriage return is only white space.
        return [Event(body.removeprefix(b"\xef\xbb\xbf").replace(b"\r", b""))]

    def fault(self, status: int, body: bytes) -> Fault:
        return _named(fault_of_status(status, body))

    def error(self, error: HoldfastError, own: bytes = b"") -> Event:
        """`details` has our code as its reason, and the field that is wrong.

        The Python SDK takes an event for an error only if `error` is its first field, and needs a number as the code.
        """
        theirs = json_text.read_loosely(own).get("error") if own else None
        if isinstance(theirs, dict) and theirs.get("code") in range(400, 600):
            return Event(json_text.write({"error": theirs}))
        about = {name: str(value) for name, value in error.details.items()}
        details: list[Json] = [
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": error.code,
                "domain": "holdfast",
                "metadata": about,
            }
        ]
        if error.param:
            wrong = {"field": error.param, "description": error.message}
            details.append({"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [wrong]})
        name = _NAMES.get(error.status) or ("INTERNAL" if error.status >= 500 else "INVALID_ARGUMENT")
        said = {"code": error.status, "message": error.message, "status": name, "details": details}
        return Event(json_text.write({"error": said}))

    def answer(self, choices: int = 1) -> Answer:
        return Candidates(choices)

    def rest(self, request: Json, answer: Answer, style: Prefill | None) -> Rest | None:  # noqa: ARG002
        """No continuation: the API does not promise that an answer goes on where a turn of the model's ends."""
        return Rest(request, self.reading()) if answer.silent else None


def _nameless(read: Read) -> Read:
    """This API's events have no names."""
    event, payload, steps, kept, _ = read
    return Read(Event(event.data), payload, steps, kept) if event.name else read


def _given(fields: Json, name: str) -> Any:
    """A field of a request, which may also be written as in protocol buffers: `candidate_count`.

    https://protobuf.dev/programming-guides/json/
    """
    value = fields.get(name)
    return fields.get(re.sub("[A-Z]", lambda capital: "_" + capital[0].lower(), name)) if value is None else value


def _coded(error: Any) -> Any:
    """An error with its number, which its name stands for as well."""
    if not isinstance(error, dict) or isinstance(error.get("code"), int):
        return error
    code = _STATUS.get(str(error.get("status")))
    return {**error, "code": code} if code else error


def _named(fault: Fault) -> Fault:
    """The fault with the name of its status as its code, as it is in Google's errors."""
    said = json_text.read_object(fault.body.encode()).get("error") if fault.body else None
    name = said.get("status") if isinstance(said, dict) else None
    named = replace(fault, code=name) if isinstance(name, str) and name in _STATUS else fault
    return replace(named, about_key=isinstance(said, dict) and _is_about_key(said))


def _is_about_key(error: Json) -> bool:
    """Whether the upstream refused this service's key, which the Gemini API does with a 400.

    https://github.com/googleapis/googleapis/blob/master/google/api/error_reason.proto
    """
    details = error.get("details")
    reasons = [each.get("reason") for each in details if isinstance(each, dict)] if isinstance(details, list) else []
    return any(isinstance(reason, str) and reason.startswith("API_KEY_") for reason in reasons)
