"""Continues an interrupted turn of Anthropic's Messages: the request for the rest, and joining the rest to the turn.

A request whose last message is the assistant's is answered with what follows it. Only plain text can be continued so:
https://platform.claude.com/docs/en/build-with-claude/prompt-engineering/prefill-claudes-response
"""

from __future__ import annotations

from lib.dialects.messages.turn import Turn
from lib.dialects.space import Space
from lib.dialects.steps import Json, Text


def continued(request: Json, turn: Turn) -> tuple[Json, Seam] | None:
    """The request for the rest of `turn`, and the seam for its events. None if it can't be continued.

    The token limit is reduced by the number of events so far. If an upstream sends several tokens per event, the answer
    may exceed the limit slightly.
    """
    saved = turn.words(Text)
    thinking = request.get("thinking") or {"type": "disabled"}
    if not saved.strip() or not turn.is_plain_text or thinking != {"type": "disabled"}:
        return None
    if request.get("output_format") or (request.get("output_config") or {}).get("format"):
        return None  # JSON by a grammar, which a server can't take up in the middle
    limit = request.get("max_tokens")
    if isinstance(limit, int):
        if limit <= turn.text_events:
            return None
        request = {**request, "max_tokens": limit - turn.text_events}
    said = saved.rstrip()  # a last message that ends in white space is refused
    messages = [*request["messages"], {"role": "assistant", "content": said}]
    return {**request, "messages": messages}, Seam(turn, saved[len(said) :])


class Seam:
    """Adjusts the events of a continuation to the turn that they continue.

    The turn has a beginning already, so there is no second one. The text goes on in the block that was left open, and
    further blocks are numbered after it. `space` is saved white space that was not sent to the upstream.
    """

    def __init__(self, turn: Turn, space: str = ""):
        self._begun = turn.begun
        self._open = turn.open_block
        self._next = turn.next_index
        self._space = Space(space)
        self._shift: int | None = None

    def fit(self, payload: Json) -> Json | None:
        """The event as clients see it, or None if they have had it."""
        kind, index = payload.get("type"), payload.get("index")
        if kind == "message_start":
            return None if self._begun else payload
        if type(index) is not int:
            return payload
        if kind == "content_block_start" and self._shift is None:
            return self._first(payload, index)
        fitted = {**payload, "index": index + (self._shift or 0)}
        delta = payload.get("delta")
        if isinstance(delta, dict) and isinstance(delta.get("text"), str):
            fitted["delta"] = {**delta, "text": self._space.without(delta["text"])}
        return fitted

    def _first(self, payload: Json, index: int) -> Json | None:
        """The first block goes on with the open one, if both are of the same kind."""
        block = payload.get("content_block")
        kind = block.get("type") if isinstance(block, dict) else None
        if self._open is None or self._open[1] != kind:
            self._shift = self._next - index
            return {**payload, "index": self._next}
        self._shift = self._open[0] - index
        text = block.get("text") if isinstance(block, dict) else None
        if kind != "text" or not text:
            return None
        said = {"type": "text_delta", "text": self._space.without(text)}
        return {"type": "content_block_delta", "index": self._open[0], "delta": said}
