"""A request to start a generation: how it is checked, and the generation that it asks for.

Knows no field of a model API: a dialect reads the request, and this room decides which upstream and ids it means.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from lib.dialects.payload import too_deep
from lib.dialects.protocol import Asked, Dialect
from lib.domain.errors import InvalidRequest
from lib.domain.generation import Generation, message_path
from lib.domain.ids import document_id
from lib.runtime.catalog import Catalog, Upstream
from lib.runtime.settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class StartRequest:
    """A request to start: the body as it came, and the ids and the idempotency key that came with it.

    `dialect` names the API that the body is written in. None where the client protocol is not a model API's own: the
    body is then in the dialect that its model's upstream speaks, and its answer is always streamed from there.
    """

    body: bytes
    chat_id: str | None = None
    message_id: str | None = None
    idempotency_key: str | None = None
    dialect: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """A request that can be served: what it asks for, its body as it is kept, and who is to answer it."""

    asked: Asked
    body: bytes
    body_hash: str
    dialect: str
    upstream: Upstream


def checked(request: StartRequest, catalog: Catalog, dialects: Mapping[str, Dialect]) -> Checked:
    """Errors: `InvalidRequest`, which names the field."""
    body, fields = request.body, _json(request.body)
    if request.dialect is not None:
        name = request.dialect
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
        model = _model(fields)
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
        fields = dialects[name].streaming(fields)
        body = orjson.dumps(fields)
        asked = dialects[name].check(fields)
    body_hash = hashlib.sha256(orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return Checked(asked=asked, body=body, body_hash=body_hash, dialect=name, upstream=upstream)


def new_generation(
    owner: str,
    request: StartRequest,
    checked: Checked,
    settings: Settings,
    watchers: dict[str, datetime],
    now: datetime,
) -> Generation:
    """The generation that a request asks for. Errors: `InvalidRequest` for an id that can't be one."""
    chat_id = document_id(request.chat_id, "X-Chat-Id") if request.chat_id is not None else None
    if request.message_id is not None and chat_id is None:
        raise InvalidRequest(
            "X-Message-Id needs X-Chat-Id: a message of no chat is kept under its generation's id.",
            param="X-Message-Id",
        )
    message_id = document_id(request.message_id, "X-Message-Id") if request.message_id is not None else None
    if request.idempotency_key is not None:
        generation_id = _derived("key", owner, document_id(request.idempotency_key, "Idempotency-Key"))
    elif chat_id is not None and message_id is not None:
        generation_id = _derived("message", owner, chat_id, message_id)
    else:
        generation_id = uuid.uuid4().hex
    message_id = message_id or generation_id
    return Generation(
        id=generation_id,
        owner=owner,
        message_path=message_path(owner, chat_id, message_id),
        chat_id=chat_id,
        message_id=message_id,
        model=checked.asked.model,
        dialect=checked.dialect,
        upstream=checked.upstream.name,
        request=checked.body,
        request_hash=checked.body_hash,
        created_at=now,
        expire_at=now + settings.retention,
        watchers=watchers,
    )


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
    """An id that the same user and key, or chat and message, always give."""
    return hashlib.sha256("\0".join((kind, *parts)).encode()).hexdigest()[:32]
