"""Parses the `data` of a Firebase callable: a start, a resumption, a stop, or a question for usage. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from lib.domain.errors import InvalidRequest
from lib.domain.ids import device_token, document_id
from lib.domain.turn import TurnMode
from lib.serving.start_request import StartRequest
from lib.wires import every
from lib.wires.firebase_callable.values import decoded

_IDS = ("chatId", "messageId", "idempotencyKey", "parentId", "replacesId")
_TURN = "turn"
_DEVICE = "pushToken"
_TOO_DEEP = "'data' is nested too deeply."

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Start:
    """`data` is a request in the API that the model's upstream supports, with what is ours beside its fields."""

    request: StartRequest


@dataclass(frozen=True, slots=True)
class Resume:
    generation: str
    after: int
    every: float = 0.0


@dataclass(frozen=True, slots=True)
class Stop:
    generation: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Asks for what the user has taken and may take."""


def read(body: bytes) -> Start | Resume | Stop | Usage:
    """Parses the body of a call. Errors: `InvalidRequest`."""
    try:
        call = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error.msg}.", code="invalid_json") from error
    if not isinstance(call, dict) or set(call) != {"data"}:
        raise InvalidRequest("The body must be {'data': …} and nothing else, as the Firebase SDKs send it.")
    try:
        data = decoded(call["data"])
    except RecursionError as error:
        raise InvalidRequest(_TOO_DEEP, param="data") from error
    if not isinstance(data, dict):
        raise InvalidRequest("'data' must be an object: a request, {'resume': id} or {'stop': id}.", param="data")
    if "model" not in data:  # with a model it is a request, whose API may have fields of these names
        if "resume" in data:
            _only(data, "resume", "after", "every")
            return Resume(_id(data, "resume"), _cursor(data.get("after")), every.seconds(data.get("every", 0), "every"))
        if "stop" in data:
            _only(data, "stop")
            return Stop(_id(data, "stop"))
        if data == {"usage": True}:
            return Usage()
    chat, message, key, parent, replaces = (_id(data, name) if data.get(name) is not None else None for name in _IDS)
    turn = data.get(_TURN)
    if turn is not None and turn not in list(TurnMode):
        raise InvalidRequest(f"'turn' must be one of {', '.join(TurnMode)}.", param=_TURN)
    if turn not in (None, TurnMode.PARALLEL) and chat is None:
        raise InvalidRequest(f"'turn' '{turn}' needs 'chatId': the turns are those of a chat.", param=_TURN)
    if message is not None and chat is None:
        raise InvalidRequest("'messageId' needs 'chatId': a message of no chat has its call's id.", param="messageId")
    token = device_token(_text(data, _DEVICE), _DEVICE) if data.get(_DEVICE) is not None else None
    asked = {name: value for name, value in data.items() if name not in (*_IDS, _TURN, _DEVICE, "every")}
    wanted = every.seconds(data.get("every", 0), "every")
    try:
        body = orjson.dumps(asked)
    except orjson.JSONEncodeError as error:
        raise InvalidRequest(_TOO_DEEP, param="data") from error
    return Start(
        StartRequest(
            body=body,
            chat_id=chat,
            message_id=message,
            idempotency_key=key,
            turn=turn,
            parent_id=parent,
            replaces_id=replaces,
            push_token=token,
            every=wanted,
        )
    )


def _only(data: Json, *names: str) -> None:
    other = next((name for name in data if name not in names), None)
    if other is not None:
        raise InvalidRequest(f"'{other[:100]}' does not go with '{names[0]}'. Leave it out.", param="data")


def _id(data: Json, name: str) -> str:
    return document_id(_text(data, name), name)


def _text(data: Json, name: str) -> str:
    text = data[name]
    if not isinstance(text, str):
        raise InvalidRequest(f"'{name}' must be a string.", param=name)
    return text


def _cursor(after: Any) -> int:
    if after is None:
        return 0
    if isinstance(after, bool) or not isinstance(after, int) or after < 0:
        raise InvalidRequest("'after' must be the 'seq' of the last message you have: a whole number.", param="after")
    return after
