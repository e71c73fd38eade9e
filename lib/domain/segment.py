"""The journal's documents as pure values: sealed segments, and the head, which is the open segment and the lease."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from lib.domain.end import End, Fields


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """Events `first` to `last` of the journal, all read by attempt `attempt`.

    `events` is a zlib stream, and `text` the visible text that the events add. An event that is too large for one
    document is stored in several segments with the same `first`, whose `events` and `text` must be joined.
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
    """The journal's open segment, which is also the generation's lease.

    A writer replaces only the version it knows (`version`, the document's update time). Each write extends the lease to
    `lease_until`. `claims` counts the attempts that have held the lease, and is therefore the latest attempt's number;
    `attempt` is the one whose events are in the open segment. `holder` is a random id of the writer, which tells its
    writes from equal ones of a rival. `released` means that the latest attempt has given up the lease. `created_at` is
    the generation's creation time, which differs if a generation was deleted and created again with the same id. `end`
    is set once the generation has ended. An empty head has `last == first - 1`.
    """

    lease_until: datetime
    created_at: datetime
    claims: int = 0
    holder: str = ""
    released: bool = False
    end: End | None = None
    version: Any = None

    def leased(self, now: datetime) -> bool:
        """Whether a worker holds the lease."""
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
    """The head of a new generation, which no worker has claimed. `lease_until` is when one should have."""
    return Head(first=1, last=0, events=b"", text="", attempt=0, lease_until=lease_until, created_at=created_at)
