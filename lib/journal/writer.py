"""The journal's only writer: it appends an attempt's events in Firestore, by compare-and-set on the head.

Whoever wrote the head last holds the generation. A writer that loses a compare-and-set has lost it and must not write
again. Each attempt has one writer, which may be used from any thread but has at most one commit in flight.
"""

from __future__ import annotations

import logging
import random
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from lib.cloud.accounts import settling
from lib.cloud.documents import (
    COMMIT_SECONDS,
    READ_SECONDS,
    Delete,
    Exists,
    Patch,
    Put,
    Refused,
    Stale,
    Version,
    Write,
)
from lib.cloud.store import Store
from lib.domain import message
from lib.domain.end import End, Fields
from lib.domain.errors import Unreachable
from lib.domain.generation import Generation
from lib.domain.message import Part, Said
from lib.domain.segment import Head, Segment
from lib.domain.usage import Charge, charged
from lib.journal.codec import Entry
from lib.journal.segments import Sealed, Segmenter
from lib.runtime.metrics import CommitMetrics

BATCH_BYTES = 1 << 20  # of raw records per commit
COMMIT_BYTES = 1 << 20  # of further documents per commit, counting longest fields; the emulator accepts 4 MiB in all
RETRY_SECONDS = (0.05, 2.0)  # the shortest and the longest back-off
GIVE_UP_SECONDS = 300.0
CLAIM_SECONDS = 2.0  # the same, for a claim
# From a writer's last successful commit to its last try, which may begin just before it gives up.
LONGEST_OUTAGE_SECONDS = GIVE_UP_SECONDS + RETRY_SECONDS[1] + COMMIT_SECONDS + READ_SECONDS

Clock = Callable[[], datetime]

log = logging.getLogger(__name__)


class Fenced(Exception):
    """Another writer holds the generation, or it was deleted. This one must not write any more."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """The contents of one commit: the head's segment, and the segments that it seals."""

    segment: Segment
    sealed: Sequence[Sealed] = ()


