"""Notifications on the user's devices, by FCM's HTTP v1 API.

https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages. Words of an answer leave the service only
where the operator's template has `{words}`. A token never gets into a log line.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from typing import Any

import orjson

from lib.cloud.credentials import GoogleTokens
from lib.cloud.devices import Device
from lib.cloud.store import Store
from lib.delivery.sender import DEADLINES, Undelivered, post
from lib.dialects.protocol import Outgoing
from lib.domain.channel import Channel
from lib.domain.end import Fields, State
from lib.domain.generation import Generation
from lib.runtime.catalog import Auth, Upstream
from lib.runtime.settings import Settings
from lib.upstream.call import Session
from lib.upstream.credential import Credential

AT_ONCE = 10  # devices
NEW_SECONDS = 200.0  # in which devices are begun with; the others are left to the next try, within the task's deadline
WORDS_CHARACTERS = 120  # of an answer
_ERROR_BYTES = 16 << 10
_FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"

log = logging.getLogger(__name__)


class Outcome(Enum):
    """What became of one device's notification."""

    TAKEN = "taken"
    REFUSED = "refused"  # for good
    UNREGISTERED = "unregistered"
    FAILED = "failed"  # to be tried again


class Push:
    """Tells a user's devices of an end that nobody watched."""

    def __init__(self, settings: Settings, store: Store, session: Session, tokens: GoogleTokens):
        self._settings = settings
        self._store = store
        self._devices = store.devices
        self._session = session
        self._server = Upstream(
            name="fcm", base_url=settings.fcm_url.rstrip("/"), auth=Auth.GOOGLE, deadlines=DEADLINES
        )
        self._credential = Credential(self._server, None, tokens)
        self._path = f"/v1/projects/{settings.project}/messages:send"

    def send(self, generation: Generation) -> int:
        """Returns how many devices were told: none if the end was watched, if the user stopped it, or wants no word.

        What only some devices took is kept in the outbox, so that the next try leaves those out.
        Errors: `Undelivered`, `Unreachable`.
        """
        ended = generation.finished_at or generation.created_at
        if generation.watched(ended) or generation.state is State.STOPPED or not self._devices.wanted(generation):
            return 0
        devices = self._left(generation)
        if not devices:
            return 0
        note = self._note(generation)
        outcomes = self._tell(devices, note)
        for device, outcome in zip(devices, outcomes, strict=True):
            if outcome is Outcome.UNREGISTERED and device.path:
                self._devices.remove(device)
                log.info("device removed", extra={"cause": "unregistered"})
        failed = [device.id for device, outcome in zip(devices, outcomes, strict=True) if outcome is Outcome.FAILED]
        if failed:
            if len(failed) < len(devices):
                left = {**generation.outbox[Channel.PUSH], "left": failed}
                self._store.change_outbox(generation, Channel.PUSH, left)
            raise Undelivered("fcm")
        return outcomes.count(Outcome.TAKEN)

    def _left(self, generation: Generation) -> list[Device]:
        """The devices that are still to be told: the user's, and the one whose token came with the request."""
        kept = generation.outbox[Channel.PUSH]
        devices = self._devices.of(generation.owner)
        token = kept.get("token")
        if token and token not in [device.token for device in devices]:
            devices.append(Device("", token))
        left = kept.get("left")
        return devices if left is None else [device for device in devices if device.id in left]

    def _note(self, generation: Generation) -> Fields:
        """The message for FCM, but its token.

        Notifications of one chat replace each other, by a key that says nothing of the chat. Apple's may have 64 bytes,
        that of web push 32 characters.
        """
        settings = self._settings
        completed = generation.state is State.COMPLETED
        words = ""
        if "{words}" in settings.push_body:
            words = shortened(self._store.chats.content(generation))
        shown = {
            "title": settings.push_title if completed else settings.push_failed_title,
            "body": settings.push_body.replace("{words}", words),
        }
        key = hashlib.sha256((generation.chat_path or generation.message_path).encode()).hexdigest()[:32]
        return {
            "notification": {name: text for name, text in shown.items() if text},
            "data": {
                "chatId": generation.chat_id or "",
                "messageId": generation.message_id,
                "generationId": generation.id,
                "state": str(generation.state),
            },
            "android": {"collapse_key": key, "notification": {"tag": key}},
            "apns": {"headers": {"apns-collapse-id": key}},
            "webpush": {"headers": {"Topic": key}, "notification": {"tag": key}},
        }

    def _tell(self, devices: Iterable[Device], note: Fields) -> list[Outcome]:
        until = time.monotonic() + NEW_SECONDS

        def tell(device: Device) -> Outcome:
            return self._one(device, note) if time.monotonic() < until else Outcome.FAILED

        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="push") as pool:
            return list(pool.map(tell, devices))

    def _one(self, device: Device, note: Fields) -> Outcome:
        body = orjson.dumps({"message": {"token": device.token, **note}})
        outgoing = Outgoing(path=self._path, body=body)
        try:
            status, answer = post(self._session, self._server, self._credential, outgoing, most=_ERROR_BYTES)
        except Undelivered as error:
            log.warning("notification failed", extra={"cause": error.cause})
            return Outcome.FAILED
        if 200 <= status < 300:
            return Outcome.TAKEN
        outcome = _refused(status, answer)
        if outcome is not Outcome.UNREGISTERED:
            log.warning("notification failed", extra={"cause": outcome.value, "status": status})
        return outcome


def shortened(text: str) -> str:
    """The first words of an answer, in one line."""
    line = " ".join(text[: 4 * WORDS_CHARACTERS].split())
    return line if len(line) <= WORDS_CHARACTERS else f"{line[:WORDS_CHARACTERS].rstrip()}…"


def _refused(status: int, answer: bytes) -> Outcome:
    """Why FCM refused a message: https://firebase.google.com/docs/cloud-messaging/error-codes.

    Only FCM's own word says that a token is gone: a 404 may have other causes, such as a wrong project.
    """
    code = _fcm_code(answer)
    if code == "UNREGISTERED":
        return Outcome.UNREGISTERED
    return Outcome.REFUSED if code == "SENDER_ID_MISMATCH" or status == 400 else Outcome.FAILED


def _fcm_code(answer: bytes) -> Any:
    try:
        details = orjson.loads(answer)["error"]["details"]
        return next((each["errorCode"] for each in details if each.get("@type") == _FCM_ERROR), None)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
