"""Writes an answer as the AI SDK's UI message stream, version 1: each chunk is `data: {json}`. Pure.

Chunks are written from steps, whichever API the answer comes from. Their fields are exactly those that versions 5 to 7
of npm's `ai` accept: an unknown type fails the chat.
https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol#ui-message-stream-protocol
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import orjson

from lib.dialects.finishing import Ending, ending
from lib.dialects.steps import File, Finish, Json, Reasoning, Refusal, Source, Step, Text, ToolCall
from lib.wires.tool_calls import Call, Calls

DONE = b"data: [DONE]\n\n"


class UiStream:
    """Renders the first choice of one answer.

    `message_id` is None if the client appends the answer to the message that it has. `need_approval` names the tools
    whose calls the user must approve.
    """

    def __init__(self, message_id: str | None, need_approval: Collection[str] = ()):
        self._message_id = message_id
        self._need_approval = need_approval
        self._open: str | None = None  # the type of the open block: text or reasoning
        self._blocks = 0
        self._sources = 0
        self._calls = Calls("call-")
        self._reason = ""

    def begin(self, metadata: Json) -> bytes:
        named = {"messageId": self._message_id} if self._message_id is not None else {}
        return _chunks({"type": "start", **named, "messageMetadata": metadata}, {"type": "start-step"})

    def add(self, steps: Iterable[Step]) -> bytes:
        """The chunks of one event, or nothing."""
        chunks: list[Json] = []
        for step in steps:
            if getattr(step, "choice", 0) != 0:
                continue
            match step:
                case Text() | Refusal():
                    self._say("text", step.text, chunks)
                case Reasoning():
                    self._say("reasoning", step.text, chunks)
                case ToolCall():
                    self._call(step, chunks)
                case File():
                    self._close(chunks)
                    chunks.append({"type": "file", "url": step.url, "mediaType": step.media_type})
                case Source():
                    self._sources += 1
                    title = {"title": step.title} if step.title else {}
                    number = f"source-{self._sources}"
                    chunks.append({"type": "source-url", "sourceId": number, "url": step.url, **title})
                case Finish():
                    self._reason = step.reason
        return _chunks(*chunks)

    def finished(self, metadata: Json) -> bytes:
        """The end of a complete answer."""
        chunks: list[Json] = []
        self._close(chunks)
        for call in self._calls.all:
            chunks += self._called(call)
        reason = Ending.TOOLS if self._calls.all else ending(self._reason)
        chunks.append({"type": "finish-step"})
        chunks.append({"type": "finish", "finishReason": str(reason), "messageMetadata": metadata})
        return _chunks(*chunks) + DONE

    def stopped(self, metadata: Json) -> bytes:
        """The end of an answer that its user stopped."""
        chunks: list[Json] = []
        self._close(chunks)
        chunks.append({"type": "message-metadata", "messageMetadata": metadata})
        chunks.append({"type": "abort"})
        return _chunks(*chunks) + DONE

    def failed(self, words: str, metadata: Json | None = None) -> bytes:
        """The end of a stream that breaks off."""
        chunks: list[Json] = []
        self._close(chunks)
        if metadata is not None:
            chunks.append({"type": "message-metadata", "messageMetadata": metadata})
        chunks.append({"type": "error", "errorText": words})
        return _chunks(*chunks) + DONE

    def _say(self, kind: str, text: str, chunks: list[Json]) -> None:
        if self._open != kind:
            self._close(chunks)
            self._open = kind
            self._blocks += 1
            chunks.append({"type": f"{kind}-start", "id": str(self._blocks)})
        chunks.append({"type": f"{kind}-delta", "id": str(self._blocks), "delta": text})

    def _close(self, chunks: list[Json]) -> None:
        if self._open is not None:
            chunks.append({"type": f"{self._open}-end", "id": str(self._blocks)})
            self._open = None

    def _call(self, step: ToolCall, chunks: list[Json]) -> None:
        self._close(chunks)
        known = len(self._calls.all)
        call = self._calls.add(step)
        if call is None:
            return
        if call.number > known:
            chunks.append({"type": "tool-input-start", "toolCallId": call.id, "toolName": call.name})
        if step.arguments:
            chunks.append({"type": "tool-input-delta", "toolCallId": call.id, "inputTextDelta": step.arguments})

    def _called(self, call: Call) -> list[Json]:
        named = {"toolCallId": call.id, "toolName": call.name}
        text = call.arguments
        try:
            arguments: Any = orjson.loads(text) if text.strip() else {}
        except orjson.JSONDecodeError:
            wrong = "The model wrote arguments that are not valid JSON."
            return [{"type": "tool-input-error", **named, "input": text, "errorText": wrong}]
        chunks: list[Json] = [{"type": "tool-input-available", **named, "input": arguments}]
        if call.name in self._need_approval:
            chunks.append({"type": "tool-approval-request", "approvalId": f"approve-{call.id}", "toolCallId": call.id})
        return chunks


def _chunks(*chunks: Json) -> bytes:
    return b"".join(b"data: %b\n\n" % orjson.dumps(chunk) for chunk in chunks)
