"""What a worker asks of an upstream that generates in the background: to go on, how often, and to cancel."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from lib.dialects import DIALECTS
from lib.dialects.protocol import Answer, folded
from lib.domain.end import State
from lib.domain.event import Event
from lib.domain.generation import Generation
from lib.engine.asking import LONGEST_PAUSE_SECONDS, RESUMPTIONS, cancel, pause
from lib.engine.attempt import Ended, RetryLater
from lib.engine.worker import Worker
from lib.upstream.call import Call
from tests.unit.engine.memory import PATIENCE, eventually, now
from tests.unit.engine.test_worker import Service, task_of

RESPONSES = DIALECTS["responses"]
REQUEST = json.dumps({"model": "demo", "input": "Hi", "stream": True}).encode()
ID = "resp_1"
Json = dict[str, Any]


def told(kind: str, **fields: Any) -> Json:
    status = "in_progress" if kind == "created" else kind
    response = {"id": ID, "object": "response", "status": status, "output": [], "background": True, **fields}
    return {"type": f"response.{kind}", "response": response}


def said(text: str) -> Json:
    return {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": text}


STREAM = [
    {**each, "sequence_number": number}
    for number, each in enumerate([told("created"), *[said(f"{n} ") for n in range(4)], told("completed")])
]


class Scripted(ThreadingHTTPServer):
    """An upstream that answers each call as the test's `script` says: with a status, and the events of a stream."""

    def __init__(self, script: Callable[[str, str], tuple[int, list[Json]]]):
        super().__init__(("127.0.0.1", 0), _Answering)
        self.script = script
        self.calls: list[str] = []
        self.bodies: list[bytes] = []
        self.base_url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, *_: Any) -> None:
        """A call that is cut is no error here."""

    @property
    def cancelled(self) -> int:
        return self.calls.count(f"POST /v1/responses/{ID}/cancel")


class _Answering(BaseHTTPRequestHandler):
    server: Scripted

    def do_POST(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        self._answer()

    def do_GET(self) -> None:
        assert "Content-Type" not in self.headers
        self._answer()

    def _answer(self) -> None:
        self.server.calls.append(f"{self.command} {self.path}")
        status, events = self.server.script(self.command, self.path)
        self.send_response(status)
        self.send_header("Content-Type", "text/event-stream" if status == 200 else "application/json")
        self.end_headers()
        for event in events:
            self.wfile.write(b"data: %b\n\n" % json.dumps(event).encode())

    def log_message(self, *_: Any) -> None:
        pass


def breaking_off(at: int) -> Callable[[str, str], tuple[int, list[Json]]]:
    """A script where each call brings so many events, and then breaks off."""

    def script(_method: str, path: str) -> tuple[int, list[Json]]:
        found = re.search("starting_after=([0-9]+)", path)
        start = int(found[1]) + 1 if found else 0
        return 200, STREAM[start : start + at]

    return script


@pytest.fixture
def upstream() -> Iterator[Callable[..., Scripted]]:
    servers: list[Scripted] = []

    def upstream(script: Callable[[str, str], tuple[int, list[Json]]]) -> Scripted:
        servers.append(Scripted(script))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1]

    yield upstream
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def service() -> Service:
    return Service()


def worker_of(service: Service, upstream: Scripted, **settings: str) -> Worker:
    more = {"UPSTREAM_SPEAKS": "responses", "UPSTREAM_BACKGROUND": "on", "MAX_ATTEMPTS": "2", **settings}
    return service.worker(upstream.base_url, dialects={"responses": RESPONSES}, settings=more)


def begin(service: Service) -> Generation:
    return service.begin(dialect="responses", request=REQUEST)


def worked(worker: Worker, generation: Generation) -> list[Ended | RetryLater]:
    """The outcomes of tasks, until one is the end."""
    outcomes: list[Ended | RetryLater] = []
    while not outcomes or isinstance(outcomes[-1], RetryLater):
        assert len(outcomes) < 100
        outcomes.append(worker.work(task_of(generation)))
    return outcomes


