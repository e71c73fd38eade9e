"""When generations without a worker are recovered: limits that must fit those of a worker that may be alive."""

from __future__ import annotations

from datetime import timedelta

from lib.journal.ending import LOST_GRACE
from lib.journal.writer import GIVE_UP_SECONDS, LONGEST_OUTAGE_SECONDS, RETRY_SECONDS
from lib.runtime.settings import Settings
from lib.serving.generations import START_GRACE, STOP_WAIT_SECONDS
from lib.serving.healing import REQUEUE_AFTER, REQUEUE_EVERY
from tests.unit.wires.test_api import NEEDED


def test_nobody_ends_what_a_worker_may_still_hold() -> None:
    """When a lease expires, the worker's last commit is at most as old as the lease's length."""
    for lease in (timedelta(0), timedelta(seconds=1), Settings.from_env(NEEDED).lease, timedelta(minutes=5)):
        last_commit_to_end = lease + LOST_GRACE
        assert last_commit_to_end > timedelta(seconds=LONGEST_OUTAGE_SECONDS)
    assert LONGEST_OUTAGE_SECONDS > GIVE_UP_SECONDS


def test_a_task_is_queued_again_several_times_before_an_end() -> None:
    assert REQUEUE_AFTER + 3 * REQUEUE_EVERY < LOST_GRACE
    assert REQUEUE_AFTER + 3 * REQUEUE_EVERY < START_GRACE


def test_a_stop_leaves_a_worker_whose_lease_ran_out_the_time_for_its_next_try() -> None:
    assert RETRY_SECONDS[1] < STOP_WAIT_SECONDS
