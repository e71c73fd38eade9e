"""Reads a generation from Firestore with Google's client, and decodes it without the service's code."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from lib.domain.collections import GENERATIONS, JOURNAL, PARTS, USAGE
from local.client import Frame

READ_SECONDS = 20.0
LIVE = ("queued", "streaming")


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """One reading. `content` is the message's text, including parts, and `text` that of the journal's segments.

    `journal` has the events in the order of their documents, and `final` the state in the head. `mark` is equal in two
    readings if and only if nothing was written in between. `code` is the error's: the upstream's own, if it sent one.
    `attempts` has for each event the attempt that read it, and `attempt` is the last of all. `charge` is what the
    answer took, and `accounts` what is counted on each of its user's accounts, who has asked nothing else.
    """

    generation: str
    state: str
    reason: str | None
    code: str | None
    last: int
    message_state: str
    content: str
    journal: tuple[Frame, ...]
    text: str
    final: str | None
    mark: str
    attempts: tuple[int, ...] = ()
    attempt: int = 1
    charge: Mapping[str, int] | None = None
    accounts: tuple[Mapping[str, int], ...] = ()

    @property
    def ended(self) -> bool:
        return self.message_state not in LIVE


def read(database: Any, path: str) -> Saved | None:
    """Reads the generation of the message at `path`, if there is one."""
    message = database.document(path).get(timeout=READ_SECONDS)
    if not message.exists:
        return None
    generation = database.document(f"{GENERATIONS}/{message.get('generationId')}").get(timeout=READ_SECONDS)
    if not generation.exists:
        return None
    documents = _journal(database, path)
    parts = [
        database.document(f"{path}/{PARTS}/{part}").get(timeout=READ_SECONDS)
        for part in message.to_dict().get("parts") or ()
    ]
    head = next((document for document in documents if document.id == "head"), None)
    final = head.get("final") if head else None
    error = generation.get("error")
    return Saved(
        generation=generation.id,
        state=generation.get("state"),
        reason=generation.get("reason"),
        code=error["code"] if error else None,
        last=generation.get("lastSeq"),
        message_state=message.get("state"),
        content=message.get("content") + "".join(part.get("text") for part in parts),
        journal=_frames(documents),
        text="".join(document.get("text") for document in documents),
        final=final["state"] if final else None,
        attempts=tuple(_attempts(documents)),
        attempt=generation.get("attempt"),
        charge=generation.get("charge"),
        accounts=tuple(
            database.document(f"{USAGE}/{account}").get(timeout=READ_SECONDS).to_dict() or {}
            for account in generation.get("booked").get("accounts", ())
            if not account.startswith("0.")  # the service's, which all users share
        ),
        mark=_mark([message, *documents, *parts], generation),
    )


def read_journal(database: Any, path: str) -> tuple[Frame, ...]:
    """Reads the committed journal of the message at `path`, with one query and so as a consistent snapshot."""
    return _frames(_journal(database, path))


def _journal(database: Any, path: str) -> list[Any]:
    return sorted(database.collection(f"{path}/{JOURNAL}").stream(timeout=READ_SECONDS), key=_place)


def _frames(documents: Iterable[Any]) -> tuple[Frame, ...]:
    """The numbered events. Documents with the same `first` contain one event's bytes together."""
    found: list[Frame] = []
    for (_, first), documents_of_one in groupby(documents, key=_segment):
        same = list(documents_of_one)
        kept = [document for document in same if document.get("attempt") == same[0].get("attempt")]
        raw = zlib.decompressobj().decompress(b"".join(document.get("events") for document in kept))
        events = [record.decode().partition("\n") for record in raw.split(b"\x1e")[1:]]
        found += [Frame(number, data, name) for number, (name, _, data) in enumerate(events, first)]
    return tuple(found)


def _attempts(documents: Iterable[Any]) -> Iterator[int]:
    for (_, first), documents_of_one in groupby(documents, key=_segment):
        same = list(documents_of_one)
        yield from [same[0].get("attempt")] * (same[0].get("last") - first + 1)


def _segment(document: Any) -> tuple[bool, int]:
    return document.id == "head", document.get("first")


def _place(document: Any) -> tuple[bool, int, str]:
    """The sort key. The head is always last."""
    return *_segment(document), document.id


def _mark(documents: Iterable[Any], generation: Any) -> str:
    digest = hashlib.sha256()
    for document in documents:
        digest.update(
            repr((document.reference.path, document.update_time, sorted(document.to_dict().items()))).encode()
        )
    # Viewers come and go after the end; nothing else of the generation may change.
    fields = {name: value for name, value in generation.to_dict().items() if name != "watchers"}
    digest.update(repr(sorted(fields.items())).encode())
    return digest.hexdigest()
