"""The dialect of OpenAI's chat completions.

Known additions of other upstreams (reasoning, images, annotations) are interpreted. Unknown fields are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from lib.dialects import payload as json_text
from lib.dialects.characters import Joiner, may_be_cut
from lib.dialects.chat_completions.completion import DETAILS, REASONING, Completion, is_whole
from lib.dialects.chat_completions.continuation import Seam, continued
from lib.dialects.chat_completions.request import file_by_id, written
from lib.dialects.conversation import Conversation
from lib.dialects.faults import error_in, fault_of, fault_of_event, fault_of_status
from lib.dialects.protocol import NO_HEADERS, Answer, Asked, Background, Malformed, Outgoing, Read, Reading, Rest
from lib.dialects.request import fallbacks, is_streamed, last_words, read_request
from lib.dialects.steps import (
    OUTPUT,
    EndMark,
    Fault,
    File,
    Finish,
    Json,
    Other,
    Reasoning,
    Refusal,
    Source,
    Step,
    Text,
    ToolCall,
    Usage,
    is_reason,
)
from lib.dialects.usage import is_modest
from lib.domain.errors import HoldfastError, InvalidRequest
from lib.domain.event import Event
from lib.runtime.catalog import Prefill

_DONE = b"[DONE]"
_DONE_BYTES = 32  # with surrounding white space
_MAX_CHOICES = 128
_TOKEN_LIMITS = ("max_completion_tokens", "max_tokens")
_NO_OUTPUT = frozenset({"role", "error"})


class ChatCompletions:
    """`POST {base_url}/chat/completions`."""

    name = "chat_completions"
    end_mark: Event | None = Event(_DONE)
    ping: Event | None = None
    headers: tuple[str, ...] = ()
    background: Background | None = None

    def check(self, body: object) -> Asked:
        request, model = read_request(body, "messages")
        streamed = is_streamed(request)
        options = request.get("stream_options")
        if not isinstance(options, dict | None):
            raise InvalidRequest("'stream_options' must be an object.", param="stream_options")
        if options is not None and not streamed:
            raise InvalidRequest("'stream_options' is only allowed with 'stream': true.", param="stream_options")
        count = request.get("n")
        if count is not None and (type(count) is not int or not 1 <= count <= _MAX_CHOICES):
            raise InvalidRequest(f"'n' must be a whole number from 1 to {_MAX_CHOICES}.", param="n")
        limits = {name: request[name] for name in _TOKEN_LIMITS if request.get(name) is not None}
        for name, limit in limits.items():
            if type(limit) is not int or limit < 1:
                raise InvalidRequest(f"'{name}' must be a whole number above 0.", param=name)
        most = max(limits, key=limits.__getitem__, default=_TOKEN_LIMITS[0])
        usage_asked = bool((options or {}).get("include_usage"))
        return Asked(
            model=model,
            streamed=streamed,
            fallbacks=fallbacks(request),
            choices=count or 1,
            output_tokens=limits.get(most),
            output_tokens_field=most,
            usage_shown=usage_asked or not streamed,
            kept=file_by_id(request),
        )

    def outgoing(self, request: Json, *, ask_usage: bool, headers: Mapping[str, str] = NO_HEADERS) -> Outgoing:
        options = request.get("stream_options") or {}
        if ask_usage and request.get("stream") and options.get("include_usage") is None:
            request = {**request, "stream_options": {**options, "include_usage": True}}
        return Outgoing(path="/chat/completions", body=orjson.dumps(request), headers=tuple(headers.items()))

    def streaming(self, request: Json) -> Json:
        return {**request, "stream": True}

    def written(self, conversation: Conversation) -> Json:
        return written(conversation)

    def question(self, request: Json) -> str:
        return last_words(request.get("messages"))

    def reading(self) -> Reading:
        return _Reading(self)

    def read(self, event: Event) -> Read:
        data, name = event
        if name == b"error":
            return Read(event, {}, (fault_of_event(data),), kept=False)
        if len(data) < _DONE_BYTES and data.strip() == _DONE:
            return Read(event, {}, (EndMark(),), kept=False)
        payload = json_text.read_object(data)
        steps: list[Step] = []
        error = payload.get("error")
        choices = payload.get("choices")
        if choices:
            if type(choices) is not list:
                raise Malformed
            for part in choices:
                if type(part) is dict:
                    error = _read_choice(part, steps) or error
        elif choices is not None and choices != []:
            raise Malformed
        else:
            error = error_in(payload)
        usage = payload.get("usage")
        if usage and is_modest(usage):
            steps.append(Usage(usage))
        if error:
            return _read_error(event, payload, steps, error)
        return Read(event, payload, tuple(steps), True, usage is not None and not choices)

    def events(self, body: bytes, *, streamed: bool) -> list[Event]:
        payload = json_text.read_loosely(body)
        if isinstance(payload, list) and (error := error_in(payload)) is not None:
            return [Event(json_text.write({"error": error}))]
        if not isinstance(payload, dict):
            raise Malformed
        # The only line ends inside an event are line feeds; in JSON, a carriage return is only white space.
        own = Event(body.removeprefix(b"\xef\xbb\xbf").replace(b"\r", b""))
        if error_in(payload) is not None:
            return [own]
        if not isinstance(payload.get("choices"), list):
            raise Malformed
        return [Event(json_text.write(_chunk_from(payload)))] if streamed and is_whole(payload) else [own]

    def fault(self, status: int, body: bytes) -> Fault:
        return fault_of_status(status, body)

    def error(self, error: HoldfastError, own: bytes = b"") -> Event:
        said = json_text.read_loosely(own) if own else {}
        return Event(own if said.get("error") else json_text.write(error.body()))

    def answer(self, choices: int = 1) -> Answer:
        return Completion(choices)

    def rest(self, request: Json, answer: Answer, style: Prefill | None) -> Rest | None:
        if not isinstance(answer, Completion):
            raise TypeError("the answer is another dialect's")
        if not answer.events:
            return Rest(request, self.reading())
        if answer.silent:
            return Rest(request, _Reading(self, Seam(answer.identity)))
        rest = continued(request, answer, style) if style is not None else None
        return Rest(rest[0], _Reading(self, rest[1], said={0})) if rest is not None else None


class _Reading:
    """Reads one call's events. Nearly all pass unchanged.

    `seam` adjusts the events of a continuation. `said` has the choices whose deltas had output so far.
    """

    def __init__(self, dialect: ChatCompletions, seam: Seam | None = None, said: set[int] | None = None):
        self._meaning = dialect.read
        self._joiner = Joiner()
        self._held = self._joiner.held
        self._seam = seam
        self._said = said if said is not None else set()

    def read(self, event: Event) -> Read:
        if self._seam is not None or self._held or may_be_cut(event.data):
            return self._meaning(self._fitted(event))
        read = self._meaning(event)
        _, payload, steps, _, _ = read
        for part in payload.get("choices") or ():
            if type(part) is dict and "message" in part:
                return self._meaning(self._fitted(event))
        for step in steps:
            if isinstance(step, OUTPUT):
                self._said.add(step.choice)
        return read

    def _fitted(self, event: Event) -> Event:
        try:
            payload = json_text.read_loosely(event.data)
        except Malformed:
            return event
        if not isinstance(payload, dict) or not isinstance(payload.get("choices"), list):
            return event
        fitted = self._joiner.joined(payload)
        if self._seam is not None:
            fitted = self._seam.fit(fitted)
        fitted = {**fitted, "choices": [self._with_output_in_delta(choice) for choice in fitted["choices"]]}
        return event if fitted == payload else Event(json_text.write(fitted), event.name)

    def _with_output_in_delta(self, choice: Any) -> Any:
        """The choice with all its output in `delta`.

        In the last chunk, some upstreams repeat the whole message beside the delta or instead of it. Others send the
        message only there.
        """
        if not isinstance(choice, dict):
            return choice
        index, delta, message = choice.get("index"), choice.get("delta"), choice.get("message")
        number = index if type(index) is int else 0
        if isinstance(delta, dict) and _says(delta):
            self._said.add(number)
        elif isinstance(message, dict) and number in self._said:
            return {**choice, "delta": delta if isinstance(delta, dict) else {}}
        elif isinstance(message, dict) and isinstance(delta, dict):
            merged = {**choice, "delta": {**delta, **_with_indexes(message)}}
            del merged["message"]
            return merged
        return choice


def _read_choice(part: Json, steps: list[Step]) -> Any:
    """Adds a choice's steps to `steps`. Returns the error in the choice, if there is one."""
    index = part.get("index")
    choice = index if type(index) is int else 0
    error = part.get("error")
    delta = part.get("delta")
    if type(delta) is not dict:
        delta = part.get("message")
    if delta and type(delta) is dict:
        _read_delta(delta, choice, steps)
        error = error or delta.get("error")
    reason = part.get("finish_reason")
    if reason and is_reason(reason):
        if reason == "error":
            error = error or True
        elif not error:
            steps.append(Finish(reason, choice))
    return error


