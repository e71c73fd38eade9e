"""The viewer's lease with a scripted store: what is written when viewers come and go, and in which order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from lib.cloud.documents import Stale
from lib.cloud.store import Store
from lib.domain.errors import Unreachable
from lib.domain.generation import Generation
from lib.serving.viewer_lease import RETRY_SECONDS, ViewerLease

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LENGTH = timedelta(seconds=30)
PATIENCE = 60.0
LEASE, REMOVAL = {"watchers.p1": NOW + LENGTH, "every.p1": 0.0}, ("watchers.p1", "every.p1")
GENERATION = Generation(
    id="g1",
    owner="alice",
    message_path="users/alice/messages/g1",
    chat_id=None,
    message_id="g1",
    model="demo",
    dialect="chat_completions",
    upstream="default",
    request=b"{}",
    request_hash="",
    created_at=NOW,
    expire_at=NOW,
)


class Patches:
    """Records writes. `during` is called once, in the middle of the next write. Faults are raised one after another."""

    def __init__(self) -> None:
        self.written: list[Any] = []
        self.during: Callable[[], object] | None = None
        self.faults: list[Exception] = []

    def patch(self, generation: Generation, fields: dict[str, Any], remove: Sequence[str] = ()) -> None:
        during, self.during = self.during, None
        if during is not None:
            during()
        if self.faults:
            raise self.faults.pop(0)
        self.written.append(fields or remove)


@pytest.fixture
def patches() -> Patches:
    return Patches()


@pytest.fixture
def lease(patches: Patches) -> ViewerLease:
    return lease_of(patches)


def lease_of(patches: Patches, monotonic: Callable[[], float] = time.monotonic) -> ViewerLease:
    return ViewerLease(
        cast(Store, patches), GENERATION, viewer="p1", length=LENGTH, clock=lambda: NOW, monotonic=monotonic
    )


def come(lease: ViewerLease) -> None:
    lease.enter()
    lease.keep()


def test_the_first_viewer_writes_the_lease_and_the_last_one_removes_it(lease: ViewerLease, patches: Patches) -> None:
    come(lease)
    come(lease)
    lease.leave(live=True)
    assert patches.written == [LEASE]
    lease.leave(live=True)
    assert patches.written == [LEASE, REMOVAL]
    assert lease.idle


def test_a_viewer_who_comes_back_has_a_lease_at_once(lease: ViewerLease, patches: Patches) -> None:
    for _ in range(3):
        come(lease)
        lease.leave(live=True)
    assert patches.written == [LEASE, REMOVAL] * 3


def test_a_removal_is_not_written_where_the_next_viewer_has_come(lease: ViewerLease, patches: Patches) -> None:
    come(lease)
    lease.enter()
    lease.leave(live=True)
    lease.keep()
    assert patches.written == [LEASE]


def test_a_viewer_who_comes_while_the_lease_is_removed_has_it_again_right_after(
    lease: ViewerLease, patches: Patches
) -> None:
    come(lease)
    patches.during = lambda: come(lease)
    lease.leave(live=True)
    assert patches.written == [LEASE, REMOVAL, LEASE]
    assert not lease.due(0.0)


def test_no_two_writes_are_under_way_at_once(lease: ViewerLease, patches: Patches) -> None:
    come(lease)
    begun, done = threading.Event(), threading.Event()

    def during() -> None:
        begun.set()
        assert done.wait(PATIENCE)

    patches.during = during
    leaving = threading.Thread(target=lambda: lease.leave(live=True))
    leaving.start()
    assert begun.wait(PATIENCE)
    come(lease)  # which does not wait, either
    assert patches.written == [LEASE]
    assert not lease.due(float("inf"))
    assert not lease.idle
    done.set()
    leaving.join(PATIENCE)
    assert patches.written == [LEASE, REMOVAL, LEASE]


def test_a_viewer_who_leaves_while_the_lease_is_written_leaves_none(lease: ViewerLease, patches: Patches) -> None:
    lease.enter()
    patches.during = lambda: lease.leave(live=True)
    lease.keep()
    assert patches.written == [LEASE, REMOVAL]


def test_a_lease_that_the_document_was_created_with_counts_as_written(lease: ViewerLease, patches: Patches) -> None:
    lease.created()
    come(lease)
    assert patches.written == []
    lease.leave(live=True)
    assert patches.written == [REMOVAL]


def test_what_was_never_written_is_not_removed(lease: ViewerLease, patches: Patches) -> None:
    lease.enter()
    lease.leave(live=True)
    assert patches.written == []


def test_nothing_is_removed_from_a_generation_that_has_ended(lease: ViewerLease, patches: Patches) -> None:
    come(lease)
    lease.leave(live=False)
    assert patches.written == [LEASE]


def test_the_lease_is_renewed_at_half_its_time(patches: Patches) -> None:
    now = 1000.0
    lease = lease_of(patches, lambda: now)
    come(lease)
    now += 14.9
    assert not lease.due(now)
    now += 0.2
    assert lease.due(now)
    lease.keep()
    assert not lease.due(now)
    assert patches.written == [LEASE, LEASE]


@pytest.mark.parametrize("fault", [Unreachable("away"), Stale()], ids=["unreachable", "gone"])
def test_a_lease_that_could_not_be_written_is_tried_again_after_a_while(patches: Patches, fault: Exception) -> None:
    now = 1000.0
    lease = lease_of(patches, lambda: now)
    patches.faults = [fault]
    come(lease)
    assert not lease.due(now)
    now += RETRY_SECONDS
    assert lease.due(now)
    lease.keep()
    assert patches.written == [LEASE]


def test_a_lease_whose_answer_was_lost_is_removed(lease: ViewerLease, patches: Patches) -> None:
    patches.faults = [Unreachable("away")]
    come(lease)
    lease.leave(live=True)
    assert patches.written == [REMOVAL]


def test_a_removal_that_failed_does_not_keep_the_next_viewer_from_its_lease(
    lease: ViewerLease, patches: Patches
) -> None:
    come(lease)
    patches.faults = [Unreachable("away")]
    lease.leave(live=True)
    come(lease)
    assert patches.written == [LEASE, LEASE]


def test_a_fault_of_ours_leaves_the_lease_free_to_be_written(lease: ViewerLease, patches: Patches) -> None:
    patches.faults = [RuntimeError("ours")]
    with pytest.raises(RuntimeError):
        come(lease)
    lease.keep()
    assert patches.written == [LEASE]


def lease_for(every: float) -> dict[str, Any]:
    return {**LEASE, "every.p1": every}


def test_the_viewer_that_wants_to_see_the_most_decides(lease: ViewerLease, patches: Patches) -> None:
    for every, written in ((2.0, [2.0]), (3.0, [2.0]), (0.5, [2.0, 0.5]), (0.0, [2.0, 0.5, 0.0])):
        lease.enter(every)
        lease.keep()
        assert patches.written == [lease_for(each) for each in written]


def test_a_lease_that_asks_for_too_much_is_left_until_it_is_renewed(patches: Patches) -> None:
    now = 1000.0
    lease = lease_of(patches, lambda: now)
    lease.enter(2.0)
    lease.enter(0.5)
    lease.keep()
    lease.leave(0.5, live=True)
    lease.keep()
    assert patches.written == [lease_for(0.5)]
    now += 15.1
    lease.keep()
    assert patches.written == [lease_for(0.5), lease_for(2.0)]


def test_a_viewer_who_wants_more_while_the_lease_is_written_has_it_right_after(
    lease: ViewerLease, patches: Patches
) -> None:
    lease.enter(2.0)
    patches.during = lambda: lease.enter(0.5)
    lease.keep()
    assert patches.written == [lease_for(2.0), lease_for(0.5)]


@pytest.mark.parametrize(("created", "comes", "written"), [(2.0, 2.0, []), (2.0, 3.0, []), (2.0, 1.0, [1.0])])
def test_what_the_document_was_created_with_counts(
    lease: ViewerLease, patches: Patches, created: float, comes: float, written: list[float]
) -> None:
    lease.created(created)
    lease.enter(comes)
    lease.keep()
    assert patches.written == [lease_for(each) for each in written]


def test_a_closer_lease_that_could_not_be_written_is_tried_again(patches: Patches) -> None:
    now = 1000.0
    lease = lease_of(patches, lambda: now)
    lease.enter(2.0)
    lease.keep()
    patches.faults = [Unreachable("away")]
    lease.enter(0.5)
    lease.keep()
    assert not lease.due(now)
    now += RETRY_SECONDS
    lease.keep()
    assert patches.written == [lease_for(2.0), lease_for(0.5)]
