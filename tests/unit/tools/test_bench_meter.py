"""The bench's count of an answer has its last commit, of which the reader heard before the meter did."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import pytest
from google.cloud.firestore_v1.types import firestore as rpc

from bench.meter import Meter
from local.firestore_proxy.proxy import Proxy

WRITTEN = "projects/p/databases/(default)/documents/a/b"
PATIENCE = 30.0
COMMIT = "/google.firestore.v1.Firestore/Commit"


def test_the_counts_wait_for_commits_that_are_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    request = rpc.CommitRequest.pb()(writes=[{"delete": WRITTEN}]).SerializeToString()

    answered, asked = threading.Event(), threading.Event()

    def answer(*_: Any) -> bytes:
        asked.set()
        answered.wait(PATIENCE)
        return b""

    monkeypatch.setattr(Proxy, "commit", answer)
    meter = Meter("localhost:1")
    with ThreadPoolExecutor() as pool:
        pool.submit(meter.commit, COMMIT, request, None)
        assert asked.wait(PATIENCE)
        counts = pool.submit(meter.counted)
        assert not wait([counts], 0.05).done
        answered.set()
        assert counts.result(PATIENCE)["a/b"].writes == 1


def test_a_commit_that_fails_is_not_counted_and_holds_no_count_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> bytes:
        raise RuntimeError("refused")

    monkeypatch.setattr(Proxy, "commit", refuse)
    meter = Meter("localhost:1")
    with pytest.raises(RuntimeError):
        meter.commit(COMMIT, b"", None)
    assert meter.counted() == {}
