"""Folds the events of OpenAI's Responses into the response: the items of its output, and its other fields."""

from __future__ import annotations

from typing import Any

from lib.dialects import payload as json_text
from lib.dialects.counts import tokens
from lib.dialects.folding import Fields, Items, Pieces, unfolded
from lib.dialects.protocol import Answer, Read
from lib.dialects.responses.events import GROWING, PARAGRAPH, Growing, items_of, parts_of, response_in
from lib.dialects.steps import Json
from lib.dialects.usage import modest
from lib.domain.message import Said

BLANK: Json = {
    "id": "",
    "object": "response",
    "created_at": 0,
    "status": "in_progress",
    "error": None,
    "incomplete_details": None,
    "model": "",
    "output": [],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
}
"""The fields that every response has."""

# What a response has beside the answer: mostly the request's own fields, which it repeats.
_OWN = BLANK.keys() | {
    "background",
    "completed_at",
    "conversation",
    "frequency_penalty",
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "metadata",
    "presence_penalty",
    "previous_response_id",
    "prompt",
    "prompt_cache_key",
    "prompt_cache_retention",
    "reasoning",
    "safety_identifier",
    "store",
    "stream",
    "temperature",
    "text",
    "top_logprobs",
    "top_p",
    "truncation",
    "usage",
    "user",
}
_PLAIN = {
    "message": {"type", "id", "role", "status", "content"},
    "function_call": {"type", "id", "call_id", "name", "arguments", "status"},
    "reasoning": {"type", "id", "summary", "content", "status"},
    "output_text": {"type", "text"},
    "reasoning_text": {"type", "text"},
    "summary_text": {"type", "text"},
    "refusal": {"type", "refusal"},
}


class Output(Answer):
    """The answer to one request, from the events of a stream or from one whole response.

    `begun`: the stream's first event has come. `next_sequence` is the number of the next event.
    """

    def __init__(self, choices: int = 1):
        super().__init__(choices)
        self._top: Json = {}
        self._items: dict[int, _Item] = {}
        self._own_body: bytes | None = None
        self.begun = False
        self.next_sequence = 0

    def _fold(self, read: Read) -> None:
        payload = read.payload
        self._own_body = read.event.data if self.events == 1 and "type" not in payload else None
        number = payload.get("sequence_number")
        if type(number) is int:
            self.next_sequence = number + 1
        kind = str(payload.get("type"))
        stem, _, verb = kind.rpartition(".")
        if (growing := GROWING.get(stem)) is not None:
            self._item(payload).grow(growing, verb, payload)
        elif kind == "response.output_text.annotation.added":
            self._item(payload).annotate(payload)
        elif stem == "response.output_item":
            if isinstance(payload.get("item"), dict):
                self._items[self._place(payload)] = _Item(payload["item"])
        elif stem == "response.content_part":
            self._item(payload).put("content", payload.get("content_index"), payload.get("part"))
        elif stem == "response.reasoning_summary_part":
            self._item(payload).put("summary", payload.get("summary_index"), payload.get("part"))
        elif (response := response_in(payload)) is not None:
            self._fold_response(response)

    def _fold_response(self, response: Json) -> None:
        """A response in an event is all that there is of it so far. Some upstreams leave out its output at the end."""
        self.begun = True
        self._top |= {key: value for key, value in response.items() if key != "output"}
        if items := items_of(response):
            self._items = {place: _Item(item) for place, item in enumerate(items)}

    def _place(self, payload: Json) -> int:
        """The place of the item that an event is about: without an index, the last one."""
        index = payload.get("output_index")
        return index if type(index) is int else max(self._items, default=0)

    def _item(self, payload: Json) -> _Item:
        place = self._place(payload)
        if place not in self._items:
            self._items[place] = _Item({"type": _kind_of(str(payload.get("type"))), "id": payload.get("item_id")})
        return self._items[place]

    def _seen_choices(self) -> int:
        return 1

    @property
    def id(self) -> str:
        """The upstream's own id of the response, or nothing if it did not tell."""
        own = self._top.get("id")
        return own if isinstance(own, str) else ""

    @property
    def cursor(self) -> tuple[str, int] | None:
        """The upstream's id of a response in the background, and the number of its last event that was read.

        None if it has none, or not yet. An upstream may leave out whether a response is in the background.
        """
        if not self.id or not self.next_sequence or self._top.get("background") is False:
            return None
        return self.id, self.next_sequence - 1

    @property
    def next_index(self) -> int:
        """The index of the next item to begin."""
        return max(self._items, default=-1) + 1

    @property
    def usage(self) -> Json | None:
        return modest(self._top.get("usage")) or None

    def items(self) -> list[Json]:
        """The items of the output so far, in order."""
        return [item.whole() for _, item in sorted(self._items.items())]

    def response(self) -> Json:
        """The response object so far, as the upstream tells it."""
        return {**BLANK, **self._top, "output": self.items()}

    def body(self) -> bytes:
        return json_text.write(self.response()) if self._own_body is None else self._own_body

    def said(self) -> Said:
        items = self.items()
        contents = [part for item in items for part in parts_of(item, "content")]
        fields: Json = {"content": _joined(contents, "output_text", "text")}
        if reasoning := "".join(map(_thoughts, items)):
            fields["reasoning"] = reasoning
        if refusal := _joined(contents, "refusal", "refusal"):
            fields["refusal"] = refusal
        if calls := [_call(item) for item in items if item.get("type") == "function_call"]:
            fields["toolCalls"] = calls
        fields["finishReason"] = self._finished.get(0)
        extra = {key: value for key, value in self._top.items() if key not in _OWN and value not in (None, "", [], {})}
        if self.id:
            extra["id"] = self.id
        if not all(map(_is_plain, items)):
            extra["output"] = items  # signed reasoning must be sent back in its place, and unchanged
        if extra:
            fields["extra"] = extra
        model, usage = self._top.get("model"), self.usage or {}
        return Said(
            fields=fields,
            model=model if model and isinstance(model, str) else None,
            usage=self.usage,
            input_tokens=tokens(usage.get("input_tokens")),
            output_tokens=tokens(usage.get("output_tokens")),
        )


