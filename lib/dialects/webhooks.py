"""How a model API names the end of an answer in its own webhooks, so that the vendor's SDK reads ours.

OpenAI's are https://platform.openai.com/docs/api-reference/webhook-events.
"""

from __future__ import annotations

from lib.domain.end import State

_RESPONSES = {
    State.COMPLETED: "response.completed",
    State.STOPPED: "response.cancelled",
    State.INCOMPLETE: "response.incomplete",
    State.FAILED: "response.failed",
}


def announced(dialect: str, generation_id: str, state: State) -> tuple[str, str] | None:
    """The event's type and the answer's id in that API, or None if the API has no such event."""
    if dialect != "responses" or state not in _RESPONSES:
        return None
    return _RESPONSES[state], f"resp_{generation_id}"
