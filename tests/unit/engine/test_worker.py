"""The worker's HTTP endpoint, and that any failure between a claim and its end ends the attempt.

Firestore is in memory. The upstream, if there is one, is on a socket.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from itertools import count
from typing import Any, cast

import grpc
import orjson
import pytest
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from lib.cloud.documents import Document, Documents, Write
from lib.cloud.listen import Listener
from lib.cloud.store import Store
from lib.cloud.task_queue import TaskQueue
from lib.cloud.tokens import QueueTokens
from lib.dialects import DIALECTS
from lib.dialects.protocol import Dialect, Reading, Rest
from lib.domain import message
from lib.domain.end import State
from lib.domain.errors import Unauthenticated, Unreachable
from lib.domain.event import Event
from lib.domain.generation import Generation
from lib.domain.segment import Head, empty_head
from lib.domain.task import Task
from lib.engine.admission import AT_ONCE, Admission
from lib.engine.attempt import Ended, RetryLater
from lib.engine.claim import Held
from lib.engine.waiting import MOST_WAITS, OUTAGE_SECONDS
from lib.engine.worker import Worker, create_worker
from lib.journal.codec import Entry, record
from lib.journal.writer import Journal
from lib.runtime.settings import Settings
from lib.runtime.shutdown import Shutdown
from lib.runtime.telemetry import OFF
from lib.upstream.call import Session
from local.ports import free_port
from local.tasks_emulator.service import TasksEmulator
from tests.unit.engine.memory import (
    LEASE,
    NEEDED,
    PATIENCE,
    RETENTION,
    MemoryDocuments,
    eventually,
    new_generation,
    now,
)
from tests.unit.engine.scripted import DONE, data, delta, hello
from tests.unit.engine.speaking import Speaking

CHAT = DIALECTS["chat_completions"]
MISTAKE = RuntimeError("a mistake, with canary in its words")
NOBODY = "http://127.0.0.1:9/v1"


class Quiet:
    """A listener that reports only the changes that a test makes."""

    def __init__(self) -> None:
        self.watching: list[Callable[[Document | None], object]] = []
        self.watched = 0

    def watch(self, path: str, on_change: Callable[[Document | None], object]) -> Callable[[], None]:
        self.watching.append(on_change)
        self.watched += 1
        return lambda: self.watching.remove(on_change)


class Failing(Session):
    """Its calls raise an unexpected exception."""

    def request(self, *_: Any, **_more: Any) -> Any:
        raise MISTAKE


class Acting:
    """The dialect, with methods replaced by a test."""

    def __init__(self, **instead: Callable[..., Any]):
        self._instead = instead

    def __getattr__(self, name: str) -> Any:
        return self._instead.get(name) or getattr(CHAT, name)


def reading_by(read: Callable[[Event], Any]) -> dict[str, Any]:
    """The dialects, where each answer's events are read so."""
    return {"chat_completions": Acting(rest=lambda request, *_: Rest(request, cast(Reading, Acting(read=read))))}


def failing_after(reads: int) -> Callable[[Event], Any]:
    """Reads so many events, and fails at the next."""
    left = [reads]

    def read(event: Event) -> Any:
        left[0] -= 1
        return CHAT.read(event) if left[0] >= 0 else fail()

    return read


def fail(*_: Any, **_more: Any) -> Any:
    raise MISTAKE


class Service:
    """A worker over a Firestore in memory, and the generations that it has."""

    def __init__(self) -> None:
        self.documents = MemoryDocuments()
        self.store = Store(cast(Documents, self.documents), RETENTION)
        self.listener = Quiet()
        self.shutdown = Shutdown()

    def worker(
        self,
        base_url: str = NOBODY,
        *,
        listener: Any = None,
        dialects: dict[str, Any] | None = None,
        store: Any = None,
        settings: dict[str, str] | None = None,
        **more: Any,
    ) -> Worker:
        environ = NEEDED | {"UPSTREAM_BASE_URL": base_url, "FLUSH_SECONDS": "0.01"} | (settings or {})
        return Worker(
            Settings.from_env(environ),
            store or self.store,
            cast(Listener, listener or self.listener),
            {},
            self.shutdown,
            OFF,
            cast(dict[str, Dialect], dialects or {"chat_completions": CHAT}),
            takeover_seconds=0.01,
            **more,
        )

    def begin(self, **fields: Any) -> Generation:
        generation = new_generation(**fields)
        self.store.create(generation, message.opening(generation), empty_head(now(), now() + LEASE))
        return generation

    def lost(self, *events: Any, claims: int = 1, **fields: Any) -> Generation:
        """A generation with these events, whose worker was lost long ago."""
        generation = self.begin(**fields)
        past = now() - timedelta(hours=1)
        journal = Journal(self.store, generation, self.head(generation), claims=claims, lease=LEASE, clock=lambda: past)
        journal.claim()
        if events:
            entries = [Entry(seq, record(Event(orjson.dumps(each))), "") for seq, each in enumerate(events, 1)]
            journal.append(entries)
        return replace(generation, attempt=claims)

    def head(self, generation: Generation) -> Head:
        head = self.store.read_head(generation)
        assert head is not None
        return head

    def kept(self, generation: Generation) -> Generation:
        kept = self.store.generation(generation.id)
        assert kept is not None
        return kept

    def message(self, generation: Generation) -> dict[str, Any]:
        (found,) = self.documents.get(generation.message_path)
        assert found is not None
        return found.fields


