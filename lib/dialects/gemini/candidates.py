"""Folds Gemini's responses into the candidates of one: their parts, finish reasons and other fields, and the usage."""

from __future__ import annotations

from typing import Any

from lib.dialects import payload as json_text
from lib.dialects.counts import tokens
from lib.dialects.folding import Fields, Pieces, fold, unfolded
from lib.dialects.gemini.events import blocked, finish_reason, indexed, parts_of
from lib.dialects.protocol import Answer, Read
from lib.dialects.steps import Json, Reasoning, Text, ToolCall
from lib.dialects.usage import modest
from lib.domain.message import Said

_OWN = frozenset({"candidates", "usageMetadata", "modelVersion", "responseId"})
_WORDS = frozenset({"text", "thought"})


class Candidates(Answer):
    """The answer to one request, from the events of a stream or from one whole response."""

    def __init__(self, choices: int = 1):
        super().__init__(choices)
        self._top: Json = {}
        self._candidates: dict[int, _Candidate] = {}
        self._own_body: bytes | None = None

    def _fold(self, read: Read) -> None:
        self._own_body = read.event.data if self.events == 1 else None
        for key, value in read.payload.items():
            if key != "candidates":
                self._top[key] = later(self._top.get(key), value)
        for index, candidate in indexed(read.payload):
            self._candidates.setdefault(index, _Candidate()).fold(candidate)
        for step in read.steps:
            if isinstance(step, ToolCall):
                self._candidates[step.choice].calls.append(_called(step))

    def _seen_choices(self) -> int:
        return len(self._candidates)

    @property
    def _block_reason(self) -> str | None:
        return None if self._candidates else blocked(self._top)

    @property
    def finished(self) -> bool:
        return super().finished or self._block_reason is not None

    @property
    def usage(self) -> Json | None:
        return modest(self._top.get("usageMetadata")) or None

    def body(self) -> bytes:
        if self._own_body is not None:
            return self._own_body
        whole = [{**each.whole(), "index": index} for index, each in sorted(self._candidates.items())]
        return json_text.write({"candidates": whole, **self._top} if whole else self._top)

    def said(self) -> Said:
        first, *others = [self._message(index) for index in sorted(self._candidates)] or [
            {"content": "", "finishReason": self._block_reason}
        ]
        fields: Json = {**first, "choices": others} if others else first
        extra = {key: value for key, value in self._top.items() if key not in _OWN and not _is_empty(value)}
        if extra:
            fields["extra"] = {**extra, **fields.get("extra", {})}
        model, usage = self._top.get("modelVersion"), self.usage or {}
        return Said(
            fields=fields,
            model=model if model and isinstance(model, str) else None,
            usage=self.usage,
            input_tokens=_sum(usage, "promptTokenCount", "toolUsePromptTokenCount"),
            output_tokens=_sum(usage, "candidatesTokenCount", "thoughtsTokenCount"),
        )

    def _message(self, index: int) -> Json:
        candidate = self._candidates[index]
        message: Json = {"content": self.words(Text, index)}
        if reasoning := self.words(Reasoning, index):
            message["reasoning"] = reasoning
        if candidate.calls:
            message["toolCalls"] = candidate.calls
        message["finishReason"] = candidate.finish
        if index:
            message["index"] = index
        extra = candidate.extra()
        return {**message, "extra": extra} if extra else message


class _Candidate:
    """One candidate. `calls` are its tool calls as the application's message has them, whichever API it is from."""

    __slots__ = ("_logprobs", "_more", "_parts", "_role", "calls", "finish")

    def __init__(self) -> None:
        self.calls: list[Json] = []
        self.finish: str | None = None
        self._role = "model"
        self._parts: list[Json] = []
        self._more: Json = {}
        self._logprobs = Fields()

    def fold(self, candidate: Json) -> None:
        for part in parts_of(candidate):
            self._add(part)
        for key, value in candidate.items():
            if key == "content":
                self._role = (isinstance(value, dict) and value.get("role")) or self._role
            elif key == "finishReason":
                self.finish = finish_reason(value) or self.finish
            elif key == "logprobsResult":
                fold(self._logprobs, {"logprobs": value})
            elif key != "index":
                self._more[key] = later(self._more.get(key), value)

    def _add(self, part: Json) -> None:
        """Text goes on in the last part, if both are of the same kind. A part that is signed stays as it is.

        https://ai.google.dev/gemini-api/docs/thought-signatures
        """
        if not _is_words(part):
            self._parts.append(part)
            return
        last = self._parts[-1] if self._parts else {}
        if type(last.get("text")) is Pieces and bool(last.get("thought")) == bool(part.get("thought")):
            last["text"].append(part["text"])
        elif part["text"]:
            self._parts.append({**part, "text": Pieces([part["text"]])})

    def _content(self) -> Json:
        parts = [{key: unfolded(value) for key, value in part.items()} for part in self._parts]
        return {"parts": parts, "role": self._role}

    def _others(self) -> Json:
        logprobs = {"logprobsResult": unfolded(self._logprobs["logprobs"])} if self._logprobs else {}
        return {**self._more, **logprobs}

    def whole(self) -> Json:
        """The candidate as one response has it."""
        ended = {"finishReason": self.finish} if self.finish else {}
        return {"content": self._content(), **ended, **self._others()}

    def extra(self) -> Json:
        """What the message has no place for. Signed parts must be sent back unchanged, and so all parts are there."""
        extra = {key: value for key, value in self._others().items() if not _is_empty(value)}
        return extra if all(map(_is_plain, self._parts)) else {**extra, "content": self._content()}


def later(have: Any, said: Any) -> Any:
    """A value after the upstream sent it again: nothing replaces something, and no list replaces a longer one."""
    if isinstance(have, dict) and isinstance(said, dict):
        return {**have, **{key: later(have.get(key), value) for key, value in said.items()}}
    if isinstance(have, list) and isinstance(said, list):
        return said if len(said) >= len(have) else have
    return have if _is_empty(said) and have is not None else said


def _called(step: ToolCall) -> Json:
    return {"id": step.id, "type": "function", "function": {"name": step.name, "arguments": step.arguments}}


def _is_words(part: Json) -> bool:
    return part.keys() <= _WORDS and isinstance(part.get("text"), str)


def _is_plain(part: Json) -> bool:
    """Whether the message's `content`, `reasoning` and `toolCalls` have all of a part."""
    return part.keys() <= _WORDS or part.keys() == {"functionCall"}


def _sum(usage: Json, *names: str) -> int | None:
    counts = [count for name in names if (count := tokens(usage.get(name))) is not None]
    return sum(counts) if counts else None


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str | list | dict) and not value)
