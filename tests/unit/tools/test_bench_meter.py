"""The bench counts the commits that took effect, also those of which a reader heard before the meter did."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import grpc
import pytest
from google.cloud.firestore_v1.types import firestore as rpc

from bench.meter import Meter
from local.firestore_proxy.proxy import Proxy, refuse

PATIENCE = 30.0
COMMIT = "/google.firestore.v1.Firestore/Commit"
REQUEST = rpc.CommitRequest.pb()(writes=[{"delete": "projects/p/databases/(default)/documents/a/b"}])


class Firestore(Proxy):
    """Answers commits with a status, when it may."""

    def __init__(self) -> None:
        super().__init__("localhost:1")
        self.status = grpc.StatusCode.OK
        self.asked, self.may_answer = threading.Event(), threading.Event()
        self.may_answer.set()

    def commit(self, method: str, request: bytes, context: Any) -> bytes:
        self.asked.set()
        self.may_answer.wait(PATIENCE)
        if self.status is not grpc.StatusCode.OK:
            refuse(context, self.status, "as the test asks")
        return b""


@pytest.fixture
def firestore() -> Firestore:
    return Firestore()


@pytest.fixture
def meter(firestore: Firestore) -> Iterator[Meter]:
    with firestore.serving(0) as address:
        yield Meter(address)


@pytest.fixture
def commit(meter: Meter) -> Iterator[Any]:
    with meter.serving(0) as address, grpc.insecure_channel(address) as channel:
        yield channel.unary_unary(COMMIT, type(REQUEST).SerializeToString)


def test_the_counts_wait_for_commits_that_are_under_way(firestore: Firestore, meter: Meter, commit: Any) -> None:
    firestore.may_answer.clear()
    with ThreadPoolExecutor() as pool:
        asked = commit.future(REQUEST)
        assert firestore.asked.wait(PATIENCE)
        counts = pool.submit(meter.counted)
        assert not wait([counts], 0.05).done
        firestore.may_answer.set()
        assert counts.result(PATIENCE)["a/b"].writes == 1
        asked.result(PATIENCE)


@pytest.mark.parametrize(
    ("status", "counted"),
    [
        (grpc.StatusCode.FAILED_PRECONDITION, 0),
        (grpc.StatusCode.UNAVAILABLE, 0),
        (grpc.StatusCode.CANCELLED, 1),
        (grpc.StatusCode.UNKNOWN, 1),
    ],
)
def test_a_commit_that_fails_is_counted_only_if_the_emulator_has_applied_it_and_holds_no_count_up(
    status: grpc.StatusCode, counted: int, firestore: Firestore, meter: Meter, commit: Any
) -> None:
    firestore.status = status
    with pytest.raises(grpc.RpcError) as error:
        commit(REQUEST)
    assert error.value.code() is status  # type: ignore[attr-defined]
    assert sum(count.writes for count in meter.counted().values()) == counted