def task_of(generation: Generation) -> Task:
    return Task(generation.id, generation.message_path)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def upstream() -> Iterator[Speaking]:
    with Speaking(*hello(), data(delta("stop")), DONE) as upstream:
        yield upstream


def nothing_is_left(worker: Worker) -> None:
    """Prevents all renewals of leases."""
    eventually(lambda: not worker._committer._running)


# From a task to an end


def test_a_task_s_generation_is_worked_to_its_end(service: Service, upstream: Speaking) -> None:
    generation, worker = service.begin(), service.worker(upstream.base_url)
    upstream.say()
    assert worker.work(task_of(generation)) == Ended(State.COMPLETED)
    kept = service.kept(generation)
    assert (kept.state, kept.attempt, kept.last_seq, kept.reason) == (State.COMPLETED, 1, 4, None)
    assert service.message(generation)["content"] == "Hello"
    assert orjson.loads(upstream.requests[0])["messages"] == [{"role": "user", "content": "Hi"}]
    assert service.listener.watching == []
    nothing_is_left(worker)


def test_the_request_of_a_running_answer_is_kept_as_bytes_and_not_as_the_objects_it_was_parsed_into(
    service: Service, upstream: Speaking
) -> None:
    word = f"word-{uuid.uuid4().hex}"
    asked = {"model": "demo", "messages": [{"role": "user", word: [{}]}]}
    generation, worker = service.begin(request=orjson.dumps(asked)), service.worker(upstream.base_url)
    working = threading.Thread(target=worker.work, args=[task_of(generation)])
    working.start()
    eventually(lambda: upstream.requests)
    assert word.encode() in upstream.requests[0]
    gc.collect()
    kept = [each for each in gc.get_objects() if isinstance(each, dict) and word in each]
    assert [each for each in kept if each is not asked["messages"][0]] == []
    upstream.say()
    working.join(PATIENCE)


def test_a_task_of_what_has_ended_or_is_gone_has_nothing_to_do(service: Service, upstream: Speaking) -> None:
    generation, worker = service.begin(), service.worker(upstream.base_url)
    upstream.say()
    worker.work(task_of(generation))
    assert worker.work(task_of(generation)) == Ended(None)
    assert worker.work(Task("1" * 32, "users/u/messages/m")) == Ended(None)
    assert len(upstream.requests) == 1


def test_a_generation_whose_worker_was_lost_is_taken_over(service: Service, upstream: Speaking) -> None:
    generation, worker = service.lost(delta(role="assistant")), service.worker(upstream.base_url)
    upstream.say()
    assert worker.work(task_of(generation)) == Ended(State.COMPLETED)
    assert service.kept(generation).attempt == 2
    assert service.message(generation)["content"] == "Hello"


def test_what_was_said_to_its_end_before_its_worker_was_lost_is_whole(service: Service) -> None:
    generation = service.lost(delta(content="Hello"), delta("stop"))
    assert service.worker().work(task_of(generation)) == Ended(State.COMPLETED)


def test_what_text_withdrew_the_end_of_before_its_worker_was_lost_is_not_whole(service: Service) -> None:
    generation = service.lost(delta("stop", content="a"), delta("stop", content="b"))
    assert service.worker().work(task_of(generation)) == Ended(State.INCOMPLETE)
    assert service.kept(generation).reason == "worker_lost"


