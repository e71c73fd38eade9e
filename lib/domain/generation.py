"""A generation: one answer to one request.

A pure value. `fields` and `from_fields` convert it to and from its document's fields, which are in camelCase.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import Any, Self

from lib.domain.collections import GENERATIONS, JOURNAL
from lib.domain.end import End, Fields, State
from lib.domain.turn import TurnMode


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """One answer to one request.

    `message_path` is the path of the message document. `dialect` names the API in which `request` is written and
    which `upstream` supports. `request` is the client's body; if it is too large, it is stored in `request_parts`
    further documents instead. `own_request` is the request as the client protocol has it, where an answer is shown
    and gone on with in that protocol's terms; it is kept like `request`. `headers` are the client's headers that
    are a part of the request. `need_approval` names the tools whose calls the user must approve. `request_hash`
    distinguishes a repeated request from a different one. `retried` means that the client has repeated its request
    after a failure. `watchers` has the expiry of a lease for each api process with viewers, and `every` the seconds
    between two commits that are often enough for them. `outbox` has the channels on which its end is still to be told,
    each with what that channel has to remember. `booked` is what it has reserved (a `Booking`), if usage is counted,
    and `charge` what it took in the end. `turn` is None if it takes no turn, and `ahead` how many in its chat were
    before it when it was created. `parent` is the id of the message that it answers, and `replaces` that of the answer
    in whose place it is shown, as the client says.
    """

    id: str
    owner: str
    message_path: str
    chat_id: str | None
    message_id: str
    model: str
    dialect: str
    upstream: str
    request: bytes
    headers: dict[str, str] = field(default_factory=dict)
    need_approval: list[str] = field(default_factory=list)
    request_parts: int = 0
    own_request: bytes = b""
    own_request_parts: int = 0
    request_hash: str
    retried: bool = False
    created_at: datetime
    expire_at: datetime
    state: State = State.QUEUED
    reason: str | None = None
    error: Fields | None = None
    usage: Fields | None = None
    attempt: int = 0
    last_seq: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None
    stop_requested_at: datetime | None = None
    requeued_at: datetime | None = None
    watchers: dict[str, datetime] = field(default_factory=dict)
    every: dict[str, float] = field(default_factory=dict)
    outbox: dict[str, Fields] = field(default_factory=dict)
    booked: Fields = field(default_factory=dict)
    charge: Fields | None = None
    turn: TurnMode | None = None
    ahead: int = 0
    parent: str | None = None
    replaces: str | None = None

    @property
    def path(self) -> str:
        return f"{GENERATIONS}/{self.id}"

    @property
    def journal_path(self) -> str:
        return f"{self.message_path}/{JOURNAL}"

    @property
    def head_path(self) -> str:
        return f"{self.journal_path}/head"

    @property
    def chat_path(self) -> str | None:
        """The path of the chat's document, which is the application's. None for a message of no chat."""
        return None if self.chat_id is None else self.message_path.rsplit("/", 2)[0]

    def watched(self, now: datetime) -> bool:
        """Whether a viewer's lease says that somebody is watching."""
        return any(until > now for until in self.watchers.values())

    @property
    def may_be_tried_anew(self) -> bool:
        """Whether it failed without any output, for a reason that may have passed."""
        return self.state is State.FAILED and bool(self.error and self.error.get("retryable"))

    def without_bodies(self) -> Generation:
        """The same without its requests, which may be large."""
        return replace(self, request=b"", own_request=b"")

    def ended(self, end: End, last_seq: int, now: datetime) -> Generation:
        return replace(
            self,
            state=end.state,
            reason=end.reason,
            error=end.error,
            usage=end.usage,
            last_seq=last_seq,
            finished_at=now,
        )

    def fields(self) -> Fields:
        return {_camel(name): _plain(getattr(self, name)) for name in self.__slots__ if name != "id"}

    @classmethod
    def from_fields(cls, generation_id: str, fields: Fields) -> Self:
        known = {name: fields[_camel(name)] for name in cls.__slots__ if _camel(name) in fields}
        turn = fields.get("turn")
        read = {"state": State(fields["state"]), "turn": TurnMode(turn) if turn else None}
        return cls(**{**known, "id": generation_id, **read})


@cache
def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))


BODIES = ("request", "ownRequest")
"""The fields that have words of the client's."""

LISTED_FIELDS = [name for name in map(_camel, Generation.__slots__) if name not in ("id", *BODIES)]


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, StrEnum) else value
