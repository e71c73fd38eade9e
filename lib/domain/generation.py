"""The values of the domain: a generation, its journal's head and segments, its end, and where each is kept.

Pure values. Nothing here reads a clock, waits, or knows how Firestore is spoken to; `fields` and `from_fields` are
the documents' contents, in camelCase, as plain Python.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import Any, Self

from lib.domain.errors import InvalidRequest

Fields = dict[str, Any]


class State(StrEnum):
    """`queued → streaming → completed | stopped | incomplete | failed`; the last four never change."""

    QUEUED = "queued"
    STREAMING = "streaming"
    COMPLETED = "completed"
    STOPPED = "stopped"
    INCOMPLETE = "incomplete"
    FAILED = "failed"

    @property
    def terminal(self) -> bool:
        return self not in LIVE


LIVE = (State.QUEUED, State.STREAMING)


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """How a generation ended. `error` is `{"message", "code"}`, `status` and `body` where the upstream sent them."""

    state: State
    reason: str | None = None
    error: Fields | None = None
    usage: Fields | None = None

    def fields(self) -> Fields:
        return {"state": str(self.state), "reason": self.reason, "error": self.error, "usage": self.usage}

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        return cls(state=State(fields["state"]), reason=fields["reason"], error=fields["error"], usage=fields["usage"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """One answer to one request, from its start to its end.

    `message_path` is the message document's path, `request` the body to send upstream (`request_parts` counts the
    documents it lies in when it is too large for one), `request_hash` what tells a repeated request from another.
    """

    id: str
    owner: str
    message_path: str
    chat_id: str | None
    message_id: str
    model: str
    upstream: str
    request: bytes
    request_parts: int = 0
    request_hash: str
    usage_wanted: bool
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

    @property
    def path(self) -> str:
        return f"generations/{self.id}"

    @property
    def journal_path(self) -> str:
        return f"{self.message_path}/journal"

    @property
    def head_path(self) -> str:
        return f"{self.journal_path}/head"

    def watched(self, now: datetime) -> bool:
        """Whether a viewer's lease says that somebody is watching."""
        return any(until > now for until in self.watchers.values())

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
        return cls(**{**known, "id": generation_id, "state": State(fields["state"])})


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A run of the journal: events `first` to `last`.

    `frames` is a zlib stream of their SSE frames, `text` the visible text they add. An event too large for one
    document lies in several segments of the same `first`, whose `frames` and `text` are to be joined.
    """

    first: int
    last: int
    frames: bytes
    text: str
    attempt: int

    def fields(self) -> Fields:
        return {name: getattr(self, name) for name in Segment.__slots__}


@dataclass(frozen=True, kw_only=True, slots=True)
class Head(Segment):
    """The journal's open segment, which is the generation's lease as well.

    Whoever writes it says how long it may be silent (`lease_until`), and writes it only over the version it knows
    (`version`, the document's update time). `holder` is a word of the writer's own: it tells its writes from those
    of a rival that meant the same. `end` is there once the generation has ended. An empty head has `last == first - 1`.
    """

    lease_until: datetime
    holder: str = ""
    end: End | None = None
    version: Any = None

    def leased(self, now: datetime) -> bool:
        """Whether a worker holds the generation."""
        return self.attempt > 0 and self.lease_until > now

    def fields(self) -> Fields:
        return {
            **Segment.fields(self),
            "leaseUntil": self.lease_until,
            "holder": self.holder,
            "final": self.end.fields() if self.end else None,
        }

    @classmethod
    def from_fields(cls, fields: Fields, version: Any) -> Self:
        return cls(
            **{name: fields[name] for name in Segment.__slots__},
            lease_until=fields["leaseUntil"],
            holder=fields["holder"],
            end=End.from_fields(fields["final"]) if fields["final"] else None,
            version=version,
        )


@cache
def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))


LISTED_FIELDS = [_camel(name) for name in Generation.__slots__ if name not in ("id", "request")]


def message_path(owner: str, chat_id: str | None, message_id: str) -> str:
    """Where an app finds the message."""
    if chat_id is None:
        return f"users/{owner}/messages/{message_id}"
    return f"users/{owner}/chats/{chat_id}/messages/{message_id}"


_RESERVED_ID = re.compile(r"__.*__")
MAX_ID_BYTES = 200


def document_id(value: str, param: str) -> str:
    """`value`, if Firestore and a path can take it as a document's id.

    Firestore: valid UTF-8 of at most 1,500 bytes, no slash, not `.` or `..`, not `__.*__`. Holdfast allows 200 bytes,
    so that a whole path stays far below Firestore's 6 KiB, and nothing that can't be printed.
    """
    remedy = f"give 1 to {MAX_ID_BYTES} bytes of printable characters without '/', not '.', '..' or '__…__'"
    if (
        not value
        or not value.isprintable()
        or "/" in value
        or value in (".", "..")
        or _RESERVED_ID.fullmatch(value)
        or len(value.encode("utf-8", "replace")) > MAX_ID_BYTES
    ):
        raise InvalidRequest(f"{param} can't be used as an id: {remedy}.", code="invalid_id", param=param)
    return value


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, State) else value
