"""The demo upstream's answers in OpenAI's chat completions."""

from __future__ import annotations

import time
from typing import Any

from local.demo_faults import Order
from local.demo_json import dumps
from local.demo_text import Json


class Chat:
    """One answer in chat completions. Its chunks' common fields are encoded once, so that a token costs little."""

    path = "/v1/chat/completions"
    opens = b'"choices":['  # in each chunk; without the bracket it is no JSON
    order = Order.read

    def __init__(self, order: Order):
        self._order = order
        self._answer = order.spoken
        self._kind = order.fault.kind if order.fault else ""
        self._origin: Json = {
            "id": f"chatcmpl-{self._answer.seed}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": order.model,
            "system_fingerprint": "fp_demo",
        }
        self._head = dumps({**self._origin, "object": "chat.completion.chunk"})[:-1] + b',"choices":['
        self._no_error = b',"error":null' if self._kind == "null_error" else b""

    def opening(self) -> list[bytes]:
        """The events before the first delta."""
        return [self._chunk(choice, self._answer.role()) for choice in range(self._answer.choices)]

    def delta(self, choice: int, delta: Json) -> list[bytes]:
        """The events of one choice's delta."""
        return [self._chunk(choice, delta)]

    def closing(self) -> list[bytes]:
        """The events after the last delta, with the end mark."""
        ends = [self._chunk(choice, {}, self._answer.finish_reason) for choice in range(self._answer.choices)]
        if self._order.include_usage:
            ends.append(self._head + b"]" + self._tail(dumps(self._usage())))  # it has no choices
        return ends if self._kind == "no_done" else [*ends, b"[DONE]"]

    def whole(self) -> Json:
        """The answer as one body."""
        end = {"logprobs": None, "finish_reason": self._answer.finish_reason}
        choices = [{"index": n, "message": self._answer.message(n), **end} for n in range(self._answer.choices)]
        completion = {**self._origin, "choices": choices, "usage": self._usage()}
        no_error = {"error": None} if self._kind == "null_error" else {}
        return completion | no_error | ({"t": time.time()} if self._order.timestamps else {})

    @staticmethod
    def name_of(_payload: bytes) -> bytes:
        """The name of an event: none has one."""
        return b""

    @staticmethod
    def error(status: int, message: str, code: str | None = None, param: str | None = None) -> Json:
        """OpenAI's error object."""
        kind = "requests" if status == 429 else "server_error" if status >= 500 else "invalid_request_error"
        return {"error": {"message": message, "type": kind, "param": param, "code": code}}

    def _chunk(self, choice: int, delta: Json, finish_reason: str | None = None) -> bytes:
        said: dict[str, Any] = {"index": choice, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._head + dumps(said) + b"]" + self._tail(b"null")

    def _tail(self, usage: bytes) -> bytes:
        counted = b',"usage":' + usage if self._order.include_usage else b""
        sent = b',"t":%.6f' % time.time() if self._order.timestamps else b""
        return counted + self._no_error + sent + b"}"

    def _usage(self) -> Json:
        usage, prompt = self._answer.usage, self._order.prompt_tokens
        return {"prompt_tokens": prompt, **usage, "total_tokens": prompt + usage["completion_tokens"]}
