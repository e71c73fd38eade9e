"""How often each user may do something within a second."""

from __future__ import annotations

import threading

from lib.serving.rate import Rate


def test_a_user_may_do_it_as_often_as_the_limit_says_and_again_once_a_second_is_over() -> None:
    now = [10.0]
    ours = Rate(2, lambda: now[0])
    assert [ours.take("alice") for _ in range(4)] == [True, True, False, False]
    assert ours.take("bob")
    now[0] = 10.99
    assert not ours.take("alice")
    assert ours.take("bob")
    now[0] = 11.0
    assert [ours.take("alice") for _ in range(3)] == [True, True, False]


def test_many_at_one_instant_are_counted_each() -> None:
    ours, at_once, taken = Rate(20, lambda: 0.0), threading.Barrier(150), list[bool]()

    def take() -> None:
        at_once.wait()
        taken.append(ours.take("alice"))

    threads = [threading.Thread(target=take) for _ in range(150)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(taken) == [False] * 130 + [True] * 20


def test_who_does_nothing_any_more_is_forgotten() -> None:
    now = [0.0]
    ours = Rate(1, lambda: now[0])
    for user in range(1000):
        ours.take(str(user))
        now[0] += 1 / 128
    assert len(ours._seconds) <= 128
