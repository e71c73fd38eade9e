"""The channels that the settings have, each with what sends on it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial

from lib.cloud.credentials import GoogleTokens
from lib.cloud.store import Store
from lib.delivery.push import Push
from lib.delivery.sender import Sender
from lib.delivery.webhook import Webhook, secrets
from lib.domain.channel import Channel
from lib.runtime.settings import Settings
from lib.upstream.call import new_session


def senders(settings: Settings, store: Store, environ: Mapping[str, str]) -> dict[Channel, Sender]:
    """`environ` has the webhook's secrets, in `WEBHOOK_SECRETS`. Errors: `ConfigurationError`."""
    session = new_session()
    there: dict[Channel, Sender] = {}
    if settings.webhook_url is not None:
        keys = secrets(environ.get("WEBHOOK_SECRETS", ""))
        there[Channel.WEBHOOK] = Webhook(settings.webhook_url, keys, session, partial(datetime.now, UTC))
    if Channel.PUSH in settings.channels:
        there[Channel.PUSH] = Push(settings, store, session, GoogleTokens())
    return there
