"""A dialect for an invented model API: it implements `protocol`, and shares nothing with any other API.

    POST {base_url}/answers        {"model": "tiny", "ask": "Who is there?", "live": true}

    event: thought                 what it thinks
    data: {"think": "A riddle."}

    data: {"say": "No"}            the text, in pieces
    data: {"say": "body."}

    data: {"spent": 7}             what it has cost

    event: bye                     nothing comes after it
    data: {}

Without `live` it is one body, `{"say": "Nobody.", "spent": 7}`. An error is `{"oops": {"why": "…", "word": "…"}}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lib.dialects import payload as json_text
from lib.dialects.conversation import Conversation, Words
from lib.dialects.protocol import NO_HEADERS, Answer, Asked, Background, Malformed, Outgoing, Read, Reading, Rest
from lib.dialects.steps import EndMark, Fault, Json, Reasoning, Step, Text, Usage
from lib.domain.errors import HoldfastError, InvalidRequest
from lib.domain.event import Event
from lib.domain.message import Said
from lib.runtime.catalog import Prefill


class Tiny:
    name = "tiny"
    end_mark: Event | None = Event(b"{}", b"bye")
    ping: Event | None = None
    headers: tuple[str, ...] = ()
    background: Background | None = None

    def check(self, body: object) -> Asked:
        if not isinstance(body, dict):
            raise InvalidRequest("The body must be a JSON object.", code="invalid_body")
        for name in ("model", "ask"):
            if not isinstance(body.get(name), str) or not body[name]:
                raise InvalidRequest(f"'{name}' must be a non-empty string.", param=name)
        return Asked(model=body["model"], streamed=body.get("live") is True)

    def outgoing(self, request: Json, *, ask_usage: bool, headers: Mapping[str, str] = NO_HEADERS) -> Outgoing:
        return Outgoing(
            path="/answers",
            body=json_text.write({**request, "count": ask_usage}),
            headers=(("X-Tiny-Version", "3"), *headers.items()),
        )

    def streaming(self, request: Json) -> Json:
        return {**request, "live": True}

    def written(self, conversation: Conversation) -> Json:
        asked = [part.text for turn in conversation.turns for part in turn.parts if isinstance(part, Words)]
        return {**conversation.options, "model": conversation.model, "ask": asked[-1]}

    def question(self, request: Json) -> str:
        return str(request["ask"])

    def reading(self) -> Reading:
        return self

    def read(self, event: Event) -> Read:
        if event.name == b"bye":
            return Read(event, {}, (EndMark(),), kept=False)
        payload = json_text.read_object(event.data)
        if "oops" in payload:
            return Read(event, payload, (_fault(payload["oops"], status=None),), kept=False)
        steps: list[Step] = []
        if isinstance(payload.get("think"), str):
            steps.append(Reasoning(payload["think"]))
        if isinstance(payload.get("say"), str):
            steps.append(Text(payload["say"]))
        if isinstance(payload.get("spent"), int):
            steps.append(Usage({"spent": payload["spent"]}))
        if not steps:
            raise Malformed
        return Read(event, payload, tuple(steps))

    def events(self, body: bytes, *, streamed: bool) -> list[Event]:
        return [Event(body.replace(b"\r", b""))]

    def fault(self, status: int, body: bytes) -> Fault:
        try:
            said = json_text.read_object(body).get("oops")
        except Malformed:
            said = None
        return _fault(said, status=status)

    def error(self, error: HoldfastError, own: bytes = b"") -> Event:
        return Event(own or json_text.write({"oops": {"why": error.message, "word": error.code}}))

    def answer(self, choices: int = 1) -> Answer:
        return TinyAnswer(choices)

    def rest(self, request: Json, answer: Answer, style: Prefill | None) -> Rest | None:
        return Rest(request, self.reading()) if answer.silent else None


class TinyAnswer(Answer):
    """Its pieces put together."""

    _spent: Json | None = None

    def _fold(self, read: Read) -> None:
        for step in read.steps:
            if isinstance(step, Usage):
                self._spent = step.usage

    def _seen_choices(self) -> int:
        return 1

    @property
    def usage(self) -> Json | None:
        return self._spent

    def said(self) -> Said:
        fields: Json = {"content": self.words(Text)}
        if thoughts := self.words(Reasoning):
            fields["reasoning"] = thoughts
        tokens = self._spent["spent"] if self._spent else None
        return Said(fields=fields, model=None, usage=self._spent, output_tokens=tokens)

    def body(self) -> bytes:
        return json_text.write({"say": self.words(Text), **(self._spent or {})})


def _fault(said: Any, *, status: int | None) -> Fault:
    said = said if isinstance(said, dict) else {}
    return Fault(
        message=str(said.get("why") or "The upstream did not answer."),
        code=str(said.get("word") or "oops"),
        status=status,
        passing=said.get("word") == "busy",
        body=json_text.write({"oops": said}).decode() if said else "",
    )