def test_what_can_not_be_continued_is_incomplete(service: Service) -> None:
    generation = service.lost(delta(content="Hel"), delta(content="lo"))
    assert service.worker().work(task_of(generation)) == Ended(State.INCOMPLETE)
    kept, said = service.kept(generation), service.message(generation)
    assert (kept.state, kept.reason, kept.last_seq) == (State.INCOMPLETE, "worker_lost", 2)
    assert (said["content"], said["state"]) == ("Hello", "incomplete")


def test_a_stop_that_no_worker_lived_to_see_is_one(service: Service) -> None:
    generation = service.lost(delta(content="Hel"), stop_requested_at=now())
    assert service.worker().work(task_of(generation)) == Ended(State.STOPPED)


@pytest.mark.parametrize(("events", "state"), [([], State.FAILED), ([delta(content="Hel")], State.INCOMPLETE)])
def test_what_was_claimed_as_often_as_it_may_be_is_ended(service: Service, events: list[Any], state: State) -> None:
    generation = service.lost(*events, claims=3)
    assert service.worker().work(task_of(generation)) == Ended(state)
    kept = service.kept(generation)
    assert (kept.state, kept.reason, kept.attempt) == (state, "worker_lost", 3)


# Whatever goes wrong


def breaking(what: str) -> dict[str, Any]:
    """What a worker is made with, so that this fails."""
    return {
        "the session": {"session": Failing()},
        "the listener": {"listener": type("Deaf", (), {"watch": fail})()},
        "the dialect's check": {"dialects": {"chat_completions": Acting(check=fail)}},
        "the dialect's request": {"dialects": {"chat_completions": Acting(outgoing=fail)}},
        "the dialect's answer": {"dialects": {"chat_completions": Acting(answer=fail)}},
        "the dialect's reading": {"dialects": reading_by(fail)},
    }[what]


