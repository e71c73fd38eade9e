"""Continues an interrupted answer: the request for the rest, and joining the rest to what is saved.

The saved text is sent to the upstream as the beginning of its own answer ("assistant prefill"). So only the plain text
of a single choice can be continued, but no partial tool call and no JSON that was constrained by a grammar. The
continuation's chunks are adjusted so that the client sees one answer without repetitions.
"""

from __future__ import annotations

from typing import Any

from lib.dialects.chat_completions.completion import Completion
from lib.dialects.space import Space
from lib.dialects.steps import Json
from lib.runtime.catalog import Prefill

_LIMITS = ("max_tokens", "max_completion_tokens")
_NOT_TEXT = ("tool_calls", "function_call", "refusal", "audio", "images")


def continued(request: Json, answer: Completion, style: Prefill) -> tuple[Json, Seam] | None:
    """The request for the rest of `answer`, and the seam for its chunks. None if it can't be continued.

    A token limit is reduced by the number of events so far. If an upstream sends several tokens per event, the answer
    may exceed the limit slightly.
    """
    saved = _plain_text(answer)
    form = request.get("response_format") or {"type": "text"}
    if saved is None or (request.get("n") or 1) > 1 or form != {"type": "text"}:
        return None
    limits = {name: request[name] - answer.text_events for name in _LIMITS if isinstance(request.get(name), int)}
    if any(left < 1 for left in limits.values()):
        return None
    if style is Prefill.VLLM:
        said, flags = saved, {"continue_final_message": True, "add_generation_prompt": False}
    else:
        # Anthropic rejects a last message that ends in white space, and so does OpenRouter for Anthropic's models.
        said, flags = saved.rstrip(), {}
    messages = [*request["messages"], {"role": "assistant", "content": said}]
    return {**request, **limits, **flags, "messages": messages}, Seam(answer.identity, saved[len(said) :])


def _plain_text(answer: Completion) -> str | None:
    choices = answer.choices()
    if [choice["index"] for choice in choices] != [0]:
        return None
    message = choices[0]["message"]
    content = message.get("content")
    if not isinstance(content, str) or not content.strip() or any(message.get(name) for name in _NOT_TEXT):
        return None
    return content


class Seam:
    """Adjusts the chunks of a continuation to the answer that they continue, whose id and time are `identity`.

    `space` is saved white space that was not sent to the upstream. If the continuation repeats it, it is removed.
    """

    def __init__(self, identity: Json, space: str = ""):
        self._identity = identity
        self._space = Space(space)

    def fit(self, chunk: Json) -> Json:
        """The chunk as clients see it. The role is removed, since the first chunk of the answer had it."""
        fitted = {**chunk, **{key: value for key, value in self._identity.items() if key in chunk}}
        if isinstance(chunk.get("choices"), list):
            fitted["choices"] = [self._fit_choice(choice) for choice in chunk["choices"]]
        return fitted

    def _fit_choice(self, choice: Any) -> Any:
        if not isinstance(choice, dict):
            return choice
        return {**choice, **{key: self._fit_text(choice[key]) for key in ("delta", "message") if key in choice}}

    def _fit_text(self, delta: Any) -> Any:
        if not isinstance(delta, dict):
            return delta
        fitted = {key: value for key, value in delta.items() if key != "role"}
        content = delta.get("content")
        if isinstance(content, str):
            fitted["content"] = self._space.without(content)
        return fitted
