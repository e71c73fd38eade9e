"""Folds the events of a chat completion, into the application's message and a unary response's `chat.completion`."""

from __future__ import annotations

from typing import Any

from lib.dialects import payload as json_text
from lib.dialects.counts import tokens
from lib.dialects.folding import Fields, Pieces, fold, richer, unfolded
from lib.dialects.protocol import Answer, Read
from lib.dialects.steps import Json, Reasoning, Refusal, Text, Usage, is_reason
from lib.domain.message import Said

REASONING = ("reasoning_content", "reasoning", "reasoning_text", "thinking")
"""The fields in which upstreams send thinking. Some send the same text in two of them."""
DETAILS = ("reasoning_details", "thinking_blocks")
"""Thinking in parts. For some models it is signed, and must be sent back unchanged."""

_OWN = frozenset({"id", "object", "created", "model", "choices", "usage"})
_PADDING = "obfuscation"  # random padding against traffic analysis


class Completion(Answer):
    """The answer to one request, from its chunks or from one whole completion."""

    def __init__(self, choices: int = 1):
        super().__init__(choices)
        self._top: Json = {}
        self._known: set[str] = set()  # fields that later events can't change
        self._choices: dict[int, _Choice] = {}
        self._usage: Json | None = None
        self._own_body: bytes | None = None

    def _fold(self, read: Read) -> None:
        known = self._known
        for key, value in read.payload.items():
            if key in known:
                continue
            if key == "choices":
                for part in value or ():
                    if type(part) is dict:
                        self._fold_choice(part)
            elif key == "usage":
                if value:
                    self._usage = next((step.usage for step in read.steps if type(step) is Usage), self._usage)
            elif key != _PADDING:
                self._top[key] = richer(self._top.get(key), value)
                if value and type(value) is not dict and type(value) is not list:
                    known.add(key)
        self._own_body = read.event.data if self.events == 1 and is_whole(read.payload) else None

    def _fold_choice(self, part: Json) -> None:
        index = part.get("index")
        number = index if type(index) is int else 0
        choice = self._choices.get(number)
        if choice is None:
            choice = self._choices[number] = _Choice()
        for key, value in part.items():
            if key == "delta":
                if type(value) is dict:
                    fold(choice.message, value)
            elif key == "index":
                pass
            elif key == "finish_reason":
                if value is not None and is_reason(value):
                    choice.finish = value
            elif key == "message":
                if type(value) is dict:
                    choice.fold_message(value, beside_delta=type(part.get("delta")) is dict)
            elif value is not None or key not in choice.more:
                fold(choice.more, {key: value})

    def _seen_choices(self) -> int:
        return len(self._choices)

    @property
    def usage(self) -> Json | None:
        return self._usage

    @property
    def identity(self) -> Json:
        """The fields that are equal in all chunks of one completion: `id` and `created`."""
        return {key: self._top[key] for key in ("id", "created") if key in self._top}

    def choices(self) -> list[Json]:
        """The choices of the completion: `index`, `message`, `finish_reason`, and any other fields that were sent."""
        return [
            {
                "index": index,
                "message": {"role": "assistant", **unfolded(choice.message)},
                "finish_reason": choice.finish,
                **unfolded(choice.more),
            }
            for index, choice in sorted(self._choices.items())
        ]

    def body(self) -> bytes:
        return json_text.write(self.completion()) if self._own_body is None else self._own_body

    def completion(self) -> Json:
        """The `chat.completion` object."""
        choices = self.choices()
        for choice in choices:
            calls = choice["message"].get("tool_calls")
            for call in calls if isinstance(calls, list) else ():
                if isinstance(call, dict):
                    call.pop("index", None)
        blank = {"id": "", "created": 0, "model": ""}
        completion = {**blank, **self._top, "object": "chat.completion", "choices": choices}
        return completion if self._usage is None else {**completion, "usage": self._usage}

    def said(self) -> Said:
        fields: Json = {"content": ""}
        if self._choices:
            first, *others = [self._message(index) for index in sorted(self._choices)]
            fields = {**first, "choices": others} if others else first
        extra = {key: value for key, value in self._top.items() if key not in _OWN and not _is_empty(value)}
        if extra:
            fields["extra"] = {**extra, **fields.get("extra", {})}
        model = self._top.get("model")
        usage = self._usage or {}
        return Said(
            fields=fields,
            model=model if model and isinstance(model, str) else None,
            usage=self._usage,
            input_tokens=tokens(usage.get("prompt_tokens")),
            output_tokens=tokens(usage.get("completion_tokens")),
        )

    def _message(self, index: int) -> Json:
        choice = self._choices[index]
        message = unfolded(choice.message)
        known: Json = {"content": self.words(Text, index)}
        if reasoning := self.words(Reasoning, index):
            known["reasoning"] = reasoning
        if refusal := self.words(Refusal, index):
            known["refusal"] = refusal
        if message.get("tool_calls"):
            known["toolCalls"] = message["tool_calls"]
        known["finishReason"] = choice.finish
        if index:
            known["index"] = index
        extra = {
            **unfolded(choice.more),
            **{key: value for key, value in message.items() if not _has_place(key, value)},
        }
        content = message.get("content")
        if isinstance(content, list):
            extra["content"] = [part for part in content if not _is_words(part)]
        extra = {key: value for key, value in extra.items() if not _is_empty(value)}
        return {**known, "extra": extra} if extra else known


class _Choice:
    """One choice: its message, its finish reason, and its other fields."""

    __slots__ = ("finish", "message", "more")

    def __init__(self) -> None:
        self.message = Fields()
        self.finish: str | None = None
        self.more = Fields()

    def fold_message(self, message: Json, *, beside_delta: bool) -> None:
        """Adds a whole message. Beside a delta it repeats the deltas, so only what they lack is added."""
        if beside_delta:
            message = {key: value for key, value in message.items() if not _is_said(self.message.get(key))}
        fold(self.message, message)


def is_whole(payload: Json) -> bool:
    """Whether this is a whole completion rather than a chunk."""
    choices = payload.get("choices")
    return isinstance(choices, list) and any(
        isinstance(choice, dict) and "message" in choice and not isinstance(choice.get("delta"), dict)
        for choice in choices
    )


def _is_words(part: Any) -> bool:
    """Whether a part of `content` is only text or thinking. Signed thinking is not: it must be sent back unchanged."""
    if not isinstance(part, dict) or part.get("type") not in ("thinking", "reasoning"):
        return isinstance(part, str) or (isinstance(part, dict) and isinstance(part.get("text"), str))
    return not any(part.get(name) for name in ("signature", "data"))


def _has_place(key: str, value: Any) -> bool:
    """Whether the application's message has its own field for this field."""
    return key in ("role", "content", "refusal", "tool_calls") or (key in REASONING and isinstance(value, str))


def _is_said(value: Any) -> bool:
    return any(value) if type(value) is Pieces else not _is_empty(value)


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str | list | dict) and not value)
