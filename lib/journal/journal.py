"""The journal's writer: what one attempt read, in order, into Firestore, by compare-and-set on the head.

Who writes the head holds the generation; who loses a compare-and-set has lost it, and writes no more. An attempt has
one journal, one thread commits to it, and one commit is in flight. Decoding what was written is here as well, so that
the format stands in one room; waiting for more of it is `tail`'s.
"""

from __future__ import annotations

import logging
import random
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import groupby
from typing import NamedTuple

from lib.cloud.documents import Exists, Patch, Put, Refused, Stale, Unreachable, Version, Write
from lib.cloud.store import Store
from lib.dialects.chat_completions import Answer, read, well_formed
from lib.dialects.sse import event_of, split_frames
from lib.domain import message
from lib.domain.generation import End, Fields, Generation, Head, Segment
from lib.runtime.tally import Tally

SEAL_BYTES = 80 << 10  # of raw frames in the head, past which the next commit seals it: a short answer has no more
DOCUMENT_BYTES = 384 << 10  # of raw frames one document may have, so that frames and text stay below 1 MiB
BATCH_BYTES = 1 << 20  # of raw frames one commit may have, so that it stays below Firestore's 10 MiB
_PIECE_BYTES = 384 << 10  # of frames, and of text, in each document of an event too large for one
# Frames are much alike: little effort and a window of 8 KiB make them nearly as small as much would, in a third of the
# time and a quarter of the memory.
_COMPRESSION = (1, zlib.DEFLATED, 13, 5)
_RETRY_SECONDS = (0.05, 2.0)
GIVE_UP_SECONDS = 300.0

Clock = Callable[[], datetime]

log = logging.getLogger(__name__)


class Fenced(Exception):
    """Another writer has the generation, or it was deleted: nothing more may be written."""


class Entry(NamedTuple):
    """One event, numbered and framed, with the visible text it adds."""

    seq: int
    frame: bytes
    text: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """A commit to be made: the segment that the head is to hold, and the writes that seal what was full."""

    segment: Segment
    seals: Sequence[Write]


class _OpenSegment:
    """The segment the head holds. Compresses only what is new: each flush appends to one zlib stream."""

    def __init__(self, first: int, attempt: int):
        self.first, self.last, self.attempt = first, first - 1, attempt
        self.raw = 0
        self._frames = bytearray()
        self._text: list[str] = []
        self._compress = zlib.compressobj(*_COMPRESSION)

    @classmethod
    def taken_over(cls, head: Head) -> _OpenSegment:
        """Another attempt's segment: it stays as it is, and is sealed before anything is added."""
        taken = cls(head.first, head.attempt)
        taken.last, taken._frames, taken._text = head.last, bytearray(head.frames), [head.text]
        taken.raw = SEAL_BYTES if head.last >= head.first else 0
        return taken

    def extend(self, entries: Sequence[Entry]) -> None:
        raw = b"".join([entry.frame for entry in entries])
        self._frames += self._compress.compress(raw) + self._compress.flush(zlib.Z_SYNC_FLUSH)
        self._text.append("".join([entry.text for entry in entries]))
        self.raw += len(raw)
        self.last = entries[-1].seq

    def segment(self) -> Segment:
        text = "".join(self._text)
        self._text = [text]
        return Segment(
            first=self.first,
            last=self.last,
            frames=bytes(self._frames),
            text=well_formed(text),
            attempt=self.attempt,
        )


