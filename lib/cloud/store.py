"""The document layout: where generations, messages and journals are in Firestore, and what their fields are.

Turns domain values into documents and back. It makes no decisions about states or leases; `journal` and `serving` do.
It never creates or overwrites an application's own documents. The one field it sets in them is a chat's
`lastMessageAt`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from lib.cloud.accounts import Accounts, reserving, usage_of
from lib.cloud.chats import Chats
from lib.cloud.devices import Devices
from lib.cloud.documents import (
    Create,
    Delete,
    Document,
    Documents,
    Exists,
    Patch,
    Put,
    Refused,
    Stale,
    Version,
    Write,
)
from lib.cloud.turns import Turns
from lib.domain.collections import GENERATIONS, JOURNAL, PARTS, REQUEST
from lib.domain.end import LIVE, Fields, State
from lib.domain.errors import Unreachable
from lib.domain.generation import LISTED_FIELDS, Generation
from lib.domain.message import Part
from lib.domain.segment import Head, Segment
from lib.domain.usage import Usage

INLINE_REQUEST_BYTES = 64 << 10  # a larger request is stored in parts: each change sends listeners the whole document
_REQUEST_PART_BYTES = 900 << 10
_GROUP_BYTES = 3 << 20  # per commit; Firestore accepts 10 MiB
_GENERATION_ID = re.compile(r"[0-9a-f]{32}")
_PAGE = 8  # segments per query, so that a replay holds few in memory at a time
_CHANGE_TRIES = 5
_REPLAYED = ("first", "last", "events", "attempt")


class RequestLost(Exception):
    """Part of a generation's request is missing."""


class Request(NamedTuple):
    """A generation's request, and when somebody asked to stop the generation."""

    body: bytes
    stop_requested_at: datetime | None


class Live(NamedTuple):
    """A generation that has not ended, its document's version, and its journal's head."""

    generation: Generation
    version: Version
    head: Head


class Created(NamedTuple):
    """The version of all documents of a new generation, and its accounts with what is reserved on them for it."""

    version: Version
    usage: Sequence[Usage]


