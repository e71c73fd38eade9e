"""Folds the events of Anthropic's Messages into the assistant's turn: blocks of content, a stop reason, and usage."""

from __future__ import annotations

from typing import Any

from lib.dialects import payload as json_text
from lib.dialects.counts import tokens
from lib.dialects.folding import Fields, Pieces, fold, richer, unfolded
from lib.dialects.protocol import Answer, Malformed, Read
from lib.dialects.steps import Json, Reasoning, Refusal, Text, is_reason
from lib.dialects.usage import modest
from lib.domain.message import Said

_OWN = frozenset({"id", "type", "role", "model", "content", "stop_reason", "usage"})
_BLOCK_OF = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "thinking"}
_INPUTS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


class Turn(Answer):
    """The answer to one request, from the events of a stream or from one whole message.

    `begun`: the stream's first event has come.
    """

    def __init__(self, choices: int = 1):
        super().__init__(choices)
        self._top: Json = {}
        self._blocks: list[_Block] = []
        self._at: dict[int, _Block] = {}  # the block that an index means now
        self._reason: str | None = None
        self._usage: Json = {}
        self._own_body: bytes | None = None
        self.begun = False

    def _fold(self, read: Read) -> None:
        payload = read.payload
        self._own_body = None
        match payload.get("type"):
            case "content_block_delta":
                self._block(payload.get("index"), payload["delta"]).add(payload["delta"])
            case "content_block_start":
                self._begin(payload.get("index"), payload["content_block"])
            case "content_block_stop":
                self._block(payload.get("index"), {}).is_open = False
            case "message_start":
                self._fold_message(payload["message"])
            case "message_delta":
                delta = payload.get("delta")
                self._fold_top({**payload, **delta} if isinstance(delta, dict) else payload)
            case "message":
                self._own_body = read.event.data if self.events == 1 else None
                self._fold_message(payload)

    def _fold_message(self, message: Json) -> None:
        self.begun = True
        self._fold_top(message)
        content = message.get("content")
        for block in content if isinstance(content, list) else ():
            if isinstance(block, dict):
                self._begin(len(self._blocks), block)

    def _fold_top(self, said: Json) -> None:
        for key, value in said.items():
            if key == "usage":
                self._usage |= modest(value)
            elif key == "stop_reason":
                self._reason = value if is_reason(value) else self._reason
            elif key not in ("content", "delta", "type"):
                have = self._top.get(key)
                # A later value replaces an earlier one, but nothing replaces something.
                self._top[key] = richer(have, value) if isinstance(value, dict | list) or not value else value

    def _begin(self, index: Any, block: Json) -> None:
        """A block that begins at the place of one that is not over is the same one, if it is of the same kind."""
        place = index if type(index) is int else len(self._blocks)
        same = self._at.get(place)
        if same is None or not same.is_open or same.kind != block.get("type"):
            same = self._at[place] = _Block()
            self._blocks.append(same)
        same.begin(block)

    def _block(self, index: Any, delta: Json) -> _Block:
        """The block that an event at this index is about: without an index, the last one."""
        if type(index) is not int and self._blocks:
            return self._blocks[-1]
        place = index if type(index) is int else 0
        if place not in self._at:
            self._begin(place, {"type": _BLOCK_OF.get(str(delta.get("type")), "text")})
        return self._at[place]

    def _seen_choices(self) -> int:
        return 1

    @property
    def next_index(self) -> int:
        """The index of the next block to begin."""
        return max(self._at, default=-1) + 1

    @property
    def open_block(self) -> tuple[int, str] | None:
        """Index and kind of the block that the stream was in the middle of."""
        return next(((index, block.kind) for index, block in reversed(self._at.items()) if block.is_open), None)

    @property
    def is_plain_text(self) -> bool:
        """Whether it is nothing but text so far."""
        return all(block.kind == "text" and block.is_plain for block in self._blocks)

    @property
    def usage(self) -> Json | None:
        return self._usage or None

    def content(self) -> list[Json]:
        """The blocks so far, in order."""
        return [block.whole() for block in self._blocks]

    def body(self) -> bytes:
        if self._own_body is not None:
            return self._own_body
        blank = {"id": "", "type": "message", "role": "assistant", "model": ""}
        end = {"stop_reason": self._reason, "stop_sequence": self._top.get("stop_sequence")}
        return json_text.write({**blank, **self._top, "content": self.content(), **end, "usage": self._usage})

    def said(self) -> Said:
        fields: Json = {"content": self.words(Text)}
        if reasoning := self.words(Reasoning):
            fields["reasoning"] = reasoning
        if refusal := self.words(Refusal):
            fields["refusal"] = refusal
        if calls := [block.call() for block in self._blocks if block.kind == "tool_use"]:
            fields["toolCalls"] = calls
        fields["finishReason"] = self._reason
        extra = {key: value for key, value in self._top.items() if key not in _OWN and value not in (None, "", [], {})}
        if not all(block.is_plain for block in self._blocks):
            extra["content"] = self.content()  # signed thinking must be sent back in its place, and unchanged
        if extra:
            fields["extra"] = extra
        model = self._top.get("model")
        counts = [tokens(self._usage.get(name)) for name in _INPUTS]
        return Said(
            fields=fields,
            model=model if model and isinstance(model, str) else None,
            usage=self.usage,
            input_tokens=None if counts[0] is None else sum(count or 0 for count in counts),
            output_tokens=tokens(self._usage.get("output_tokens")),
        )


