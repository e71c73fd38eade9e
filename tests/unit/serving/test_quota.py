"""What users hold at once has a limit for each and one for all."""

from __future__ import annotations

import threading

import pytest

from lib.domain.errors import TooManyRequests
from lib.serving.quota import Quota, Share


def quota(per_user: int = 2, total: int = 3) -> Quota:
    return Quota(per_user, total, code="too_many", message="You have too many. Close one.", retry_seconds=5)


def refused(quota: Quota, user: str, amount: int = 1) -> TooManyRequests:
    with pytest.raises(TooManyRequests) as caught:
        quota.take(user, amount)
    return caught.value


def test_a_user_beyond_his_limit_is_told_which_and_when_to_come_back_and_others_are_not_affected() -> None:
    ours = quota()
    ours.take("alice")
    ours.take("alice")
    fault = refused(ours, "alice")
    assert (fault.status, fault.code, fault.retry_after) == (429, "too_many", 5)
    assert fault.message == "You have too many. Close one."
    ours.take("bob")


def test_all_together_have_a_limit_of_which_nobody_is_to_blame() -> None:
    ours = quota()
    for user in ("alice", "bob", "carol"):
        ours.take(user)
    fault = refused(ours, "dave")
    assert (fault.status, fault.retry_after) == (429, 5)
    assert fault.message == "This server is busy. Try again in 5 s."


def test_what_is_given_back_can_be_taken_again_and_only_once() -> None:
    ours = quota()
    first = ours.take("alice")
    ours.take("alice")
    first.close()
    first.close()
    ours.take("alice")
    refused(ours, "alice")


def test_a_share_grows_up_to_the_limit_and_is_given_back_whole() -> None:
    ours = quota(per_user=10, total=15)
    with ours.take("alice", 0) as share:
        share.add(4)
        share.add(6)
        with pytest.raises(TooManyRequests):
            share.add(1)
        refused(ours, "bob", 6)
    ours.take("alice", 10)
    ours.take("bob", 5)


def test_nothing_is_remembered_of_users_who_hold_nothing() -> None:
    ours = quota()
    with ours.take("alice"), ours.take("bob", 0):
        refused(ours, "carol", 3)
    assert not ours._held


def test_many_at_one_instant_get_exactly_the_limit() -> None:
    ours, got = quota(per_user=20, total=1000), []
    at_once = threading.Barrier(100)

    def take() -> None:
        at_once.wait()
        try:
            got.append(ours.take("alice"))
        except TooManyRequests:
            pass

    threads = [threading.Thread(target=take) for _ in range(100)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(got) == 20
    assert all(isinstance(each, Share) for each in got)