class Journal:
    """One attempt's hold on a generation's journal, over the head as it was read, with the attempt's own number.

    The first commit is the claim: it succeeds only where nobody wrote the head in the meantime. `lease` is how long the
    head may be silent before others may take the generation over. Errors of every commit: `Fenced`; `Unreachable`
    when Firestore took nothing for `give_up_seconds`.
    """

    def __init__(
        self,
        store: Store,
        generation: Generation,
        head: Head,
        lease: timedelta,
        clock: Clock,
        give_up_seconds: float = GIVE_UP_SECONDS,
    ):
        self._store = store
        self._generation = generation
        self._attempt = head.attempt
        self._holder = uuid.uuid4().hex
        self._lease = lease
        self._clock = clock
        self._give_up_seconds = give_up_seconds
        self._open = _OpenSegment.taken_over(head)
        self._version: Version = head.version
        self.last = head.last
        self.commit_seconds = 0.0
        self.tally = Tally()

    def append(self, entries: Sequence[Entry], also: Sequence[Write] = ()) -> None:
        """Commits the entries, or with none of them only the lease, together with `also`."""
        self.commit(self.prepare(entries), also)

    def prepare(self, entries: Sequence[Entry]) -> Prepared:
        """Takes the entries in. What comes of it is to be committed before the next ones are prepared."""
        seals = self._add(entries)
        return Prepared(self._open.segment(), seals)

    def plain(self, prepared: Prepared) -> Put | None:
        """The commit as one plain write of the head, where it is no more than that. Say `settled` when it is done."""
        if prepared.seals:
            return None
        now = self._clock()
        return self._store.head(self._generation, self._head(prepared.segment, now), now, self._version)

    def missed(self, error: Unreachable) -> None:
        """The plain write failed, or only its answer was lost: `commit` finds out."""
        self.tally.errors += 1
        log.warning(
            "commit failed, will be tried again",
            extra={"cause": str(error), "generation": self._generation.id, "attempt": self._attempt},
        )

    def settled(self, prepared: Prepared, version: Version, seconds: float) -> None:
        """The plain write took effect, `seconds` after it was begun."""
        self._done(prepared, version, seconds, writes=1)

    def finish(self, entries: Sequence[Entry], end: End, answer: Answer) -> Generation:
        """Commits the last entries, the end, the message and the generation at once."""
        prepared = self.prepare(entries)
        ended = replace(self._generation, attempt=self._attempt).ended(end, self._open.last, self._clock())
        fields, parts = message.ended(ended, answer)
        retried(lambda: self._store.save_parts(ended, parts), self._give_up_seconds)
        self.tally.writes += len(parts)
        try:
            self.commit(prepared, (Patch(ended.message_path, fields), Patch(ended.path, ended_fields(ended))), end)
        except Refused:
            log.exception("Firestore refused a message, which is kept in words alone", extra={"generation": ended.id})
            ended, end, fields = replace(ended, usage=None), replace(end, usage=None), message.plain(fields)
            self.commit(prepared, (Patch(ended.message_path, fields), Patch(ended.path, ended_fields(ended))), end)
        return ended

    def release(self, entries: Sequence[Entry]) -> None:
        """Commits the last entries and gives the generation up, for the next attempt to take at once."""
        self._lease = timedelta(0)
        self.append(entries)

    def _add(self, entries: Sequence[Entry]) -> list[Write]:
        """Puts the entries into the open segment; the writes that seal what is full on the way.

        What a commit seals is what the head had before it, so a viewer that keeps up has seen it all and reads nothing.
        """
        writes: list[Write] = []
        waiting: list[Entry] = []
        size = 0
        if entries and self._open.raw >= SEAL_BYTES:
            writes.append(self._seal())
        for entry in entries:
            if self._open.raw + size + len(entry.frame) > DOCUMENT_BYTES:
                writes += self._close(waiting)
                waiting, size = [], 0
            if len(entry.frame) > DOCUMENT_BYTES:
                writes += self._large(entry)
            else:
                waiting.append(entry)
                size += len(entry.frame)
        if waiting:
            self._open.extend(waiting)
        return writes

    def _close(self, waiting: Sequence[Entry]) -> list[Write]:
        if waiting:
            self._open.extend(waiting)
        return [self._seal()] if self._open.raw else []

    def _seal(self) -> Write:
        segment = self._open.segment()
        self._open = _OpenSegment(segment.last + 1, self._attempt)
        return self._store.seal(self._generation, segment, self._clock())

    def _large(self, entry: Entry) -> list[Write]:
        """An event too large for one document, as several of the same `first`."""
        frames = zlib.compress(entry.frame)
        blobs = [frames[at : at + _PIECE_BYTES] for at in range(0, len(frames), _PIECE_BYTES)]
        texts: list[str] = []
        text = well_formed(entry.text)
        while text:
            piece, text = message.cut(text, _PIECE_BYTES)
            texts.append(piece)
        self._open = _OpenSegment(entry.seq + 1, self._attempt)
        return [
            self._store.seal(
                self._generation,
                Segment(
                    first=entry.seq,
                    last=entry.seq,
                    frames=blobs[part] if part < len(blobs) else b"",
                    text=texts[part] if part < len(texts) else "",
                    attempt=self._attempt,
                ),
                self._clock(),
                part,
            )
            for part in range(max(len(blobs), len(texts)))
        ]

    def commit(self, prepared: Prepared, also: Sequence[Write] = (), end: End | None = None) -> None:
        """Commits what was prepared, together with `also`; also where it is not known whether that was done before."""
        try:
            retried(lambda: self._try(prepared, also, end), self._give_up_seconds)
        except _MessageGone:
            kept = [write for write in also if write.path != self._generation.message_path]
            retried(lambda: self._try(prepared, kept, end), self._give_up_seconds)

    def _try(self, prepared: Prepared, also: Sequence[Write], end: End | None) -> None:
        began, now = time.monotonic(), self._clock()
        head = self._head(prepared.segment, now, end)
        try:
            put = self._store.head(self._generation, head, now, self._version)
            version = self._store.commit(put, *prepared.seals, *also)[0]
        except (Stale, Exists) as error:
            found = self._store.read_head(self._generation)
            if found and found.version == self._version and self._writes_message(also):
                raise _MessageGone from error
            if found and found.version != self._version and self._left(found):
                # The database was restored from a copy: the head is as this journal left it, with another version.
                self._version = found.version
                raise Unreachable("the head has another version") from error
            version = _ours(found, head, error)
        except Unreachable:
            self.tally.errors += 1
            raise
        self._done(prepared, version, time.monotonic() - began, writes=1 + len(prepared.seals) + len(also))

    def _head(self, segment: Segment, now: datetime, end: End | None = None) -> Head:
        return Head(
            first=segment.first,
            last=segment.last,
            frames=segment.frames,
            text=segment.text,
            attempt=self._attempt,
            lease_until=now + self._lease,
            holder=self._holder,
            end=end,
        )

    def _done(self, prepared: Prepared, version: Version, seconds: float, writes: int) -> None:
        self._version = version
        self.commit_seconds = seconds
        self.tally.commits.add(seconds)
        self.tally.writes += writes
        if self.tally.first is None and prepared.segment.last > self.last:
            self.tally.first = self._clock()
        self.last = prepared.segment.last

    def _left(self, found: Head) -> bool:
        return found.holder == self._holder and found.last == self.last and found.end is None

    def _writes_message(self, writes: Sequence[Write]) -> bool:
        return any(write.path == self._generation.message_path for write in writes)


