"""The bench's count of an answer has its last commit, of which the reader heard before the meter did."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from google.cloud.firestore_v1.types import firestore as rpc

from bench.meter import Meter
from local.firestore_proxy.proxy import Proxy

WRITTEN = "projects/p/databases/(default)/documents/a/b"
COMMIT = "/google.firestore.v1.Firestore/Commit"


def test_the_counts_wait_for_commits_that_are_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    request = rpc.CommitRequest.pb()(writes=[{"delete": WRITTEN}]).SerializeToString()

    async def counted() -> int:
        answered, asked = asyncio.Event(), asyncio.Event()

        async def answer(*_: Any) -> bytes:
            asked.set()
            await answered.wait()
            return b""

        monkeypatch.setattr(Proxy, "commit", answer)
        meter = Meter("localhost:1")
        commit = asyncio.create_task(meter.commit(COMMIT, request, None))
        await asked.wait()
        counts = asyncio.create_task(meter.counted())
        await asyncio.sleep(0.01)
        assert not counts.done()
        answered.set()
        await commit
        return (await counts)["a/b"].writes

    assert asyncio.run(counted()) == 1


def test_a_commit_that_fails_is_not_counted_and_holds_no_count_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: Any) -> bytes:
        raise RuntimeError("refused")

    async def counted() -> dict[str, Any]:
        monkeypatch.setattr(Proxy, "commit", refuse)
        meter = Meter("localhost:1")
        with pytest.raises(RuntimeError):
            await meter.commit(COMMIT, b"", None)
        return await meter.counted()

    assert asyncio.run(counted()) == {}