@pytest.fixture
def written(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


def reasons(written: pytest.LogCaptureFixture) -> list[str]:
    """Of what was logged as an error, each once that it was."""
    return [vars(record)["reason"] for record in written.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    "what",
    [
        "the session",
        "the listener",
        "the dialect's check",
        "the dialect's request",
        "the dialect's answer",
        "the dialect's reading",
    ],
)
def test_whatever_is_raised_between_claim_and_end_ends_the_generation(
    service: Service, upstream: Speaking, written: pytest.LogCaptureFixture, what: str
) -> None:
    generation = service.begin()
    if what != "the listener":  # nobody listens for the end of an answer that is there at once
        upstream.say()
    worker = service.worker(upstream.base_url, **breaking(what))
    assert worker.work(task_of(generation)) == Ended(State.FAILED)
    kept, said = service.kept(generation), service.message(generation)
    assert (kept.state, kept.reason) == (State.FAILED, "internal_error")
    assert kept.error == {"message": "Something went wrong here.", "code": "internal_error", "status": 500}
    assert (said["state"], said["error"]) == ("failed", kept.error)
    assert reasons(written) == ["internal_error"]
    head = service.head(generation)
    assert head.end is not None
    assert head.end.state is State.FAILED
    nothing_is_left(worker)
    if upstream.requests:
        assert upstream.left.wait(PATIENCE), "the call goes on"


def test_a_call_that_nobody_can_watch_over_is_cut(service: Service, upstream: Speaking) -> None:
    class Deaf(Quiet):
        def watch(self, path: str, on_change: Callable[[Document | None], object]) -> Callable[[], None]:
            assert upstream.called.wait(PATIENCE)
            return cast(Callable[[], None], fail())

    upstream.head_too.clear()
    worker, generation = service.worker(upstream.base_url, listener=Deaf()), service.begin()
    assert worker.work(task_of(generation)) == Ended(State.FAILED)
    assert upstream.left.wait(PATIENCE)


def test_what_was_read_before_something_failed_in_here_is_saved(service: Service, upstream: Speaking) -> None:
    generation = service.begin()
    never = {"FLUSH_SECONDS": "3600", "UNWATCHED_FLUSH_SECONDS": "3600", "LEASE_SECONDS": "3600"}
    worker = service.worker(upstream.base_url, dialects=reading_by(failing_after(3)), settings=never)
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(worker.work, task_of(generation))
        upstream.say(1)
        eventually(lambda: service.head(generation).last == 1)
        upstream.say()
        assert working.result(PATIENCE) == Ended(State.INCOMPLETE)
    kept = service.kept(generation)
    assert (kept.reason, kept.last_seq) == ("internal_error", 3)
    assert service.message(generation)["content"] == "Hello"
    nothing_is_left(worker)


def test_what_fails_after_the_upstream_s_own_end_does_not_undo_it(
    service: Service, upstream: Speaking, written: pytest.LogCaptureFixture
) -> None:
    generation = service.begin()
    upstream.say()
    worker = service.worker(upstream.base_url, dialects=reading_by(failing_after(4)))
    assert worker.work(task_of(generation)) == Ended(State.COMPLETED)
    assert len([each for each in written.records if each.levelno >= logging.ERROR]) == 1


def test_what_is_saved_and_can_not_be_understood_is_kept_as_its_bare_text(service: Service) -> None:
    generation = service.begin()
    past = now() - timedelta(hours=1)
    journal = Journal(service.store, generation, service.head(generation), claims=1, lease=LEASE, clock=lambda: past)
    journal.claim()
    journal.append([Entry(1, record(Event(b"{}")), "Hel"), Entry(2, record(Event(b"{}")), "lo")])
    worker = service.worker(dialects={"chat_completions": Acting(read=fail)})
    assert worker.work(task_of(generation)) == Ended(State.INCOMPLETE)
    assert service.message(generation)["content"] == "Hello"


def test_a_missing_part_of_a_request_ends_it(
    service: Service, upstream: Speaking, written: pytest.LogCaptureFixture
) -> None:
    generation = service.begin(request=b"x" * 2_000_000)
    lost = next(path for path in service.documents.paths() if "/holdfastRequest/" in path)
    service.documents.lose(lost)
    assert service.worker(upstream.base_url).work(task_of(generation)) == Ended(State.FAILED)
    kept = service.kept(generation)
    assert (kept.state, kept.reason) == (State.FAILED, "request_lost")
    assert upstream.requests == []
    assert reasons(written) == ["request_lost"]


@pytest.mark.parametrize(
    ("fields", "reason"), [({"upstream": "gone"}, "upstream_unknown"), ({"dialect": "gone"}, "dialect_unknown")]
)
@pytest.mark.parametrize(("events", "state"), [([], State.FAILED), ([delta(content="Hel")], State.INCOMPLETE)])
def test_what_this_service_no_longer_has_ends_the_generation(
    service: Service,
    written: pytest.LogCaptureFixture,
    fields: dict[str, str],
    reason: str,
    events: list[Any],
    state: State,
) -> None:
    generation = service.lost(*events, **fields)
    if fields.get("dialect") and events:
        state = State.FAILED  # nothing is known of what is saved but its text, and there is none
    assert service.worker().work(task_of(generation)) == Ended(state)
    kept = service.kept(generation)
    assert (kept.state, kept.reason) == (state, reason)
    assert kept.error is not None
    assert kept.error["code"] == reason
    assert reasons(written) == [reason]


def test_a_generation_that_turns_out_to_be_another_s_is_left_to_it(
    service: Service, upstream: Speaking, written: pytest.LogCaptureFixture
) -> None:
    generation, worker = service.begin(), service.worker(upstream.base_url)
    rival: list[Any] = []

    def take_over(what: str, writes: Sequence[Write]) -> None:
        head = service.head(generation)
        if head.claims == 1 and not rival:  # the first write after the claim, be it a batch or the end
            rival.append(replace(head, holder="a rival", claims=2))
            service.documents.commit(service.store.head(generation, rival[0], now(), head.version))

    service.documents.before = take_over
    upstream.say()
    assert worker.work(task_of(generation)) == Ended(None)
    head = service.head(generation)
    assert (head.holder, head.claims, head.end) == ("a rival", 2, None)
    assert service.kept(generation).state is State.STREAMING
    assert reasons(written) == [], "it is nobody's fault"
    nothing_is_left(worker)


def test_where_firestore_stays_away_the_task_comes_again(service: Service, upstream: Speaking) -> None:
    generation, worker = service.begin(), service.worker(upstream.base_url, session=Failing())

    def away(what: str, writes: Sequence[Write]) -> None:
        raise Unreachable("as the test asked")

    def after_the_claim(what: str, writes: Sequence[Write]) -> None:
        service.documents.before_get = lambda: away("get", [])

    service.documents.after = after_the_claim
    with pytest.raises(Unreachable):
        worker.work(task_of(generation))
    nothing_is_left(worker)


# When the process is to end


def test_a_task_of_a_process_that_ends_claims_nothing_and_comes_again(service: Service) -> None:
    generation, worker = service.begin(), service.worker()
    service.shutdown.begin()
    assert worker.work(task_of(generation)) == RetryLater(0)
    assert service.kept(generation).attempt == 0


def test_a_claim_made_while_everything_is_handed_over_is_handed_over_too(service: Service, upstream: Speaking) -> None:
    generation, worker = service.begin(), service.worker(upstream.base_url)

    def begin_to_end(what: str, writes: Sequence[Write]) -> None:
        if what == "commit" and any(write.path == generation.head_path for write in writes):
            service.documents.before = lambda _what, _writes: None
            service.shutdown.begin()

    service.documents.before = begin_to_end
    assert worker.work(task_of(generation)) == RetryLater(0.0)
    head = service.head(generation)
    assert (head.claims, head.released, head.end) == (1, True, None)
    assert upstream.requests == []
    assert service.listener.watched == 0, "it was begun all the same"


# The endpoint


class Tokens:
    def verify(self, headers: Any) -> None:
        if headers.get("Authorization") != "the queue's":
            raise Unauthenticated("Not the queue.", code="wrong_email")


class Queue:
    """A paused queue of the emulator, for tasks that stay in it."""

    def __init__(self, host: str) -> None:
        channel = grpc.insecure_channel(host)
        self._client = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))
        self.environ = {"TASKS_EMULATOR_HOST": host}
        self.path = Settings.from_env(NEEDED | {"UPSTREAM_BASE_URL": NOBODY}).queue_path
        self._client.create_queue(parent=self.path.partition("/queues/")[0], queue=tasks_v2.Queue(name=self.path))
        self._client.pause_queue(name=self.path)

    def tasks(self) -> list[tasks_v2.Task]:
        full = tasks_v2.Task.View.FULL
        return list(self._client.list_tasks(request={"parent": self.path, "response_view": full}))

    def waits(self) -> list[float]:
        """In how many seconds each task is due, to a second's fraction."""
        return [(each.schedule_time - each.create_time).total_seconds() for each in self.tasks()]

    def names(self) -> list[str]:
        return sorted(each.name.rpartition("/")[2] for each in self.tasks())

    def remove_all(self) -> None:
        self._client.purge_queue(name=self.path)