class Store:
    """The generations in one database. Generations and their journals expire after `retention`."""

    def __init__(self, documents: Documents, retention: timedelta):
        self.devices = Devices(documents)
        self.chats = Chats(documents)
        self.accounts = Accounts(documents)
        self.turns = Turns(documents, retention)
        self._documents = documents
        self._retention = retention

    # Generations

    def create(self, generation: Generation, message: Fields, head: Head, *also: Write) -> Created:
        """Creates the generation, the message and the head in one commit, with `also`, and reserves what it has booked.

        Errors: `Exists` if any of them exists; those of `also`.
        """
        fields, parts = _without_large_bodies(generation)
        self._commit_in_groups(parts, _REQUEST_PART_BYTES)
        try:
            return self._created(
                generation,
                Create(generation.path, fields),
                Create(generation.message_path, message),
                Create(generation.head_path, self._head_fields(head, generation.created_at)),
                *also,
            )
        except (Exists, Stale):
            if parts and (
                (there := self.generation(generation.id)) is None or there.request_hash != generation.request_hash
            ):
                self._documents.commit(*[Delete(part.path) for part in parts])
            raise

    def _created(self, generation: Generation, *writes: Write) -> Created:
        done = self._documents.commit(*writes, *reserving(generation.booked))
        return Created(done[0], usage_of(generation.booked, done[len(writes) :]))

    def restart(self, failed: Generation, generation: Generation, message: Fields, head: Head, *also: Write) -> Created:
        """Replaces a failed generation by a new one under the same id, in one commit. As `create` otherwise.

        Their requests are the same.

        Errors: `Stale` if `failed` is no longer what is stored; those of `also`.
        """
        there, its_head = self._documents.get(failed.path, failed.head_path)
        if there is None or its_head is None or there.fields["createdAt"] != failed.created_at:
            raise Stale
        sealed = self._documents.query(failed.journal_path, select=())
        fields = _without_large_bodies(generation)[0]
        return self._created(
            generation,
            Put(generation.path, fields),
            Put(generation.message_path, message),
            Put(generation.head_path, self._head_fields(head, generation.created_at), its_head.version),
            *[Delete(each.path) for each in sealed if each.path != failed.head_path],
            *also,
        )

    def generation(self, generation_id: str) -> Generation | None:
        return _generation(self._documents.get(f"{GENERATIONS}/{generation_id}")[0])

    def generation_of_message(self, message_path: str) -> Generation | None:
        """The generation that a message document names in `generationId`."""
        found = self._documents.get(message_path)[0]
        generation_id = found.fields.get("generationId") if found else None
        if not isinstance(generation_id, str) or not _GENERATION_ID.fullmatch(generation_id):
            return None
        return self.generation(generation_id)

    def generation_and_head(self, generation_id: str, message_path: str) -> tuple[Generation | None, Head | None]:
        """Both documents in one read, for callers that know the message's path."""
        generation, head = self._documents.get(f"{GENERATIONS}/{generation_id}", f"{message_path}/{JOURNAL}/head")
        return _generation(generation), _head(head)

    def written_by_others(self, generation: Generation) -> Document | None:
        """What others than its worker write to a generation's document: `stopRequestedAt`, `watchers`, `every`."""
        return self._documents.get(generation.path, select=("stopRequestedAt", "watchers", "every"))[0]

    def reading_request(self, generation: Generation) -> Callable[[], Request]:
        """Starts reading what is not known of a generation that was created just now. The returned function waits.

        Errors, from that function: `RequestLost`, `Unreachable`.
        """
        reading = self._documents.getting(generation.path, select=("request", "requestParts", "stopRequestedAt"))

        def read() -> Request:
            document = reading()[0]
            if document is None:
                raise RequestLost
            body, parts, stop = (document.fields[name] for name in ("request", "requestParts", "stopRequestedAt"))
            return Request(self.request(replace(generation, request=body, request_parts=parts)), stop)

        return read

    def request(self, generation: Generation) -> bytes:
        """The request's body. Errors: `RequestLost` if part of it is missing."""
        return self._body(generation, "request", generation.request, generation.request_parts)

    def own_request(self, generation: Generation) -> bytes:
        """The request in the terms of its client protocol, or nothing. Errors: as `request`."""
        return self._body(generation, "own_request", generation.own_request, generation.own_request_parts)

    @staticmethod
    def request_bytes(generation: Generation) -> int:
        """The most bytes that `request` may return."""
        return len(generation.request) or generation.request_parts * _REQUEST_PART_BYTES

    @staticmethod
    def own_request_bytes(generation: Generation) -> int:
        """The most bytes that `own_request` may return."""
        return len(generation.own_request) or generation.own_request_parts * _REQUEST_PART_BYTES

    def _body(self, generation: Generation, field: str, inline: bytes, count: int) -> bytes:
        if not count:
            return inline
        paths = [_request_part(generation, field, n) for n in range(count)]
        parts = [part.fields["body"] for part in self._documents.get(*paths) if part]
        if len(parts) < len(paths):
            raise RequestLost
        return b"".join(parts)

    def list(
        self, owner: str, *, chat_id: str | None, states: Sequence[State], after: str | None, limit: int
    ) -> list[Generation]:
        """An owner's generations, newest first, starting after the one whose id is `after`. Requests are not read.

        Errors: `Stale` if the owner has no generation `after`.
        """
        where: list[tuple[str, str, Any]] = [("owner", "==", owner)]
        if chat_id is not None:
            where.append(("chatId", "==", chat_id))
        if states:
            where.append(("state", "in", [str(state) for state in states]))
        cursor = self._documents.get(f"{GENERATIONS}/{after}")[0] if after else None
        if after and (cursor is None or cursor.fields["owner"] != owner):
            raise Stale
        found = self._documents.query(
            GENERATIONS,
            where=where,
            order="createdAt",
            descending=True,
            after=cursor,
            limit=limit,
            select=LISTED_FIELDS,
        )
        return [Generation.from_fields(_id(each), {"request": b"", **each.fields}) for each in found]

    def counting_live(self, owner: str, limit: int, at: Version = None) -> Callable[[], int]:
        """Starts counting an owner's queued and streaming generations, up to `limit`.

        With `at`, those that there were when that version was committed.
        The returned function waits for the count. Errors: `Unreachable`, from that function.
        """
        states = [str(state) for state in LIVE]
        return self._documents.counting(
            GENERATIONS, where=[("owner", "==", owner), ("state", "in", states)], limit=limit, at=at
        )

    def patch(self, generation: Generation, fields: Fields, remove: Sequence[str] = ()) -> None:
        """Changes fields of the generation's document. Errors: `Stale` if it was deleted."""
        self._documents.commit(Patch(generation.path, fields, remove))

    def change_outbox(self, generation: Generation, channel: str, left: Fields | None) -> None:
        """Sets what a channel of the outbox still has to do, or removes the channel.

        Does nothing if the generation was deleted, or is another one under the same id. Errors: `Unreachable`.
        """
        name = f"outbox.{channel}"
        for _ in range(_CHANGE_TRIES):
            (there,) = self._documents.get(generation.path, select=("createdAt",))
            if there is None or there.fields["createdAt"] != generation.created_at:
                return
            changed = ({}, [name]) if left is None else ({name: left}, [])
            with suppress(Stale):
                self._documents.commit(Patch(generation.path, *changed, version=there.version))
                return
        raise Unreachable("the generation is changing")

    def touch_chat(self, generation: Generation, now: datetime) -> None:
        """Sets `lastMessageAt` in the chat's document. Never creates that document."""
        if generation.chat_path is None:
            return
        try:
            self._documents.commit(Patch(generation.chat_path, {"lastMessageAt": now}))
        except (Stale, Refused, Unreachable):
            pass  # the application has no such document or a full one, or Firestore is away: not worth a retry

    def is_member(self, chat_path: str, field: str, uid: str) -> bool:
        """Whether `field` of the chat's document lists the user: in an array of uids, or as a key of a map."""
        chat = self._documents.get(chat_path, select=(field,))[0]
        members = chat.fields.get(field) if chat else None
        return isinstance(members, list | dict) and uid in members

    def live(self, generation: Generation) -> Live | None:
        """The generation and its head, if it has not ended and is not being deleted. Errors: `Unreachable`."""
        document, head = self._documents.get(generation.path, generation.head_path)
        found = _generation(document)
        if document is None or found is None or head is None or found.state.terminal:
            return None
        return Live(found, document.version, Head.from_fields(head.fields, head.version))

    def delete_live(self, live: Live, settling: Sequence[Write]) -> None:
        """Begins to delete a live generation, which no worker can write any more then, and settles in the same commit.

        Errors: `Stale` if it has changed, as by its end; `Unreachable`.
        """
        generation = live.generation
        self._documents.commit(
            Patch(generation.path, {"booked": {}}, version=live.version),
            Delete(generation.head_path),
            Delete(generation.message_path),
            *settling,
        )

    def delete(self, generation: Generation) -> None:
        """Deletes the generation and everything written for it.

        The head is deleted first, which stops any worker from writing more. The generation is deleted last, so that an
        interrupted deletion can be repeated.
        """
        live = generation.turn is not None and not generation.state.terminal
        left = [self.turns.left(generation, datetime.now(UTC))] if live else []
        self._documents.commit(Delete(generation.head_path), Delete(generation.message_path), *left)
        for collection in (
            generation.journal_path,
            f"{generation.message_path}/{PARTS}",
            f"{generation.path}/{REQUEST}",
        ):
            while found := self._documents.query(collection, limit=200, select=()):
                self._documents.commit(*[Delete(each.path) for each in found])
        self._documents.commit(Delete(generation.path))

    # The journal

    def commit(self, *writes: Write) -> Sequence[Version]:
        return self._documents.commit(*writes)

    def batch(self, writes: Sequence[Put]) -> Sequence[Version | Exception]:
        return self._documents.batch(writes)

    def head(self, generation: Generation, head: Head, now: datetime, version: Version) -> Put:
        """The write that replaces `version` of the head by `head`."""
        return Put(generation.head_path, self._head_fields(head, now), version)

    def _head_fields(self, head: Head, now: datetime) -> Fields:
        return {**head.fields(), "at": now, "expireAt": now + self._retention}

    def seal(self, generation: Generation, segment: Segment, now: datetime) -> Create:
        """The write that creates a sealed segment."""
        return Create(f"{generation.journal_path}/{segment.first}", self._segment_fields(segment, now))

    def piece(self, generation: Generation, segment: Segment, part: int, now: datetime) -> Put:
        """The write of document number `part` of an event that is too large for one document."""
        return Put(f"{generation.journal_path}/{segment.first}.{part:03}", self._segment_fields(segment, now))

    def _segment_fields(self, segment: Segment, now: datetime) -> Fields:
        return {**segment.fields(), "at": now, "expireAt": now + self._retention}

    def part(self, generation: Generation, part: Part) -> Put:
        """The write of a part of the message that does not fit into the message's document."""
        return Put(f"{generation.message_path}/{PARTS}/{part.id}", part.fields())

    def read_head(self, generation: Generation) -> Head | None:
        return _head(self.head_document(generation))

    def head_document(self, generation: Generation) -> Document | None:
        return self._documents.get(generation.head_path)[0]

    def segments(
        self, generation: Generation, after: int, before: int, select: Sequence[str] = _REPLAYED
    ) -> Iterator[Segment]:
        """The sealed segments that hold events above `after` and start below `before`, in order.

        Only the fields in `select` are read. `text` is not among the defaults, because the events contain it too.
        """
        if before <= after + 1:
            return
        opening = self._documents.query(
            generation.journal_path,
            where=[("first", "<=", after + 1), ("first", "<", before)],
            order="first",
            descending=True,
            limit=1,
            select=["first"],
        )
        start = opening[0].fields["first"] if opening else 1
        last: Document | None = None
        while True:
            page = self._documents.query(
                generation.journal_path,
                where=[("first", ">=", start), ("first", "<", before)],
                order="first",
                after=last,
                limit=_PAGE,
                select=select,
            )
            for last in page:
                yield Segment(**{"last": 0, "events": b"", "text": "", "attempt": 0, **last.fields})
            if len(page) < _PAGE:
                return

    def discard_after(self, generation: Generation, last: int) -> None:
        """Deletes the journal's documents that begin after event `last`, except for the head. Errors: `Unreachable`."""
        found = self._documents.query(
            generation.journal_path, where=[("first", ">", last)], order="first", select=("first",)
        )
        left = [each.path for each in found if each.path != generation.head_path]
        if left:
            self._documents.commit(*[Delete(path) for path in left])

    def _commit_in_groups(self, writes: Sequence[Write], size: int) -> None:
        step = max(1, _GROUP_BYTES // size)
        for at in range(0, len(writes), step):
            self._documents.commit(*writes[at : at + step])


def _without_large_bodies(generation: Generation) -> tuple[Fields, list[Write]]:
    """The generation's fields without bodies that are too large for its document, and the writes of their parts."""
    fields, writes = generation.fields(), list[Write]()
    if len(generation.request) + len(generation.own_request) <= INLINE_REQUEST_BYTES:
        return fields, writes
    for field, name in (("request", "request"), ("own_request", "ownRequest")):
        body = fields[name]
        pieces = [body[at : at + _REQUEST_PART_BYTES] for at in range(0, len(body), _REQUEST_PART_BYTES)]
        fields |= {name: b"", f"{name}Parts": len(pieces)}
        writes += [
            Put(_request_part(generation, field, n), {"body": piece, "expireAt": generation.expire_at})
            for n, piece in enumerate(pieces)
        ]
    return fields, writes


def _request_part(generation: Generation, field: str, n: int) -> str:
    """The path of part `n`. It includes the body's hash, so that another body for the same id gets other documents."""
    own = "own-" if field == "own_request" else ""
    return f"{generation.path}/{REQUEST}/{generation.request_hash[:16]}-{own}{n:03}"


def _id(document: Document) -> str:
    return document.path.rpartition("/")[2]


def _generation(document: Document | None) -> Generation | None:
    return Generation.from_fields(_id(document), document.fields) if document else None


def _head(document: Document | None) -> Head | None:
    return Head.from_fields(document.fields, document.version) if document else None
