"""What Holdfast keeps in Firestore, and where: generations, messages, journals.

Turns the domain's values into documents and back. Decides nothing about states or leases: `journal` and `generations`
do. No document of another room's making is created or overwritten here; a chat is only ever told of a new message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from lib.cloud.documents import Create, Delete, Document, Documents, Exists, Patch, Put, Stale, Version, Write
from lib.domain.end import LIVE, Fields, State
from lib.domain.errors import Unreachable
from lib.domain.generation import LISTED_FIELDS, Generation
from lib.domain.message import Part
from lib.domain.segment import Head, Segment

INLINE_REQUEST_BYTES = 64 << 10  # a larger request lies in parts: listeners get the generation's document whole
_REQUEST_PART_BYTES = 900 << 10
_GROUP_BYTES = 3 << 20  # in one commit; Firestore takes 10 MiB
_GENERATION_ID = re.compile(r"[0-9a-f]{32}")
_PAGE = 8  # segments a query, so that a replay holds few at a time
_REPLAYED = ("first", "last", "events", "attempt")


class RequestLost(Exception):
    """A part of a generation's request is not there."""


class Store:
    """One database's generations. `retention` is how long they and their journals are kept."""

    def __init__(self, documents: Documents, retention: timedelta):
        self._documents = documents
        self._retention = retention

    # The life of a generation

    def create(self, generation: Generation, message: Fields, head: Head) -> None:
        """Creates generation, message and head in one commit; `Exists` where one of them is there."""
        request = generation.request
        parts: list[Write] = []
        if len(request) > INLINE_REQUEST_BYTES:
            pieces = [request[at : at + _REQUEST_PART_BYTES] for at in range(0, len(request), _REQUEST_PART_BYTES)]
            parts = [
                Put(_request_part(generation, n), {"body": piece, "expireAt": generation.expire_at})
                for n, piece in enumerate(pieces)
            ]
        self._commit_in_groups(parts, _REQUEST_PART_BYTES)
        fields = generation.fields() | ({"request": b"", "requestParts": len(parts)} if parts else {})
        try:
            self._documents.commit(
                Create(generation.path, fields),
                Create(generation.message_path, message),
                Create(generation.head_path, self._head_fields(head, generation.created_at)),
            )
        except Exists:
            if parts and (
                (there := self.generation(generation.id)) is None or there.request_hash != generation.request_hash
            ):
                self._documents.commit(*[Delete(part.path) for part in parts])
            raise

    def generation(self, generation_id: str) -> Generation | None:
        return _generation(self._documents.get(f"generations/{generation_id}")[0])

    def generation_of_message(self, message_path: str) -> Generation | None:
        """The generation that a message document says it is of."""
        found = self._documents.get(message_path)[0]
        generation_id = found.fields.get("generationId") if found else None
        if not isinstance(generation_id, str) or not _GENERATION_ID.fullmatch(generation_id):
            return None
        return self.generation(generation_id)

    def generation_and_head(self, generation_id: str, message_path: str) -> tuple[Generation | None, Head | None]:
        """Both in one read, for who knows where the message is."""
        generation, head = self._documents.get(f"generations/{generation_id}", f"{message_path}/journal/head")
        return _generation(generation), _head(head)

    def request(self, generation: Generation) -> bytes:
        """The request's body, as the client sent it. Errors: `RequestLost` where a part of it is missing."""
        if not generation.request_parts:
            return generation.request
        paths = [_request_part(generation, n) for n in range(generation.request_parts)]
        parts = [part.fields["body"] for part in self._documents.get(*paths) if part]
        if len(parts) < len(paths):
            raise RequestLost
        return b"".join(parts)

    def list(
        self, owner: str, *, chat_id: str | None, states: Sequence[State], after: str | None, limit: int
    ) -> list[Generation]:
        """An owner's generations, newest first, after the one whose id is `after`. Their requests are not read.

        Errors: `Stale` where there is no generation `after`.
        """
        where: list[tuple[str, str, Any]] = [("owner", "==", owner)]
        if chat_id is not None:
            where.append(("chatId", "==", chat_id))
        if states:
            where.append(("state", "in", [str(state) for state in states]))
        cursor = self._documents.get(f"generations/{after}")[0] if after else None
        if after and (cursor is None or cursor.fields["owner"] != owner):
            raise Stale
        found = self._documents.query(
            "generations",
            where=where,
            order="createdAt",
            descending=True,
            after=cursor,
            limit=limit,
            select=LISTED_FIELDS,
        )
        return [Generation.from_fields(_id(each), {"request": b"", **each.fields}) for each in found]

    def counting_live(self, owner: str, limit: int) -> Callable[[], int]:
        """Asks how many of an owner's generations are queued or streaming, up to `limit`. Call it for the answer."""
        states = [str(state) for state in LIVE]
        return self._documents.counting(
            "generations", where=[("owner", "==", owner), ("state", "in", states)], limit=limit
        )

    def patch(self, generation: Generation, fields: Fields, remove: Sequence[str] = ()) -> None:
        """Changes fields of the generation's document; `Stale` where it is gone."""
        self._documents.commit(Patch(generation.path, fields, remove))

    def touch_chat(self, generation: Generation, now: datetime) -> None:
        """Tells the chat of a new message, if there is such a chat; it is never created."""
        if generation.chat_id is None:
            return
        try:
            self._documents.commit(
                Patch(f"users/{generation.owner}/chats/{generation.chat_id}", {"lastMessageAt": now})
            )
        except (Stale, Unreachable):
            pass  # there is no such chat, or it is not worth a second try

    def delete(self, generation: Generation) -> None:
        """Deletes the generation and everything it wrote.

        The head goes first: no worker can write anything more. The generation goes last: a deletion that broke off can
        be made again.
        """
        self._documents.commit(Delete(generation.head_path), Delete(generation.message_path))
        for collection in (generation.journal_path, f"{generation.message_path}/parts", f"{generation.path}/request"):
            while found := self._documents.query(collection, limit=200, select=()):
                self._documents.commit(*[Delete(each.path) for each in found])
        self._documents.commit(Delete(generation.path))

    # The journal

    def commit(self, *writes: Write) -> Sequence[Version]:
        return self._documents.commit(*writes)

    def batch(self, writes: Sequence[Put]) -> Sequence[Version | Exception]:
        return self._documents.batch(writes)

    def head(self, generation: Generation, head: Head, now: datetime, version: Version) -> Put:
        """The write that puts `head` in the place of the version that is known."""
        return Put(generation.head_path, self._head_fields(head, now), version)

    def _head_fields(self, head: Head, now: datetime) -> Fields:
        return {**head.fields(), "at": now, "expireAt": now + self._retention}

    def seal(self, generation: Generation, segment: Segment, now: datetime) -> Create:
        """The write that creates a sealed segment."""
        return Create(f"{generation.journal_path}/{segment.first}", self._segment_fields(segment, now))

    def piece(self, generation: Generation, segment: Segment, part: int, now: datetime) -> Put:
        """The write of a further document, number `part`, of an event too large for one."""
        return Put(f"{generation.journal_path}/{segment.first}.{part:03}", self._segment_fields(segment, now))

    def _segment_fields(self, segment: Segment, now: datetime) -> Fields:
        return {**segment.fields(), "at": now, "expireAt": now + self._retention}

    def part(self, generation: Generation, part: Part) -> Put:
        """The write of a piece of the message's text that its own document can't hold."""
        return Put(f"{generation.message_path}/parts/{part.id}", part.fields())

    def read_head(self, generation: Generation) -> Head | None:
        return _head(self.head_document(generation))

    def head_document(self, generation: Generation) -> Document | None:
        return self._documents.get(generation.head_path)[0]

    def segments(
        self, generation: Generation, after: int, before: int, select: Sequence[str] = _REPLAYED
    ) -> Iterator[Segment]:
        """The sealed segments with events from `after + 1` on, that start before number `before`, in order.

        Of their fields only those that `select` names are read: unless asked for not `text`, which the events have too.
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
                yield Segment(**{"last": 0, "events": b"", "text": "", **last.fields})
            if len(page) < _PAGE:
                return

    def _commit_in_groups(self, writes: Sequence[Write], size: int) -> None:
        step = max(1, _GROUP_BYTES // size)
        for at in range(0, len(writes), step):
            self._documents.commit(*writes[at : at + step])


def _request_part(generation: Generation, n: int) -> str:
    """The body's hash is in the name: another body under the same generation's id takes other documents."""
    return f"{generation.path}/request/{generation.request_hash[:16]}-{n:03}"


def _id(document: Document) -> str:
    return document.path.rpartition("/")[2]


def _generation(document: Document | None) -> Generation | None:
    return Generation.from_fields(_id(document), document.fields) if document else None


def _head(document: Document | None) -> Head | None:
    return Head.from_fields(document.fields, document.version) if document else None
