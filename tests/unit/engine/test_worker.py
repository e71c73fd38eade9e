"""The worker's door: how many tasks may claim their generations at the same time."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest

from lib.cloud.listen import Listener
from lib.cloud.store import Store
from lib.cloud.tokens import QueueTokens
from lib.domain.task import Task
from lib.engine.worker import CLAIMS_AT_ONCE, Turnstile, create_worker
from lib.runtime.settings import Settings
from lib.runtime.shutdown import Shutdown
from lib.runtime.telemetry import Telemetry
from tests.unit.runtime.test_settings import NEEDED

PATIENCE = 10.0


class Queue:
    def verify(self, header: str | None) -> None:
        pass


class Crowd:
    """A store without generations. It says how many ask it at once, and has as many wait for each other as may."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._full = threading.Event()
        self._inside = 0
        self.most = 0
        self.asked = 0

    def batch(self, writes: Any) -> Any:
        raise AssertionError("nothing is to be written")

    def generation_and_head(self, *_: str) -> tuple[None, None]:
        with self._lock:
            self.asked += 1
            self._inside += 1
            self.most = max(self.most, self._inside)
            if self._inside == CLAIMS_AT_ONCE:
                self._full.set()
        self._full.wait(PATIENCE)
        time.sleep(0.02)  # for one more, if one more could come
        with self._lock:
            self._inside -= 1
        return None, None


def worker(store: Crowd, shutdown: Shutdown) -> Any:
    return create_worker(
        Settings.from_env(NEEDED),
        cast(Store, store),
        cast(Listener, None),
        cast(QueueTokens, Queue()),
        environ={},
        shutdown=shutdown,
        telemetry=Telemetry(),
    )


def deliver(app: Any) -> int:
    with app.test_client() as client:
        status: int = client.post("/", data=Task("1" * 32, "users/u/messages/m").encode()).status_code
        return status


def test_of_many_tasks_a_few_at_a_time_claim_their_generations() -> None:
    crowd = Crowd()
    app = worker(crowd, Shutdown())
    with ThreadPoolExecutor(3 * CLAIMS_AT_ONCE) as pool:
        statuses = list(pool.map(deliver, [app] * 3 * CLAIMS_AT_ONCE))
    assert statuses == [200] * 3 * CLAIMS_AT_ONCE
    assert crowd.most == CLAIMS_AT_ONCE


def test_a_task_of_a_process_that_ends_claims_nothing_and_comes_again() -> None:
    crowd, shutdown = Crowd(), Shutdown()
    shutdown.begin()
    assert deliver(worker(crowd, shutdown)) == 503
    assert crowd.asked == 0


def test_who_has_waited_for_long_goes_in_all_the_same_and_takes_nobodys_place() -> None:
    turnstile = Turnstile(1, 0.01)
    entered, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with turnstile.turn():
            entered.set()
            assert leave.wait(PATIENCE)

    with ThreadPoolExecutor(1) as pool:
        staying = pool.submit(stay)
        assert entered.wait(PATIENCE)
        with turnstile.turn():
            assert not staying.done()
        leave.set()
        staying.result(PATIENCE)  # which would fail, had its place been given back before


def test_who_fails_inside_leaves_its_place_to_the_next() -> None:
    turnstile = Turnstile(1, 2 * PATIENCE)
    with pytest.raises(ValueError, match="inside"), turnstile.turn():
        raise ValueError("inside")

    def enter() -> bool:
        with turnstile.turn():
            return True

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(enter).result(PATIENCE)