def _read_delta(delta: Json, choice: int, steps: list[Step]) -> None:
    start = len(steps)
    reasoning, details = "", None
    for key, value in delta.items():
        if not value or key in _NO_OUTPUT:
            continue
        if key == "content":
            if type(value) is str:
                steps.append(Text(value, choice))
            elif type(value) is list:
                _read_parts(value, choice, steps)
            else:
                steps.append(Other(choice))
        elif key in REASONING and type(value) is str:
            reasoning = max(reasoning, value, key=len)
        elif key in DETAILS and type(value) is list:
            details = value
        elif key == "tool_calls" and type(value) is list:
            for at, call in enumerate(value):
                steps.append(_tool_call(call, at, choice))
        elif key == "refusal" and type(value) is str:
            steps.append(Refusal(value, choice))
        elif key == "images" and type(value) is list:
            steps += [_picture(each, choice) for each in value]
        elif key == "annotations" and type(value) is list:
            steps += [_cited(each, choice) for each in value]
        elif key == "function_call" and type(value) is dict:
            steps.append(_tool_call({"index": 0, "function": value}, 0, choice))
        else:
            steps.append(Other(choice))
    if details and not reasoning:
        reasoning = "".join(_thought(part) for part in details)
        if not reasoning:
            steps.append(Other(choice))
    if reasoning:
        steps.insert(start, Reasoning(reasoning, choice))


