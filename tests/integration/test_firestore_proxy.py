"""The Firestore proxy: calls pass unchanged, except those that it must fail."""

from __future__ import annotations

import queue
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import firestore

from local.stack import Stack
from local.token import PROJECT

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 20.0


class Proxy:
    """A proxy's process, Google's own client through it, and its faults."""

    def __init__(self, process: subprocess.Popen[str]):
        self.process = process
        assert process.stdout is not None
        ready, self.grpc, self.http = process.stdout.readline().split()
        assert ready == "ready"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FIRESTORE_EMULATOR_HOST", self.grpc.removeprefix("grpc="))
            self.database = firestore.Client(project=PROJECT, credentials=AnonymousCredentials())
        self.faults_url = f"{self.http.removeprefix('http=')}/faults"

    def fault(self, **changes: Any) -> requests.Response:
        return requests.post(self.faults_url, json=changes, timeout=PATIENCE)


@pytest.fixture(scope="module")
def running(stack: Stack) -> Iterator[Proxy]:
    command = [sys.executable, "-m", "local.firestore_proxy", "--target", stack.firestore_host]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        proxy = Proxy(process)
        yield proxy
        proxy.database.close()
        process.terminate()
        rest, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, rest, errors) == (0, "", "")


@pytest.fixture
def proxy(running: Proxy) -> Iterator[Proxy]:
    yield running
    running.fault(share=0, done=0.5, seed=0).raise_for_status()


def path() -> str:
    return f"proxied/{uuid.uuid4().hex}"


def commit(document: Any, fields: dict[str, Any]) -> None:
    document.set(fields, retry=None, timeout=PATIENCE)


def test_without_a_fault_everything_passes_as_it_is(proxy: Proxy, database: Any) -> None:
    where = path()
    fields = {"text": "naïve 漢字", "bytes": b"\0" * 900_000, "n": 1}
    commit(proxy.database.document(where), fields)
    assert database.document(where).get().to_dict() == fields
    assert proxy.database.document(where).get().to_dict() == fields
    rows = proxy.database.collection(f"{where}/rows")
    for n in range(3):
        commit(rows.document(), {"n": n})
    assert [row.get("n") for row in rows.order_by("n").stream()] == [0, 1, 2]
    assert rows.count().get()[0][0].value == 3


def test_a_listener_hears_through_it(proxy: Proxy, database: Any) -> None:
    where = path()
    heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
    watch = proxy.database.document(where).on_snapshot(
        lambda documents, _changes, _at: heard.put([document.to_dict() for document in documents])
    )
    heard.get(timeout=PATIENCE)
    commit(database.document(where), {"n": 1})
    assert heard.get(timeout=PATIENCE) == [{"n": 1}]
    watch.unsubscribe()


def test_an_error_of_the_emulator_s_own_passes_as_it_is(proxy: Proxy) -> None:
    document = proxy.database.document(path())
    document.create({"n": 1}, retry=None)
    with pytest.raises(exceptions.AlreadyExists, match="already exists"):
        document.create({"n": 2}, retry=None)


@pytest.mark.parametrize("done", [0, 1])
def test_a_commit_that_fails_was_done_or_not_as_it_is_told(proxy: Proxy, database: Any, done: int) -> None:
    proxy.fault(share=1, done=done, seed=7)
    documents = [path() for _ in range(10)]
    for where in documents:
        with pytest.raises(exceptions.GoogleAPICallError, match="asked for by a fault"):
            commit(proxy.database.document(where), {"n": 1})
    assert [database.document(where).get().exists for where in documents] == [bool(done)] * 10
    made = requests.get(proxy.faults_url, timeout=PATIENCE).json()["made"]
    assert sum(made.values()) == 10
    assert all(name.endswith(", done") == bool(done) for name in made)
    assert len(made) > 1


def test_a_share_of_the_commits_fails_the_same_ones_for_a_seed(proxy: Proxy) -> None:
    def failed() -> list[int]:
        proxy.fault(share=0.3, seed=7)
        numbers = []
        for n in range(40):
            try:
                commit(proxy.database.document(path()), {"n": n})
            except exceptions.GoogleAPICallError:
                numbers.append(n)
        return numbers

    first = failed()
    assert 0 < len(first) < 40
    assert failed() == first


@pytest.mark.parametrize("faults", [{"share": 2}, {"done": "1"}, {"seed": 0.5}, {"unknown": 1}])
def test_a_fault_that_is_misspelt_is_refused_and_changes_nothing(proxy: Proxy, faults: Any) -> None:
    answer = proxy.fault(**faults)
    assert (answer.status_code, list(answer.json())) == (400, ["error"])
    now = requests.get(proxy.faults_url, timeout=PATIENCE).json()
    assert now == {"share": 0, "done": 0.5, "seed": 0, "made": {}}


def test_a_taken_port_is_one_clear_line_and_exit_status_1(proxy: Proxy) -> None:
    port = proxy.grpc.rpartition(":")[2]
    command = [sys.executable, "-m", "local.firestore_proxy", "--target", "127.0.0.1:1", "--port", port]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert port in done.stderr.splitlines()[-1]
