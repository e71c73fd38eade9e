"""OpenAI's chat completions, as a dialect: what an upstream's events mean and what they add up to.

Pure. Reads one event at a time, never does I/O, and keeps whatever fields it does not know: an upstream's own
additions (reasoning, images, annotations) are merged like any other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import orjson

from lib.domain.errors import InvalidRequest

Json = dict[str, Any]

_DONE = b"[DONE]"
# Strings that a stream repeats or sends once; every other string in a delta is a piece to append.
_WHOLE = frozenset({"id", "index", "name", "object", "role", "type"})
_REASONING = ("reasoning_content", "reasoning")
_ERROR_CHARACTERS = 2000  # of an upstream's message: it goes into three documents
_USAGE_CHARACTERS = 1400  # as JSON; so does the usage, and Firestore takes a name of at most 1,500 bytes
_USAGE_LEVELS = 5
_LEVELS = 100  # of maps and lists in an event
# Errors sent as events that another call may not meet: by OpenAI's and Anthropic's type, or by an HTTP status.
_PASSING_ERRORS = frozenset({"server_error", "overloaded_error", "rate_limit_error", "api_error", "408", "425", "429"})


class Malformed(Exception):
    """An event that is no JSON object, or none of this dialect, or nested beyond reason."""


class UpstreamError(Exception):
    """The upstream's own error, sent as an event: `{"error": …}`, where that is not null."""

    def __init__(self, error: Any):
        fields = error if isinstance(error, dict) else {"message": str(error)}
        said = str(fields.get("message") or "The upstream reported an error.")
        self.message = well_formed(said[:_ERROR_CHARACTERS])
        named = [str(fields.get(name) or "") for name in ("code", "type")]
        self.code = (named[0] or named[1] or "upstream_error")[:_ERROR_CHARACTERS]
        self.passing = any(name in _PASSING_ERRORS or re.fullmatch(r"5\d\d", name) for name in named)
        super().__init__(self.message)


def read(data: bytes) -> Json | None:
    """One event's JSON, or None for `[DONE]`, which is the end only as a whole payload."""
    if data.strip() == _DONE:
        return None
    try:
        payload = orjson.loads(data)
    except orjson.JSONDecodeError:
        payload = _read_loosely(data)
    if not isinstance(payload, dict):
        raise Malformed
    if payload.get("error"):
        raise UpstreamError(payload["error"])
    if not isinstance(payload.get("choices"), list | None) or too_deep(payload, data):
        raise Malformed
    return payload


def too_deep(payload: Any, data: bytes) -> bool:
    """Whether JSON, as it was read from `data`, is nested beyond reason."""
    if data.count(b"{") + data.count(b"[") <= _LEVELS:
        return False
    inner: list[Any] = [payload]
    for _ in range(_LEVELS):
        inner = [
            member
            for item in inner
            if isinstance(item, dict | list)
            for member in (item.values() if isinstance(item, dict) else item)
        ]
    return bool(inner)


def is_json(content_type: str) -> bool:
    """Whether a Content-Type says that a body is JSON."""
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == "application/json" or media_type.endswith("+json")


def _read_loosely(data: bytes) -> Any:
    """JSON with half a surrogate pair, which upstreams that cut text by UTF-16 units send, and orjson refuses."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Malformed from error


def well_formed(text: str) -> str:
    """`text` with the halves of surrogate pairs joined, and a lone half replaced: what UTF-8 can hold."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def check_request(body: Any) -> Json:
    """A request's JSON, if it is a chat completion request as far as Holdfast needs to know it."""
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object.", code="invalid_body")
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidRequest("'model' must be a non-empty string.", param="model")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("'messages' must be a non-empty list.", param="messages")
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise InvalidRequest(f"'messages[{index}]' must be an object.", param=f"messages[{index}]")
    if not isinstance(body.get("stream"), bool | None):
        raise InvalidRequest("'stream' must be true or false.", param="stream")
    options = body.get("stream_options")
    if not isinstance(options, dict | None):
        raise InvalidRequest("'stream_options' must be an object.", param="stream_options")
    if options is not None and not body.get("stream"):
        raise InvalidRequest("'stream_options' is only allowed with 'stream': true.", param="stream_options")
    count = body.get("n")
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= 128):
        raise InvalidRequest("'n' must be a whole number from 1 to 128.", param="n")
    return body


def wants_usage(request: Json) -> bool:
    """Whether the client itself asked for the chunk that has the usage."""
    return bool((request.get("stream_options") or {}).get("include_usage"))