@pytest.fixture
def queue() -> Iterator[Queue]:
    with TasksEmulator() as emulator:
        yield Queue(emulator.target)


@pytest.fixture
def no_queue() -> dict[str, str]:
    """Settings with a queue where nothing listens."""
    return {"TASKS_EMULATOR_HOST": f"127.0.0.1:{free_port()}"}


def door(
    service: Service, tasks: dict[str, str] | None = None, *, worker_store: Any = None, base_url: str = NOBODY
) -> Any:
    settings = Settings.from_env(
        NEEDED | {"UPSTREAM_BASE_URL": base_url} | (tasks or {"TASKS_EMULATOR_HOST": "127.0.0.1:9"})
    )
    return create_worker(
        settings,
        cast(Store, worker_store or service.store),
        cast(Listener, service.listener),
        TaskQueue(settings),
        cast(QueueTokens, Tokens()),
        {},
        service.shutdown,
        OFF,
        DIALECTS,
    )


def deliver(app: Any, body: bytes, token: str = "the queue's", name: str = "") -> Any:
    headers = {"Authorization": token} | ({"X-CloudTasks-TaskName": name} if name else {})
    with app.test_client() as client:
        return client.post("/", data=body, headers=headers)


def test_a_finished_task_is_told_the_state(service: Service, upstream: Speaking) -> None:
    upstream.say()
    answer = deliver(door(service, base_url=upstream.base_url), task_of(service.begin()).encode())
    assert (answer.status_code, answer.json) == (200, {"state": "completed"})


def test_nobody_but_the_queue_may_enter_and_the_log_says_why(
    service: Service, written: pytest.LogCaptureFixture
) -> None:
    generation = service.begin()
    assert deliver(door(service), task_of(generation).encode(), token="another's").status_code == 401
    assert service.kept(generation).attempt == 0
    assert [(each.message, vars(each)["cause"]) for each in written.records] == [("task refused", "wrong_email")]


