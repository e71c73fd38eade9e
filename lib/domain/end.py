"""A generation's states, and its outcome."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

Fields = dict[str, Any]


class State(StrEnum):
    """`queued → streaming → completed | stopped | incomplete | failed`. The last four are final."""

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
    """A generation's outcome.

    `reason` is one of Holdfast's documented codes, or None if the answer is complete. `error` has `message` and `code`,
    and if the upstream sent them `type`, `param`, `status` (its HTTP status), `body` (its error as JSON text),
    `contentType` and `retryAfter` (seconds). `retryable` is true if the same request may succeed later. `at` is when it
    was saved, and makes no difference.
    """

    state: State
    reason: str | None = None
    error: Fields | None = None
    usage: Fields | None = None
    at: datetime | None = field(default=None, compare=False)

    def fields(self) -> Fields:
        return {**{name: getattr(self, name) for name in self.__slots__}, "state": str(self.state)}

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        known: Fields = {name: fields.get(name) for name in cls.__slots__}
        return cls(**{**known, "state": State(fields["state"])})
