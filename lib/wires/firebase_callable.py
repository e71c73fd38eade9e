"""The Firebase callable wire: what `httpsCallable(…)` sends and what it understands, unary and streaming.

Rules are those of the "Protocol specification for https.onCall" and of the client SDKs, which are stricter: a stream
has no line but `data: {json}`, every path ends in one result or one error, and an object may have no `@type` of its
own. Pure but for the tail it follows.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from lib.cloud.documents import Unreachable
from lib.dialects import chat_completions as chat
from lib.dialects import sse
from lib.domain.errors import HoldfastError, InvalidRequest, Unavailable
from lib.domain.generation import Generation, State, document_id
from lib.serving.generations import ChatRequest
from lib.serving.tail import Piece, Tail

_INT64 = "type.googleapis.com/google.protobuf.Int64Value"
_WRAPPED = frozenset({_INT64, "type.googleapis.com/google.protobuf.UInt64Value"})
_EXACT = range(-(1 << 53) + 1, 1 << 53)  # what a JavaScript number holds exactly
_INT64_RANGE = range(-(1 << 63), 1 << 63)
_WRAPPED_RANGE = range(-(1 << 63), 1 << 64)
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,20}")
_TYPE_KEY = re.compile(r"@+type")
_ESCAPED_KEY = re.compile(r"@@+type")
_IDS = {"chatId": "chat_id", "messageId": "message_id", "idempotencyKey": "idempotency_key"}
_PARAMS = {"X-Chat-Id": "chatId", "X-Message-Id": "messageId", "Idempotency-Key": "idempotencyKey"}
_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    413: "INVALID_ARGUMENT",
    415: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_HTTP = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}

_TOO_DEEP = "'data' is nested too deeply."

Json = dict[str, Any]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Start:
    """`data` is a chat request, with the ids beside its own fields."""

    request: ChatRequest


@dataclass(frozen=True, slots=True)
class Resume:
    generation: str
    after: int


@dataclass(frozen=True, slots=True)
class Stop:
    generation: str


def read(body: bytes) -> Start | Resume | Stop:
    """What a call asks for. Errors: `InvalidRequest`."""
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
        raise InvalidRequest("'data' must be an object: a chat request, {'resume': id} or {'stop': id}.", param="data")
    if "resume" in data:
        _only(data, "resume", "after")
        return Resume(_id(data, "resume"), _cursor(data.get("after")))
    if "stop" in data:
        _only(data, "stop")
        return Stop(_id(data, "stop"))
    ids = {field: _id(data, name) for name, field in _IDS.items() if data.get(name) is not None}
    if "message_id" in ids and "chat_id" not in ids:
        raise InvalidRequest("'messageId' needs 'chatId': a message of no chat has its call's id.", param="messageId")
    # Streamed from the upstream in any case, so that a call may be unary and its repetition a stream.
    asked = {**{name: value for name, value in data.items() if name not in _IDS}, "stream": True}
    try:
        return Start(ChatRequest(body=orjson.dumps(asked), **ids))
    except orjson.JSONEncodeError as error:
        raise InvalidRequest(_TOO_DEEP, param="data") from error


def _only(data: Json, *names: str) -> None:
    other = next((name for name in data if name not in names), None)
    if other is not None:
        raise InvalidRequest(f"'{other[:100]}' does not go with '{names[0]}'. Leave it out.", param="data")


def _id(data: Json, name: str) -> str:
    if not isinstance(data[name], str):
        raise InvalidRequest(f"'{name}' must be a string.", param=name)
    return document_id(data[name], name)


def _cursor(after: Any) -> int:
    if after is None:
        return 0
    if isinstance(after, bool) or not isinstance(after, int) or after < 0:
        raise InvalidRequest("'after' must be the 'seq' of the last message you have: a whole number.", param="after")
    return after


def decoded(value: Any) -> Any:
    """A value as the SDKs encode it: those of iOS and Android wrap every 64-bit whole number."""
    if isinstance(value, list):
        return [decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get("@type")
    if isinstance(kind, str) and kind in _WRAPPED:
        return _unwrapped(value.get("value"))
    return {key[1:] if _ESCAPED_KEY.fullmatch(key) else key: decoded(item) for key, item in value.items()}


def _unwrapped(value: Any) -> int:
    if not _WHOLE_NUMBER.fullmatch(str(value)) or int(value) not in _WRAPPED_RANGE:
        raise InvalidRequest("A wrapped whole number must have a 'value' of 64 bits, in digits.", param="data")
    return int(value)


def encoded(value: Any) -> Any:
    """A value as the SDKs can decode it.

    A key `@type` becomes `@@type` (and that one `@@@type`, and so on), since the SDKs take it for one of their own; a
    whole number that JavaScript can't hold is wrapped as the protocol has it, or a string beyond 64 bits.
    """
    if isinstance(value, list):
        return [encoded(item) for item in value]
    if isinstance(value, dict):
        return {f"@{key}" if _TYPE_KEY.fullmatch(key) else key: encoded(item) for key, item in value.items()}
    if isinstance(value, int) and not isinstance(value, bool) and value not in _EXACT:
        return {"@type": _INT64, "value": str(value)} if value in _INT64_RANGE else str(value)
    return value


def result(generation: Generation, seq: int, content: str) -> Json:
    """What every call that did not fail ends with: `seq` is the cursor to resume from where `state` is not an end."""
    return {
        "id": generation.id,
        "chatId": generation.chat_id,
        "messageId": generation.message_id,
        "state": str(generation.state),
        "reason": generation.reason,
        "seq": seq,
        "content": content,
        "usage": encoded(generation.usage),
    }


class Failed(HoldfastError):
    """A generation that has no answer. `details` say which, and what the upstream's status was."""

    type = "upstream_error"

    def __init__(self, generation: Generation):
        error = generation.error or {}
        retry_after = math.ceil(error.get("retryAfter") or 0)
        message = str(error.get("message") or "There is no answer.")
        super().__init__(message, code=str(error.get("code")), retry_after=retry_after)
        self.upstream_status = error.get("status")
        self.generation = generation


