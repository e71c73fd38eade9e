"""What the fault matrix knows of each model API, apart from the service's own code: its requests and what events say.

One class an API, which the demo upstream must speak. Pure. An API that is added to `DIALECTS` goes through every round.
"""

from __future__ import annotations

import json
from typing import Any, Protocol

from local.client import Frame

Json = dict[str, Any]

DONE = "[DONE]"
MAX_TOKENS = 50_000  # more than any answer has


class Dialect(Protocol):
    """One model API. `base` is where the demo upstream speaks it.

    `prefill` is how it is asked for the rest of a broken-off answer. With `background`, answers are generated without a
    connection, and are read on instead. Where there is neither, an answer can't go on. `whole`: its upstream is asked
    for a whole body where the client wants one, and otherwise for a stream nevertheless. `numbered`: the events of its
    own stream have ids. `mark` is the data of the event that ends its streams, where that is no part of the answer.
    `ends`: it is a part, without which no answer is complete.
    """

    name: str
    base: str
    prefill: str | None = None
    background: bool = False
    whole: bool = True
    numbered: bool = True
    mark: str | None = None
    ends: bool = False

    def path(self, model: str, streamed: bool) -> str:
        """Where the service takes a request."""
        ...

    def body(self, model: str, words: str, streamed: bool) -> Json:
        """A request with one turn."""
        ...

    def text(self, said: Json) -> str:
        """The visible text that an event adds to the first choice, or that a whole body has."""
        ...

    def event_name(self, said: Json) -> str:
        """The name of an event, which not all protocols of the service have."""
        return ""

    def code(self, error: Json) -> str:
        """The code in an error's body: the service's, or the upstream's own."""
        ...

    def kept_at(self, first: Json) -> str:
        """Where the upstream has all events of an answer in the background, by the first one."""
        return ""


class ChatCompletions(Dialect):
    """https://platform.openai.com/docs/api-reference/chat"""

    name = "chat_completions"
    base = "/v1"
    prefill = "openrouter"
    mark = DONE

    def path(self, model: str, streamed: bool) -> str:
        return "/v1/chat/completions"

    def body(self, model: str, words: str, streamed: bool) -> Json:
        return {"model": model, "messages": [{"role": "user", "content": words}], "stream": streamed}

    def text(self, said: Json) -> str:
        first = [choice for choice in said.get("choices", ()) if choice["index"] == 0]
        return "".join((choice.get("delta") or choice.get("message") or {}).get("content") or "" for choice in first)

    def code(self, error: Json) -> str:
        own = error["error"]
        return str(own["code"] or own["type"])


class Messages(Dialect):
    """https://platform.claude.com/docs/en/api/messages"""

    name = "messages"
    base = "/v1"
    prefill = "anthropic"
    mark = '{"type":"message_stop"}'

    def path(self, model: str, streamed: bool) -> str:
        return "/v1/messages"

    def body(self, model: str, words: str, streamed: bool) -> Json:
        asked = {"model": model, "messages": [{"role": "user", "content": words}], "stream": streamed}
        return {**asked, "max_tokens": MAX_TOKENS}

    def text(self, said: Json) -> str:
        if said["type"] == "message":
            return "".join(block["text"] for block in said["content"] if block["type"] == "text")
        delta = said.get("delta", {})
        return str(delta["text"]) if delta.get("type") == "text_delta" else ""

    def event_name(self, said: Json) -> str:
        return "" if said["type"] == "message" else str(said["type"])  # a whole body

    def code(self, error: Json) -> str:
        own = error["error"]
        return str(own.get("details", {}).get("error_code") or own["type"])


class Gemini(Dialect):
    """https://ai.google.dev/api/generate-content"""

    name = "gemini"
    base = "/v1beta"
    numbered = False

    def path(self, model: str, streamed: bool) -> str:
        return f"/v1beta/models/{model}:" + ("streamGenerateContent?alt=sse" if streamed else "generateContent")

    def body(self, model: str, words: str, streamed: bool) -> Json:
        return {"contents": [{"role": "user", "parts": [{"text": words}]}]}

    def text(self, said: Json) -> str:
        first = [candidate for candidate in said.get("candidates", ()) if candidate["index"] == 0]
        parts = [part for candidate in first for part in candidate["content"]["parts"]]
        return "".join(part.get("text", "") for part in parts if not part.get("thought"))

    def code(self, error: Json) -> str:
        own = error["error"]
        reasons = [each["reason"] for each in own.get("details", ()) if "reason" in each]
        return str(reasons[0] if reasons else own["status"])


class Responses(Dialect):
    """https://platform.openai.com/docs/api-reference/responses"""

    name = "responses"
    base = "/v1"
    background = True
    whole = False
    ends = True

    def path(self, model: str, streamed: bool) -> str:
        return "/v1/responses"

    def body(self, model: str, words: str, streamed: bool) -> Json:
        return {"model": model, "input": words, "stream": streamed, "max_output_tokens": MAX_TOKENS}

    def text(self, said: Json) -> str:
        if said.get("object") == "response":
            parts = [part for item in said["output"] for part in item.get("content", ())]
            return "".join(part["text"] for part in parts if part["type"] == "output_text")
        return str(said["delta"]) if said["type"] == "response.output_text.delta" else ""

    def event_name(self, said: Json) -> str:
        return str(said["type"])

    def code(self, error: Json) -> str:
        own = error["error"]
        return str(own["code"] or own["type"])

    def kept_at(self, first: Json) -> str:
        return f"{self.path('', True)}/{first['response']['id']}?stream=true"


RESPONSES = Responses()
DIALECTS: tuple[Dialect, ...] = (ChatCompletions(), Messages(), Gemini(), RESPONSES)


def text_of(dialect: Dialect, frame: Frame) -> str:
    """The visible text that an event adds."""
    return dialect.text(json.loads(frame.data))
