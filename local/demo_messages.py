"""The demo upstream's answers in Anthropic's Messages: the same text as in chat completions, in blocks.

https://platform.claude.com/docs/en/api/messages
"""

from __future__ import annotations

import json
import time
from typing import Any

from local.demo_faults import Order
from local.demo_fields import BadField
from local.demo_json import dumps
from local.demo_text import Json

_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_CALLER = {"type": "direct"}
# What the API also counts: https://platform.claude.com/docs/en/api/messages
_NO_USAGE = {
    "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
    "inference_geo": "not_available",
    "output_tokens_details": None,
    "server_tool_use": None,
    "service_tier": "standard",
}
_TYPES |= {413: "request_too_large", 504: "timeout_error", 529: "overloaded_error"}


class Messages:
    """One answer in Messages."""

    path = "/v1/messages"
    opens = b'"delta":{'

    def __init__(self, order: Order):
        self._order = order
        self._answer = order.spoken
        self._kind = order.fault.kind if order.fault else ""
        self._open: tuple[str, int] | None = None  # the kind of the open block, and the number of its tool call
        self._blocks = 0

    @staticmethod
    def order(body: Any) -> Order:
        """Parses a request. `max_tokens` is required, and only limits the answer. Raises `BadField`."""
        if not isinstance(body, dict):
            raise BadField("body", "must be a JSON object")
        if body.get("max_tokens") is None:
            raise BadField("max_tokens", "Field required")
        known = ("model", "messages", "stream", "max_tokens", "tool_choice")
        given = {name: body[name] for name in known if name in body}
        demo = dict(body.get("demo") or {})
        if (body.get("thinking") or {}).get("type") in ("enabled", "adaptive"):
            demo.setdefault("reasoning", True)
        if isinstance(body.get("tools"), list) and not _is_result(body.get("messages")):
            given["tools"] = [{"function": tool} for tool in body["tools"]]
        return Order.read({**given, "demo": {**demo, "prefill": "anthropic"}}, at_most=True)

    def opening(self) -> list[bytes]:
        """The events before the first delta. The real API too has a ping here."""
        return [self._event("message_start", message=self._message([], None)), self._event("ping")]

    def delta(self, _choice: int, delta: Json) -> list[bytes]:
        """The events of one delta, as chat completions have it."""
        said: Json
        if "reasoning_content" in delta:
            kind, call = "thinking", 0
            block: Json = {"type": kind, "thinking": "", "signature": ""}
            said = {"type": "thinking_delta", "thinking": delta["reasoning_content"]}
        elif "tool_calls" in delta:
            (piece,) = delta["tool_calls"]
            kind, call, function = "tool_use", piece["index"], piece["function"]
            known = {"id": _tool_id(piece.get("id")), "name": function.get("name"), "caller": _CALLER}
            block = {"type": kind, **known, "input": {}}
            said = {"type": "input_json_delta", "partial_json": function["arguments"]}
        else:
            kind, call = "text", 0
            block = {"type": kind, "text": "", "citations": None}
            said = {"type": "text_delta", "text": delta.get("content") or delta.get("refusal") or ""}
        events = []
        if self._open != (kind, call):
            events = [*self._close(), self._event("content_block_start", index=self._blocks, content_block=block)]
            self._open = kind, call
        return [*events, self._event("content_block_delta", index=self._blocks, delta=said)]

    def closing(self) -> list[bytes]:
        """The events after the last delta, with the end mark."""
        usage = {"output_tokens": self._answer.usage["completion_tokens"]}
        ends = [*self._close(), self._event("message_delta", delta=self._end(), usage=usage)]
        return ends if self._kind == "no_done" else [*ends, self._event("message_stop")]

    def whole(self) -> Json:
        """The answer as one body."""
        said = self._answer.message(0)
        blocks: list[Json] = []
        if thoughts := said.get("reasoning_content"):
            blocks.append({"type": "thinking", "thinking": thoughts, "signature": self._signature})
        for call in said.get("tool_calls") or ():
            function = call["function"]
            known = {"id": _tool_id(call["id"]), "name": function["name"], "caller": _CALLER}
            blocks.append({"type": "tool_use", **known, "input": json.loads(function["arguments"])})
        if text := said.get("content") or said.get("refusal"):
            blocks.append({"type": "text", "text": text, "citations": None})
        return {**self._message(blocks, self._answer.usage["completion_tokens"]), **self._end(), **self._more()}

    @staticmethod
    def name_of(payload: bytes) -> bytes:
        """The name of an event, which its type is."""
        return payload[len(b'{"type":"') : payload.index(b'"', len(b'{"type":"'))]

    @staticmethod
    def error(status: int, message: str, code: str | None = None, param: str | None = None) -> Json:  # noqa: ARG004
        """Anthropic's error object."""
        kind = _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
        return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_demo"}

    def _message(self, content: list[Json], output: int | None) -> Json:
        counts = {"input_tokens": self._order.prompt_tokens, "output_tokens": output or 1}
        usage = {**_NO_USAGE, **counts}
        named = {"id": f"msg_{self._answer.seed}", "type": "message", "role": "assistant", "model": self._order.model}
        end = {"stop_reason": None, "stop_sequence": None, "stop_details": None, "container": None}
        return {**named, "content": content, **end, "usage": usage}

    def _end(self) -> Json:
        if self._answer.refusal and not self._answer.tools:
            details = {"type": "refusal", "category": None, "explanation": "This can't be answered."}
            return {"stop_reason": "refusal", "stop_sequence": None, "stop_details": details}
        return {"stop_reason": _REASONS[self._answer.finish_reason], "stop_sequence": None}

    def _close(self) -> list[bytes]:
        if self._open is None:
            return []
        events = [self._event("content_block_stop", index=self._blocks)]
        if self._open[0] == "thinking":
            signed = {"type": "signature_delta", "signature": self._signature}
            events.insert(0, self._event("content_block_delta", index=self._blocks, delta=signed))
        self._open = None
        self._blocks += 1
        return events

    @property
    def _signature(self) -> str:
        return f"signature-of-{self._answer.seed}"

    def _event(self, kind: str, **fields: Any) -> bytes:
        return dumps({"type": kind, **fields, **self._more()})

    def _more(self) -> Json:
        no_error = {"error": None} if self._kind == "null_error" else {}
        return no_error | ({"t": time.time()} if self._order.timestamps else {})


def _tool_id(own: str | None) -> str | None:
    return own and own.replace("call_", "toolu_")


def _is_result(messages: Any) -> bool:
    """Whether the last message has the results of tools."""
    last = messages[-1] if isinstance(messages, list) and messages else {}
    content = last.get("content") if isinstance(last, dict) else None
    return isinstance(content, list) and any(
        isinstance(part, dict) and part.get("type") == "tool_result" for part in content
    )