def test_an_answer_is_read_on_from_the_cursor_until_it_is_whole(
    service: Service, upstream: Callable[..., Scripted]
) -> None:
    server, generation = upstream(breaking_off(1)), begin(service)
    *again, last = worked(worker_of(service, server), generation)
    assert last == Ended(State.COMPLETED)
    assert again == [RetryLater(0.0)] * 5
    assert server.calls[0] == "POST /v1/responses"
    assert json.loads(server.bodies[0]) == {"model": "demo", "input": "Hi", "stream": True, "background": True}
    assert server.calls[1:] == [f"GET /v1/responses/{ID}?stream=true&starting_after={n}" for n in range(5)]
    assert service.message(generation)["content"] == "0 1 2 3 "
    assert service.kept(generation).attempt == 6


def test_how_often_it_is_read_on_has_a_bound_and_pauses_get_longer(
    service: Service, upstream: Callable[..., Scripted]
) -> None:
    server = upstream(lambda method, path: (200, STREAM[:3]) if method == "POST" and path.endswith("es") else (503, []))
    generation = begin(service)
    *again, last = worked(worker_of(service, server), generation)
    assert (last, len(again)) == (Ended(State.INCOMPLETE), 2 + RESUMPTIONS - 1)
    assert [each.seconds for each in again if isinstance(each, RetryLater)][:7] == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0]
    kept = service.kept(generation)
    assert (kept.reason, kept.attempt) == ("upstream_status", 2 + RESUMPTIONS)
    assert service.message(generation)["content"] == "0 1 "
    assert server.cancelled >= 1


def test_a_lost_worker_s_successor_reads_on_and_one_too_many_ends_it(
    service: Service, upstream: Callable[..., Scripted]
) -> None:
    server = upstream(breaking_off(9))
    generation = service.lost(*STREAM[:3], claims=1 + RESUMPTIONS, dialect="responses", request=REQUEST)
    assert worker_of(service, server).work(task_of(generation)) == Ended(State.COMPLETED)
    other = service.lost(*STREAM[:3], claims=2 + RESUMPTIONS, dialect="responses", request=REQUEST)
    assert worker_of(service, server).work(task_of(other)) == Ended(State.INCOMPLETE)
    assert service.kept(other).reason == "worker_lost"
    assert server.cancelled == 1


def test_what_has_no_event_yet_is_called_no_more_often_than_any_other(
    service: Service, upstream: Callable[..., Scripted]
) -> None:
    server, generation = upstream(lambda *_: (503, [])), begin(service)
    assert worked(worker_of(service, server), generation)[-1] == Ended(State.FAILED)
    assert server.calls == ["POST /v1/responses"] * 2


@pytest.mark.parametrize("events", [[], [said("0 ")]])
def test_what_has_no_cursor_is_called_no_more_often_either_where_its_workers_are_lost(
    service: Service, upstream: Callable[..., Scripted], events: list[Json]
) -> None:
    server = upstream(breaking_off(9))
    generation = service.lost(*events, claims=2, dialect="responses", request=REQUEST)
    assert worker_of(service, server).work(task_of(generation)) in (Ended(State.FAILED), Ended(State.INCOMPLETE))
    assert (service.kept(generation).reason, server.calls) == ("worker_lost", [])


def test_an_answer_that_has_failed_itself_is_not_read_on(service: Service, upstream: Callable[..., Scripted]) -> None:
    failed = told("failed", error={"code": "server_error", "message": "It broke."})
    server, generation = upstream(lambda *_: (200, [*STREAM[:3], failed])), begin(service)
    assert worked(worker_of(service, server), generation) == [Ended(State.INCOMPLETE)]
    kept = service.kept(generation)
    assert kept.error is not None
    assert (kept.reason, kept.error["code"], kept.error["message"]) == ("upstream_error", "server_error", "It broke.")


def test_a_cursor_that_is_gone_is_the_end_with_a_reason_of_its_own(
    service: Service, upstream: Callable[..., Scripted]
) -> None:
    server = upstream(lambda method, _: (200, STREAM[:3]) if method == "POST" else (404, []))
    generation = begin(service)
    assert worked(worker_of(service, server), generation) == [RetryLater(0.0), Ended(State.INCOMPLETE)]
    assert service.kept(generation).reason == "upstream_expired"
    assert server.calls.count("POST /v1/responses") == 1


def test_a_refusal_of_the_first_call_is_the_upstream_s_own(service: Service, upstream: Callable[..., Scripted]) -> None:
    server, generation = upstream(lambda *_: (404, [])), begin(service)
    assert worked(worker_of(service, server), generation) == [Ended(State.FAILED)]
    assert service.kept(generation).reason == "upstream_status"