def with_usage(request: Json) -> Json:
    """The request as the upstream gets it: unchanged, but that a streamed answer tells its usage."""
    if not request.get("stream") or wants_usage(request):
        return request
    return {**request, "stream_options": {**(request.get("stream_options") or {}), "include_usage": True}}


def is_usage_chunk(chunk: Json) -> bool:
    """The extra chunk of `include_usage`: it has a usage and no choice."""
    return chunk.get("usage") is not None and not chunk.get("choices")


class Answer:
    """What a generation's events add up to, chunk by chunk or from one whole completion."""

    def __init__(self, choices_wanted: int = 1):
        self._wanted = choices_wanted
        self._top: Json = {}
        self._choices: dict[int, Json] = {}
        self.usage: Json | None = None
        self.events = 0
        self.spoken = 0  # events that added visible text: at least so many tokens were spent on it

    def add(self, chunk: Json) -> str:
        """Takes one event in, and gives the visible text that it adds."""
        self.events += 1
        added = ""
        for key, value in chunk.items():
            if key == "choices":
                for part in value or ():
                    added += self._add_choice(part)
            elif key == "usage":
                self.usage = whole(value) if isinstance(value, dict) and _modest(value) else self.usage
            elif not self._top.get(key):
                self._top[key] = whole(value)
        self.spoken += bool(added)
        return added

    def _add_choice(self, part: Any) -> str:
        if not isinstance(part, dict):
            return ""
        index = part.get("index")
        choice = self._choices.setdefault(index if isinstance(index, int) else 0, {"message": {}})
        delta = part.get("delta") or part.get("message") or {}
        if not isinstance(delta, dict):
            return ""
        for key, value in part.items():
            if key in ("delta", "message", "index"):
                continue
            if key == "finish_reason":
                choice[key] = value or choice.get(key)
            else:
                _merge(choice, {key: value})
        _merge(choice["message"], delta)
        return _text(delta.get("content")) if choice is self._choices.get(0) else ""

    @property
    def finished(self) -> bool:
        """Whether each choice that was asked for has its finish reason: the upstream's own end."""
        finished = sum(1 for choice in self._choices.values() if choice.get("finish_reason"))
        return finished == len(self._choices) and finished >= self._wanted

    @property
    def silent(self) -> bool:
        """Whether it has said nothing yet, but whose answer it is."""
        choices = self.choices()
        said = [value for choice in choices for key, value in choice["message"].items() if key != "role"]
        return not any(said) and not any(choice["finish_reason"] for choice in choices)

    @property
    def model(self) -> str | None:
        model = self._top.get("model")
        return model if isinstance(model, str) else None

    @property
    def identity(self) -> Json:
        """What all chunks of one completion have in common: `id` and `created`."""
        return {key: self._top[key] for key in ("id", "created") if key in self._top}

    def choices(self) -> list[Json]:
        """Each choice as a completion has it: `index`, `message`, `finish_reason`, and what else came with it."""
        return [
            {"index": index, "finish_reason": None, **whole(choice)} for index, choice in sorted(self._choices.items())
        ]

    def completion(self) -> Json:
        """The `chat.completion` that the chunks add up to."""
        choices = self.choices()
        for choice in choices:
            calls = choice["message"].get("tool_calls")
            for call in calls if isinstance(calls, list) else ():
                if isinstance(call, dict):
                    call.pop("index", None)
        if not choices:
            choices = [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": ""}}]
        whole = {"id": "", "created": 0, "model": ""}
        completion = {**whole, **self._top, "object": "chat.completion", "choices": choices}
        return {**completion, "usage": self.usage} if self.usage is not None else completion

    def message(self) -> Json:
        """The answer as an app's message has it: `content`, and each structured part that there is.

        The first choice is the message; the others are under `choices`.
        """
        first, *others = [_message(choice) for choice in self.choices()] or [{"content": ""}]
        return {"role": "assistant", **first, **({"choices": others} if others else {})}


def completion_from(events: Iterable[bytes]) -> bytes:
    """The body of an answer that is not streamed: the upstream's own where it sent one, else its chunks as one."""
    answer = Answer()
    only = b""
    for data in events:
        chunk = read(data)
        if chunk is None:
            continue
        answer.add(chunk)
        only = data if answer.events == 1 and is_completion(chunk) else b""
    return only or orjson.dumps(answer.completion())


def is_completion(payload: Json) -> bool:
    """Whether this is a whole completion, not a chunk of one."""
    choices = payload.get("choices")
    return isinstance(choices, list) and any(isinstance(choice, dict) and "message" in choice for choice in choices)


def chunk_from(completion: Json) -> Json:
    """A whole completion as the one chunk of a stream, for a client that asked for a stream and an upstream that
    answered without one."""
    choices = [
        {**{key: value for key, value in choice.items() if key != "message"}, "delta": _indexed(choice["message"])}
        for choice in completion["choices"]
        if isinstance(choice, dict) and isinstance(choice.get("message"), dict)
    ]
    chunk: Json = whole({**completion, "object": "chat.completion.chunk", "choices": choices})
    return chunk


def _indexed(message: Json) -> Json:
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    indexed = [{"index": index, **call} if isinstance(call, dict) else call for index, call in enumerate(calls)]
    return {**message, "tool_calls": indexed}


def _message(choice: Json) -> Json:
    message = dict(choice["message"])
    message.pop("role", None)
    content = message.pop("content", None)
    known: Json = {"content": _text(content)}
    # Some upstreams send the same under both names.
    reasoning = max((_text(message.pop(key, None)) for key in _REASONING), key=len)
    if reasoning:
        known["reasoning"] = reasoning
    if message.get("refusal"):
        known["refusal"] = message["refusal"]
    if message.get("tool_calls"):
        known["toolCalls"] = message["tool_calls"]
    known["finishReason"] = choice["finish_reason"]
    if choice["index"]:
        known["index"] = choice["index"]
    rest = {key: value for key, value in message.items() if key not in ("refusal", "tool_calls") and value is not None}
    if isinstance(content, list) and any(not _is_text(part) for part in content):
        rest["content"] = [part for part in content if not _is_text(part)]
    return {**known, "extra": rest} if rest else known


def _text(content: Any) -> str:
    """The visible text of a `content`: a string, or a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(part["text"] for part in content if _is_text(part))
    return ""


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and isinstance(part.get("text"), str)


class _Pieces(list[str]):
    """A string that is still growing. Joined once, at the end: appending to a string copies it each time."""


def _merge(into: Json, delta: Json) -> None:
    for key, value in delta.items():
        have = into.get(key)
        if value is None:
            into.setdefault(key, None)
        elif isinstance(value, str) and key not in _WHOLE:
            if isinstance(have, _Pieces):
                have.append(value)
            elif isinstance(have, list):
                last = have[-1].get("text") if have and isinstance(have[-1], dict) else None
                if isinstance(last, _Pieces):
                    last.append(value)
                else:
                    have.append({"type": "text", "text": _Pieces([value])})
            else:
                into[key] = _Pieces([value])
        elif isinstance(value, dict):
            if not isinstance(have, dict):
                have = into[key] = {}
            _merge(have, value)
        elif isinstance(value, list):
            if isinstance(have, _Pieces):
                have = into[key] = [{"type": "text", "text": have}]
            elif not isinstance(have, list):
                have = into[key] = []
            _merge_items(have, value)
        elif not have:
            into[key] = value


def _merge_items(into: list[Any], items: list[Any]) -> None:
    for item in items:
        if not isinstance(item, dict):
            into.append(item)
            continue
        index = item.get("index")
        same = next((have for have in into if index is not None and _has_index(have, index)), None)
        if same is None:
            same = {}
            into.append(same)
        _merge(same, item)


def _modest(usage: Json) -> bool:
    """Whether this is small and flat enough to be kept in three documents."""
    levels = 0
    inner: list[Any] = [usage]
    while inner:
        levels += 1
        inner = [item for value in inner if isinstance(value, dict) for item in value.values()]
        if levels > _USAGE_LEVELS or any(isinstance(value, list) for value in inner):
            return False
    return len(json.dumps(usage)) <= _USAGE_CHARACTERS


def _has_index(item: Any, index: Any) -> bool:
    return isinstance(item, dict) and item.get("index") == index


def visible_text(chunk: Json) -> str:
    """The text of the first choice that one event adds."""
    for choice in chunk.get("choices") or ():
        if isinstance(choice, dict) and not choice.get("index"):
            delta = choice.get("delta") or choice.get("message")
            return _text(delta.get("content")) if isinstance(delta, dict) else ""
    return ""


def whole(value: Any) -> Any:
    """JSON that can be saved and sent: pieces joined, and every text well-formed."""
    if isinstance(value, _Pieces):
        return well_formed("".join(value))
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, dict):
        return {well_formed(key): whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [whole(item) for item in value]
    return value