def test_a_check_is_accepted_from_the_queue_alone_and_does_nothing(service: Service) -> None:
    class Untouched:
        batch = None

    answer = deliver(door(service, worker_store=Untouched()), b'{"check": true}')
    assert (answer.status_code, answer.json) == (200, {"state": None})
    assert deliver(door(service), b'{"check": true}', token="another's").status_code == 401


def test_what_is_no_task_is_refused(service: Service) -> None:
    assert deliver(door(service), b"{}").status_code == 400


# Tasks that have to wait


class Away:
    """A store that can't be reached."""

    batch = None

    def generation_and_head(self, *_: str) -> Any:
        raise Unreachable("as the test asked")


def held(service: Service) -> Generation:
    """A generation that another worker holds."""
    generation = service.begin()
    Journal(service.store, generation, service.head(generation), claims=1, lease=LEASE, clock=now).claim()
    return generation


def test_a_task_of_what_another_worker_holds_is_done_and_another_comes_when_the_lease_runs_out(
    service: Service, queue: Queue
) -> None:
    generation = held(service)
    answer = deliver(door(service, queue.environ), task_of(generation).encode(), name="7")
    assert (answer.status_code, answer.json) == (200, {"state": None})
    (task,) = queue.tasks()
    assert Task.decode(task.http_request.body) == task_of(generation)
    assert task.schedule_time.timestamp() == pytest.approx(service.head(generation).lease_until.timestamp(), abs=0.01)


def test_a_task_that_is_delivered_again_and_again_has_one_successor(service: Service, queue: Queue) -> None:
    app, body = door(service, queue.environ), task_of(held(service)).encode()
    for _ in range(3):
        assert deliver(app, body, name="7").status_code == 200
    assert queue.names() == ["7-w1"]
    queue.remove_all()
    assert deliver(app, body, name="7").status_code == 200
    assert queue.tasks() == [], "its successor was there already"
    for _ in range(3):
        deliver(app, body, name="7-w1")
    assert queue.names() == ["7-w2"]


def test_a_chain_of_successors_ends_with_its_generation(service: Service, queue: Queue) -> None:
    generation = held(service)
    app = door(service, queue.environ)
    service.store.delete(generation)
    assert deliver(app, task_of(generation).encode(), name="7-w3").status_code == 200
    assert queue.tasks() == []


def test_a_chain_of_successors_is_bounded_in_any_case(
    service: Service, queue: Queue, written: pytest.LogCaptureFixture
) -> None:
    app, body = door(service, queue.environ), task_of(held(service)).encode()
    assert deliver(app, body, name=f"7-w{MOST_WAITS - 1}").status_code == 200
    assert deliver(app, body, name=f"7-w{MOST_WAITS}").status_code == 200
    assert queue.names() == [f"7-w{MOST_WAITS}"]
    assert written.records[-1].message == "task dropped after too many waits"


def test_while_firestore_can_not_be_reached_a_task_comes_again_more_and_more_rarely(
    service: Service, queue: Queue
) -> None:
    app = door(service, queue.environ, worker_store=Away())
    waits = []
    for name in ("7", "7-w1", "7-w3", "7-w9", "7-w900"):
        assert deliver(app, task_of(service.begin()).encode(), name=name).status_code == 200
        waits += queue.waits()
        queue.remove_all()
    shortest, longest = OUTAGE_SECONDS
    assert waits[:-1] == sorted(waits[:-1])  # the last two are of the same length, but for their jitter
    assert shortest / 2 <= waits[0] <= shortest + 1.0
    assert longest / 2 <= waits[-1] <= longest + 1.0


@pytest.mark.parametrize(("asked", "seconds"), [("2.5", 2.5), ("2", 2.0), ("600", 30.0)])
def test_an_upstream_that_asked_to_be_left_alone_is_left_alone_for_no_less(
    service: Service, queue: Queue, asked: str, seconds: float
) -> None:
    with Speaking(b"{}", status=f"429 Too Many\r\nRetry-After: {asked}") as upstream:
        upstream.say()
        app = door(service, queue.environ, base_url=upstream.base_url)
        answer = deliver(app, task_of(service.begin()).encode(), name="7")
    assert answer.status_code == 200
    (wait,) = queue.waits()
    assert seconds <= wait <= seconds + 1.1  # the time of creation is in whole seconds