class _MessageGone(Exception):
    """The head is as it was known, so what failed a commit is the message: somebody deleted it."""


def _ours(found: Head | None, meant: Head, error: Exception) -> Version:
    """The head's version, if it is what was meant: a commit took effect and its answer was lost. Errors: `Fenced`."""
    if found and (found.holder, found.last, found.end) == (meant.holder, meant.last, meant.end):
        return found.version
    raise Fenced from error


def retried(action: Callable[[], None], seconds: float) -> None:
    """Does what may be done twice, again while Firestore can't be reached, for `seconds`. Errors: `Unreachable`."""
    pause, longest = _RETRY_SECONDS
    deadline = time.monotonic() + seconds
    while True:
        try:
            return action()
        except Unreachable as error:
            if time.monotonic() > deadline:
                raise
            log.warning("commit failed, will be tried again", extra={"cause": str(error)})
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
            pause = min(2 * pause, longest)


def ended_fields(ended: Generation) -> Fields:
    """What of the generation's document changes when it ends."""
    names = ("state", "reason", "error", "usage", "attempt", "lastSeq", "finishedAt")
    return {name: value for name, value in ended.fields().items() if name in names}


class Decoder:
    """A segment's frames, from a zlib stream that may still grow. Decompresses only what is new."""

    def __init__(self, first: int):
        self.first = first
        self._seen = 0
        self._decompress = zlib.decompressobj()

    def feed(self, frames: bytes) -> list[bytes]:
        """The frames that `frames`, the whole stream so far, has beyond those of the last call."""
        new, self._seen = frames[self._seen :], len(frames)
        return split_frames(self._decompress.decompress(new))


def decoded(segments: Iterable[Segment]) -> Iterator[tuple[int, list[bytes]]]:
    """Each segment's first number and its frames. Documents of the same `first` are one segment."""
    for first, parts in groupby(segments, key=lambda segment: segment.first):
        yield first, Decoder(first).feed(b"".join(part.frames for part in parts))


def replayed(store: Store, generation: Generation, head: Head, choices_wanted: int = 1) -> Answer:
    """What the whole journal adds up to."""
    answer = Answer(choices_wanted)
    for segments in (store.segments(generation, 0, head.first), [head]):
        for _, frames in decoded(segments):
            for frame in frames:
                payload = read(event_of(frame).data)
                if payload is not None:
                    answer.add(payload)
    return answer
