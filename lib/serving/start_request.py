"""Validates a request to start a generation, and derives the generation from it.

Must not know fields of any model API: a dialect reads the body, and this module chooses the upstream and the ids.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import orjson

from lib.dialects.conversation import Conversation
from lib.dialects.payload import too_deep
from lib.dialects.protocol import Asked, Dialect
from lib.domain.channel import Channel
from lib.domain.errors import InvalidRequest
from lib.domain.generation import Generation
from lib.domain.ids import device_token, document_id
from lib.domain.message_path import message_path
from lib.domain.turn import TurnMode
from lib.runtime.catalog import Catalog, Upstream
from lib.runtime.settings import Settings

LONGEST_HEADER = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class StartRequest:
    """A request to start: the unchanged body, and the ids and the idempotency key that came with it.

    `dialect` names the API that the body is written in. It is None if the client protocol belongs to no model API: then
    the body is a conversation, or in the dialect that the model's upstream supports, and the upstream is always asked
    for a stream. `beside` are fields of the request that its API has outside of the body, and `headers` those headers
    that are a part of a request in this API. `need_approval` names the tools whose calls the user must approve.
    `retried`: the client says that it repeats a request that failed. `own` is the request in the terms of its client
    protocol, if an answer is shown and gone on with in those. `push_token` is a device to tell of the end, besides
    those that are registered. `turn` is what it does while another answer of the chat runs. `parent_id` is the id of
    the message that it answers, and `replaces_id` that of the answer in whose place it is shown. `ids_checked`: what
    the request names by ids was found to be the user's own. `every` is how many seconds between two pieces of the
    answer are often enough.
    """

    body: bytes | Conversation
    chat_id: str | None = None
    message_id: str | None = None
    idempotency_key: str | None = None
    dialect: str | None = None
    retried: bool = False
    push_token: str | None = None
    turn: str | None = None
    parent_id: str | None = None
    replaces_id: str | None = None
    every: float = 0.0
    beside: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    need_approval: Collection[str] = ()
    own: bytes = b""
    ids_checked: bool = False

    @property
    def repeatable(self) -> bool:
        """Whether the same request again is for the same generation."""
        return self.idempotency_key is not None or self.message_id is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """A valid request: what it asks for, its body as it is stored, and its upstream."""

    asked: Asked
    body: bytes
    body_hash: str
    dialect: str
    upstream: Upstream


def checked(request: StartRequest, catalog: Catalog, dialects: Mapping[str, Dialect]) -> Checked:
    """Validates a request. Errors: `InvalidRequest`, which names the field."""
    body, fields = (b"", {}) if isinstance(request.body, Conversation) else (request.body, _json(request.body))
    if request.dialect is not None:
        name = request.dialect
        if request.beside and isinstance(fields, dict):
            fields = {**fields, **request.beside}
            body = orjson.dumps(fields)
        asked = dialects[name].check(fields)
        upstream = catalog.serving(asked.model)
        if name not in upstream.speaks:
            raise InvalidRequest(
                f"The model '{asked.model[:100]}' is served by an upstream that speaks {', '.join(upstream.speaks)}, "
                f"and this request is in {name}. Send it in that API, or ask for another model.",
                code="wrong_api",
                param="model",
            )
    else:
        model = request.body.model if isinstance(request.body, Conversation) else _model(fields)
        upstream = catalog.serving(model)
        known = [each for each in upstream.speaks if each in dialects]
        if not known:
            raise InvalidRequest(
                f"The model '{model[:100]}' is served by an upstream whose API this service does not know. "
                "Ask for another model.",
                code="wrong_api",
                param="model",
            )
        name = known[0]
        if isinstance(request.body, Conversation):
            fields = dialects[name].written(request.body)
        fields = dialects[name].streaming(fields)
        body = orjson.dumps(fields)
        asked = dialects[name].check(fields)
        if isinstance(request.body, Conversation) and request.body.output_tokens is not None:
            asked = replace(asked, output_tokens_field=request.body.output_tokens_field)
    for other in asked.fallbacks:
        if upstream.fit(other) < 0:
            raise InvalidRequest(
                f"There is no model '{other[:100]}' where '{asked.model[:100]}' is. Leave it out.",
                code="model_not_found",
                param="models",
            )
    if asked.kept and not upstream.account_ids and not request.ids_checked:
        raise kept_elsewhere(asked.kept)
    for header, value in request.headers.items():
        if len(value) > LONGEST_HEADER or not value.isprintable() or not value.isascii():
            raise InvalidRequest(
                f"The header '{header}' must be plain text of at most {LONGEST_HEADER} characters.", param=header
            )
    hashed = [fields, dict(request.headers)] if request.headers else fields
    body_hash = hashlib.sha256(orjson.dumps(hashed, option=orjson.OPT_SORT_KEYS) + request.own).hexdigest()
    return Checked(asked=asked, body=body, body_hash=body_hash, dialect=name, upstream=upstream)


def kept_elsewhere(field: str) -> InvalidRequest:
    """The error for a field that names what the upstream keeps for all users of this service together."""
    return InvalidRequest(
        f"'{field[:100]}' names what the model's API keeps for this service's account, which all users share: send the "
        "contents instead. The operator may allow such ids (account_ids).",
        code="account_id_not_allowed",
        param=field,
    )


def check_limits(asked: Asked, settings: Settings) -> None:
    """Checks what a request asks for against the limits of this service. Errors: `InvalidRequest`."""
    for name, value, limit, variable in (
        (asked.choices_field, asked.choices, settings.max_choices, "MAX_CHOICES"),
        (asked.output_tokens_field, asked.output_tokens or 0, settings.max_output_tokens, "MAX_OUTPUT_TOKENS"),
    ):
        if limit and value > limit:
            raise InvalidRequest(
                f"'{name}' may be {limit} at most here ({variable}), and is {value}. Ask for less.",
                code="limit_exceeded",
                param=name,
            )


def new_generation(
    owner: str,
    request: StartRequest,
    checked: Checked,
    settings: Settings,
    watchers: dict[str, datetime],
    now: datetime,
) -> Generation:
    """The generation for a valid request. Errors: `InvalidRequest` for an invalid id."""
    chat_id = document_id(request.chat_id, "X-Chat-Id") if request.chat_id is not None else None
    if request.message_id is not None and chat_id is None:
        raise InvalidRequest(
            "X-Message-Id needs X-Chat-Id: a message of no chat is kept under its generation's id.",
            param="X-Message-Id",
        )
    message_id = document_id(request.message_id, "X-Message-Id") if request.message_id is not None else None
    if request.push_token is not None:
        device_token(request.push_token, "X-Push-Token")
    if request.idempotency_key is not None:
        # The body is part of the id: SDKs send the same headers with each step of a tool loop.
        key = document_id(request.idempotency_key, "Idempotency-Key")
        generation_id = _derived("key", owner, key, checked.dialect, checked.body_hash)
    elif chat_id is not None and message_id is not None:
        generation_id = _derived("message", owner, chat_id, message_id)
    else:
        generation_id = uuid.uuid4().hex
    message_id = message_id or generation_id
    return Generation(
        id=generation_id,
        owner=owner,
        message_path=message_path(owner, chat_id, message_id, settings.message_path),
        chat_id=chat_id,
        message_id=message_id,
        model=checked.asked.model,
        dialect=checked.dialect,
        upstream=checked.upstream.name,
        request=checked.body,
        own_request=request.own,
        headers=dict(request.headers),
        need_approval=sorted(request.need_approval),
        request_hash=checked.body_hash,
        retried=request.retried,
        created_at=now,
        expire_at=now + settings.retention,
        watchers=watchers,
        every=dict.fromkeys(watchers, request.every),
        outbox={
            str(channel): {"token": request.push_token} if channel is Channel.PUSH and request.push_token else {}
            for channel in settings.channels
        },
        turn=_turn(request.turn, chat_id, settings.chat_turns),
        parent=document_id(request.parent_id, "X-Parent-Id") if request.parent_id is not None else None,
        replaces=document_id(request.replaces_id, "X-Replaces-Id") if request.replaces_id is not None else None,
    )


def _turn(given: str | None, chat_id: str | None, usual: TurnMode) -> TurnMode | None:
    """How the generation takes turns, or None if it takes none. Without a chat there are none to take.

    Errors: `InvalidRequest`.
    """
    if given is not None and given not in list(TurnMode):
        raise InvalidRequest(f"X-Turn must be one of {', '.join(TurnMode)}.", param="X-Turn")
    mode = usual if given is None else TurnMode(given)
    if given is not None and mode is not TurnMode.PARALLEL and chat_id is None:
        raise InvalidRequest(
            f"X-Turn '{mode}' needs X-Chat-Id: the turns are those of a chat. Add the chat's id, or leave X-Turn out.",
            param="X-Turn",
        )
    return None if mode is TurnMode.PARALLEL or chat_id is None else mode


def _json(body: bytes) -> Any:
    try:
        parsed: Any = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(
            f"The body is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno}).", code="invalid_json"
        ) from error
    if too_deep(parsed, body):
        raise InvalidRequest("The body is nested too deeply.", code="invalid_json")
    return parsed


def _model(fields: Any) -> str:
    model = fields.get("model") if isinstance(fields, dict) else None
    if not isinstance(model, str) or not model:
        raise InvalidRequest("'model' must be a non-empty string.", param="model")
    return model


def _derived(kind: str, *parts: str) -> str:
    """A deterministic id: the same user and key, or chat and message, always give the same one."""
    return hashlib.sha256("\0".join((kind, *parts)).encode()).hexdigest()[:32]
