"""When a generation without a worker may be ended, and with what outcome."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from lib.cloud.documents import COMMIT_SECONDS, READ_SECONDS
from lib.domain.end import End, State
from lib.domain.segment import empty_head
from lib.journal.ending import LOST_GRACE, lost, may_be_ended
from lib.journal.writer import GIVE_UP_SECONDS, RETRY_SECONDS
from tests.unit.domain.test_generation import QUEUED

NOW = datetime(2026, 1, 2, tzinfo=UTC)
HEAD = empty_head(NOW, NOW)


@pytest.mark.parametrize("lease", [1.0, 15.0, 60.0, 600.0])
def test_who_heals_waits_longer_than_any_worker_sits_out_an_outage(lease: float) -> None:
    """From its last commit, a worker tries the next after a third of its lease, and gives up after its patience."""
    last_try = lease / 3 + GIVE_UP_SECONDS + RETRY_SECONDS[1] + COMMIT_SECONDS + READ_SECONDS
    may_end = lease + LOST_GRACE.total_seconds()
    assert may_end > last_try


def test_a_generation_may_be_ended_once_the_grace_after_its_lease_is_over_and_only_once() -> None:
    assert not may_be_ended(HEAD, NOW + LOST_GRACE)
    assert may_be_ended(HEAD, NOW + LOST_GRACE + timedelta(seconds=1))
    ended = replace(HEAD, end=End(state=State.COMPLETED))
    assert not may_be_ended(ended, NOW + LOST_GRACE + timedelta(seconds=1))


@pytest.mark.parametrize(
    ("generation", "silent", "state"),
    [
        (QUEUED, True, State.FAILED),
        (replace(QUEUED, attempt=1), True, State.FAILED),
        (replace(QUEUED, attempt=1), False, State.INCOMPLETE),
    ],
)
def test_what_was_lost_is_incomplete_where_some_output_is_saved_and_else_failed(
    generation: object, silent: bool, state: State
) -> None:
    end = lost(generation, silent=silent)  # type: ignore[arg-type]
    assert (end.state, end.reason) == (state, "worker_lost")
    assert end.error is not None
    assert end.error["code"] == "worker_lost"


def test_a_stop_that_no_worker_lived_to_see_is_a_stop() -> None:
    end = lost(replace(QUEUED, stop_requested_at=NOW), silent=False)
    assert (end.state, end.reason, end.error) == (State.STOPPED, "stopped", None)