class Journal:
    """One attempt's access to a generation's journal, starting from the head that it found.

    `claims` is the attempt's number. The first commit is the claim, which succeeds only if the head has not changed.
    `lease` is how long the head may go unwritten before another attempt may take over.
    """

    def __init__(
        self,
        store: Store,
        generation: Generation,
        head: Head,
        *,
        claims: int,
        lease: timedelta,
        clock: Clock,
        give_up_seconds: float = GIVE_UP_SECONDS,
    ):
        self._store = store
        self._generation = generation
        self._claims = claims
        self._holder = uuid.uuid4().hex
        self._lease = lease
        self._clock = clock
        self._give_up_seconds = self._patience = give_up_seconds
        self._released = False
        self._segmenter = Segmenter(head, claims)
        self._saved = self._segmenter.open
        self._version: Version = head.version
        self._failing_since: float | None = None
        self.commit_seconds = 0.0
        self.metrics = CommitMetrics()

    @property
    def last(self) -> int:
        """The number of the last saved event."""
        return self._saved.last

    # A commit in steps, for the committer, which batches the commits of many attempts

    def prepare(self, entries: Sequence[Entry]) -> Prepared:
        """Adds entries to the open segment. The result must be committed before `prepare` is called again."""
        sealed = self._segmenter.add(entries)
        return Prepared(self._segmenter.open, sealed)

    def plain(self, prepared: Prepared) -> Put | None:
        """The commit as a single write of the head, or None if it needs more. Call `committed` once it is done."""
        if prepared.sealed:
            return None
        now = self._clock()
        return self._store.head(self._generation, self._head(prepared.segment, now), now, self._version)

    def committed(self, prepared: Prepared, version: Version, seconds: float, writes: int = 1) -> None:
        """Records that the commit took effect, `seconds` after it was started."""
        self._failing_since = None
        self._version = version
        self.commit_seconds = seconds
        first_events = self.metrics.first_saved is None and prepared.segment.last > self._saved.last
        self.metrics.add(seconds, writes, self._clock() if first_events else None)
        self._saved = prepared.segment

    def failed(self, error: Unreachable) -> None:
        """Records a failed try, which may have taken effect nevertheless: `attempt_commit` finds out.

        Errors: `Unreachable`, once all tries have failed for `give_up_seconds`.
        """
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        self.metrics.errors += 1
        log.warning(
            "commit failed, will be tried again",
            extra={"cause": error.cause, "generation": self._generation.id, "attempt": self._claims},
        )
        if now - self._failing_since > self._patience:
            raise error

    def attempt_commit(self, prepared: Prepared, also: Sequence[Write] = (), end: End | None = None) -> None:
        """Tries once to commit what was prepared, together with `also`. Safe if an earlier try may have taken effect.

        Errors: `Unreachable`, after which it may be retried; `Fenced`; `Refused`.
        """
        now = self._clock()
        pieces = [self._store.piece(self._generation, *each, now) for each in prepared.sealed if each.part]
        sealed = [self._store.seal(self._generation, each.segment, now) for each in prepared.sealed if not each.part]
        if len(_groups([*sealed, *pieces])) > 1:
            # They are too large for one commit. Readers ignore them until the head is past them, and if this attempt is
            # lost in between, the next one's claim deletes them.
            for group in _groups(pieces):
                self._attempt(Prepared(self._saved), group)
            pieces = []
        self._attempt(prepared, [*sealed, *pieces, *also], end)

    # A commit as one call

    def commit(self, prepared: Prepared, also: Sequence[Write] = (), end: End | None = None) -> None:
        """Commits what was prepared, together with `also`. Retries for `give_up_seconds`.

        Errors: `Unreachable`, `Fenced`, `Refused`.
        """
        pause, longest = RETRY_SECONDS
        while True:
            try:
                return self.attempt_commit(prepared, also, end)
            except _MessageGone:
                also = [write for write in also if write.path != self._generation.message_path]
            except Unreachable as error:
                self.failed(error)
                time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
                pause = min(2 * pause, longest)

    def claim(self, *also: Write) -> None:
        """The first commit, which takes the lease, together with `also`.

        It gives up early: the previous holder may be waiting for Firestore too, with events that are saved nowhere.
        Errors: as `commit`.
        """
        self._patience = CLAIM_SECONDS
        self.commit(Prepared(self._saved), also)
        self._patience = self._give_up_seconds

    def append(self, entries: Sequence[Entry], also: Sequence[Write] = ()) -> None:
        """Commits the entries together with `also`. Without entries it only renews the lease. Errors: as `commit`."""
        self.commit(self.prepare(entries), also)

    def finish(self, entries: Sequence[Entry], end: End, said: Said) -> Generation:
        """Commits the last entries, the outcome, the message and the generation at once. Errors: as `commit`.

        What the answer took is settled in the same commit, so exactly once, however often that is tried.
        """
        prepared = self.prepare(entries)
        ended = replace(self._generation, attempt=self._claims).ended(end, prepared.segment.last, self._clock())
        charge = charged(ended, said.calls)
        ended = replace(ended, charge=charge.fields() if ended.booked else None)
        end = replace(end, at=ended.finished_at)
        fields, parts = message.ended(ended, said)
        self._save(parts)
        try:
            self.commit(prepared, self._ending(ended, fields, charge), end)
        except Refused:
            log.exception("Firestore refused a message, which is saved as text alone", extra={"generation": ended.id})
            ended, end, fields = replace(ended, usage=None), replace(end, usage=None), message.plain(fields)
            self.commit(prepared, self._ending(ended, fields, charge), end)
        return ended

    def release(self) -> None:
        """Gives up the lease, so that the next attempt can claim it at once. Errors: as `commit`."""
        self._lease, self._released = timedelta(0), True
        self.commit(Prepared(self._saved))

    def _ending(self, ended: Generation, fields: Fields, charge: Charge) -> list[Write]:
        names = ("state", "reason", "error", "usage", "attempt", "lastSeq", "finishedAt", "charge")
        changed = {name: value for name, value in ended.fields().items() if name in names}
        left = [self._store.turns.left(ended, self._clock())] if ended.turn is not None else []
        return [Patch(ended.message_path, fields), Patch(ended.path, changed), *settling(ended.booked, charge), *left]

    def _save(self, parts: Sequence[Part]) -> None:
        """Saves the parts that do not fit into the message document. Nothing refers to them before the last commit.

        Each commit writes the head too, so that nothing is left behind if the generation is deleted meanwhile.
        """
        for group in _groups([self._store.part(self._generation, part) for part in parts]):
            self.commit(Prepared(self._saved), group)

    def _attempt(self, prepared: Prepared, also: Sequence[Write], end: End | None = None) -> None:
        began, now = time.monotonic(), self._clock()
        head = self._head(prepared.segment, now, end)
        try:
            put = self._store.head(self._generation, head, now, self._version)
            version = self._store.commit(put, *also)[0]
        except (Stale, Exists) as error:
            found = self._store.read_head(self._generation)
            if found and found.version == self._version and self._writes_message(also):
                raise _MessageGone from error
            if found and found.version != self._version and self._is_as_left(found):
                # Only the version differs: the database was restored from a backup, or a renewal's response was lost.
                self._version = found.version
                raise Unreachable("the head has another version") from error
            version = _ours(found, head, error)
        self.committed(prepared, version, time.monotonic() - began, writes=1 + len(also))

    def _head(self, segment: Segment, now: datetime, end: End | None = None) -> Head:
        return Head(
            first=segment.first,
            last=segment.last,
            events=segment.events,
            text=segment.text,
            attempt=segment.attempt,
            claims=self._claims,
            created_at=self._generation.created_at,
            lease_until=now + self._lease,
            holder=self._holder,
            released=self._released,
            end=end,
        )

    def _is_as_left(self, found: Head) -> bool:
        return found.holder == self._holder and found.last == self.last and found.end is None

    def _writes_message(self, writes: Sequence[Write]) -> bool:
        return any(write.path == self._generation.message_path for write in writes)


class _MessageGone(Exception):
    """The commit failed although the head is unchanged, so the message document was deleted."""


def _ours(found: Head | None, meant: Head, error: Exception) -> Version:
    """The head's version, if the commit took effect and only its response was lost. Errors: `Fenced`."""
    if found and (found.holder, found.last, found.end) == (meant.holder, meant.last, meant.end):
        return found.version
    raise Fenced from error


def _groups(writes: Sequence[Write]) -> list[list[Write]]:
    """Divides writes into groups that each fit into one commit."""
    groups: list[list[Write]] = []
    size = 0
    for write in writes:
        length = _length(write)
        if not groups or size + length > COMMIT_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(write)
        size += length
    return groups


def _length(write: Write) -> int:
    """The approximate size of a write: that of its longest field."""
    values = [] if isinstance(write, Delete) else write.fields.values()
    return max((len(value) for value in values if isinstance(value, bytes | str)), default=0)


def retried(action: Callable[[], None], seconds: float) -> None:
    """Retries an idempotent action for `seconds` while Firestore can't be reached. Errors: `Unreachable`."""
    pause, longest = RETRY_SECONDS
    deadline = time.monotonic() + seconds
    while True:
        try:
            return action()
        except Unreachable as error:
            if time.monotonic() > deadline:
                raise
            log.warning("commit failed, will be tried again", extra={"cause": error.cause})
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
            pause = min(2 * pause, longest)
