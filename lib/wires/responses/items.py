"""The items of an answer in OpenAI's Responses, and the events in which each comes. Pure.

Each is opened, grows, and is closed. https://platform.openai.com/docs/api-reference/responses-streaming
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

from lib.dialects.steps import Json


class Emit(Protocol):
    """Adds an event to the stream."""

    def __call__(self, kind: str, **fields: Any) -> None: ...


class Item(ABC):
    """One item of the output, at `index`. `status` is that of the item."""

    def __init__(self, emit: Emit, index: int, item_id: str):
        self._emit = emit
        self._index = index
        self._place: Json = {"item_id": item_id, "output_index": index}
        self.id = item_id
        self.is_open = True
        self.status = "in_progress"

    def open(self) -> None:
        self._emit("output_item.added", output_index=self._index, item=self.whole())

    def close(self, *, whole: bool) -> None:
        """Says all that there is. `whole`: the model has not been interrupted."""
        self.is_open, self.status = False, "completed" if whole else "incomplete"
        self._finish()
        self._emit("output_item.done", output_index=self._index, item=self.whole())

    @abstractmethod
    def whole(self) -> Json:
        """The item so far."""

    @abstractmethod
    def _finish(self) -> None:
        """Adds the events before the last."""


class Message(Item):
    """What the model says: text and refusals, each a part of its own."""

    def __init__(self, emit: Emit, index: int, item_id: str):
        super().__init__(emit, index, item_id)
        self._parts: list[Json] = []
        self._pieces: list[str] = []
        self._length = 0
        self._kind = ""

    def whole(self) -> Json:
        return {"id": self.id, "type": "message", "status": self.status, "role": "assistant", "content": self._parts[:]}

    def say(self, text: str, kind: str) -> None:
        """Appends text. `kind` is that of the part: `output_text` or `refusal`."""
        self._begin(kind)
        self._pieces.append(text)
        self._length += len(text)
        more: Json = {"logprobs": []} if kind == "output_text" else {}
        self._emit(f"{kind}.delta", **self._here(), delta=text, **more)

    def cite(self, url: str, title: str) -> None:
        """Cites a page, at the end of the text so far."""
        self._begin("output_text")
        at = {"start_index": self._length, "end_index": self._length}
        annotation = {"type": "url_citation", "url": url, "title": title, **at}
        number = len(self._parts[-1]["annotations"])
        self._parts[-1]["annotations"].append(annotation)
        self._emit("output_text.annotation.added", **self._here(), annotation_index=number, annotation=annotation)

    def _here(self) -> Json:
        return {**self._place, "content_index": len(self._parts) - 1}

    def _begin(self, kind: str) -> None:
        if kind == self._kind:
            return
        self._finish()
        self._kind, self._pieces, self._length = kind, [], 0
        more: Json = {"annotations": [], "logprobs": []} if kind == "output_text" else {}
        self._parts.append({"type": kind, _field(kind): "", **more})
        self._emit("content_part.added", **self._here(), part=self._parts[-1])

    def _finish(self) -> None:
        if not self._kind:
            return
        part, text = self._parts[-1], "".join(self._pieces)
        part[_field(self._kind)] = text
        more: Json = {"logprobs": []} if self._kind == "output_text" else {}
        self._emit(f"{self._kind}.done", **self._here(), **{_field(self._kind): text}, **more)
        self._emit("content_part.done", **self._here(), part=part)
        self._kind = ""


class Thoughts(Item):
    """What the model thinks, as a summary, in which form OpenAI shows it."""

    def __init__(self, emit: Emit, index: int, item_id: str):
        super().__init__(emit, index, item_id)
        self._summary: list[Json] = []
        self._pieces: list[str] = []
        self._place["summary_index"] = 0

    def whole(self) -> Json:
        return {"id": self.id, "type": "reasoning", "summary": self._summary[:]}

    def say(self, text: str) -> None:
        if not self._summary:
            self._summary = [{"type": "summary_text", "text": ""}]
            self._emit("reasoning_summary_part.added", **self._place, part=self._summary[0])
        self._pieces.append(text)
        self._emit("reasoning_summary_text.delta", **self._place, delta=text)

    def _finish(self) -> None:
        text = "".join(self._pieces)
        self._summary = [{"type": "summary_text", "text": text}]
        self._emit("reasoning_summary_text.done", **self._place, text=text)
        self._emit("reasoning_summary_part.done", **self._place, part=self._summary[0])


class FunctionCall(Item):
    """A call of one of the client's functions."""

    def __init__(self, emit: Emit, index: int, item_id: str, call_id: str, name: str):
        super().__init__(emit, index, item_id)
        self._named = {"call_id": call_id, "name": name}
        self._pieces: list[str] = []
        self._arguments = ""

    def whole(self) -> Json:
        about = {"id": self.id, "type": "function_call", "status": self.status}
        return {**about, "arguments": self._arguments, **self._named}

    def say(self, arguments: str) -> None:
        self._pieces.append(arguments)
        self._emit("function_call_arguments.delta", **self._place, delta=arguments)

    def _finish(self) -> None:
        if self.status == "completed" and not "".join(self._pieces).strip():
            self.say("{}")  # clients parse it
        self._arguments = "".join(self._pieces)
        named = {"name": self._named["name"]}
        self._emit("function_call_arguments.done", **self._place, **named, arguments=self._arguments)


class Picture(Item):
    """An image that the model drew, whole from the start. `data` is in base64."""

    def __init__(self, emit: Emit, index: int, item_id: str, data: str):
        super().__init__(emit, index, item_id)
        self._data = data

    def whole(self) -> Json:
        result = None if self.is_open else self._data
        return {"id": self.id, "type": "image_generation_call", "status": self.status, "result": result}

    def _finish(self) -> None:
        pass


def _field(kind: str) -> str:
    return "refusal" if kind == "refusal" else "text"
