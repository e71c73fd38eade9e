"""What the requests of all APIs have in common, and how it is checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from lib.dialects.conversation import Conversation
from lib.dialects.steps import Json
from lib.domain.errors import InvalidRequest


def read_request(body: object, turns: str, *, or_text: bool = False) -> tuple[Json, str]:
    """A request's fields and its model. Errors: `InvalidRequest`.

    `turns` names its list of turns, which may also be one text if `or_text`.
    """
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object.", code="invalid_body")
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidRequest("'model' must be a non-empty string.", param="model")
    said = body.get(turns)
    if or_text and isinstance(said, str) and said:
        return body, model
    if not isinstance(said, list) or not said:
        kind = "a text or a list, and not empty" if or_text else "a non-empty list"
        raise InvalidRequest(f"'{turns}' must be {kind}.", param=turns)
    for index, turn in enumerate(said):
        if not isinstance(turn, dict):
            raise InvalidRequest(f"'{turns}[{index}]' must be an object.", param=f"{turns}[{index}]")
    return body, model


def fallbacks(request: Json) -> tuple[str, ...]:
    """The models that OpenRouter may take where the first one fails. Errors: `InvalidRequest`.

    https://openrouter.ai/docs/guides/routing/model-fallbacks
    """
    models = request.get("models")
    if not isinstance(models, list | None) or not all(isinstance(model, str) for model in models or ()):
        raise InvalidRequest("'models' must be a list of models.", param="models")
    return tuple(models or ())


def is_streamed(request: Json) -> bool:
    """Whether the request asks for a stream. Errors: `InvalidRequest`."""
    streamed = request.get("stream")
    if not isinstance(streamed, bool | None):
        raise InvalidRequest("'stream' must be true or false.", param="stream")
    return bool(streamed)


def parts_of(request: Json, turns: str, parts: str) -> Iterator[tuple[str, Json]]:
    """The parts of all turns, each with the place that it has in the request."""
    for index, turn in enumerate(request[turns]):
        held = turn.get(parts)
        for at, part in enumerate(held if isinstance(held, list) else ()):
            if isinstance(part, dict):
                yield f"{turns}[{index}].{parts}[{at}]", part


def given(**fields: Any) -> Json:
    """The fields that have a value."""
    return {name: value for name, value in fields.items() if value is not None}


def words_of(content: Any) -> str:
    """The text of a turn: the content itself, or that of its parts."""
    if isinstance(content, str):
        return content
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    return "\n".join(text for part in parts if isinstance(text := part.get("text"), str))


def last_words(turns: Any, content: str = "content", role: str | None = None) -> str:
    """The text of the last turn of the user's that has any. `content` names a turn's content.

    `role` is whose a turn is that does not say so.
    """
    for turn in reversed(turns) if isinstance(turns, list) else ():
        if isinstance(turn, dict) and turn.get("role", role) == "user" and (words := words_of(turn.get(content))):
            return words
    return ""


def check_options(conversation: Conversation, own: Iterable[str]) -> None:
    """Checks that the options have none of the fields that a conversation says itself. Errors: `InvalidRequest`."""
    for name in own:
        if name in conversation.options:
            raise InvalidRequest(f"'options' must not have '{name}': the request says that itself.", param="options")
