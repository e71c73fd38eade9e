"""The Firestore proxy: calls pass unchanged, except those that it must fail."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import grpc
import pytest
import requests
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import firestore
from google.cloud.firestore_v1.base_query import FieldFilter
from google.cloud.firestore_v1.types import firestore as rpc

from local.firestore_proxy.faults import Faults
from local.firestore_proxy.proxy import Proxy as Passing
from local.stack import Stack
from local.token import PROJECT
from tests.started import started

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0
LENIENT = asdict(Faults())
CREATE = r"The query requires an index\. You can create it here: https://console\.firebase\.google\.com/"


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
    with started(command, cwd=ROOT, stderr=subprocess.PIPE) as process:
        proxy = Proxy(process)
        yield proxy
        proxy.database.close()
        process.terminate()
        rest, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, rest, errors) == (0, "", "")


@pytest.fixture
def proxy(running: Proxy) -> Iterator[Proxy]:
    yield running
    running.fault(**LENIENT).raise_for_status()


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


def test_who_leaves_ends_the_call_behind_the_proxy() -> None:
    over = threading.Event()

    def speak(_: Iterator[bytes], context: Any) -> Iterator[bytes]:
        context.add_callback(over.set)
        yield b"said"
        over.wait(PATIENCE)

    handler = grpc.method_handlers_generic_handler(
        "some.Service", {"Speak": grpc.stream_stream_rpc_method_handler(speak)}
    )
    server = grpc.server(ThreadPoolExecutor(1), handlers=[handler])
    behind = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    with Passing(behind).serving(0) as address, grpc.insecure_channel(address) as channel:
        answers = channel.stream_stream("/some.Service/Speak")(iter([b"speak"]), timeout=PATIENCE)
        assert next(answers) == b"said"
        answers.cancel()
        assert over.wait(PATIENCE / 2), "the call behind the proxy went on"
    server.stop(None).wait()


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


@pytest.mark.parametrize(
    "faults",
    [
        {"share": 2},
        {"done": "1"},
        {"seed": 0.5},
        {"reads": -1},
        {"indexes": "/nowhere.json"},
        {"current_alone": 1},
        {"commit_latency": {"p50": 2, "p99": 1}},
        {"budget": "1"},
        {"unknown": 1},
    ],
)
def test_a_fault_that_is_misspelt_is_refused_and_changes_nothing(proxy: Proxy, faults: Any) -> None:
    answer = proxy.fault(**faults)
    assert (answer.status_code, list(answer.json())) == (400, ["error"])
    now = requests.get(proxy.faults_url, timeout=PATIENCE).json()
    assert now == LENIENT | {"made": {}, "building": False, "committing": 0}


# Strictnesses, each on by setting alone


def indexes(folder: Path, *composites: str) -> str:
    """The path of a file of indexes over `a` and each of these fields, and without any of `hidden`."""
    named = [
        {
            "collectionGroup": "rows",
            "queryScope": "COLLECTION",
            "fields": [{"fieldPath": "a", "order": "ASCENDING"}, {"fieldPath": field, "order": "ASCENDING"}],
        }
        for field in composites
    ]
    overrides = [{"collectionGroup": "rows", "fieldPath": "hidden", "indexes": []}]
    path = folder / "firestore.indexes.json"
    path.write_text(json.dumps({"indexes": named, "fieldOverrides": overrides}))
    return str(path)


def rows(proxy: Proxy, *fields: str) -> Any:
    """A collection's rows that have `1` in these fields."""
    query = proxy.database.collection(f"{path()}/rows").limit(3)
    for field in fields:
        query = query.where(filter=FieldFilter(field, "==", 1))
    return query


def asked(query: Any) -> list[Any]:
    return list(query.stream(retry=None, timeout=PATIENCE))


