"""The demo upstream's answers in Gemini's API: the same text as in chat completions, in parts.

https://ai.google.dev/api/generate-content
"""

from __future__ import annotations

import base64
import json
import time
from typing import Any

from local.demo_faults import Order
from local.demo_fields import BadField
from local.demo_json import dumps
from local.demo_text import Json

_REASONS = {"stop": "STOP", "length": "MAX_TOKENS", "tool_calls": "STOP"}
_STATUS = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 409: "ABORTED"}
_STATUS |= {429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}


class Gemini:
    """One answer in Gemini's API. A refusal is a blocked prompt. A function call comes whole, in one part."""

    path = "/models/{model}:{method}"  # below a version
    opens = b'"candidates":['

    def __init__(self, order: Order):
        self._order = order
        self._answer = order.spoken
        self._kind = order.fault.kind if order.fault else ""
        self._calls: dict[int, Json] = {}  # the call that each choice is in the middle of
        self._signed: set[int] = set()

    @staticmethod
    def order(body: Any, model: str = "", method: str = "") -> Order:
        """Parses a request. `maxOutputTokens` only limits the answer. Raises `BadField`."""
        if not isinstance(body, dict):
            raise BadField("body", "must be a JSON object")
        if method not in ("generateContent", "streamGenerateContent"):
            raise BadField("method", f"unknown: {method}")
        for name in {"model", "stream"} & body.keys():
            raise BadField(name, "Unknown name: Cannot find field.")
        config = body.get("generationConfig") or {}
        contents = body.get("contents")
        demo = dict(body.get("demo") or {})
        thinking = config.get("thinkingConfig") or {}
        if thinking.get("includeThoughts") or thinking.get("include_thoughts"):  # the Python SDK mixes both spellings
            demo.setdefault("reasoning", True)
        given: Json = {
            "model": model,
            "stream": method == "streamGenerateContent",
            "messages": [_message(each) for each in contents] if isinstance(contents, list) else contents,
            "n": config.get("candidateCount"),
            "max_tokens": config.get("maxOutputTokens"),
            "tool_choice": "required" if _must_call(body) else None,
            "demo": demo,
        }
        if isinstance(body.get("tools"), list) and not _is_result(contents):
            given["tools"] = [{"function": each} for tool in body["tools"] for each in tool["functionDeclarations"]]
        return Order.read(given, at_most=True)

    def opening(self) -> list[bytes]:
        """The events before the first delta: none."""
        return []

    def delta(self, choice: int, delta: Json) -> list[bytes]:
        """The events of one delta, as chat completions have it."""
        if "reasoning_content" in delta:
            return [self._said(choice, {"text": delta["reasoning_content"], "thought": True})]
        if "tool_calls" in delta:
            function = delta["tool_calls"][0]["function"]
            call = self._calls.setdefault(choice, {"name": function.get("name"), "arguments": ""})
            call["arguments"] += function["arguments"]
            if function["arguments"] != '"}':
                return []
            return [self._said(choice, self._call(choice, self._calls.pop(choice)))]
        if "refusal" in delta:
            return []
        return [self._said(choice, {"text": delta.get("content") or ""})]

    def closing(self) -> list[bytes]:
        """The events after the last delta. None of them is an end mark."""
        if self._blocked:
            return [dumps(self.whole())]
        return [
            self._event(
                [{"content": self._content([self._last()]), "finishReason": self._reason, "index": choice}], self._usage
            )
            for choice in range(self._answer.choices)
        ]

    def whole(self) -> Json:
        """The answer as one body."""
        if self._blocked:
            usage = {"promptTokenCount": self._order.prompt_tokens, "totalTokenCount": self._order.prompt_tokens}
            return {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": usage, **self._named()}
        candidates = []
        for choice in range(self._answer.choices):
            said = self._answer.message(choice)
            parts: list[Json] = []
            if thoughts := said.get("reasoning_content"):
                parts.append({"text": thoughts, "thought": True})
            parts += [self._call(choice, call["function"]) for call in said.get("tool_calls") or ()]
            if text := said.get("content"):
                parts.append({"text": text})
            parts.append(self._last())
            candidates.append({"content": self._content(parts), "finishReason": self._reason, "index": choice})
        return {"candidates": candidates, "usageMetadata": self._usage, **self._named()}

    @staticmethod
    def name_of(_payload: bytes) -> bytes:
        """The name of an event: none has one."""
        return b""

    @staticmethod
    def error(status: int, message: str, code: str | None = None, param: str | None = None) -> Json:  # noqa: ARG004
        """Google's error object."""
        name = _STATUS.get(status, "INTERNAL" if status >= 500 else "INVALID_ARGUMENT")
        return {"error": {"code": status, "message": message, "status": name}}

    @property
    def _blocked(self) -> bool:
        return self._answer.refusal and not self._answer.tools

    @property
    def _reason(self) -> str:
        return _REASONS[self._answer.finish_reason]

    @property
    def _usage(self) -> Json:
        usage, prompt = self._answer.usage, self._order.prompt_tokens
        thoughts = usage["completion_tokens_details"]["reasoning_tokens"]
        return {
            "promptTokenCount": prompt,
            "candidatesTokenCount": usage["completion_tokens"] - thoughts,
            "totalTokenCount": prompt + usage["completion_tokens"],
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": prompt}],
            "thoughtsTokenCount": thoughts,
        }

    def _call(self, choice: int, function: Json) -> Json:
        """A part with a function call. The first one is signed."""
        signed = {} if choice in self._signed else {"thoughtSignature": self._signature}
        self._signed.add(choice)
        return {"functionCall": {"name": function["name"], "args": json.loads(function["arguments"])}, **signed}

    def _last(self) -> Json:
        """The last part of an answer. It is empty but for the signature of an answer that was thought about."""
        return {"text": "", **({"thoughtSignature": self._signature} if self._answer.reasoning else {})}

    @property
    def _signature(self) -> str:
        return base64.b64encode(f"signature-of-{self._answer.seed}".encode()).decode()

    def _content(self, parts: list[Json]) -> Json:
        return {"parts": parts, "role": "model"}

    def _said(self, choice: int, part: Json) -> bytes:
        usage = {"promptTokenCount": self._order.prompt_tokens, "totalTokenCount": self._order.prompt_tokens}
        return self._event([{"content": self._content([part]), "index": choice}], usage)

    def _event(self, candidates: list[Json], usage: Json) -> bytes:
        return dumps({"candidates": candidates, "usageMetadata": usage, **self._named()})

    def _named(self) -> Json:
        no_error = {"error": None} if self._kind == "null_error" else {}
        sent = {"t": time.time()} if self._order.timestamps else {}
        return {"modelVersion": self._order.model, "responseId": f"response-{self._answer.seed}", **no_error, **sent}


def _must_call(body: Json) -> bool:
    """Whether the model has to call a function: https://ai.google.dev/api/caching#FunctionCallingConfig."""
    config = body.get("toolConfig") or body.get("tool_config") or {}
    calling = config.get("functionCallingConfig") or config.get("function_calling_config") or {}
    return calling.get("mode") == "ANY"


def _message(content: Any) -> Any:
    """A content as a message, so that the answer to the same words is the same in each API."""
    if not isinstance(content, dict):
        return content
    parts = content.get("parts")
    texts = [part.get("text") for part in parts] if isinstance(parts, list) else []
    role = "assistant" if content.get("role") == "model" else "user"
    return {"role": role, "content": texts[0] if len(texts) == 1 and isinstance(texts[0], str) else parts}


def _is_result(contents: Any) -> bool:
    """Whether the last content has the results of functions."""
    last = contents[-1] if isinstance(contents, list) and contents else {}
    parts = last.get("parts") if isinstance(last, dict) else None
    return isinstance(parts, list) and any(isinstance(part, dict) and "functionResponse" in part for part in parts)