def _read_parts(parts: list[Any], choice: int, steps: list[Step]) -> None:
    """Reads `content` in parts. Mistral sends thinking as `{"type": "thinking", "thinking": [{"type": "text", …}]}`."""
    for part in parts:
        if isinstance(part, str):
            steps.append(Text(part, choice))
            continue
        kind, text = (part.get("type"), part.get("text")) if isinstance(part, dict) else (None, None)
        if kind in ("thinking", "reasoning"):
            thought = _thought(part)
            steps.append(Reasoning(thought, choice) if thought else Other(choice))
        elif isinstance(text, str):
            if text:
                steps.append(Text(text, choice))
        elif kind == "refusal" and isinstance(part.get("refusal"), str):
            steps.append(Refusal(part["refusal"], choice))
        elif kind == "image_url":
            steps.append(_picture(part, choice))
        else:
            steps.append(Other(choice))


def _thought(part: Any) -> str:
    """The text of a part of thinking: in `thinking` (as text or as parts), in `text`, or in `summary`."""
    if not isinstance(part, dict):
        return ""
    for key in ("thinking", "text", "summary"):
        value = part.get(key)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, list):
            return "".join(_thought(item) for item in value)
    return ""


def _picture(part: Any, choice: int) -> Step:
    """A picture as OpenRouter sends it: `{"type": "image_url", "image_url": {"url": "data:image/png;base64,…"}}`."""
    held = part.get("image_url") if isinstance(part, dict) else None
    url = held.get("url") if isinstance(held, dict) else held
    if not isinstance(url, str) or not url:
        return Other(choice)
    media_type = url[5:].partition(",")[0].partition(";")[0] if url.startswith("data:") else "image/*"
    return File(url, media_type or "image/*", choice)


def _cited(annotation: Any, choice: int) -> Step:
    """A citation: `{"type": "url_citation", "url_citation": {"url": …, "title": …}}`."""
    held = annotation.get("url_citation") if isinstance(annotation, dict) else None
    if not isinstance(held, dict) or not isinstance(held.get("url"), str):
        return Other(choice)
    return Source(held["url"], _string(held.get("title")), choice)


def _tool_call(call: Any, at: int, choice: int) -> Step:
    if not isinstance(call, dict):
        return Other(choice)
    function = call.get("function") or call.get("custom")
    if not isinstance(function, dict):
        function = {}
    own, name = _string(call.get("id")), _string(function.get("name"))
    arguments = function.get("arguments") or function.get("input") or ""
    if not isinstance(arguments, str):
        arguments = json_text.write(arguments).decode()
    index = call.get("index")
    place = index if type(index) is int else at if name else -1
    return ToolCall(place, own, name, arguments, choice)


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _says(delta: Json) -> bool:
    return any(value for key, value in delta.items() if key not in _NO_OUTPUT)


def _read_error(event: Event, payload: Json, steps: list[Step], error: Any) -> Read:
    """Reads an error at the top level. The event has nothing else, unless a choice has output beside it."""
    top = error_in(payload)
    if top is None:
        return Read(event, payload, (*steps, fault_of(error)))
    said = [step for step in steps if not isinstance(step, Finish)]
    if any(isinstance(step, OUTPUT) for step in said):
        return Read(event, payload, (*said, fault_of(top)))
    return Read(event, payload, (fault_of(top),), kept=False)


def _chunk_from(completion: Json) -> Json:
    """Converts a whole completion into a single chunk."""
    choices = [
        {**{key: value for key, value in choice.items() if key != "message"}, "delta": _with_indexes(choice["message"])}
        if isinstance(choice, dict) and isinstance(choice.get("message"), dict)
        else choice
        for choice in completion["choices"]
    ]
    return {**completion, "object": "chat.completion.chunk", "choices": choices}


def _with_indexes(message: Json) -> Json:
    """A message as a delta, in which each tool call has an index."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    indexed = [{"index": index, **call} if isinstance(call, dict) else call for index, call in enumerate(calls)]
    return {**message, "tool_calls": indexed}