def test_a_query_and_a_count_need_their_index(proxy: Proxy, tmp_path: Path) -> None:
    asked(rows(proxy, "a").order_by("b"))
    proxy.fault(indexes=indexes(tmp_path, "b")).raise_for_status()
    asked(rows(proxy, "a").order_by("b"))
    asked(rows(proxy, "a", "b"))
    rows(proxy, "a", "b").count().get(retry=None, timeout=PATIENCE)
    for query in (rows(proxy, "a").order_by("c"), rows(proxy, "a", "hidden")):
        with pytest.raises(exceptions.FailedPrecondition, match=CREATE):
            asked(query)
        with pytest.raises(exceptions.FailedPrecondition, match=CREATE):
            query.count().get(retry=None, timeout=PATIENCE)
    assert requests.get(proxy.faults_url, timeout=PATIENCE).json()["made"] == {"unindexed": 4}


def test_an_index_is_not_ready_until_it_is_built(proxy: Proxy, tmp_path: Path) -> None:
    proxy.fault(indexes=indexes(tmp_path, "b"), build=3600).raise_for_status()
    assert requests.get(proxy.faults_url, timeout=PATIENCE).json()["building"]
    with pytest.raises(exceptions.FailedPrecondition, match="currently building and cannot be used yet"):
        asked(rows(proxy, "a").order_by("b"))
    asked(rows(proxy, "a"))
    proxy.fault(build=0).raise_for_status()
    asked(rows(proxy, "a").order_by("b"))


class Listening:
    """The answers to a document's listener, until it is left."""

    def __init__(self, proxy: Proxy, where: str):
        self._channel = grpc.insecure_channel(proxy.grpc.removeprefix("grpc="))
        self._over = threading.Event()
        root = f"projects/{PROJECT}/databases/(default)"
        self._request = rpc.ListenRequest.pb()(database=root)
        self._request.add_target.target_id = 2
        self._request.add_target.documents.documents.append(f"{root}/documents/{where}")
        listen = self._channel.stream_stream(
            "/google.firestore.v1.Firestore/Listen",
            rpc.ListenRequest.pb().SerializeToString,
            rpc.ListenResponse.pb().FromString,
        )
        metadata = [("google-cloud-resource-prefix", root), ("authorization", "Bearer owner")]
        self._answers = listen(self._ask(), metadata=metadata, timeout=PATIENCE)

    def _ask(self) -> Iterator[Any]:
        yield self._request
        self._over.wait(PATIENCE)

    def until(self, what: str) -> list[str]:
        """The kinds of the answers, up to the first of this kind."""
        kinds: list[str] = []
        for answer in self._answers:
            kind = str(answer.WhichOneof("response_type"))
            if kind == "target_change":
                kind = rpc.TargetChange.TargetChangeType(answer.target_change.target_change_type).name
            kinds.append(kind)
            if kind == what:
                break
        return kinds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._answers.cancel()
        self._channel.close()


def test_a_listener_of_a_missing_document_is_told_current_alone(proxy: Proxy, database: Any) -> None:
    where = path()
    with Listening(proxy, where) as usual:
        assert usual.until("CURRENT") == ["ADD", "document_delete", "CURRENT"]
    proxy.fault(current_alone=True).raise_for_status()
    with Listening(proxy, where) as listening:
        assert listening.until("CURRENT") == ["ADD", "CURRENT"]
        commit(database.document(where), {"n": 1})
        assert "document_delete" not in listening.until("document_change")
        database.document(where).delete()
        assert listening.until("document_delete")[-1] == "document_delete"


def test_a_share_of_the_reads_fails_and_no_commit_does(proxy: Proxy) -> None:
    document = proxy.database.document(path())
    proxy.fault(reads=1).raise_for_status()
    commit(document, {"n": 1})
    for read in (
        lambda: document.get(retry=None, timeout=PATIENCE),
        lambda: asked(rows(proxy)),
        lambda: rows(proxy).count().get(retry=None, timeout=PATIENCE),
    ):
        with pytest.raises(exceptions.ServiceUnavailable, match="Socket closed"):
            read()
    proxy.fault(reads=0.3, seed=7)
    failed = 0
    for _ in range(40):
        try:
            document.get(retry=None, timeout=PATIENCE)
        except exceptions.ServiceUnavailable:
            failed += 1
    assert 0 < failed < 40


