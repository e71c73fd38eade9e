"""Tasks that have to wait, from the real queue's client to the worker over HTTP: the queue never sees a 429 or 503.

Cloud Tasks slows a whole queue down on either, so one dead worker would delay everybody's first token.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport
from werkzeug.serving import make_server

from lib.cloud.task_queue import TaskQueue
from lib.cloud.tokens import QueueTokens
from lib.dialects import DIALECTS
from lib.domain.end import State
from lib.engine.worker import create_worker
from lib.runtime.settings import Settings
from lib.runtime.shutdown import Shutdown
from lib.runtime.telemetry import OFF
from local.ports import free_port
from local.tasks_emulator.service import TasksEmulator
from tests.unit.engine.memory import NEEDED

HELD = 40
SHORT = timedelta(seconds=8)


class Place:
    """A queue of its own, the worker that it delivers to, and the statuses of the worker's responses."""

    def __init__(self, emulator, settings, store, listener):
        self.statuses = Counter()
        self.shutdown = Shutdown()
        self.queue = TaskQueue(settings)
        self._emulator = emulator
        tokens = QueueTokens(settings.worker_url, settings.invoker, emulator.certs_url)
        app = create_worker(settings, store, listener, self.queue, tokens, os.environ, self.shutdown, OFF, DIALECTS)
        app.after_request(self._count)
        self._path = settings.queue_path
        self._client = tasks_v2.CloudTasksClient(
            transport=CloudTasksGrpcTransport(channel=grpc.insecure_channel(emulator.target))
        )
        self._client.create_queue(parent=self._path.partition("/queues/")[0], queue=tasks_v2.Queue(name=self._path))
        self._server = make_server("127.0.0.1", int(settings.worker_url.rpartition(":")[2]), app, threaded=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _count(self, response):
        self.statuses[response.status_code] += 1
        return response

    def tasks(self):
        return list(self._client.list_tasks(parent=self._path))

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def place(stack, store, listener):
    port = free_port()
    with TasksEmulator() as emulator:
        settings = Settings.from_env(
            NEEDED
            | {
                "FIRESTORE_EMULATOR_HOST": stack.firestore_host,
                "TASKS_EMULATOR_HOST": emulator.target,
                "WORKER_URL": f"http://127.0.0.1:{port}",
                "UPSTREAM_BASE_URL": f"{stack.upstream_url}/v1",
            }
        )
        place = Place(emulator, settings, store, listener)
        place.emulator = emulator
        yield place
        place.close()


@pytest.fixture
def asked(begin):
    """A generation whose answer is short."""

    def asked(text):
        request = {
            "model": "demo",
            "stream": True,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": 3,
            "demo": {"rate": 0},
        }
        return begin(request=json.dumps(request).encode())

    return asked


def test_a_dead_worker_with_many_answers_delays_nobody_and_each_is_taken_over(place, store, asked, hold, eventually):
    lost = [asked(f"lost {number}") for number in range(HELD)]
    for generation in lost:
        hold(generation, lease=SHORT)  # by a worker that writes no more
        place.queue.enqueue(generation)
    eventually(lambda: place.statuses[200] >= HELD)
    new = asked("new")
    place.queue.enqueue(new)
    eventually(lambda: store.generation(new.id).state is State.COMPLETED)
    assert {store.generation(generation.id).attempt for generation in lost} == {1}, "they were waited for"
    eventually(lambda: all(store.generation(generation.id).state is State.COMPLETED for generation in lost))
    assert {store.generation(generation.id).attempt for generation in lost} == {2}
    eventually(lambda: place.tasks() == [])
    assert set(place.statuses) == {200}


@pytest.fixture
def living(hold, clock):
    """Holds a generation as a worker that is alive, and renews its short lease."""
    over = threading.Event()
    threads = []

    def living(generation):
        clock.now = datetime.now(UTC)
        journal = hold(generation, lease=timedelta(seconds=1.5)).journal

        def renew():
            while not over.wait(0.2):
                clock.now = datetime.now(UTC)
                journal.append([])

        threads.append(threading.Thread(target=renew, daemon=True))
        threads[-1].start()

    yield living
    over.set()
    for thread in threads:
        thread.join()


def test_tasks_that_are_delivered_twice_do_not_multiply_while_an_answer_is_held(place, asked, living, eventually):
    place.emulator.fault(duplicate=2)
    generation = asked("held")
    living(generation)
    place.queue.enqueue(generation)
    for deliveries in (2, 4, 6, 8):
        eventually(lambda deliveries=deliveries: place.statuses[200] >= deliveries)
        # One that was answered is still there for an instant.
        assert sum(task.dispatch_count == 0 for task in place.tasks()) <= 1
    assert set(place.statuses) == {200}
