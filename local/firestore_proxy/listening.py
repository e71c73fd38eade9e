"""What a listen stream carries: without the deletions that Firestore does not report, and later."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator

from google.cloud.firestore_v1.types import firestore as rpc
from google.protobuf.message import DecodeError

_LISTEN = rpc.ListenRequest.pb()
_LISTENED = rpc.ListenResponse.pb()


class Targets:
    """The documents that each target of one stream was told of. A resumed target's client knows some from before."""

    def __init__(self) -> None:
        self._told: set[tuple[int, str]] = set()
        self._resumed: set[int] = set()

    def asked(self, requests: Iterator[bytes]) -> Iterator[bytes]:
        """Passes requests on."""
        for request in requests:
            target = _LISTEN.FromString(request).add_target
            if target.WhichOneof("resume_type") is not None:
                self._resumed.add(target.target_id)
            yield request

    def passes(self, answer: bytes) -> bool:
        """Whether Firestore would send this: no deletion of a document that it never sent."""
        try:
            message = _LISTENED.FromString(answer)
        except DecodeError:  # the emulator writes a stream from two threads
            return True
        match message.WhichOneof("response_type"):
            case "document_change":
                name = message.document_change.document.name
                self._told |= {(target, name) for target in message.document_change.target_ids}
            case "document_delete":
                deleted = {
                    (target, message.document_delete.document) for target in message.document_delete.removed_target_ids
                }
                known = self._told & deleted or self._resumed.intersection(message.document_delete.removed_target_ids)
                self._told -= deleted
                return bool(known)
        return True


def later(answers: Iterator[bytes], wait: Callable[[], float]) -> Iterator[bytes]:
    """Each answer `wait()` seconds after it came, in the order in which they came, and an error after them."""
    arrived: queue.SimpleQueue[tuple[float, bytes] | Exception | None] = queue.SimpleQueue()

    def arrive() -> None:
        try:
            for answer in answers:
                arrived.put((time.monotonic() + wait(), answer))
        except Exception as error:
            arrived.put(error)
        else:
            arrived.put(None)

    threading.Thread(target=arrive, daemon=True).start()
    while (said := arrived.get()) is not None:
        if isinstance(said, Exception):
            raise said
        due, answer = said
        time.sleep(max(0.0, due - time.monotonic()))
        yield answer