def test_a_stop_that_came_before_the_attempt_cancels(service: Service, upstream: Callable[..., Scripted]) -> None:
    server = upstream(lambda *_: (200, []))
    generation = service.lost(*STREAM[:3], dialect="responses", request=REQUEST, stop_requested_at=now())
    assert worker_of(service, server).work(task_of(generation)) == Ended(State.STOPPED)
    assert server.calls == [f"POST /v1/responses/{ID}/cancel"]


def test_an_answer_that_was_ended_without_a_worker_is_cancelled_by_the_task_that_still_comes(
    service: Service, upstream: Callable[..., Scripted]
) -> None:
    server = upstream(lambda *_: (200, []))
    generation = service.lost(*STREAM[:3], dialect="responses", request=REQUEST)
    service.store.patch(generation, {"state": "stopped"})
    for settings, cancelled in (({"UPSTREAM_BACKGROUND": "off"}, 0), ({}, 1)):
        assert worker_of(service, server, **settings).work(task_of(generation)) == Ended(None)
        assert server.cancelled == cancelled
    service.store.patch(generation, {"state": "completed"})
    worker_of(service, server).work(task_of(generation))
    assert server.cancelled == 1


@pytest.mark.parametrize("told", [True, False])
def test_a_deletion_cancels_whether_it_is_told_or_met(
    service: Service, upstream: Callable[..., Scripted], told: bool
) -> None:
    """The head is deleted first, and the document that is watched last."""
    go_on = threading.Event()

    def script(method: str, path: str) -> tuple[int, list[Json]]:
        return (200, STREAM[:3]) if path.endswith("/responses") else (200, [])

    server, generation = upstream(script), begin(service)
    read_on = server.script

    def waiting(method: str, path: str) -> tuple[int, list[Json]]:
        if method == "GET":
            go_on.wait(PATIENCE)
        return read_on(method, path)

    server.script = waiting
    worker = worker_of(service, server)
    worker.work(task_of(generation))
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(worker.work, task_of(generation))
        eventually(lambda: len(server.calls) == 2)
        service.documents.lose(generation.head_path)
        if told:
            eventually(lambda: bool(service.listener.watching))
            service.listener.watching[0](None)
        else:
            go_on.set()
        assert working.result(PATIENCE) == Ended(None)
        go_on.set()
    assert server.cancelled == 1


def test_a_rival_s_answer_is_not_cancelled(service: Service, upstream: Callable[..., Scripted]) -> None:
    server, generation = upstream(breaking_off(9)), begin(service)

    def take_over(what: str, _writes: Any) -> None:
        head = service.head(generation)
        if head.claims == 1 and head.last == 0 and server.calls:
            service.documents.before = lambda _what, _writes: None
            rival = replace(head, holder="a rival", claims=2)
            service.documents.commit(service.store.head(generation, rival, now(), head.version))

    service.documents.before = take_over
    assert worker_of(service, server).work(task_of(generation)) == Ended(None)
    assert server.cancelled == 0


@pytest.mark.parametrize(("fruitless", "seconds"), [(0, 0.0), (1, 1.0), (3, 4.0), (99, LONGEST_PAUSE_SECONDS)])
def test_the_pause_grows_with_attempts_that_brought_nothing(fruitless: int, seconds: float) -> None:
    assert pause(fruitless) == seconds


@pytest.mark.parametrize(("statuses", "calls"), [([200], 1), ([404], 1), ([503, 200], 2), ([429, 429, 429, 429], 3)])
def test_a_cancellation_is_tried_a_few_times(
    service: Service, upstream: Callable[..., Scripted], statuses: list[int], calls: int
) -> None:
    left = list(statuses)
    server = upstream(lambda *_: (left.pop(0), []))
    worker = worker_of(service, server)
    catalog = worker._settings.catalog
    outgoing = RESPONSES.background and RESPONSES.background.cancelling(answer_of(STREAM[:1]))
    assert outgoing is not None
    cancel(lambda: Call(worker._session, catalog["default"], worker._credential(catalog["default"]), outgoing))
    assert server.cancelled == calls


def answer_of(events: list[Json]) -> Answer:
    return folded(RESPONSES, [Event(json.dumps(each).encode()) for each in events])