def failure(error: HoldfastError) -> tuple[Json, int]:
    """An error as the SDKs know it, `{"status", "message", "details"}`, and the HTTP status of a unary answer."""
    status = _STATUS.get(error.status, "INTERNAL")
    details: Json = {"code": error.code, "param": _PARAMS.get(error.param or "", error.param)}
    if error.retry_after:
        details["retryAfter"] = error.retry_after
    if error.code == "generation_ended":
        status = "FAILED_PRECONDITION"
    if isinstance(error, Failed):
        status = _upstream_failure(error.upstream_status)
        details |= {"id": error.generation.id, "state": str(error.generation.state), "reason": error.generation.reason}
        details["upstreamStatus"] = error.upstream_status
    return {"status": status, "message": error.message, "details": details}, _HTTP[status]


def _upstream_failure(status: Any) -> str:
    """An upstream's refusal. Its 401 is not the caller's: it is this service's key that was refused."""
    if status == 429:
        return "RESOURCE_EXHAUSTED"
    if status in (400, 404, 413, 422):
        return "INVALID_ARGUMENT"
    if status in (408, 504):
        return "DEADLINE_EXCEEDED"
    return "UNAVAILABLE" if isinstance(status, int) and status >= 500 else "INTERNAL"


def messages(
    generation: Generation, tail: Tail, ending: Callable[[], Json], *, keepalive: float, seconds: float
) -> Iterator[bytes]:
    """The stream of a call: a start, a message for each event, heartbeats, and one result or error.

    `ending` gives the result, once there is an end or the time is over. Closes the tail.
    """
    opening = {"type": "start", "id": generation.id, "chatId": generation.chat_id, "messageId": generation.message_id}
    try:
        yield line({"message": opening})
        nothing = Piece([], tail.cursor)
        for piece in tail.follow(nothing, keepalive=keepalive, seconds=seconds):
            if piece.frames:
                yield from _events(piece)
            elif piece.end is None and piece is not nothing:
                yield line({"message": {"type": "heartbeat"}})
        yield line({"result": _sent(ending(), tail.cursor)})
    except HoldfastError as error:
        yield line({"error": failure(error)[0]})
    except Unreachable:
        yield line({"error": failure(Unavailable("The answer can't be read now. Resume it."))[0]})
    except Exception:
        log.exception("a call's stream failed")  # without a last word its app would wait for ever
        yield line({"error": failure(HoldfastError("Something went wrong here. Resume it."))[0]})


def _sent(ended: Json, seq: int) -> Json:
    """The result of a stream that has sent the events up to `seq`: where there are more, they are still to be had."""
    if ended["seq"] <= seq:
        return ended
    return {**ended, "seq": seq, "state": str(State.STREAMING), "reason": None, "usage": None}


def _events(piece: Piece) -> Iterator[bytes]:
    for seq, frame in enumerate(piece.frames, piece.last - len(piece.frames) + 1):
        event = chat.whole(chat.read(sse.event_of(frame).data) or {})
        yield line({"message": {"seq": seq, "delta": chat.visible_text(event), "event": encoded(event)}})


def line(value: Json) -> bytes:
    """One line of the stream. The line ends of Unicode are escaped: iOS splits a stream at them as well."""
    data = orjson.dumps(value).replace(b"\xc2\x85", b"\\u0085")
    return b"data: %b\n\n" % data.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")


def reply(ended: Json, streamed: bool) -> bytes:
    """A call's result, where nothing came before it."""
    return line({"result": ended}) if streamed else orjson.dumps({"result": ended})


def ended(generation: Generation, seq: int, content: str) -> Json:
    """The result, where there is an answer. Errors: `Failed`."""
    if generation.state is State.FAILED:
        raise Failed(generation)
    return result(generation, seq, content)
