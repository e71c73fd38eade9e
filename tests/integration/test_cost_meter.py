"""The cost proxies count the calls of Google's clients as they are billed."""

from __future__ import annotations

import queue
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
import requests
from google.auth.credentials import AnonymousCredentials
from google.cloud import firestore, tasks_v2
from google.cloud.firestore_v1.base_query import FieldFilter
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from cost.meter import TASK_CHUNK, Doors
from local.stack import QUEUE, Stack
from local.token import PROJECT

PATIENCE = 60.0


@pytest.fixture
def doors(stack: Stack) -> Iterator[Doors]:
    with Doors(replace(stack.ports, tasks_port=urlsplit(f"//{stack.tasks_host}").port)) as doors:
        yield doors


@pytest.fixture
def user(doors: Doors) -> str:
    name = f"user-{uuid.uuid4().hex}"
    doors.tally.know(name)
    return name


@pytest.fixture
def database(doors: Doors) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIRESTORE_EMULATOR_HOST", doors.settings["FIRESTORE_EMULATOR_HOST"])
        client = firestore.Client(project=PROJECT, credentials=AnonymousCredentials())
    yield client
    client.close()


def test_writes_deletes_and_reads_are_counted_as_they_are_billed(doors: Doors, user: str, database: Any) -> None:
    rows = database.collection(f"users/{user}/rows")
    batch = database.batch()
    for n in range(3):
        batch.set(rows.document(str(n)), {"n": n})
    batch.commit()
    rows.document("0").delete()
    assert doors.tally.counted[user] == {"writes": 3, "deletes": 1}
    assert [each.exists for each in database.get_all([rows.document("0"), rows.document("1")])].count(True) == 1
    assert doors.tally.counted[user]["reads"] == 2  # also for the one that is not there
    assert len(list(rows.order_by("n").stream())) == 2
    assert doors.tally.counted[user]["reads"] == 4
    assert not list(rows.where(filter=FieldFilter("n", ">", 9)).stream())
    assert doors.tally.counted[user]["reads"] == 5  # a query that finds nothing is billed as one
    assert rows.count().get()[0][0].value == 2
    assert doors.tally.counted[user]["reads"] == 6
    assert doors.tally.counted.keys() == {user}


def test_a_commit_that_fails_is_no_write(doors: Doors, user: str, database: Any) -> None:
    document = database.document(f"users/{user}")
    document.create({"n": 1})
    with pytest.raises(Exception, match="already exists"):
        document.create({"n": 2}, retry=None)
    assert doors.tally.counted[user] == {"writes": 1}


def test_a_listener_s_reads_are_the_documents_it_got(doors: Doors, user: str, database: Any) -> None:
    document = database.document(f"users/{user}")
    document.set({"n": 0})
    heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
    watch = document.on_snapshot(lambda found, _changes, _at: heard.put(found[0].get("n")))
    for n in range(4):
        assert heard.get(timeout=PATIENCE) == n
        if n < 3:
            document.set({"n": n + 1})
    watch.unsubscribe()
    assert doors.tally.counted[user] == {"writes": 4, "reads": 4}


def test_a_call_to_the_queue_is_an_operation_for_each_32_kib_of_it(doors: Doors, user: str) -> None:
    with grpc.insecure_channel(doors.settings["TASKS_EMULATOR_HOST"]) as channel:
        client = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
        for size, operations in ((10, 1), (TASK_CHUNK, 3)):
            task = tasks_v2.Task(
                name=f"{QUEUE}/tasks/{user}-{size}",
                http_request=tasks_v2.HttpRequest(url="http://127.0.0.1:9/", body=b"." * size),
                schedule_time=datetime.now(UTC) + timedelta(days=1),
            )
            client.create_task(parent=QUEUE, task=task)
            assert doors.tally.counted[user]["task operations"] == operations
        for size in (10, TASK_CHUNK):
            client.delete_task(name=f"{QUEUE}/tasks/{user}-{size}")
    assert doors.tally.counted[user] == {"task operations": 5}


def test_a_delivery_is_an_operation_and_passes_as_it_is(doors: Doors, user: str, stack: Stack) -> None:
    direct = requests.post(stack.worker_url, data=user, timeout=PATIENCE)
    answer = requests.post(doors.settings["WORKER_URL"], data=user, timeout=PATIENCE)
    assert (answer.status_code, answer.content) == (direct.status_code, direct.content)
    assert answer.status_code in (401, 403)
    counted = dict(doors.tally.counted[user])
    assert counted.pop("worker seconds") > 0
    assert counted == {"task operations": 1, "worker requests": 1}
