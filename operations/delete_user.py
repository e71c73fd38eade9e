"""Deletes what Holdfast keeps of one user: `python -m operations.delete_user UID --project P --delete`.

Without `--delete` it only counts. Holdfast's data are the user's generations with their requests, and the answers
(messages with a `generationId`) with their journals and parts, including those whose message was deleted, the devices
that are registered for notifications, the orders of turns and the claims of titles of the user's chats, and the
accounts of what the user's answers took. Answers are found below the user's own documents, and wherever else one of the
user's generations lies. The application's data stay: the user's document, chats, and other messages. Each run searches
again, so an interrupted run can be repeated. It reads no contents of messages, and prints only counts.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import TypeVar

from lib.cloud.accounts import Accounts
from lib.cloud.documents import Delete, Document, Documents, Patch, Stale
from lib.domain.collections import DEVICES, GENERATIONS, JOURNAL, PARTS, REQUEST, TITLES, USAGE
from lib.domain.end import LIVE, State
from lib.domain.message_path import MESSAGE_PATH, OWN_MESSAGE_PATH, is_shared, valid_message_path
from lib.domain.turn import turns_path
from operations.command import add_database, on_database, uid

KINDS = (
    *("generations", "request parts", "answers", "journal documents", "answer parts", "devices"),
    *("turns", "title claims", "accounts"),
)
STOP_SECONDS = 30.0
_POLL_SECONDS = 0.5
_PAGE = 200

T = TypeVar("T")


class UserData:
    """Holdfast's data of one user. `counts` is how much was found, by kind; with `delete`, it is deleted too.

    `message_path` is the service's `MESSAGE_PATH`.
    """

    def __init__(self, documents: Documents, uid: str, *, delete: bool, message_path: str = MESSAGE_PATH):
        self._documents = documents
        self._uid = uid
        self._message_path = message_path
        self._delete = delete
        self.counts: Counter[str] = Counter()

    def running(self) -> list[str]:
        """The generations that have not ended."""
        return [generation.path for generation in self._generations([str(state) for state in LIVE])]

    def stop(self, seconds: float) -> bool:
        """Stops live answers like their user could. Returns whether all have ended in time."""
        for path in self.running():
            try:
                self._documents.commit(Patch(path, {"stopRequestedAt": datetime.now(UTC)}))
            except Stale:
                pass  # it was deleted meanwhile
        deadline = time.monotonic() + seconds
        worked = [("owner", "==", self._uid), ("state", "==", str(State.STREAMING))]
        while self._documents.counting(GENERATIONS, where=worked, limit=1)():
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def go_through(self, at_most: int | None = None) -> bool:
        """Handles all data, or up to a number of answers and generations. Returns whether that was all."""
        left = islice(self._steps(), at_most)
        for kind, path, below in left:
            for what, collection in below.items():
                # The head is deleted first, which stops any worker from writing more.
                paths = sorted(self._documents.paths(collection), key=lambda each: not each.endswith("/head"))
                self._take(what, paths)
            if kind is not None:
                self._take(kind, [path])
        return at_most is None or next(self._steps(), None) is None

    def _steps(self) -> Iterator[tuple[str | None, str, dict[str, str]]]:
        """Each document with its kind (None if it was deleted), and its subcollections with their kinds."""
        for device in self._documents.paths(f"users/{self._uid}/{DEVICES}"):
            yield "devices", device, {}
        for chat, _ in self._chats():
            for claim in self._documents.paths(f"{chat}/{TITLES}"):
                yield "title claims", claim, {}
        walked = set()
        for collection in self._collections():
            walked.add(collection)
            yield from self._answers(self._documents.paths(collection))
        for generation in self._generations():
            message: str = generation.fields["messagePath"]
            if message.rpartition("/")[0] not in walked:
                yield from self._answers(iter([message]))
            order = turns_path(message)
            if generation.fields.get("turn") and order not in walked and not is_shared(self._message_path):
                walked.add(order)
                if self._documents.get(order)[0] is not None:  # those of shared chats say nothing of a user
                    yield "turns", order, {}
            yield "generations", generation.path, {"request parts": f"{generation.path}/{REQUEST}"}
        for usage in Accounts(self._documents).of_user(self._uid):
            yield "accounts", f"{USAGE}/{usage.account.id}", {}

    def _collections(self) -> Iterator[str]:
        """The collections that hold only this user's messages."""
        yield OWN_MESSAGE_PATH.format(uid=self._uid, message="").rstrip("/")
        yield from (f"{chat}/{messages}" for chat, messages in self._chats())

    def _chats(self) -> Iterator[tuple[str, str]]:
        """The user's own chats, each with the name of its messages' collection."""
        if not is_shared(self._message_path):
            chats, _, messages = self._message_path.removesuffix("/{message}").partition("/{chat}/")
            for chat in self._documents.paths(chats.format(uid=self._uid)):
                yield chat, messages

    def _answers(self, messages: Iterator[str]) -> Iterator[tuple[str | None, str, dict[str, str]]]:
        """Holdfast's among these messages, and deleted ones that have left documents in subcollections."""
        for paths in _paged(messages):
            for path, message in zip(paths, self._documents.get(*paths, select=("generationId",)), strict=True):
                if message is None or isinstance(message.fields.get("generationId"), str):
                    below = {"journal documents": f"{path}/{JOURNAL}", "answer parts": f"{path}/{PARTS}"}
                    yield "answers" if message else None, path, below

    def _generations(self, states: Sequence[str] = ()) -> Iterator[Document]:
        where = [("owner", "==", self._uid), *([("state", "in", list(states))] if states else [])]
        last: Document | None = None
        while True:
            page = self._documents.query(
                GENERATIONS,
                where=where,
                order="createdAt",
                descending=True,
                after=last,
                limit=_PAGE,
                select=("createdAt", "messagePath", "turn"),
            )
            for last in page:
                yield last
            if len(page) < _PAGE:
                return

    def _take(self, kind: str, paths: Iterable[str]) -> None:
        for page in _paged(iter(paths)):
            if self._delete:
                self._documents.commit(*map(Delete, page))
            self.counts[kind] += len(page)