@pytest.mark.parametrize("kind", ["commit", "read", "listen"])
def test_each_kind_of_call_takes_as_long_as_it_is_told(proxy: Proxy, database: Any, kind: str) -> None:
    document = proxy.database.document(path())
    heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
    watch = document.on_snapshot(lambda *_: heard.put(time.monotonic()))
    heard.get(timeout=PATIENCE)
    watch.unsubscribe()
    proxy.fault(**{f"{kind}_latency": {"p50": 0.3, "p99": 0.3}}).raise_for_status()
    began = time.monotonic()
    match kind:
        case "commit":
            commit(document, {"n": 1})
        case "read":
            document.get(retry=None, timeout=PATIENCE)
        case _:
            watch = document.on_snapshot(lambda *_: heard.put(time.monotonic()))
            heard.get(timeout=PATIENCE)
            watch.unsubscribe()
    assert time.monotonic() - began >= 0.3


def test_a_commit_that_is_under_way_is_counted(proxy: Proxy) -> None:
    def committing() -> Any:
        return requests.get(proxy.faults_url, timeout=PATIENCE).json()["committing"]

    proxy.fault(commit_latency={"p50": 1, "p99": 1}).raise_for_status()
    thread = threading.Thread(target=commit, args=(proxy.database.document(path()), {"n": 1}))
    thread.start()
    while not committing():
        assert thread.is_alive(), "it was over before it was counted"
    thread.join(PATIENCE)
    assert committing() == 0


def test_a_document_that_is_written_too_often_meets_contention_and_others_do_not(proxy: Proxy, database: Any) -> None:
    where, other = path(), path()
    proxy.fault(budget=0.0001, seed=84).raise_for_status()  # so that a few writes are a thousand times too many
    outcomes: list[str] = []
    said: set[str] = set()
    for n in range(40):
        if set(outcomes) == {"done", "aborted"}:
            break  # since each takes up to two seconds
        try:
            commit(proxy.database.document(where), {"n": n})
            outcomes.append("done")
        except exceptions.Aborted as error:
            said.add(str(error))
            outcomes.append("aborted")
            assert database.document(where).get().get("n") == n - 1 - outcomes[:-1][::-1].index("done")
    assert set(outcomes) == {"done", "aborted"}
    assert said == {"409 Too much contention on these documents. Please try again."}
    proxy.fault(budget=1000).raise_for_status()
    for n in range(20):
        commit(proxy.database.document(other), {"n": n})


def test_of_a_batch_only_the_writes_over_their_budget_are_aborted(proxy: Proxy, database: Any) -> None:
    hot = proxy.database.document(path())
    proxy.fault(budget=0.0001, seed=84).raise_for_status()
    statuses: set[int] = set()
    for n in range(20):
        if statuses == {0, 10}:
            break
        cold = proxy.database.document(path())
        batch = proxy.database.bulk_writer()._client._firestore_api.batch_write(
            request={
                "database": proxy.database._database_string,
                "writes": [
                    {"update": {"name": each._document_path, "fields": {"n": {"integer_value": n}}}}
                    for each in (hot, cold)
                ],
            },
            metadata=[("authorization", "Bearer owner")],
        )
        first, second = batch.status
        statuses.add(first.code)
        assert database.document(cold.path).get().exists is (second.code == 0)
        if first.code == 0:
            assert database.document(hot.path).get().get("n") == n
            assert batch.write_results[0].update_time is not None
    assert statuses == {0, 10}  # OK and ABORTED


def test_a_document_with_too_many_index_entries_is_refused(proxy: Proxy, tmp_path: Path) -> None:
    rows = proxy.database.collection(f"{path()}/rows")
    fields = {"list": list(range(40_001))}
    commit(rows.document(), fields)
    proxy.fault(limits=True, indexes=indexes(tmp_path)).raise_for_status()
    with pytest.raises(exceptions.InvalidArgument, match="Too many index entries"):
        commit(rows.document(), fields)
    commit(rows.document(), {"hidden": list(range(40_001))})


def test_a_taken_port_is_one_clear_line_and_exit_status_1(proxy: Proxy) -> None:
    port = proxy.grpc.rpartition(":")[2]
    command = [sys.executable, "-m", "local.firestore_proxy", "--target", "127.0.0.1:1", "--port", port]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert port in done.stderr.splitlines()[-1]
