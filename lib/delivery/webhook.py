"""The operator's webhook, by the Standard Webhooks specification.

The URL and the secrets are the operator's alone: no request of a user may name either. An event has ids and states, and
no word of a question or an answer. (https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md)
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import orjson

from lib.cloud.credentials import GoogleTokens
from lib.delivery.sender import ALL_SECONDS, DEADLINES, Undelivered, post
from lib.dialects.protocol import Outgoing
from lib.dialects.webhooks import announced
from lib.domain.delivery import event_id
from lib.domain.errors import ConfigurationError
from lib.domain.generation import Generation
from lib.runtime.catalog import Upstream
from lib.upstream.call import Session
from lib.upstream.credential import Credential

MOST_SECRETS = 2  # the new one and the old one, while they are rotated
SECRET_BYTES = range(24, 65)  # as the specification has it
GONE = 410

_PREFIX = "whsec_"


class Webhook:
    """One receiver. Every event is signed with each of the `secrets`, and a receiver needs to know one of them.

    `seconds` is how long one exchange may take.
    """

    def __init__(
        self,
        url: str,
        secrets: Sequence[bytes],
        session: Session,
        clock: Callable[[], datetime],
        *,
        seconds: float = ALL_SECONDS,
    ):
        self._server = Upstream(name="webhook", base_url=url, deadlines=DEADLINES)
        self._credential = Credential(self._server, None, GoogleTokens())
        self._secrets = secrets
        self._session = session
        self._clock = clock
        self._seconds = seconds

    def send(self, generation: Generation) -> int:
        """Returns 1. Any 2xx is a success, and a 410 the end. Anything else may pass, redirects included.

        Errors: `Undelivered`.
        """
        body = orjson.dumps(event(generation))
        signed = headers(event_id(generation), self._clock(), body, self._secrets)
        outgoing = Outgoing(path="", body=body, headers=signed)
        status, _ = post(self._session, self._server, self._credential, outgoing, seconds=self._seconds)
        if not 200 <= status < 300:
            raise Undelivered("gone" if status == GONE else "status", status=status, final=status == GONE)
        return 1


def secrets(given: str) -> list[bytes]:
    """The keys in `WEBHOOK_SECRETS`: one, or two with a space or a comma between. Errors: `ConfigurationError`."""
    keys = [_key(each) for each in given.replace(",", " ").split()]
    if not 1 <= len(keys) <= MOST_SECRETS or None in keys:
        raise ConfigurationError(
            "WEBHOOK_SECRETS: it must be one secret, or two while they are rotated, with a space between: each is "
            f"'whsec_' and {SECRET_BYTES[0]} to {SECRET_BYTES[-1]} random bytes in Base64, as made by: "
            "echo whsec_$(openssl rand -base64 32)"
        )
    return [key for key in keys if key is not None]


def _key(secret: str) -> bytes | None:
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        return None
    return key if secret.startswith(_PREFIX) and len(key) in SECRET_BYTES else None


def event(generation: Generation) -> dict[str, Any]:
    """The end of a generation, with the fields of the specification and with those of OpenAI's events."""
    ended = generation.finished_at or generation.created_at
    asked_in = "responses" if generation.own_request or generation.own_request_parts else generation.dialect
    kind, subject = announced(asked_in, generation.id, generation.state) or (
        f"generation.{generation.state}",
        generation.id,
    )
    return {
        "id": event_id(generation),
        "object": "event",
        "type": kind,
        "created_at": int(ended.timestamp()),
        "timestamp": ended.isoformat(),
        "data": {
            "id": subject,
            "generationId": generation.id,
            "userId": generation.owner,
            "chatId": generation.chat_id,
            "messageId": generation.message_id,
            "state": str(generation.state),
            "reason": generation.reason,
            "createdAt": generation.created_at.isoformat(),
            "finishedAt": ended.isoformat(),
        },
    }


def headers(event: str, now: datetime, body: bytes, keys: Sequence[bytes]) -> tuple[tuple[str, str], ...]:
    """The headers of an event's body. The time is that of this try: receivers refuse one that is minutes old."""
    seconds = int(now.timestamp())
    content = b"%b.%d.%b" % (event.encode(), seconds, body)
    marks = [base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode() for key in keys]
    return (
        ("webhook-id", event),
        ("webhook-timestamp", str(seconds)),
        ("webhook-signature", " ".join(f"v1,{mark}" for mark in marks)),
    )
