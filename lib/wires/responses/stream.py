"""Writes an answer as the events and the object of OpenAI's Responses, from steps, whichever API it comes from. Pure.

Everything is derived from the journal: whoever comes back gets the same events with the same numbers.
https://platform.openai.com/docs/api-reference/responses-streaming
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from lib.dialects.counts import counted
from lib.dialects.finishing import Ending, ending
from lib.dialects.protocol import Dialect, Malformed
from lib.dialects.steps import File, Finish, Json, Reasoning, Refusal, Source, Step, Text, ToolCall
from lib.domain.end import End, State
from lib.domain.event import Event
from lib.wires.responses.items import FunctionCall, Item, Message, Picture, Thoughts
from lib.wires.tool_calls import Calls

_INCOMPLETE = {Ending.LENGTH: "max_output_tokens", Ending.FILTER: "content_filter"}


Numbered = tuple[int, Event]
"""An event of this protocol with its `sequence_number`."""


class ResponseStream:
    """Renders one answer of `dialect`, or of a dialect that this version does not know.

    `about` are the response's fields that don't change, and `key` makes its items' ids unique. `queued`: the response
    was asked for in the background, and begins in the queue.
    """

    def __init__(self, about: Json, key: str, dialect: Dialect | None, *, queued: bool = False):
        self._dialect = dialect
        self._about = about
        self._key = key
        self._queued = queued
        self.number = -1
        self._items: list[Item] = []
        self._open: Message | Thoughts | None = None
        self._calls = Calls(f"call_{key}_")
        self._called: dict[int, FunctionCall] = {}
        self._reason = ""
        self._refused = False
        self._running = not queued
        self._events: list[Numbered] = []

    @property
    def output(self) -> list[Json]:
        """The items so far."""
        return [item.whole() for item in self._items]

    def begin(self) -> list[Numbered]:
        """The first events."""
        self._state("created", "queued" if self._queued else "in_progress")
        self._state(*("queued", "queued") if self._queued else ("in_progress", "in_progress"))
        return self._taken()

    def take(self, event: Event) -> list[Numbered]:
        """The events that one event of the journal becomes."""
        try:
            return self.add(self._dialect.read(event).steps) if self._dialect is not None else []
        except Malformed:
            return []  # another version of this service accepted it

    def add(self, steps: Iterable[Step]) -> list[Numbered]:
        """The events that steps become."""
        self._run()
        for step in steps:
            if getattr(step, "choice", 0) != 0:
                continue
            match step:
                case Text():
                    self._message().say(step.text, "output_text")
                case Refusal():
                    self._refused = True
                    self._message().say(step.text, "refusal")
                case Reasoning():
                    self._thoughts().say(step.text)
                case ToolCall():
                    self._call(step)
                case File():
                    self._file(step)
                case Source():
                    self._message().cite(step.url, step.title)
                case Finish():
                    self._reason = step.reason
        return self._taken()

    def end(self, end: End) -> list[Numbered]:
        """The last events. The very last one has the whole response."""
        self._run()
        whole = end.state is State.COMPLETED and self._shortfall() is None
        for item in self._items:
            if item.is_open:
                item.close(whole=whole)
        response = self.ended(end)
        kind = response["status"] if response["status"] in ("completed", "failed") else "incomplete"
        self.emit(kind, response=response)
        return self._taken()

    def _run(self) -> None:
        if not self._running:
            self._running = True
            self._state("in_progress", "in_progress")

    def ended(self, end: End) -> Json:
        """The whole response. All items must be closed."""
        status, error, shortfall = "completed", None, None
        if end.state is State.STOPPED:
            status = "cancelled"
        elif end.state is not State.COMPLETED:
            status, error = "failed", failure(end)
        elif (short := self._shortfall()) is not None:
            status, shortfall = "incomplete", {"reason": short}
        done = int(end.at.timestamp()) if end.at is not None and status == "completed" else None
        usage = _usage(end.usage) if end.usage else None
        return self.response(
            status,
            completed_at=done,
            error=error,
            incomplete_details=shortfall,
            output=self.output,
            usage=usage,
        )

    def response(self, status: str, **more: Any) -> Json:
        """The response object in a state in which it has no output to show."""
        blank: Json = {"completed_at": None, "error": None, "incomplete_details": None, "output": [], "usage": None}
        return {**self._about, "status": status, **blank, **more}

    def emit(self, kind: str, **fields: Any) -> None:
        """Adds an event."""
        self.number += 1
        name = f"response.{kind}"
        payload = {"type": name, "sequence_number": self.number, **fields}
        self._events.append((self.number, Event(orjson.dumps(payload), name.encode())))

    def _state(self, kind: str, status: str) -> None:
        self.emit(kind, response=self.response(status))

    def _taken(self) -> list[Numbered]:
        events, self._events = self._events, []
        return events

    def _shortfall(self) -> str | None:
        """Why an answer that is complete upstream is not all that the model would have said."""
        short = _INCOMPLETE.get(ending(self._reason)) if self._reason else None
        return None if self._refused and short == "content_filter" else short

    def _add(self, item: Item) -> None:
        self._items.append(item)
        item.open()

    def _place(self, prefix: str) -> tuple[int, str]:
        index = len(self._items)
        return index, f"{prefix}_{self._key}_{index}"

    def _message(self) -> Message:
        if not isinstance(self._open, Message):
            self._close()
            self._open = Message(self.emit, *self._place("msg"))
            self._add(self._open)
        return self._open

    def _thoughts(self) -> Thoughts:
        if not isinstance(self._open, Thoughts):
            self._close()
            self._open = Thoughts(self.emit, *self._place("rs"))
            self._add(self._open)
        return self._open

    def _close(self) -> None:
        if self._open is not None:
            self._open.close(whole=True)
            self._open = None

    def _call(self, step: ToolCall) -> None:
        """Calls stay open until the end: some upstreams send pieces of several in turns."""
        self._close()
        known = len(self._calls.all)
        call = self._calls.add(step)
        if call is None:
            return
        if call.number > known:
            self._called[call.number] = FunctionCall(self.emit, *self._place("fc"), call.id, call.name)
            self._add(self._called[call.number])
        if step.arguments:
            self._called[call.number].say(step.arguments)

    def _file(self, file: File) -> None:
        """A picture is an item of its own. Of a file at an address there is the address, as a citation."""
        head, _, data = file.url.partition(",")
        if not head.startswith("data:image/") or not head.endswith(";base64"):
            self._message().cite(file.url if not head.startswith("data:") else head, file.media_type)
            return
        self._close()
        picture = Picture(self.emit, *self._place("ig"), data)
        self._add(picture)
        picture.close(whole=True)


def failure(end: End) -> Json:
    """The error of a response that failed or broke off, with the upstream's own code and words."""
    told = end.error or {}
    code = str(told.get("code") or end.reason or "server_error")
    return {"code": code, "message": str(told.get("message") or "The answer broke off.")}


def _usage(usage: Json) -> Json:
    counts = counted(usage)
    return {
        "input_tokens": counts.input,
        "input_tokens_details": {"cached_tokens": counts.cached, "cache_write_tokens": counts.written},
        "output_tokens": counts.output,
        "output_tokens_details": {"reasoning_tokens": counts.reasoning},
        "total_tokens": counts.input + counts.output,
    }