def test_each_released_attempt_has_a_task_of_its_own(service: Service, queue: Queue) -> None:
    """One that another delivery of the same task has made may be due only when the lease would have run out."""
    generation = held(service)
    app = door(service, queue.environ)
    deliver(app, task_of(generation).encode(), name="7")
    head = service.head(generation)
    service.documents.commit(
        service.store.head(generation, replace(head, released=True, lease_until=now()), now(), None)
    )
    assert deliver(app, task_of(generation).encode(), name="7").status_code == 200
    assert len(queue.tasks()) == 2


def test_a_process_that_ends_hands_its_tasks_over_at_once(service: Service, queue: Queue) -> None:
    service.shutdown.begin()
    assert deliver(door(service, queue.environ), task_of(service.begin()).encode(), name="7").status_code == 200
    (wait,) = queue.waits()
    assert wait < 1.1


@pytest.mark.parametrize("why", ["held", "away", "shutdown"])
def test_only_where_the_queue_can_not_be_reached_either_it_has_to_deliver_again(
    service: Service, no_queue: dict[str, str], why: str
) -> None:
    generation = held(service) if why == "held" else service.begin()
    app = door(service, no_queue, worker_store=Away() if why == "away" else None)
    if why == "shutdown":
        service.shutdown.begin()
    answer = deliver(app, task_of(generation).encode(), name="7")
    assert answer.status_code == 503
    assert 1 <= int(answer.headers["Retry-After"]) <= LEASE.total_seconds()


# Claims at once


class Crowd:
    """A store without generations, which counts concurrent reads, and makes as many as allowed wait for each other."""

    batch = None

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._full = threading.Event()
        self._inside = 0
        self.most = 0

    def generation_and_head(self, *_: str) -> tuple[None, None]:
        with self._lock:
            self._inside += 1
            self.most = max(self.most, self._inside)
            if self._inside == AT_ONCE:
                self._full.set()
        self._full.wait(PATIENCE)
        time.sleep(0.02)  # for one more, if one more could come
        with self._lock:
            self._inside -= 1
        return None, None


TASK = Task("1" * 32, "users/u/messages/m")


def test_of_many_tasks_a_few_at_a_time_claim_their_generations(service: Service) -> None:
    crowd = Crowd()
    worker = service.worker(store=crowd, admission=Admission(PATIENCE))
    with ThreadPoolExecutor(3 * AT_ONCE) as pool:
        outcomes = list(pool.map(worker.work, [TASK] * 3 * AT_ONCE))
    assert outcomes == [Ended(None)] * 3 * AT_ONCE
    assert crowd.most == AT_ONCE


class Waiting:
    """A store whose reads block until they are released, and then fail or find nothing."""

    batch = None

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error
        self.inside = threading.Semaphore(0)
        self.go_on = threading.Event()

    def generation_and_head(self, *_: str) -> tuple[None, None]:
        self.inside.release()
        assert self.go_on.wait(PATIENCE)
        if self._error is not None:
            raise self._error
        return None, None


def test_who_has_waited_for_long_claims_all_the_same_and_gives_nobody_s_place_back(service: Service) -> None:
    store, admission = Waiting(), Admission(0.01)
    worker = service.worker(store=store, admission=admission)
    with ThreadPoolExecutor(AT_ONCE + 1) as pool:
        working = [pool.submit(worker.work, TASK) for _ in range(AT_ONCE + 1)]
        for _ in working:
            assert store.inside.acquire(timeout=PATIENCE)
        store.go_on.set()
        for each in working:
            each.result(PATIENCE)
    assert (admission.claiming, admission.places) == (0, AT_ONCE)


@pytest.mark.parametrize("error", [Unreachable("as the test asked"), Held(now()), MISTAKE])
def test_who_fails_to_claim_leaves_its_place_to_the_next(service: Service, error: Exception) -> None:
    store, admission = Waiting(error), Admission(0.01)
    store.go_on.set()
    worker = service.worker(store=store, admission=admission)
    for _ in range(2 * AT_ONCE):
        with suppress(type(error)):
            worker.work(TASK)
    assert (admission.claiming, admission.places) == (0, AT_ONCE)


@pytest.mark.parametrize(("is_there", "places"), [(True, 20), (False, AT_ONCE)])
def test_how_long_a_claim_takes_says_how_many_may_claim_at_the_same_time(
    service: Service, is_there: bool, places: int
) -> None:
    ticks = count()
    admission = Admission(monotonic=lambda: 0.1 * next(ticks))
    task = task_of(service.begin()) if is_there else TASK
    service.worker(admission=admission).work(task)
    assert admission.places == places, "a task that finds nothing to claim only reads"
