"""The demo upstream's answers in OpenAI's Responses: the same text as in chat completions, in items.

https://platform.openai.com/docs/api-reference/responses
"""

from __future__ import annotations

import time
import uuid
from dataclasses import replace
from typing import Any

from local.demo_faults import Order
from local.demo_fields import BadField, flag
from local.demo_json import dumps
from local.demo_text import Json

_KINDS = {  # by the field of a delta: the item, its list of parts, the part, and the name of its events
    "reasoning_content": ("reasoning", "summary", "summary_text", "reasoning_summary_text"),
    "tool_calls": ("function_call", "", "", "function_call_arguments"),
    "refusal": ("message", "content", "refusal", "refusal"),
    "content": ("message", "content", "output_text", "output_text"),
}
_FOREGROUND_ONLY = ("malformed_json", "invalid_utf8")  # they are made of an event that nobody kept
_ECHOED = ("instructions", "max_output_tokens", "metadata", "reasoning", "temperature", "top_p")


class Responses:
    """One answer in Responses. `output` is what is said so far, in whole items."""

    path = "/v1/responses"
    opens = b'"logprobs":['

    def __init__(self, order: Order):
        self.id = f"resp_{uuid.uuid4().hex}"
        self._order = order
        self._answer = order.spoken
        self._kind = order.fault.kind if order.fault else ""
        self._created = int(time.time())
        self._completed: int | None = None
        self._sequence = 0
        self._output: list[Json] = []
        self._open: tuple[str, int] | None = (
            None  # the field of the open item's deltas, and the number of its tool call
        )
        self._said: list[str] = []  # in the open item

    @staticmethod
    def order(body: Any) -> Order:
        """Parses a request. `max_output_tokens` only limits the answer. Raises `BadField`."""
        if not isinstance(body, dict):
            raise BadField("body", "must be a JSON object")
        demo = dict(body.get("demo") or {})
        if body.get("reasoning"):
            demo.setdefault("reasoning", True)
        messages = _messages(body.get("input"))
        given: Json = {
            **{name: body[name] for name in ("model", "stream", "tool_choice") if name in body},
            "messages": messages,
            "max_tokens": body.get("max_output_tokens"),
            "demo": {**demo, "prefill": "vllm"},  # a last message of the assistant's is not continued
        }
        if isinstance(body.get("tools"), list):
            given["tools"] = [{"function": tool} for tool in body["tools"] if tool.get("type") == "function"]
        order = replace(
            Order.read(given, at_most=True),
            background=flag("background", body.get("background") or False),
            echoed={name: body[name] for name in _ECHOED if body.get(name) is not None},
        )
        if order.background and body.get("store") is False:
            raise BadField("store", "must be true for a response in the background")
        if order.background and order.fault and order.fault.kind in _FOREGROUND_ONLY:
            raise BadField("demo.fault", f"{order.fault.kind} is not for a response in the background")
        return order

    def opening(self) -> list[bytes]:
        """The events before the first delta."""
        kinds = [("created", "in_progress"), ("in_progress", "in_progress")]
        if self._order.background:
            kinds = [("created", "queued"), ("queued", "queued"), ("in_progress", "in_progress")]
        return [self._event(f"response.{kind}", response=self.response(status)) for kind, status in kinds]

    def delta(self, _choice: int, delta: Json) -> list[bytes]:
        """The events of one delta, as chat completions have it."""
        field = next(name for name in _KINDS if name in delta)
        call: Json = delta["tool_calls"][0] if field == "tool_calls" else {}
        number, piece = call.get("index", 0), call["function"]["arguments"] if call else delta[field] or ""
        events = [] if self._open == (field, number) else [*self._close(), *self._begin(field, number, call)]
        self._said.append(piece)
        if piece:
            *_, part, stem = _KINDS[field]
            events.append(
                self._event(f"response.{stem}.delta", **self._place(field), delta=piece, **_no_logprobs(part))
            )
        return events

    def closing(self) -> list[bytes]:
        """The events after the last delta, of which the last is the end."""
        ends = self._close()
        status = "incomplete" if self._answer.finish_reason == "length" else "completed"
        self._completed = int(time.time()) if status == "completed" else None
        last = self._event(f"response.{status}", response=self.response(status))
        return ends if self._kind == "no_done" else [*ends, last]

    def cancelled(self) -> bytes:
        """The last event of an answer that is cancelled."""
        return self._event("response.cancelled", response=self.response("cancelled"))

    def whole(self) -> Json:
        """The answer as one body."""
        self.opening()
        for delta in self._answer.deltas(0):
            self.delta(0, delta)
        self.closing()
        return self.response("incomplete" if self._answer.finish_reason == "length" else "completed")

    def response(self, status: str) -> Json:
        """The response so far."""
        ended = status in ("completed", "incomplete")
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._created,
            "completed_at": self._completed,
            "status": status,
            "background": self._order.background,
            "error": None,
            "frequency_penalty": 0,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": None,
            "max_output_tokens": None,
            "max_tool_calls": None,
            "metadata": {},
            "model": self._order.model,
            "output": list(self._output) if ended else [],
            "parallel_tool_calls": True,
            "presence_penalty": 0,
            "previous_response_id": None,
            "prompt_cache_key": None,
            "reasoning": {"effort": None, "summary": None},
            "safety_identifier": None,
            "service_tier": "default",
            "store": True,
            "temperature": 1.0,
            "text": {"format": {"type": "text"}, "verbosity": "medium"},
            "tool_choice": "auto",
            "tools": [],
            "top_logprobs": 0,
            "top_p": 1.0,
            "truncation": "disabled",
            "usage": self._usage() if ended else None,
            "user": None,
            **self._order.echoed,
            **self._more(),
        }

    @staticmethod
    def name_of(payload: bytes) -> bytes:
        """The name of an event, which its type is."""
        return payload[len(b'{"type":"') : payload.index(b'"', len(b'{"type":"'))]

    @staticmethod
    def error(status: int, message: str, code: str | None = None, param: str | None = None) -> Json:
        """OpenAI's error object, as a body and as an event."""
        kind = "requests" if status == 429 else "server_error" if status >= 500 else "invalid_request_error"
        said = {"type": kind, "code": code or kind, "message": message, "param": param}
        return {"type": "error", "error": said}

    def _begin(self, field: str, number: int, call: Json) -> list[bytes]:
        """Opens an item for deltas of this field. `call` is a tool call, if it is one."""
        kind, parts, part, _ = _KINDS[field]
        self._open, self._said = (field, number), []
        item: Json = {"id": f"{kind}_{len(self._output)}_{self.id}", "type": kind, "status": "in_progress"}
        if kind == "message":
            item["role"] = "assistant"
        if parts:
            item[parts] = []
        else:
            item |= {"call_id": call["id"], "name": call["function"]["name"], "arguments": ""}
        self._output.append(item)
        events = [self._on_item("added", item)]
        return [*events, self._on_part("added", field, "")] if part else events

    def _close(self) -> list[bytes]:
        """Completes the open item."""
        if self._open is None:
            return []
        field, text = self._open[0], "".join(self._said)
        _, parts, part, stem = _KINDS[field]
        name = "arguments" if not parts else "refusal" if part == "refusal" else "text"
        whole = {parts: [_part(part, text)]} if parts else {"arguments": text}
        item = self._output[-1] = {**self._output[-1], "status": "completed", **whole}
        self._open = None
        events = [self._event(f"response.{stem}.done", **self._place(field), **{name: text}, **_no_logprobs(part))]
        if parts:
            events.append(self._on_part("done", field, text))
        return [*events, self._on_item("done", item)]

    def _place(self, field: str) -> Json:
        """Where in the output an event about this field is."""
        parts = _KINDS[field][1]
        index = {} if not parts else {"summary_index" if parts == "summary" else "content_index": 0}
        return {"item_id": self._output[-1]["id"], "output_index": len(self._output) - 1, **index}

    def _on_item(self, verb: str, item: Json) -> bytes:
        return self._event(f"response.output_item.{verb}", output_index=len(self._output) - 1, item=item)

    def _on_part(self, verb: str, field: str, text: str) -> bytes:
        _, parts, part, _ = _KINDS[field]
        stem = "reasoning_summary_part" if parts == "summary" else "content_part"
        return self._event(f"response.{stem}.{verb}", **self._place(field), part=_part(part, text))

    def _usage(self) -> Json:
        usage, prompt = self._answer.usage, self._order.prompt_tokens
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": usage["completion_tokens_details"],
            "total_tokens": prompt + usage["completion_tokens"],
        }

    def _event(self, kind: str, **fields: Any) -> bytes:
        number, self._sequence = self._sequence, self._sequence + 1
        return dumps({"type": kind, **fields, "sequence_number": number, **self._more()})

    def _more(self) -> Json:
        no_error = {"error": None} if self._kind == "null_error" else {}
        return no_error | ({"t": time.time()} if self._order.timestamps else {})


def _no_logprobs(part: str) -> Json:
    return {"logprobs": []} if part == "output_text" else {}


def _part(kind: str, text: str) -> Json:
    if kind == "output_text":
        return {"type": kind, "text": text, "annotations": [], "logprobs": []}
    return {"type": kind, "refusal" if kind == "refusal" else "text": text}


def _messages(given: Any) -> Any:
    """The input as messages of chat completions."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}] if given else []
    if not isinstance(given, list):
        return given
    return [_message(item) if isinstance(item, dict) else item for item in given]


def _message(item: Json) -> Json:
    if item.get("type") == "function_call_output":
        return {"role": "tool", "content": item.get("output")}
    if item.get("type", "message") != "message":
        return {"role": "assistant", "content": None}
    content = item.get("content")
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return {"role": item.get("role"), "content": content}
