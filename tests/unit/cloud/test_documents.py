"""A listen stream whose bytes are no message: it breaks, and nothing is logged as an error."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from lib.cloud.documents import Documents, Target
from lib.cloud.listen import listening_loop
from lib.domain.errors import Unreachable


def test_a_corrupt_message_breaks_a_listen_stream_and_is_no_error_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Corrupt(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: object) -> object:
            return grpc.stream_stream_rpc_method_handler(lambda _requests, _context: iter([b"\xff\xff\xff"]))

    async def targets() -> AsyncIterator[Target]:
        yield Target(1, "a/b")
        await asyncio.sleep(30)

    async def listen(documents: Documents) -> None:
        async for _ in documents.listen(targets()):
            pass

    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((Corrupt(),))
    host = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", host)
    documents = Documents("demo", emulator=host)
    try:
        with pytest.raises(Unreachable) as broke:
            asyncio.run_coroutine_threadsafe(listen(documents), listening_loop()).result(20)
    finally:
        server.stop(None).wait()
    assert broke.value.cause == "a corrupt message"
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
