"""The journal's documents as values: sealed segments, and the head, which is the open segment and the lease."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from lib.domain.end import End, Fields


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A run of the journal: events `first` to `last`, all of them read by attempt `attempt`.

    `events` is their zlib stream, `text` the visible text they add. An event too large for one document lies in several
    segments of the same `first`, whose `events` and `text` are to be joined.
    """

    first: int
    last: int
    events: bytes
    text: str
    attempt: int

    def fields(self) -> Fields:
        return {name: getattr(self, name) for name in Segment.__slots__}


@dataclass(frozen=True, kw_only=True, slots=True)
class Head(Segment):
    """The journal's open segment, which is the generation's lease as well.

    Whoever writes it says how long it may be silent (`lease_until`), and writes it only over the version it knows
    (`version`, the document's update time). `claims` counts the attempts that have held it, so the attempt that holds
    it now has that number; `attempt` is the one whose events the open segment has. `holder` is a random word of the
    writer's: it tells its writes from those of a rival that meant the same. `released`: that attempt has given the
    generation up, so nobody holds it. `created_at` is the generation's: a
    generation that was deleted and started anew under the same id has another. `end` is there once the generation has
    ended. An empty head has `last == first - 1`.
    """

    lease_until: datetime
    created_at: datetime
    claims: int = 0
    holder: str = ""
    released: bool = False
    end: End | None = None
    version: Any = None

    def leased(self, now: datetime) -> bool:
        """Whether a worker holds the generation."""
        return self.claims > 0 and self.lease_until > now

    def fields(self) -> Fields:
        return {
            **Segment.fields(self),
            "claims": self.claims,
            "createdAt": self.created_at,
            "leaseUntil": self.lease_until,
            "holder": self.holder,
            "released": self.released,
            "final": self.end.fields() if self.end else None,
        }

    @classmethod
    def from_fields(cls, fields: Fields, version: Any) -> Self:
        return cls(
            **{name: fields[name] for name in Segment.__slots__},
            claims=fields["claims"],
            created_at=fields["createdAt"],
            lease_until=fields["leaseUntil"],
            holder=fields["holder"],
            released=fields["released"],
            end=End.from_fields(fields["final"]) if fields["final"] else None,
            version=version,
        )


def empty_head(created_at: datetime, lease_until: datetime) -> Head:
    """The head that a generation is created with: no worker has claimed it, and none is late before `lease_until`."""
    return Head(first=1, last=0, events=b"", text="", attempt=0, lease_until=lease_until, created_at=created_at)