def _paged(items: Iterator[T]) -> Iterator[list[T]]:
    while page := list(islice(items, _PAGE)):
        yield page


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 if everything was counted or deleted, and 1 if something is left or Firestore can't be reached."""
    options = _options(argv)
    return on_database(
        options, lambda documents: _run(documents, options), "Run this again: it continues where it was interrupted."
    )


def _run(documents: Documents, options: argparse.Namespace) -> int:
    data = UserData(documents, options.uid, delete=options.delete, message_path=options.message_path)
    return _delete(data, options.at_most) if options.delete else _count(data)


def _count(data: UserData) -> int:
    running = len(data.running())
    data.go_through()
    print(f"{_counts(data)}\n{running:8,} of the generations run\nNothing was deleted. To delete it for good: --delete")
    return 0


def _delete(data: UserData, at_most: int) -> int:
    ended = data.stop(STOP_SECONDS)
    whole = data.go_through(at_most)
    print(_counts(data))
    if not whole:
        print("There is more: run this again.")
    if not ended:
        print("An answer did not stop in time and was deleted while it ran: run this again in a minute.")
    if whole and ended:
        print("Deleted.")
    return 0 if whole and ended else 1


def _counts(data: UserData) -> str:
    return "\n".join(f"{data.counts[kind]:8,} {kind}" for kind in KINDS)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m operations.delete_user", description="Deletes what Holdfast keeps of one user."
    )
    parser.add_argument("uid", type=uid, help="the user's Firebase uid")
    add_database(parser)
    parser.add_argument(
        "--message-path", type=_message_path, default=MESSAGE_PATH, help="the service's MESSAGE_PATH (%(default)s)"
    )
    parser.add_argument("--delete", action="store_true", help="delete it; else it is counted")
    parser.add_argument(
        "--at-most", type=_number, default=10_000, help="answers and generations in one run (%(default)s)"
    )
    return parser.parse_args(argv)


def _message_path(given: str) -> str:
    try:
        return valid_message_path(given)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"it must be {error}") from error


def _number(given: str) -> int:
    if not given.isdecimal() or int(given) < 1:
        raise argparse.ArgumentTypeError(f"{given!r} is not a whole number above 0")
    return int(given)


if __name__ == "__main__":
    sys.exit(main())
