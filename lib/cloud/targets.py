"""What the server's answers on one listen stream say about the documents that are listened to.

The server may report that a document does not exist by nothing but CURRENT, "all changes before the target was added":
https://firebase.google.com/docs/firestore/reference/rpc/google.firestore.v1#targetchange. (Firebase's SDKs then make up
the deletion: `WatchChangeAggregator` in https://github.com/firebase/firebase-js-sdk.)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple


class News(NamedTuple):
    """The documents of these targets are now `document`, a protobuf message, or do not exist.

    `refused` means that the server removed the targets.
    """

    targets: list[int]
    document: Any = None
    refused: bool = False


class Targets:
    """The targets of one stream. `answered`: the server has sent anything at all."""

    def __init__(self) -> None:
        self._added: set[int] = set()
        self._told: set[int] = set()  # targets whose document's state was reported
        self.answered = False

    def news(self, answer: Any) -> News | None:
        """What a `ListenResponse` says, if it is about a document."""
        self.answered = True
        kind = answer.WhichOneof("response_type")
        if kind == "document_change":
            return self._tell(answer.document_change.target_ids, answer.document_change.document)
        if kind in ("document_delete", "document_remove"):
            return self._tell(getattr(answer, kind).removed_target_ids, None)
        return self._target_change(answer.target_change) if kind == "target_change" else None

    def _target_change(self, change: Any) -> News | None:
        ids = set(change.target_ids)  # none: all of them
        kind = change.target_change_type
        if kind == change.ADD:
            self._added |= ids
        elif kind == change.REMOVE:
            self._added -= ids
            self._told -= ids
            if change.cause.code:
                return News(list(ids), refused=True)
        elif kind == change.RESET:
            self._told -= ids or self._added
        elif kind == change.CURRENT and (silent := (ids or self._added) - self._told):
            return self._tell(silent, None)
        return None

    def _tell(self, ids: Iterable[int], document: Any) -> News:
        news = News(list(ids), document)
        self._told.update(news.targets)
        return news