class _Item:
    """One item of the output. What an event says whole replaces what came in pieces."""

    __slots__ = ("_fields", "_parts")

    def __init__(self, item: Json):
        self._fields = Fields(item)
        self._parts: dict[str, dict[int, Fields]] = {}
        for name in ("content", "summary"):
            if isinstance(item.get(name), list):
                self._parts[name] = {at: Fields(part) for at, part in enumerate(item[name]) if isinstance(part, dict)}

    def put(self, name: str, index: Any, part: Any) -> None:
        if isinstance(part, dict):
            parts = self._parts.setdefault(name, {})
            parts[index if type(index) is int else len(parts)] = Fields(part)

    def grow(self, growing: Growing, verb: str, payload: Json) -> None:
        into = self._part(growing, payload) if growing.parts else self._fields
        if verb == "done":
            if isinstance(payload.get(growing.field), str):
                into[growing.field] = payload[growing.field]
        elif isinstance(payload.get("delta"), str):
            have = into.get(growing.field)
            if type(have) is not Pieces:
                have = into[growing.field] = Pieces([have] if isinstance(have, str) else [])
            have.append(payload["delta"])
        if isinstance(logprobs := payload.get("logprobs"), list) and logprobs:
            if verb == "done":
                into["logprobs"] = logprobs
            else:
                _list_in(into, "logprobs").extend(logprobs)

    def annotate(self, payload: Json) -> None:
        part = self._part(GROWING["response.output_text"], payload)
        _list_in(part, "annotations").append(payload.get("annotation"))

    def _part(self, growing: Growing, payload: Json) -> Fields:
        parts = self._parts.setdefault(growing.parts, {})
        index = payload.get(growing.place)
        place = index if type(index) is int else max(parts, default=0)
        return parts.setdefault(place, Fields(type=growing.kind))

    def whole(self) -> Json:
        lists = {name: [unfolded(part) for _, part in sorted(parts.items())] for name, parts in self._parts.items()}
        return {**unfolded(self._fields), **lists}


def _list_in(fields: Fields, name: str) -> Items:
    """A list that may grow, which one in a payload may not."""
    have = fields.get(name)
    if type(have) is not Items:
        have = fields[name] = Items(have if isinstance(have, list) else None)
    return have


def _kind_of(event: str) -> str:
    """The type of an item whose beginning did not come, from the type of an event about it."""
    for kind in ("reasoning", "function_call", "custom_tool_call", "mcp_call", "code_interpreter_call"):
        if event.startswith(f"response.{kind}"):
            return kind
    return "message"


def _joined(parts: list[Json], kind: str, field: str) -> str:
    return "".join(str(part.get(field) or "") for part in parts if part.get("type") == kind)


def _thoughts(item: Json) -> str:
    if item.get("type") != "reasoning":
        return ""
    summary = PARAGRAPH.join(str(part.get("text") or "") for part in parts_of(item, "summary"))
    return _joined(parts_of(item, "content"), "reasoning_text", "text") + summary


def _call(item: Json) -> Json:
    """A tool call as the application's message has it, whichever API it is from."""
    function = {"name": item.get("name"), "arguments": item.get("arguments") or ""}
    return {"id": item.get("call_id"), "type": "function", "function": function}


def _is_plain(value: Json) -> bool:
    """Whether the message's `content`, `reasoning` and `toolCalls` have all of an item, or of a part of one."""
    more = {key for key, inner in value.items() if inner} - _PLAIN.get(str(value.get("type")), set())
    return not more and all(map(_is_plain, [*parts_of(value, "content"), *parts_of(value, "summary")]))
