"""OpenAI's Responses in the background: the upstream goes on without a connection, and is read on from any event.

Rules: https://platform.openai.com/docs/guides/background.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import quote

import orjson

from lib.dialects.protocol import NO_HEADERS, Answer, Outgoing, Read, Resumption
from lib.dialects.reading import SeamReading
from lib.dialects.responses.output import Output
from lib.dialects.responses.seams import Cursor, named
from lib.dialects.steps import Json
from lib.domain.event import Event

PATH = "/responses"


class ResponseBackground:
    """`GET {base_url}/responses/{id}?stream=true&starting_after={n}`, and `POST {base_url}/responses/{id}/cancel`."""

    def __init__(self, meaning: Callable[[Event], Read]):
        self._meaning = meaning

    def outgoing(self, request: Json, *, ask_usage: bool, headers: Mapping[str, str] = NO_HEADERS) -> Outgoing:  # noqa: ARG002
        """A response in the background is stored, so one that must not be is asked for without."""
        body = {name: value for name, value in request.items() if name != "background"}
        if request.get("store") is not False:
            body |= {"background": True, "stream": True}
        return Outgoing(path=PATH, body=orjson.dumps(body), headers=tuple(headers.items()))

    def resumption(self, answer: Answer) -> Resumption | None:
        cursor = _output(answer).cursor
        if cursor is None:
            return None
        name, last = cursor
        path = f"{PATH}/{quote(name, safe='')}?stream=true&starting_after={last}"
        return Resumption(Outgoing(method="GET", path=path), SeamReading(self._meaning, named, Cursor(last)))

    def cancelling(self, answer: Answer) -> Outgoing | None:
        cursor = _output(answer).cursor
        return None if cursor is None else Outgoing(path=f"{PATH}/{quote(cursor[0], safe='')}/cancel")


def _output(answer: Answer) -> Output:
    if not isinstance(answer, Output):
        raise TypeError("the answer is another dialect's")
    return answer
