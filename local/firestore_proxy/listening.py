"""What a listen stream carries: without the deletions that Firestore does not report, and later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from google.cloud.firestore_v1.types import firestore as rpc
from google.protobuf.message import DecodeError

_LISTEN = rpc.ListenRequest.pb()
_LISTENED = rpc.ListenResponse.pb()
_AHEAD = 1000  # messages that wait


class Targets:
    """The documents that each target of one stream was told of. A resumed target's client knows some from before."""

    def __init__(self) -> None:
        self._told: set[tuple[int, str]] = set()
        self._resumed: set[int] = set()

    async def asked(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Passes requests on."""
        async for request in requests:
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


async def later(answers: AsyncIterator[bytes], wait: Callable[[], float]) -> AsyncIterator[bytes]:
    """Each answer `wait()` seconds after it came, in the order in which they came, and an error after them."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[tuple[float, bytes] | Exception | None] = asyncio.Queue(_AHEAD)

    async def arrive() -> None:
        try:
            async for answer in answers:
                await arrived.put((loop.time() + wait(), answer))
        except Exception as error:
            await arrived.put(error)
        else:
            await arrived.put(None)

    arriving = asyncio.ensure_future(arrive())
    try:
        while (said := await arrived.get()) is not None:
            if isinstance(said, Exception):
                raise said
            due, answer = said
            await asyncio.sleep(due - loop.time())
            yield answer
    finally:
        arriving.cancel()