class _Block:
    """One block of content. `is_open`: more of it may come."""

    __slots__ = ("_citations", "_fields", "_input", "is_open")

    def __init__(self) -> None:
        self._fields = Fields()
        self._input = Pieces()
        self._citations: list[Any] = []
        self.is_open = True

    @property
    def kind(self) -> str:
        return str(self._fields.get("type"))

    @property
    def is_plain(self) -> bool:
        """Whether the message's `content`, `reasoning` and `toolCalls` have all of it."""
        known = {
            "text": {"type", "text"},
            "thinking": {"type", "thinking"},
            "tool_use": {"type", "id", "name", "input"},
        }
        more = {key for key, value in self._fields.items() if unfolded(value)} - known.get(self.kind, set())
        return self.kind in known and not more and not self._citations

    def begin(self, block: Json) -> None:
        for key, value in block.items():
            if key == "input":
                self._fields[key] = richer(self._fields.get(key), value)
            elif key == "citations":
                self._fields.setdefault(key, None if value is None else [])
                self._citations += value if isinstance(value, list) else ()
            else:
                fold(self._fields, {key: value})

    def add(self, delta: Json) -> None:
        for key, value in delta.items():
            if key == "partial_json" and isinstance(value, str):
                self._input.append(value)
            elif key == "citation":
                self._citations.append(value)
            elif key != "type":
                fold(self._fields, {key: value})

    def whole(self) -> Json:
        block: Json = unfolded(self._fields)
        if arguments := "".join(self._input):
            block["input"] = _parsed(arguments)
        if self._citations:
            block["citations"] = list(self._citations)
        return block

    def call(self) -> Json:
        """A tool call as the application's message has it, whichever API it is from."""
        given = self._fields.get("input")
        arguments = "".join(self._input) or (given if isinstance(given, str) else json_text.write(given or {}).decode())
        function = {"name": self._fields.get("name"), "arguments": arguments}
        return {"id": self._fields.get("id"), "type": "function", "function": function}


def _parsed(arguments: str) -> Any:
    """A tool's input. One that broke off is kept as text, in the way that Anthropic wants it sent back.

    https://platform.claude.com/docs/en/agents-and-tools/tool-use/fine-grained-tool-streaming
    """
    try:
        return json_text.read_loosely(arguments.encode("utf-8", "surrogatepass"))
    except Malformed:
        return {"INVALID_JSON": arguments}
