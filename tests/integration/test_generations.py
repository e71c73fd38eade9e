"""Generations against the real emulators.

A repeated request makes one answer, a failed start leaves nothing behind, and a generation without a worker is ended by
the next read.
"""

from __future__ import annotations

import threading
import uuid
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial

import orjson
import pytest
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport

from lib.cloud.documents import Create, Delete, Patch, Put
from lib.cloud.task_queue import TaskQueue
from lib.dialects import DIALECTS
from lib.domain.end import End, State
from lib.domain.errors import (
    Conflict,
    IndexMissing,
    InvalidRequest,
    NotFound,
    TooManyRequests,
    Unavailable,
    Unreachable,
)
from lib.domain.message import Said
from lib.domain.task import Task
from lib.journal.codec import events_of
from lib.journal.ending import LOST_GRACE
from lib.journal.outbox import Outbox
from lib.journal.segments import SEAL_BYTES
from lib.journal.writer import Fenced
from lib.runtime.catalog import Catalog
from lib.runtime.health import Readiness
from lib.runtime.settings import Settings
from lib.serving.generations import START_GRACE, Generations
from lib.serving.healing import REQUEUE_AFTER, REQUEUE_EVERY, Healer
from lib.serving.rate import Rate
from lib.serving.start_request import StartRequest
from lib.serving.tail import REREAD_SECONDS, Tails
from local.token import PROJECT

PATIENCE = 30.0
LEASE = timedelta(seconds=15)
LONG_LOST = timedelta(minutes=10)
COMPLETED = End(state=State.COMPLETED, usage={"total_tokens": 7})
NOTHING_SAID = Said(fields={"content": ""})
PARENT = f"projects/{PROJECT}/locations/us-central1"
INVOKER = f"invoker@{PROJECT}.iam.gserviceaccount.com"
WORKER = "http://127.0.0.1:9/"


class Line:
    """A queue that keeps what is enqueued."""

    def __init__(self):
        self.enqueued = []
        self.delivered = []

    def enqueue(self, generation, version=None):
        self.enqueued.append(generation.id)

    def deliver(self, delivery, seconds):
        self.delivered.append(delivery)


@pytest.fixture
def line():
    return Line()


@pytest.fixture
def settings_of(stack):
    """The settings of an environment like the local stack's."""

    def settings_of(**changes):
        environ = {
            "GOOGLE_CLOUD_PROJECT": PROJECT,
            "FIRESTORE_EMULATOR_HOST": stack.firestore_host,
            "TASKS_EMULATOR_HOST": stack.tasks_host,
            "WORKER_URL": WORKER,
            "TASKS_INVOKER": INVOKER,
            "UPSTREAM_BASE_URL": "http://127.0.0.1:9/v1",
            "UPSTREAM_MODELS": "*",
            "THREADS": "320",
            **changes,
        }
        return Settings.from_env(environ)

    return settings_of


@pytest.fixture
def service_over(documents, store_over, listener, line, clock, settings_of):
    """The service, over a database, a queue and settings."""

    def service_over(over=documents, queue=line, reread_seconds=REREAD_SECONDS, catalog=None, **environ):
        settings = settings_of(**environ)
        settings = replace(settings, catalog=catalog or settings.catalog)
        store = store_over(over)
        healer = Healer(store, queue, DIALECTS, clock, Outbox(store, queue, settings.channels))
        tails = Tails(
            store,
            listener,
            viewer=uuid.uuid4().hex,
            clock=clock,
            heal=healer.heal,
            reread_seconds=reread_seconds,
        )
        return Generations(settings, store, queue, tails, healer, DIALECTS, clock)

    return service_over


@pytest.fixture
def service(service_over):
    return service_over()


@pytest.fixture
def started(service, uid):
    """Starts a generation and leaves it."""

    def started(by=uid, on=service, **asked):
        begun = on.start(by, request(**asked))
        begun.tail.close()
        return begun.generation

    return started


def body(content="Hello", **fields):
    return orjson.dumps({"model": "demo", "messages": [{"role": "user", "content": content}], **fields})


def request(content="Hello", *, chat_id=None, message_id=None, key=None, raw=None, dialect="chat_completions", own=b""):
    return StartRequest(
        own=own,
        body=raw if raw is not None else body(content),
        dialect=dialect,
        chat_id=chat_id,
        message_id=message_id,
        idempotency_key=key,
    )


def said_by(entries):
    return Said(fields={"content": "".join(each.text for each in entries)})


# Starting


def test_headers_that_are_a_part_of_a_request_are_kept_and_tell_it_from_another(service, uid, store):
    asked = request(key="beta")
    begun = service.start(uid, replace(asked, headers={"anthropic-beta": "a"}))
    begun.tail.close()
    assert store.generation(begun.generation.id).headers == {"anthropic-beta": "a"}
    again = service.start(uid, replace(asked, headers={"anthropic-beta": "a"}))
    again.tail.close()
    assert again.attached
    other = service.start(uid, replace(asked, headers={"anthropic-beta": "b"}))
    other.tail.close()
    assert other.generation.id != begun.generation.id
    for value in ("x" * 1001, "a\nb", "\u20ac"):
        with pytest.raises(InvalidRequest, match="anthropic-beta"):
            service.start(uid, replace(asked, headers={"anthropic-beta": value}))


def test_a_start_leaves_generation_message_head_and_one_task(service, uid, line, documents, store, clock):
    begun = service.start(uid, request(chat_id="chat", message_id="said"))
    begun.tail.close()
    generation = begun.generation
    assert not begun.attached
    assert line.enqueued == [generation.id]

    kept = store.generation(generation.id)
    assert (kept.owner, kept.chat_id, kept.message_id, kept.state) == (uid, "chat", "said", State.QUEUED)
    assert (kept.request, kept.model, kept.upstream, kept.created_at) == (body(), "demo", "default", clock())
    (said,) = documents.get(f"users/{uid}/chats/chat/messages/said")
    assert said.path == kept.message_path
    assert said.fields == {
        "role": "assistant",
        "content": "",
        "state": "queued",
        "reason": None,
        "model": "demo",
        "usage": None,
        "error": None,
        "stoppedBy": None,
        "generationId": generation.id,
        "createdAt": clock(),
        "updatedAt": clock(),
        "finishedAt": None,
        "parent": None,
        "replaces": None,
    }
    head = store.read_head(kept)
    assert (head.first, head.last, head.attempt, head.end) == (1, 0, 0, None)
    assert not head.leased(clock())


def test_a_generation_of_no_chat_has_its_message_under_its_own_id(started, uid, documents):
    generation = started()
    assert generation.message_path == f"users/{uid}/messages/{generation.id}"
    assert documents.get(generation.message_path)[0] is not None


def test_somebody_watches_from_the_first_moment_and_no_longer_when_he_leaves(service, uid, store, clock):
    begun = service.start(uid, request())
    assert store.generation(begun.generation.id).watched(clock())
    begun.tail.close()
    assert not store.generation(begun.generation.id).watched(clock())


SAME = {
    "key": {"key": "again"},
    "chat and message": {"chat_id": "chat", "message_id": "said"},
    "key, chat and message": {"key": "again", "chat_id": "chat", "message_id": "said"},
}


PLACED = {name: asked for name, asked in SAME.items() if "message_id" in asked}


@pytest.mark.parametrize("asked", SAME.values(), ids=SAME)
def test_the_same_request_again_attaches_and_makes_no_second_task(service, uid, line, asked):
    first = service.start(uid, request(**asked))
    again = service.start(uid, request(**asked))
    assert (first.attached, again.attached) == (False, True)
    assert again.generation.id == first.generation.id
    assert again.tail.generation_id == first.generation.id
    assert line.enqueued == [first.generation.id]
    first.tail.close()
    again.tail.close()


@pytest.mark.parametrize("asked", SAME.values(), ids=SAME)
def test_the_same_request_many_times_at_once_makes_one_generation(service, uid, line, together, asked):
    begun = together(*[lambda: service.start(uid, request(**asked))] * 8)
    for each in begun:
        each.tail.close()
    assert len({each.generation.id for each in begun}) == 1
    assert sum(not each.attached for each in begun) == 1
    assert len(line.enqueued) == 1


@pytest.mark.parametrize("asked", SAME.values(), ids=SAME)
def test_the_same_request_after_the_end_attaches_to_the_whole_answer(service, started, hold, uid, line, entries, asked):
    generation = started(**asked)
    hold(generation).journal.finish(entries(1, 3), COMPLETED, said_by(entries(1, 3)))
    again = service.start(uid, request(**asked))
    with again.tail as tail:
        piece = tail.next(PATIENCE)
    assert piece.end == COMPLETED
    assert again.attached
    assert again.generation.state is State.COMPLETED
    assert piece.events == events_of(b"".join(each.record for each in entries(1, 3)))
    assert len(line.enqueued) == 1


def test_the_order_of_a_bodys_fields_makes_no_other_request(service, uid):
    first = service.start(uid, request(key="again"))
    fields = orjson.loads(body())
    turned = orjson.dumps(dict(reversed(fields.items())), option=orjson.OPT_INDENT_2)
    again = service.start(uid, request(key="again", raw=turned))
    assert again.attached
    first.tail.close()
    again.tail.close()


@pytest.mark.parametrize("asked", PLACED.values(), ids=PLACED)
def test_a_message_that_is_taken_by_another_body_is_a_conflict_and_changes_nothing(
    service, started, uid, line, documents, asked
):
    generation = started(**asked)
    before = documents.get(generation.path, generation.message_path, generation.head_path)
    with pytest.raises(Conflict) as refused:
        service.start(uid, request("Another", **asked))
    assert (refused.value.status, refused.value.code, refused.value.param) == (409, "message_exists", "X-Message-Id")
    assert not refused.value.retryable
    assert documents.get(generation.path, generation.message_path, generation.head_path) == before
    assert line.enqueued == [generation.id]


def test_another_body_under_the_same_key_is_another_generation(service, started, uid, line):
    first = started(key="loop", chat_id="chat")
    second = service.start(uid, request("Another", key="loop", chat_id="chat"))
    second.tail.close()
    assert not second.attached
    assert line.enqueued == [first.id, second.generation.id]
    assert first.id != second.generation.id


def failed(started, hold, error, **asked):
    """A generation that failed without any output."""
    generation = started(**asked)
    hold(generation).journal.finish([], End(state=State.FAILED, reason="upstream_error", error=error), NOTHING_SAID)
    return generation


PASSING = {"message": "Too many requests.", "code": "rate_limited", "status": 429, "retryable": True}


@pytest.mark.parametrize("asked", SAME.values(), ids=SAME)
def test_a_failure_that_may_have_passed_is_tried_anew_under_the_same_ids(
    service, started, hold, store, uid, line, clock, documents, asked
):
    old = failed(started, hold, PASSING, raw=LARGE, **asked)
    clock.advance(timedelta(seconds=1))
    again = service.start(uid, request(raw=LARGE, **asked))
    again.tail.close()
    assert (again.attached, again.generation.id, again.generation.retried) == (False, old.id, True)
    assert line.enqueued == [old.id, old.id]
    anew, head = store.generation_and_head(old.id, old.message_path)
    assert (anew.state, anew.error, head.claims, head.end) == (State.QUEUED, None, 0, None)
    assert store.request(anew) == LARGE
    assert documents.get(old.message_path)[0].fields["state"] == "queued"


def test_a_failure_that_is_tried_anew_keeps_nothing_of_the_old_journal(
    service, started, hold, uid, entries, under, clock
):
    generation = started(key="again")
    journal = hold(generation).journal
    for first in range(1, 90, 30):
        journal.append(entries(first, first + 29, size=4000))
    journal.finish([], End(state=State.FAILED, reason="upstream_error", error=PASSING), NOTHING_SAID)
    assert len(under(generation.message_path)) > 2
    clock.advance(timedelta(seconds=1))
    service.start(uid, request(key="again")).tail.close()
    assert under(generation.message_path) == [generation.message_path, generation.head_path]


def test_a_failure_that_is_tried_anew_many_times_at_once_is_one_further_try(
    service, started, hold, uid, line, clock, together
):
    old = failed(started, hold, PASSING, key="again")
    clock.advance(timedelta(seconds=1))
    begun = together(*[lambda: service.start(uid, request(key="again"))] * 8)
    for each in begun:
        each.tail.close()
    assert {each.generation.id for each in begun} == {old.id}
    assert len(line.enqueued) == 2


def test_a_failure_that_can_not_pass_holds_its_key(service, started, hold, uid, line):
    old = failed(started, hold, PASSING | {"retryable": False}, key="again")
    again = service.start(uid, request(key="again"))
    with again.tail as tail:
        assert tail.next(PATIENCE).end.state is State.FAILED
    assert again.attached
    assert line.enqueued == [old.id]


PLACES = {
    "another chat": ({"chat_id": "other"}, "X-Chat-Id"),
    "no chat": ({}, "X-Chat-Id"),
    "another message": ({"chat_id": "chat", "message_id": "other"}, "X-Message-Id"),
    "no message": ({"chat_id": "chat"}, "X-Message-Id"),
}


@pytest.mark.parametrize(("place", "param"), PLACES.values(), ids=PLACES)
def test_the_same_key_at_another_place_is_a_conflict_and_changes_nothing(
    service, started, uid, line, documents, place, param
):
    generation = started(key="again", chat_id="chat", message_id="said")
    before = documents.get(generation.path, generation.message_path, generation.head_path)
    with pytest.raises(Conflict) as refused:
        service.start(uid, request(key="again", **place))
    assert (refused.value.status, refused.value.code, refused.value.param) == (409, "idempotency_conflict", param)
    assert documents.get(generation.path, generation.message_path, generation.head_path) == before
    assert line.enqueued == [generation.id]


def test_a_message_is_the_same_with_a_key_and_without(service, started, uid, line):
    generation = started(key="key", chat_id="chat", message_id="said")
    again = service.start(uid, request(chat_id="chat", message_id="said"))
    again.tail.close()
    assert again.attached
    assert again.generation.id == generation.id
    with pytest.raises(Conflict):
        service.start(uid, request("Another", key="other", chat_id="chat", message_id="said"))
    assert line.enqueued == [generation.id]


def test_another_users_same_ids_are_another_generation(service, started, uid, line):
    asked = {"key": "again", "chat_id": "chat", "message_id": "said"}
    ours = started(**asked)
    theirs = started(by=f"{uid}-other", **asked)
    assert ours.id != theirs.id
    assert line.enqueued == [ours.id, theirs.id]


def test_a_key_does_not_reach_over_to_a_chat_and_message_of_the_same_words(started):
    assert started(key="a").id != started(chat_id="a", message_id="a").id


@pytest.mark.parametrize(
    "generation_id", [None, 7, "", "no-such", "a/b", "..", "__x__", "a/b/c"], ids=lambda value: repr(value)
)
@pytest.mark.parametrize("by_key", [False, True], ids=["by message", "by key"])
def test_a_message_id_of_a_document_that_is_not_ours_is_a_conflict(
    service, uid, line, documents, under, generation_id, by_key
):
    path = f"users/{uid}/chats/chat/messages/said"
    (version,) = documents.commit(Create(path, {"role": "user", "generationId": generation_id}))
    with pytest.raises(Conflict) as refused:
        service.start(uid, request(chat_id="chat", message_id="said", key="key" if by_key else None))
    assert refused.value.code == "message_exists"
    assert documents.get(path)[0].version == version
    assert under(path) == [path]
    assert line.enqueued == []


def test_a_message_that_names_another_users_generation_is_a_conflict(service, started, uid, documents):
    theirs = started(by=f"{uid}-other")
    documents.commit(Create(f"users/{uid}/chats/chat/messages/said", {"generationId": theirs.id}))
    with pytest.raises(Conflict) as refused:
        service.start(uid, request(chat_id="chat", message_id="said"))
    assert refused.value.code == "message_exists"


def test_more_than_the_limit_is_too_many_but_not_for_a_request_that_was_made_before(
    service_over, uid, line, documents, under, told
):
    service = service_over(MAX_LIVE_GENERATIONS="2")
    asked = [{"key": "one"}, {"chat_id": "chat", "message_id": "two"}]
    begun = [service.start(uid, request(**each)) for each in asked]
    kept = under(f"users/{uid}")
    with pytest.raises(TooManyRequests) as refused:
        service.start(uid, request(key="three"))
    assert (refused.value.status, refused.value.retry_after > 0) == (429, True)
    assert line.enqueued == [each.generation.id for each in begun]
    assert under(f"users/{uid}") == kept
    assert len(documents.query("holdfastGenerations", where=[("owner", "==", uid)])) == 2
    assert told("generation not queued") == []

    for each, first in zip(asked, begun, strict=True):
        again = service.start(uid, request(**each))
        assert again.attached
        assert again.generation.id == first.generation.id
        again.tail.close()
    with pytest.raises(TooManyRequests):
        service.start(uid, request("Another", key="one"))
    service.start(f"{uid}-other", request()).tail.close()
    for each in begun:
        each.tail.close()


def test_a_message_that_was_asked_for_with_a_key_is_no_further_one_at_the_limit(service_over, uid):
    service = service_over(MAX_LIVE_GENERATIONS="1")
    first = service.start(uid, request(key="key", chat_id="chat", message_id="said"))
    again = service.start(uid, request(chat_id="chat", message_id="said"))
    assert again.attached
    first.tail.close()
    again.tail.close()


def test_the_count_is_under_way_while_the_generation_is_created_and_its_rank_while_its_task_is(
    service_over, uid, documents, monkeypatch
):
    there = []

    class Watched(Line):
        def enqueue(self, generation, version=None):
            there.append("task")

    def look(when):
        there.append((when, len(documents.query("holdfastGenerations", where=[("owner", "==", uid)]))))
        return 0

    def counting(*_, at, **__):
        look("count" if at is None else "rank")
        return partial(look, "counted" if at is None else "ranked")

    monkeypatch.setattr(documents, "counting", counting)
    service_over(queue=Watched()).start(uid, request()).tail.close()
    assert there == [("count", 0), ("rank", 1), ("counted", 1), "task", ("ranked", 1)]


def test_a_count_that_comes_late_does_not_hold_a_generation_against_itself(service_over, uid, documents, monkeypatch):
    ask = documents.counting
    monkeypatch.setattr(documents, "counting", lambda *what, **which: lambda: ask(*what, **which)())
    service = service_over(MAX_LIVE_GENERATIONS="1")
    service.start(uid, request()).tail.close()
    with pytest.raises(TooManyRequests):
        service.start(uid, request())


LIMIT = 20


@pytest.fixture
def patient(monkeypatch):
    """No call fails for taking long. A count that fails refuses nothing, which a busy machine's may."""
    for each in ("documents.READ_SECONDS", "documents.TRY_SECONDS", "documents.COMMIT_SECONDS", "channel.TRY_SECONDS"):
        monkeypatch.setattr(f"lib.cloud.{each}", 4 * PATIENCE)


@pytest.mark.usefixtures("patient")
def test_of_many_starts_at_one_instant_in_several_processes_exactly_the_limit_is_accepted(
    service_over, uid, together, documents, line
):
    services = [
        service_over(MAX_LIVE_GENERATIONS=str(LIMIT), MAX_USER_STARTS="150", MAX_USER_VIEWERS="150") for _ in range(3)
    ]
    at_once = threading.Barrier(150)
    started = []

    def start(service):
        at_once.wait()
        with suppress(TooManyRequests):
            begun = service.start(uid, request())
            started.append(begun.generation.id)
            begun.tail.close()

    together(*[partial(start, services[n % 3]) for n in range(150)])
    there = documents.query("holdfastGenerations", where=[("owner", "==", uid)])
    assert len(started) == LIMIT
    assert {each.path.rpartition("/")[2] for each in there} == set(started)
    assert set(started) <= set(line.enqueued)


def test_a_burst_of_starts_is_refused_before_it_costs_anything_but_a_repetition_is_not(
    service_over, uid, documents, monkeypatch
):
    service = service_over(MAX_USER_STARTS="2")
    monkeypatch.setattr(service, "_rate", Rate(2, lambda: 0.0))  # a second that does not end
    asked = [{"key": "one"}, {"chat_id": "chat", "message_id": "two"}]
    begun = [service.start(uid, request(**each)) for each in asked]
    monkeypatch.setattr(documents, "counting", None)
    monkeypatch.setattr(documents, "commit", None)
    for more in ({}, {"key": "three"}, {"chat_id": "chat", "message_id": "three"}):
        with pytest.raises(TooManyRequests) as refused:
            service.start(uid, request(**more))
        assert (refused.value.code, refused.value.retry_after) == ("too_many_starts", 1)
    monkeypatch.undo()
    monkeypatch.setattr(service, "_rate", Rate(0, lambda: 0.0))
    for each, first in zip(asked, begun, strict=True):
        again = service.start(uid, request(**each))
        assert (again.attached, again.generation.id) == (True, first.generation.id)
        again.tail.close()
        first.tail.close()


def test_who_is_plainly_at_the_limit_costs_no_task(service_over, started, uid, line):
    service = service_over(MAX_LIVE_GENERATIONS="1")
    first = started(on=service)
    for _ in range(3):
        with pytest.raises(TooManyRequests):
            service.start(uid, request())
    assert line.enqueued == [first.id]


def test_a_start_whose_creation_got_no_answer_counts_too(service_over, started, uid, faulty):
    service = service_over(faulty, MAX_LIVE_GENERATIONS="1")
    started(on=service)
    faulty.fail(having=lambda writes: len(writes) == 3, lost=True)
    with pytest.raises(TooManyRequests):
        service.start(uid, request())
    assert faulty.failed == 1


def test_viewers_have_a_limit_each_and_together_and_leave_it_again(service_over, uid):
    service = service_over(MAX_USER_VIEWERS="2", MAX_VIEWERS="3", MAX_LIVE_GENERATIONS="2")
    one, two = (service.start(user, request(key="key")) for user in (uid, f"{uid}-2"))
    again = service.resume(one.generation, 0)
    for watch in (
        lambda: service.resume(one.generation, 0),
        lambda: service.start(uid, request()),
        lambda: service.start(uid, request(key="key")),
    ):
        with pytest.raises(TooManyRequests) as refused:
            watch()
        assert (refused.value.code, refused.value.retry_after) == ("too_many_viewers", 5)
        assert "2 answers" in refused.value.message
    with pytest.raises(TooManyRequests) as refused:
        service.start(f"{uid}-3", request())
    assert "busy" in refused.value.message
    service.stop(uid, one.generation.id)
    again.close()
    again = service.start(uid, request(key="key"))
    assert again.attached
    for each in (one.tail, two.tail, again.tail):
        each.close()
    service.start(f"{uid}-3", request()).tail.close()


@pytest.mark.parametrize("asked", [{"chat_id": "c/d"}, {"raw": b"{"}, {"chat_id": "c", "message_id": "m"}])
def test_a_start_that_is_refused_takes_no_viewer_s_place(service_over, uid, asked):
    service = service_over(MAX_USER_VIEWERS="2")
    begun = service.start(uid, request("first", chat_id="c", message_id="m"))
    for _ in range(3):
        with pytest.raises((InvalidRequest, Conflict)):
            service.start(uid, request("second", **asked) if "raw" not in asked else request(**asked))
    service.start(uid, request()).tail.close()
    begun.tail.close()


@pytest.mark.parametrize(
    ("more", "param", "most"),
    [
        ({"n": 5}, "n", 4),
        ({"max_tokens": 101}, "max_tokens", 100),
        ({"max_completion_tokens": 101, "max_tokens": 1}, "max_completion_tokens", 100),
    ],
)
def test_more_choices_or_tokens_than_the_limit_are_refused_by_name(service_over, uid, line, more, param, most):
    service = service_over(MAX_OUTPUT_TOKENS="100")
    raw = body(**more)
    with pytest.raises(InvalidRequest) as refused:
        service.start(uid, request(raw=raw))
    assert (refused.value.status, refused.value.code, refused.value.param) == (400, "limit_exceeded", param)
    assert f"'{param}' may be {most} at most" in refused.value.message
    assert line.enqueued == []
    service_over(MAX_OUTPUT_TOKENS="0", MAX_CHOICES="5").start(uid, request(raw=raw)).tail.close()


def test_what_is_kept_while_somebody_watches_has_no_request_in_it(service, uid):
    begun = service.start(uid, request())
    assert begun.generation.request == b""
    begun.tail.close()


def test_ended_and_lost_generations_do_not_count_towards_the_limit(
    service_over, started, hold, uid, clock, entries, store
):
    service = service_over(MAX_LIVE_GENERATIONS="2")
    first = started(on=service)
    lost = started(on=service)
    hold(lost).journal.append(entries(1, 2))
    with pytest.raises(TooManyRequests):
        service.start(uid, request())

    hold(first).journal.finish([], COMPLETED, NOTHING_SAID)
    third = started(on=service)
    with pytest.raises(TooManyRequests):
        service.start(uid, request())

    clock.advance(LOST_GRACE + timedelta(seconds=16))
    service.start(uid, request()).tail.close()
    assert store.generation(lost.id).state is State.INCOMPLETE
    assert store.generation(third.id).state is State.QUEUED


@pytest.mark.parametrize("size", [1, 63, 64, 899, 900, 5000], ids=lambda size: f"{size} KiB")
def test_a_request_of_any_size_is_read_as_it_was_sent(started, store, documents, size):
    raw = body(uuid.uuid4().hex * (size << 5))
    generation = started(raw=raw)
    kept = store.generation(generation.id)
    assert store.request(kept) == raw
    parts = documents.query(f"{generation.path}/holdfastRequest")
    assert len(parts) == kept.request_parts == (0 if size < 64 else -(-len(raw) // (900 << 10)))
    assert all(part.fields["expireAt"] == kept.expire_at for part in parts)


@pytest.mark.parametrize("size", [10, 40_000, 70_000, 2_000_000])
def test_what_a_client_protocol_keeps_of_its_own_request_is_kept_and_tells_one_from_another(
    started, hold, service, store, documents, clock, size
):
    own, raw = b"own " * (size // 4), body("theirs " * 4_000)
    begun = started(raw=raw, own=own, key="own")
    kept = store.generation(begun.id)
    assert (service.own_request(kept), store.request(kept), begun.own_request) == (own, raw, b"")
    parts = documents.query(f"{begun.path}/holdfastRequest")
    expected = 0 if size < 30_000 else 1 + -(-size // (900 << 10))
    assert len(parts) == kept.request_parts + kept.own_request_parts == expected
    assert started(raw=raw, own=own, key="own").id == begun.id != started(raw=raw, own=own + b"!", key="own").id
    listed = store.list(kept.owner, chat_id=None, states=[], after=None, limit=9)
    assert {(each.request, each.own_request) for each in listed} == {(b"", b"")}

    hold(kept).journal.finish([], End(state=State.FAILED, reason="upstream_status", error=PASSING), NOTHING_SAID)
    clock.advance(timedelta(seconds=1))
    started(raw=raw, own=own, key="own")
    anew = store.generation(begun.id)
    assert (anew.state, service.own_request(anew), store.request(anew)) == (State.QUEUED, own, raw)


def test_a_request_of_a_client_protocol_that_is_lost_is_not_there(started, service, store, documents):
    begun = store.generation(started(own=b"own " * 20_000).id)
    documents.commit(*[Delete(part.path) for part in documents.query(f"{begun.path}/holdfastRequest")])
    with pytest.raises(NotFound):
        service.own_request(begun)


LARGE = body("first " * 850_000)
OTHER = body("other " * 850_000)


@pytest.mark.parametrize("asked", SAME.values(), ids=SAME)
def test_a_large_request_stays_what_it_was_though_another_comes_under_its_key(service, started, store, uid, asked):
    generation = started(raw=LARGE, **asked)
    with suppress(Conflict):
        service.start(uid, request(raw=OTHER, **asked)).tail.close()
    assert store.request(store.generation(generation.id)) == LARGE


def test_a_large_request_that_is_refused_leaves_nothing(service, uid, documents, generations_there):
    """A document of the application has the message's id."""
    documents.commit(Create(f"users/{uid}/chats/chat/messages/said", {"role": "user"}))
    before = generations_there()
    with pytest.raises(Conflict) as refused:
        service.start(uid, request(raw=LARGE, chat_id="chat", message_id="said"))
    assert refused.value.code == "message_exists"
    assert generations_there() == before


@pytest.mark.parametrize("raw", [body(), LARGE], ids=["small", "large"])
def test_where_the_queue_can_not_be_reached_nothing_is_left(
    service_over, settings_of, uid, nobody, under, generations_there, listener, raw
):
    before = generations_there()
    service = service_over(queue=TaskQueue(settings_of(TASKS_EMULATOR_HOST=nobody)))
    with pytest.raises(Unavailable) as refused:
        service.start(uid, request(chat_id="chat", message_id="said", raw=raw))
    assert (refused.value.status, refused.value.code) == (503, "queue_unavailable")
    assert under(f"users/{uid}") == []
    assert generations_there() == before
    assert listener.watching == 0


@pytest.mark.parametrize("lost", [True, False], ids=["answer lost", "failed"])
@pytest.mark.parametrize("which", ["holdfastGenerations", "users"])
def test_where_the_queue_can_not_be_reached_and_a_deletion_fails_nothing_is_left_either(
    service_over, settings_of, uid, nobody, under, generations_there, faulty, which, lost
):
    def deletes(writes):
        return any(isinstance(write, Delete) and write.path.startswith(which) for write in writes)

    before = generations_there()
    faulty.fail(having=deletes, lost=lost)
    service = service_over(faulty, queue=TaskQueue(settings_of(TASKS_EMULATOR_HOST=nobody)))
    with pytest.raises(Unavailable) as refused:
        service.start(uid, request(chat_id="chat", message_id="said"))
    assert faulty.failed == 1
    assert (refused.value.status, refused.value.code) == (503, "queue_unavailable")
    assert under(f"users/{uid}") == []
    assert generations_there() == before


def test_where_the_queue_and_then_firestore_can_not_be_reached_it_is_the_queue_that_is_told(
    service_over, settings_of, uid, nobody, faulty
):
    faulty.fail(having=lambda writes: any(isinstance(write, Delete) for write in writes), times=100)
    service = service_over(faulty, queue=TaskQueue(settings_of(TASKS_EMULATOR_HOST=nobody)))
    with pytest.raises(Unavailable) as refused:
        service.start(uid, request())
    assert refused.value.code == "queue_unavailable"
    assert 1 < faulty.failed < 30


def test_where_firestore_can_not_be_reached_a_start_is_unavailable_and_makes_no_task(
    service_over, connect, nobody, uid, line
):
    unreachable = connect(nobody)
    with pytest.raises(Unavailable):
        service_over(unreachable).start(uid, request())
    assert line.enqueued == []
    unreachable.close()


def test_a_count_that_fails_for_a_passing_reason_neither_refuses_nor_deletes(
    service_over, documents, uid, line, monkeypatch
):
    def counted():
        raise Unreachable("as the test asked")

    monkeypatch.setattr(documents, "counting", lambda *_, **__: counted)
    begun = service_over().start(uid, request())
    begun.tail.close()
    assert line.enqueued == [begun.generation.id]
    assert documents.get(begun.generation.path)[0] is not None


def test_where_the_index_to_count_with_is_missing_a_start_is_unavailable_and_leaves_nothing(
    service_over, documents, uid, line, under, monkeypatch
):
    def counted():
        raise IndexMissing

    monkeypatch.setattr(documents, "counting", lambda *_, **__: counted)
    with pytest.raises(Unavailable) as refused:
        service_over().start(uid, request())
    assert refused.value.status == 503
    assert line.enqueued == under(f"users/{uid}") == []
    assert documents.query("holdfastGenerations", where=[("owner", "==", uid)]) == []


def test_where_the_index_to_list_with_is_missing_the_list_is_unavailable_and_no_cursor_is_blamed(
    service, started, documents, uid, monkeypatch
):
    first = started()

    def query(*_, **__):
        raise IndexMissing

    monkeypatch.setattr(documents, "query", query)
    for after in (None, first.id):
        with pytest.raises(Unavailable) as refused:
            listed(service, uid, after=after)
        assert refused.value.status == 503


def creates(writes):
    return any(isinstance(write, Create) and write.path.startswith("holdfastGenerations/") for write in writes)


@pytest.mark.parametrize("lost", [True, False], ids=["answer lost", "failed"])
def test_a_start_whose_commit_fails_once_is_a_start_like_any_other(service_over, uid, faulty, line, documents, lost):
    faulty.fail(having=creates, lost=lost)
    begun = service_over(faulty).start(uid, request(key="key"))
    begun.tail.close()
    assert faulty.failed == 1
    assert (begun.attached, line.enqueued) == (False, [begun.generation.id])
    assert len(documents.query("holdfastGenerations", where=[("owner", "==", uid)])) == 1


def test_a_start_whose_commit_fails_because_another_was_faster_attaches_to_that_one(
    service_over, uid, faulty, line, clock
):
    first = service_over().start(uid, request(key="key"))
    first.tail.close()
    clock.advance(timedelta(seconds=1))
    faulty.fail(having=creates)
    second = service_over(faulty).start(uid, request(key="key"))
    second.tail.close()
    assert second.attached
    assert line.enqueued == [first.generation.id]


def test_a_start_whose_commit_fails_again_is_unavailable_and_makes_no_task(service_over, uid, faulty, line, documents):
    faulty.fail(having=creates, times=2)
    with pytest.raises(Unavailable):
        service_over(faulty).start(uid, request(key="key"))
    assert line.enqueued == []
    assert documents.query("holdfastGenerations", where=[("owner", "==", uid)]) == []


@pytest.mark.parametrize("reader", ["find", "list", "a viewer"])
def test_a_generation_that_has_waited_for_long_gets_a_second_task_by_who_reads_it(
    service_over, started, uid, line, clock, reader
):
    service = service_over(reread_seconds=0.02)
    generation = started(on=service)
    assert line.enqueued == [generation.id]

    def read():
        if reader == "find":
            service.find(uid, generation.id)
        elif reader == "list":
            service.list(uid, chat_id=None, states=[], after=None, limit=10)
        else:
            with service.resume(generation, 0) as tail:
                for _ in range(5):
                    tail.next(0.05)

    clock.advance(REQUEUE_AFTER - timedelta(seconds=1))
    read()
    assert line.enqueued == [generation.id]
    for tasks in (2, 3):
        clock.advance(REQUEUE_EVERY)
        read()
        read()
        assert line.enqueued == [generation.id] * tasks
    assert service.find(uid, generation.id)[0].state is State.QUEUED


def test_a_task_is_queued_again_at_most_once_a_minute(service, started, hold, uid, line, clock, entries):
    generation = started()
    hold(generation).journal.append(entries(1, 2))
    clock.advance(LEASE + REQUEUE_AFTER - timedelta(seconds=1))
    service.find(uid, generation.id)
    assert line.enqueued == [generation.id]
    clock.advance(timedelta(seconds=1))
    for _ in range(75):  # five minutes, of a page that asks every four seconds
        service.find(uid, generation.id)
        clock.advance(timedelta(seconds=4))
    assert line.enqueued == [generation.id] * 6


def test_where_the_time_of_a_second_task_can_not_be_saved_none_is_made(service_over, started, uid, line, clock, faulty):
    generation = started()
    clock.advance(timedelta(minutes=2))
    faulty.fail(having=lambda writes: "requeuedAt" in getattr(writes[0], "fields", {}), times=100)
    for _ in range(3):
        # A service of its own each time: one that has failed pauses.
        assert service_over(faulty).find(uid, generation.id)[0].state is State.QUEUED
    assert faulty.failed == 3
    assert line.enqueued == [generation.id]


def test_a_queue_that_can_not_be_reached_keeps_nobody_from_reading_and_is_told(service_over, started, uid, clock, told):
    class Away:
        def enqueue(self, generation, version=None):
            raise Unavailable("away")

    generation = started()
    clock.advance(REQUEUE_AFTER)
    assert service_over(queue=Away()).find(uid, generation.id)[0].state is State.QUEUED
    assert [line["generation"] for line in told("generation not queued again")] == [generation.id]


def test_a_generation_that_a_worker_has_taken_gets_no_second_task(service, started, hold, uid, line, clock):
    running, ended = started(key="running"), started(key="ended")
    hold(running)
    hold(ended).journal.finish([], COMPLETED, NOTHING_SAID)
    clock.advance(REQUEUE_AFTER + timedelta(seconds=1))
    for key in ("running", "ended"):
        again = service.start(uid, request(key=key))
        again.tail.close()
        assert again.attached
    assert line.enqueued == [running.id, ended.id]


def test_the_real_queue_gets_one_task_that_says_where_the_generation_is(
    service_over, settings_of, stack, uid, own_channel, documents
):
    client = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=own_channel(stack.tasks_host)))
    name = f"q-{uuid.uuid4().hex}"
    queue = client.create_queue(parent=PARENT, queue=tasks_v2.Queue(name=f"{PARENT}/queues/{name}"))
    client.pause_queue(name=queue.name)
    service = service_over(queue=TaskQueue(settings_of(TASKS_QUEUE=name, DISPATCH_SECONDS="1700")))

    begun = service.start(uid, request(key="key"))
    again = service.start(uid, request(key="key"))
    begun.tail.close()
    again.tail.close()

    asked = tasks_v2.ListTasksRequest(parent=queue.name, response_view=tasks_v2.Task.View.FULL)
    (task,) = client.list_tasks(request=asked)
    sent = Task.decode(task.http_request.body)
    assert sent.successor == Task(begun.generation.id, begun.generation.message_path)
    assert sent.created.generation == begun.generation
    assert sent.created.version == documents.get(begun.generation.head_path)[0].version.ToNanoseconds()
    assert task.http_request.url == task.http_request.oidc_token.audience == WORKER
    assert task.http_request.oidc_token.service_account_email == INVOKER
    assert task.dispatch_deadline == timedelta(seconds=1700)
    client.delete_queue(name=queue.name)


@pytest.mark.parametrize(
    "asked",
    [
        {"raw": b"{"},
        {"raw": b"[]"},
        {"raw": b'{"model": "demo"}'},
        {"raw": body(tools=[]).replace(b"[]", b"[" * 300 + b"]" * 300, 1)},
        {"message_id": "said"},
        {"chat_id": "a/b"},
        {"chat_id": "chat", "message_id": ".."},
        {"key": ""},
        {"key": "x" * 201},
    ],
    ids=str,
)
def test_a_request_that_can_not_be_served_leaves_nothing(service, uid, line, under, asked):
    with pytest.raises(InvalidRequest):
        service.start(uid, request(**asked))
    assert under(f"users/{uid}") == []
    assert line.enqueued == []


def test_a_request_of_no_dialect_is_in_the_one_that_its_models_upstream_speaks_and_streamed(service, uid, store, line):
    begun = service.start(uid, request(dialect=None))
    begun.tail.close()
    kept = store.generation(begun.generation.id)
    assert kept.dialect == "chat_completions"
    assert orjson.loads(store.request(kept)) == {**orjson.loads(body()), "stream": True}
    assert begun.asked.streamed


@pytest.mark.parametrize("raw", [b"[]", b"{}", b'{"model": 7}', b'{"model": ""}'])
def test_a_request_of_no_dialect_must_name_its_model(service, uid, line, raw):
    with pytest.raises(InvalidRequest) as refused:
        service.start(uid, request(dialect=None, raw=raw))
    assert refused.value.param == "model"
    assert line.enqueued == []


def test_a_request_in_an_api_that_its_models_upstream_does_not_speak_is_refused_with_the_remedy(
    service_over, settings_of, uid, line, under
):
    upstream = replace(settings_of().catalog["default"], speaks=("another",))
    service = service_over(catalog=Catalog([upstream]))
    with pytest.raises(InvalidRequest) as refused:
        service.start(uid, request())
    assert (refused.value.status, refused.value.code, refused.value.param) == (400, "wrong_api", "model")
    assert "'demo'" in refused.value.message
    assert "another" in refused.value.message
    assert line.enqueued == under(f"users/{uid}") == []


# Finding and healing


def test_a_generation_is_found_by_its_owner_alone(service, started, uid):
    generation = started()
    found, head = service.find(uid, generation.id)
    assert (found.id, head.last) == (generation.id, 0)
    for user, wanted in ((f"{uid}-other", generation.id), (uid, "no-such")):
        with pytest.raises(NotFound) as refused:
            service.find(user, wanted)
        assert refused.value.code == "generation_not_found"


def test_a_lost_queued_generation_is_ended_by_who_reads_it_next(service, started, uid, clock, documents, store):
    generation = started(chat_id="chat")
    clock.advance(START_GRACE + LOST_GRACE)
    assert service.find(uid, generation.id)[0].state is State.QUEUED
    clock.advance(timedelta(seconds=1))
    found, head = service.find(uid, generation.id)
    assert (found.state, found.reason, found.finished_at) == (State.FAILED, "worker_lost", clock())
    assert head.end.state is State.FAILED
    (said,) = documents.get(generation.message_path)
    assert (said.fields["state"], said.fields["error"]["code"]) == ("failed", "worker_lost")


def test_a_lost_streaming_generation_is_incomplete_with_all_that_was_saved(
    service, started, hold, uid, clock, documents, entries
):
    generation = started(chat_id="chat")
    written = entries(1, 40, 5 << 10)
    journal = hold(generation).journal
    for at in range(0, 40, 4):
        journal.append(written[at : at + 4])
    clock.advance(timedelta(seconds=15) + LOST_GRACE)
    assert service.find(uid, generation.id)[0].state is State.STREAMING
    clock.advance(timedelta(seconds=1))
    found, head = service.find(uid, generation.id)
    assert (found.state, found.reason, found.last_seq) == (State.INCOMPLETE, "worker_lost", 40)
    assert (head.last, head.end.state) == (40, State.INCOMPLETE)
    (said,) = documents.get(generation.message_path)
    assert said.fields["state"] == "incomplete"
    assert said.fields["content"] == "".join(each.text for each in written)


def test_while_a_worker_may_still_hold_an_answer_nobody_ends_it(service, started, hold, uid, clock, entries):
    """A worker sits out an outage of Firestore for longer than its lease, and has events that nobody else has."""
    generation = started()
    journal = hold(generation).journal
    journal.append(entries(1, 2))
    clock.advance(LEASE + timedelta(seconds=300))
    assert service.find(uid, generation.id)[0].state is State.STREAMING
    journal.append(entries(3, 4))
    clock.advance(LEASE + LOST_GRACE)
    assert service.find(uid, generation.id)[0].state is State.STREAMING
    clock.advance(timedelta(seconds=1))
    assert service.find(uid, generation.id)[0].state is State.INCOMPLETE


def test_an_outage_of_two_minutes_ends_no_answer_and_makes_no_pile_of_tasks(
    service_over, started, hold, uid, clock, entries, faulty, line, store
):
    """Commits are refused and reads work, while a page lists fifteen answers every four seconds."""
    answers = [started() for _ in range(15)]
    journals = [hold(each).journal for each in answers]
    for journal in journals:
        journal.append(entries(1, 2))
    line.enqueued.clear()
    faulty.fail(times=100_000)
    for _ in range(125 // 4 + 1):
        clock.advance(timedelta(seconds=4))
        found = listed(service_over(faulty), uid)  # each time by another process, since one that has failed pauses
        assert {(generation.state, last) for generation, last in found} == {(State.STREAMING, 2)}
    assert line.enqueued == []
    faulty.mend()
    for _ in range(2):
        listed(service_over(faulty), uid)
    assert sorted(line.enqueued) == sorted(each.id for each in answers)
    for journal in journals:
        journal.append(entries(3, 4))
        journal.finish([], COMPLETED, said_by(entries(1, 4)))
    assert {store.generation(each.id).state for each in answers} == {State.COMPLETED}


def test_where_the_end_of_a_lost_answer_can_not_be_saved_it_is_read_as_it_is(
    service_over, started, hold, uid, clock, entries, faulty, told
):
    generations = [started() for _ in range(3)]
    for each in generations:
        hold(each).journal.append(entries(1, 2))
    clock.advance(LONG_LOST)
    faulty.fail(times=100_000)
    service = service_over(faulty)
    for each in generations:
        assert service.find(uid, each.id)[0].state is State.STREAMING
    assert len(told("generation not healed")) == 1  # after which it pauses
    assert faulty.failed < 5


FUTURE = "a-dialect-of-a-later-version"


def test_an_answer_in_a_dialect_that_is_not_known_keeps_its_text(
    service, begin, hold, uid, clock, entries, store, documents
):
    """A version was rolled back, and answers of the newer one are there."""
    lost, stopped, queued = (begin(dialect=FUTURE) for _ in range(3))
    text = "".join(each.text for each in entries(1, 40, 5 << 10))
    for each in (lost, stopped):
        journal = hold(each).journal
        for seq in range(1, 41, 4):
            journal.append(entries(seq, seq + 3, 5 << 10))
    _, last, said = service.answer(service.find(uid, stopped.id)[0])
    assert (last, said.fields["content"]) == (40, text)
    journal.release()
    assert service.stop(uid, stopped.id)[0].state is State.STOPPED
    assert service.stop(uid, queued.id)[0].state is State.STOPPED
    clock.advance(LONG_LOST)
    assert len(listed(service, uid)) == 3
    assert service.find(uid, lost.id)[0].state is State.INCOMPLETE
    said = [found.fields["content"] for found in documents.get(lost.message_path, stopped.message_path)]
    assert said == [text, text]


def test_the_text_of_an_answer_is_folded_from_its_journal(service, started, hold, entries):
    generation = started()
    journal = hold(generation).journal
    for seq in range(1, 41, 4):
        journal.append(entries(seq, seq + 3, 5 << 10))
    found, last, said = service.answer(generation)
    assert (found.state, last) == (State.STREAMING, 40)
    assert said.fields["content"] == "".join(each.text for each in entries(1, 40, 5 << 10))


def test_a_generation_that_was_started_anew_while_it_was_read_is_read_again(
    service_over, documents, begin, uid, store, clock
):
    old = begin()

    class Between:
        """Deletes the generation and starts another under its id, between the reads of the two documents."""

        done = False

        def get(self, *paths, **named):
            if paths == (old.head_path,) and not self.done:
                self.done = True
                store.delete(old)
                clock.advance(timedelta(seconds=1))
                begin(id=old.id, message_id=old.id, message_path=old.message_path)
            return documents.get(*paths, **named)

        def __getattr__(self, name):
            return getattr(documents, name)

    found, head = service_over(Between()).find(uid, old.id)
    assert found.created_at == head.created_at == clock()


@pytest.mark.parametrize("said", [0, 4], ids=["before its first word", "amid its answer"])
def test_a_lost_generation_that_its_user_had_stopped_is_stopped(
    service, started, hold, uid, clock, documents, store, entries, said, line
):
    """Whoever asks may have read it before the stop was asked for, which any app may write by itself."""
    generation = started(chat_id="chat")
    written = entries(1, said)
    hold(generation).journal.append(written)
    documents.commit(Patch(generation.path, {"stopRequestedAt": clock()}))
    clock.advance(LONG_LOST)
    healer = Healer(store, line, DIALECTS, clock, Outbox(store, line, ()))
    assert healer.heal(generation, store.read_head(generation))
    found, head = service.find(uid, generation.id)
    assert (found.state, found.reason, found.error) == (State.STOPPED, "stopped", None)
    assert (head.end.state, head.last) == (State.STOPPED, said)
    (message,) = documents.get(generation.message_path)
    assert (message.fields["state"], message.fields["stoppedBy"]) == ("stopped", "user")
    assert message.fields["content"] == "".join(each.text for each in written)


@pytest.fixture
def told(caplog):
    """The fields of the lines that have these words."""
    caplog.set_level("INFO", "lib")
    return lambda words: [vars(record) for record in caplog.records if record.getMessage() == words]


def test_a_generation_that_is_healed_is_one_line_of_the_log(service, started, hold, uid, clock, entries, told):
    generation = started()
    hold(generation).journal.append(entries(1, 3))
    clock.advance(LONG_LOST)
    service.find(uid, generation.id)
    service.find(uid, generation.id)
    (line,) = told("generation healed")
    assert (line["generation"], line["attempt"]) == (generation.id, 1)
    assert (line["state"], line["reason"], line["events"]) == ("incomplete", "worker_lost", 3)
    assert (line["writes"], line["durationMs"]) == (3, 600_000)
    assert told("generation ended") == []


def test_a_stop_of_what_no_worker_runs_is_two_lines(service, started, uid, told):
    generation = started()
    service.stop(uid, generation.id)
    (asked,), (ended,) = told("stop requested"), told("generation ended")
    assert asked["generation"] == ended["generation"] == generation.id
    assert (asked["state"], ended["state"]) == ("queued", "stopped")


def test_a_second_task_and_a_first_that_was_never_made_are_told(service_over, started, uid, clock, told):
    class Away:
        def enqueue(self, generation, version=None):
            raise Unavailable("away")

    with pytest.raises(Unavailable):
        service_over(queue=Away()).start(uid, request())
    assert len(told("generation not queued")) == 1
    generation = started()
    clock.advance(REQUEUE_AFTER + timedelta(seconds=1))
    service_over().find(uid, generation.id)
    assert [line["generation"] for line in told("generation queued again")] == [generation.id]


def test_readiness_reads_once_for_all_who_ask_and_writes_nothing(faulty, store_over, together):
    readiness = Readiness({"Firestore": partial(store_over(faulty).generation, "ready")}, cache_seconds=PATIENCE)
    assert together(*[readiness.failing] * 20) == [[]] * 20
    assert faulty.asked == {"get": 1}


def test_a_live_generation_is_not_healed(service, started, hold, uid, clock, entries, store):
    generation = started()
    journal = hold(generation).journal
    for seq in range(1, 10):
        journal.append(entries(seq, seq))
        clock.advance(timedelta(seconds=15) + LOST_GRACE)
        before = store.head_document(generation)
        assert service.find(uid, generation.id)[0].state is State.STREAMING
        assert store.head_document(generation) == before
    journal.append(entries(10, 10))


def test_an_ended_generation_is_not_healed(service, started, hold, uid, clock, documents):
    generation = started()
    hold(generation).journal.finish([], COMPLETED, NOTHING_SAID)
    before = documents.get(generation.path, generation.message_path, generation.head_path)
    clock.advance(timedelta(days=6))
    assert service.find(uid, generation.id)[0].state is State.COMPLETED
    assert documents.get(generation.path, generation.message_path, generation.head_path) == before


def test_a_worker_that_comes_back_to_a_healed_generation_is_fenced(service, started, hold, uid, clock, entries, store):
    generation = started()
    journal = hold(generation).journal
    journal.append(entries(1, 2))
    clock.advance(LONG_LOST)
    service.find(uid, generation.id)
    with pytest.raises(Fenced):
        journal.append(entries(3, 4))
    with pytest.raises(Fenced):
        journal.finish(entries(3, 4), COMPLETED, said_by(entries(1, 4)))
    assert store.generation(generation.id).state is State.INCOMPLETE


def test_a_lost_generation_that_many_read_at_once_is_ended_once_for_all(
    service, started, hold, uid, clock, entries, together
):
    generation = started()
    hold(generation).journal.append(entries(1, 2))
    clock.advance(LONG_LOST)
    together(*[lambda: service.find(uid, generation.id)] * 6)
    found, head = service.find(uid, generation.id)
    assert (found.state, found.attempt) == (head.end.state, head.claims) == (State.INCOMPLETE, 1)


def test_a_lost_generation_ends_for_who_watches_it(service_over, started, hold, uid, clock, entries):
    service = service_over(reread_seconds=0.1)
    generation = started(on=service)
    hold(generation).journal.append(entries(1, 2))
    clock.advance(LONG_LOST)
    with service.resume(generation, 2) as tail:
        tail.wait_for_end(PATIENCE)
    assert service.find(uid, generation.id)[0].state is State.INCOMPLETE


def test_a_lost_generation_whose_message_was_deleted_does_not_stay_live(
    service, started, hold, uid, clock, entries, documents, store
):
    """No state stays `streaming` for ever, whatever others do to the message."""
    generation = started(chat_id="chat")
    hold(generation).journal.append(entries(1, 2))
    documents.commit(Delete(generation.message_path))
    clock.advance(LONG_LOST)
    try:
        found, _ = service.find(uid, generation.id)
    except NotFound:
        return
    assert found.state.terminal


# Listing


@pytest.fixture
def several(service, started, hold, clock):
    """Five generations, a second apart: of two chats and none, one of them ended and one running."""
    made = []
    for chat_id in ("red", "blue", None, "red", "red"):
        made.append(started(chat_id=chat_id))
        clock.advance(timedelta(seconds=1))
    hold(made[0]).journal.finish([], COMPLETED, NOTHING_SAID)
    hold(made[3])
    return made


def listed(service, uid, *, chat_id=None, states=(), after=None, limit=20):
    return service.list(uid, chat_id=chat_id, states=states, after=after, limit=limit)


def ids(found):
    return [generation.id for generation, _ in found]


def joined(service, uid, *, limit, **filtered):
    """The pages of a list, up to one more than there can be."""
    pages, after = [], None
    for _ in range(6):
        page = ids(listed(service, uid, after=after, limit=limit, **filtered))
        assert len(page) <= limit
        if not page:
            break
        pages += page
        after = page[-1]
    return pages


def test_a_list_has_an_owners_generations_newest_first(service, several, uid, started):
    started(by=f"{uid}-other")
    assert ids(listed(service, uid)) == [each.id for each in reversed(several)]
    assert ids(listed(service, f"{uid}-nobody")) == []


def test_a_list_can_be_of_one_chat_and_of_some_states(service, several, uid):
    first, second, third, fourth, fifth = [each.id for each in several]
    assert ids(listed(service, uid, chat_id="red")) == [fifth, fourth, first]
    assert ids(listed(service, uid, chat_id="no-such")) == []
    assert ids(listed(service, uid, states=[State.STREAMING])) == [fourth]
    assert ids(listed(service, uid, states=[State.QUEUED, State.STREAMING])) == [fifth, fourth, third, second]
    assert ids(listed(service, uid, chat_id="red", states=[State.COMPLETED, State.STREAMING])) == [fourth, first]


@pytest.mark.parametrize("limit", [1, 2, 5])
@pytest.mark.parametrize("filtered", [{}, {"chat_id": "red"}, {"states": [State.QUEUED, State.STREAMING]}], ids=str)
def test_pages_of_a_list_join_to_the_whole(service, several, uid, limit, filtered):
    whole = ids(listed(service, uid, **filtered))
    assert joined(service, uid, limit=limit, **filtered) == whole


def test_generations_of_the_same_instant_are_all_listed_once(service, started, uid):
    made = {started().id for _ in range(5)}
    pages = joined(service, uid, limit=2)
    assert len(pages) == 5
    assert set(pages) == made


def test_a_cursor_that_is_no_generation_of_the_user_is_refused(service, several, started, uid):
    theirs = started(by=f"{uid}-other")
    for cursor in ("no-such", theirs.id):
        with pytest.raises(InvalidRequest) as refused:
            listed(service, uid, after=cursor)
        assert refused.value.param == "cursor"


def test_a_list_says_how_far_each_generation_is_and_heals_the_lost(service, started, hold, uid, clock, entries):
    running, ended, lost = started(), started(), started()
    hold(ended).journal.finish(entries(1, 5), COMPLETED, said_by(entries(1, 5)))
    hold(lost).journal.append(entries(1, 2))
    clock.advance(LONG_LOST)
    hold(running).journal.append(entries(1, 3))
    found = {generation.id: (generation.state, last) for generation, last in listed(service, uid)}
    assert found == {
        running.id: (State.STREAMING, 3),
        ended.id: (State.COMPLETED, 5),
        lost.id: (State.INCOMPLETE, 2),
    }


def test_a_list_reads_no_requests(service, started, hold, uid):
    generation = started(raw=body("x" * 50_000))
    hold(generation).journal.finish([], COMPLETED, NOTHING_SAID)
    ((found, _),) = listed(service, uid)
    assert (found.request, found.model, found.state) == (b"", "demo", State.COMPLETED)


# Stopping


def test_a_queued_generation_is_stopped_without_a_worker(service, started, uid, documents, store, clock, hold):
    generation = started(chat_id="chat")
    stopped, head = service.stop(uid, generation.id)
    assert (stopped.state, stopped.reason, stopped.stop_requested_at) == (State.STOPPED, "stopped", clock())
    assert head.end.state is State.STOPPED
    (said,) = documents.get(generation.message_path)
    assert (said.fields["state"], said.fields["stoppedBy"], said.fields["error"]) == ("stopped", "user", None)
    with pytest.raises(Fenced):
        hold(generation)


@pytest.mark.parametrize("lost", [True, False], ids=["answer lost", "failed"])
def test_a_stop_whose_commit_fails_once_is_a_stop_like_any_other(service_over, started, uid, faulty, lost):
    generation = started()
    faulty.fail(having=lambda writes: isinstance(writes[0], Patch), lost=lost)
    stopped, _ = service_over(faulty).stop(uid, generation.id)
    assert faulty.failed == 1
    assert stopped.state is State.STOPPED
    assert stopped.stop_requested_at is not None


def test_where_the_end_of_what_no_worker_runs_can_not_be_saved_a_stop_says_so_soon_and_can_be_asked_for_again(
    service_over, started, uid, faulty
):
    service, generation = service_over(faulty), started()
    faulty.fail(having=lambda writes: isinstance(writes[0], Put), times=100)
    with pytest.raises(Unavailable):
        service.stop(uid, generation.id)
    assert 1 < faulty.failed < 30
    faulty.mend()
    assert service.stop(uid, generation.id)[0].state is State.STOPPED


def test_a_leased_generation_is_asked_to_stop_and_its_worker_ends_it(
    service, started, hold, uid, listener, watcher, entries, together, clock
):
    generation = started()
    journal = hold(generation).journal
    journal.append(entries(1, 3))
    seen = watcher()
    listener.watch(generation.path, seen)

    def work():
        seen.until(lambda changes: changes and changes[-1].fields["stopRequestedAt"] == clock())
        journal.finish(entries(4, 4), End(state=State.STOPPED, reason="stopped"), said_by(entries(1, 4)))

    (stopped, head), _ = together(lambda: service.stop(uid, generation.id), work)
    assert (stopped.state, stopped.last_seq, head.last) == (State.STOPPED, 4, 4)


def test_a_leased_generation_whose_worker_is_slow_has_the_stop_noted(
    service, started, hold, uid, store, clock, entries
):
    generation = started()
    journal = hold(generation).journal
    journal.append(entries(1, 3))
    found, _ = service.stop(uid, generation.id)
    assert found.state is State.STREAMING
    assert store.generation(generation.id).stop_requested_at == clock()
    journal.append(entries(4, 4))


def test_a_worker_whose_lease_ran_out_in_an_outage_keeps_what_it_read_when_it_is_stopped(
    service, started, hold, uid, listener, watcher, entries, together, clock
):
    generation = started()
    journal = hold(generation).journal
    journal.append(entries(1, 3))
    clock.advance(LEASE + timedelta(minutes=2))
    seen = watcher()
    listener.watch(generation.path, seen)

    def work():
        seen.until(lambda changes: changes and changes[-1].fields["stopRequestedAt"] is not None)
        journal.finish(entries(4, 8), End(state=State.STOPPED, reason="stopped"), said_by(entries(1, 8)))

    (stopped, head), _ = together(lambda: service.stop(uid, generation.id), work)
    assert (stopped.state, stopped.last_seq, head.last) == (State.STOPPED, 8, 8)


def test_a_generation_whose_worker_is_gone_is_stopped_without_it(service, started, hold, uid, entries, clock):
    generation = started()
    hold(generation).journal.append(entries(1, 3))
    clock.advance(LEASE + timedelta(seconds=1))
    stopped, head = service.stop(uid, generation.id)
    assert (stopped.state, stopped.last_seq, head.last) == (State.STOPPED, 3, 3)


def test_a_released_generation_is_stopped_without_a_worker_and_keeps_its_text(
    service, started, hold, uid, documents, entries
):
    generation = started()
    journal = hold(generation).journal
    journal.append(entries(1, 5))
    journal.release()
    stopped, head = service.stop(uid, generation.id)
    assert (stopped.state, stopped.last_seq, head.last) == (State.STOPPED, 5, 5)
    (said,) = documents.get(generation.message_path)
    assert said.fields["content"] == "".join(each.text for each in entries(1, 5))


@pytest.mark.parametrize("state", [State.COMPLETED, State.STOPPED, State.INCOMPLETE, State.FAILED])
def test_a_generation_that_has_ended_can_not_be_stopped(service, started, hold, uid, documents, state):
    generation = started()
    hold(generation).journal.finish([], End(state=state), NOTHING_SAID)
    before = documents.get(generation.path, generation.message_path, generation.head_path)
    with pytest.raises(Conflict) as refused:
        service.stop(uid, generation.id)
    assert (refused.value.status, refused.value.code) == (409, "generation_ended")
    assert documents.get(generation.path, generation.message_path, generation.head_path) == before


def test_another_users_generation_can_neither_be_stopped_nor_deleted(service, started, uid, documents):
    generation = started()
    before = documents.get(generation.path, generation.message_path, generation.head_path)
    for user, wanted in ((f"{uid}-other", generation.id), (uid, "no-such")):
        for act in (service.stop, service.delete):
            with pytest.raises(NotFound):
                act(user, wanted)
    assert documents.get(generation.path, generation.message_path, generation.head_path) == before


def test_a_stop_and_a_claim_at_the_same_instant_end_in_a_stop(service, started, hold, uid, store, together, eventually):
    """Either the stop was first and there is nothing to claim, or the worker was, and sees that it is to stop."""
    for _ in range(10):
        generation = started()
        barrier = threading.Barrier(2)

        def work(generation=generation, barrier=barrier):
            barrier.wait(PATIENCE)
            try:
                held = hold(generation)
            except Fenced:
                return
            eventually(lambda: store.generation(generation.id).stop_requested_at is not None)
            held.journal.finish([], End(state=State.STOPPED, reason="stopped"), NOTHING_SAID)

        def stop(generation=generation, barrier=barrier):
            barrier.wait(PATIENCE)
            return service.stop(uid, generation.id)[0]

        _, stopped = together(work, stop)
        assert stopped.state is State.STOPPED


# Deleting


def test_a_deletion_leaves_no_document(service, started, hold, uid, under, entries):
    generation = started(raw=LARGE, chat_id="chat")
    journal = hold(generation).journal
    written = entries(1, 30, 60 << 10)
    for at in range(0, 30, 2):
        journal.append(written[at : at + 2])
    journal.finish([], COMPLETED, said_by(written))
    everything = under(generation.path) + under(generation.message_path)
    assert any("/holdfastRequest/" in path for path in everything)
    assert any("/holdfastParts/" in path for path in everything)
    assert sum("/holdfastJournal/" in path for path in everything) > 10

    service.delete(uid, generation.id)
    assert under(generation.path) == under(generation.message_path) == []
    with pytest.raises(NotFound):
        service.find(uid, generation.id)


def test_a_deletion_of_more_documents_than_a_page_leaves_none(service, started, documents, uid, under, hold, entry):
    generation = started()
    journal = hold(generation).journal
    for seq in range(1, 231):
        journal.append([entry(seq, "", noise="x" * SEAL_BYTES)])
    assert len(documents.query(generation.journal_path, select=["first"])) > 225
    service.delete(uid, generation.id)
    assert under(generation.message_path) == []


def test_a_deletion_of_a_running_generation_stops_its_writer(service, started, hold, uid, under, entries):
    generation = started()
    journal = hold(generation).journal
    journal.append(entries(1, 2))
    service.delete(uid, generation.id)
    with pytest.raises(Fenced):
        journal.append(entries(3, 4))
    assert under(generation.path) == under(generation.message_path) == []


def test_a_deletion_leaves_other_messages_of_the_chat(service, started, uid, documents):
    kept, gone = started(chat_id="chat"), started(chat_id="chat")
    documents.commit(Put(f"users/{uid}/chats/chat", {"title": "A chat"}))
    service.delete(uid, gone.id)
    assert None not in documents.get(kept.path, kept.message_path, kept.head_path, f"users/{uid}/chats/chat")


def test_a_deleted_key_can_be_used_again(service, started, uid, line):
    first = started(key="key")
    service.delete(uid, first.id)
    again = service.start(uid, request("Another", key="key"))
    again.tail.close()
    assert not again.attached
    assert line.enqueued == [first.id, again.generation.id]


@pytest.mark.parametrize("lost", [True, False], ids=["answer lost", "failed"])
@pytest.mark.parametrize("which", ["holdfastGenerations", "users"])
def test_a_deletion_of_which_a_commit_fails_is_a_deletion_like_any_other(
    service_over, started, uid, faulty, under, which, lost
):
    generation = started(raw=LARGE)
    faulty.fail(having=lambda writes: isinstance(writes[0], Delete) and writes[0].path.startswith(which), lost=lost)
    service_over(faulty).delete(uid, generation.id)
    assert faulty.failed == 1
    assert under(generation.path) == under(generation.message_path) == []


def test_a_deletion_that_broke_off_can_be_made_again(service_over, started, hold, uid, faulty, under, entries):
    service = service_over(faulty)
    generation = started(raw=LARGE)
    journal = hold(generation).journal
    for each in entries(1, 4, SEAL_BYTES):
        journal.append([each])
    faulty.fail(having=lambda writes: all("/holdfastJournal/" in write.path for write in writes), times=100)
    with pytest.raises(Unreachable):
        service.delete(uid, generation.id)
    assert 1 < faulty.failed < 30
    faulty.mend()
    with pytest.raises(Fenced):
        journal.append(entries(5, 5))
    try:
        service.delete(uid, generation.id)
    except NotFound:
        pass
    assert under(generation.path) == under(generation.message_path) == []


# The chat


def test_a_chat_is_never_created(service, started, hold, uid, documents, store, clock, entries):
    generation = started(chat_id="chat")
    store.touch_chat(generation, clock())
    hold(generation).journal.finish(entries(1, 2), COMPLETED, said_by(entries(1, 2)))
    store.touch_chat(generation, clock())
    assert documents.get(f"users/{uid}/chats/chat", f"users/{uid}") == [None, None]


def test_a_chat_that_exists_gets_the_time_of_its_last_message_and_keeps_the_rest(started, uid, documents, store, clock):
    path = f"users/{uid}/chats/chat"
    documents.commit(Create(path, {"title": "A chat", "lastMessageAt": None}))
    generation = started(chat_id="chat")
    assert documents.get(path)[0].fields["title"] == "A chat"
    store.touch_chat(generation, clock())
    assert documents.get(path)[0].fields == {"title": "A chat", "lastMessageAt": clock()}


def test_a_chat_that_can_not_be_updated_is_no_error(started, uid, faulty, store_over, clock, documents):
    documents.commit(Create(f"users/{uid}/chats/chat", {"title": "A chat"}))
    generation = started(chat_id="chat")
    faulty.fail(having=lambda writes: isinstance(writes[0], Patch))
    store_over(faulty).touch_chat(generation, clock())
    assert faulty.failed == 1
    store_over(faulty).touch_chat(started(), clock())


def test_a_repeated_start_of_many_users_at_once_mixes_nothing(service, store, uid, together, line):
    users = [f"{uid}-{n}" for n in range(6)]

    def start(user):
        begun = service.start(user, request(user, key="key"))
        begun.tail.close()
        return store.generation(begun.generation.id)

    made = together(*[partial(start, user) for user in users for _ in range(2)])
    assert {each.owner for each in made} == set(users)
    assert len({each.id for each in made}) == len(users) == len(line.enqueued)
    assert all(orjson.loads(each.request)["messages"][0]["content"] == each.owner for each in made)


# Shared chats

SHARED = {"MESSAGE_PATH": "conversations/{chat}/turns/{message}", "CHAT_MEMBERS": "members"}


@pytest.fixture
def shared(service_over):
    return service_over(**SHARED)


@pytest.fixture
def conversation(documents):
    """Creates a shared chat with these fields, and gives its id."""

    def conversation(**fields):
        chat_id = uuid.uuid4().hex
        documents.commit(Create(f"conversations/{chat_id}", fields))
        return chat_id

    return conversation


@pytest.mark.parametrize("kind", [lambda uid: ["other", uid], lambda uid: {uid: "owner", "other": "reader"}])
def test_a_member_s_answer_lies_in_the_shared_chat(shared, started, conversation, documents, uid, kind):
    chat_id = conversation(members=kind(uid))
    generation = started(on=shared, chat_id=chat_id, message_id="m1")
    assert generation.message_path == f"conversations/{chat_id}/turns/m1"
    assert None not in documents.get(generation.path, generation.message_path, generation.head_path)


@pytest.mark.parametrize(
    "fields",
    [
        {"members": ["other"]},
        {"members": {"other": True}},
        {"members": []},
        {"members": None},
        {"members": True},
        {"owners": ["UID"]},
        {"members": "UID and others"},
        {"members": [["UID"]]},
        {"members": {"other": "UID"}},
    ],
)
def test_who_is_no_member_writes_nothing_into_a_shared_chat_not_even_for_a_moment(
    service_over, faulty, conversation, uid, line, fields
):
    def of_user(value):
        match value:
            case dict():
                return {key: of_user(each) for key, each in value.items()}
            case list():
                return [of_user(each) for each in value]
            case str():
                return value.replace("UID", uid)
        return value

    chat_id = conversation(**of_user(fields))
    with pytest.raises(NotFound) as refused:
        service_over(faulty, **SHARED).start(uid, request(chat_id=chat_id, message_id="m1"))
    assert (refused.value.status, refused.value.code, refused.value.param) == (404, "chat_not_found", "X-Chat-Id")
    assert (faulty.asked["commit"], faulty.asked["batch"]) == (0, 0)
    assert line.enqueued == []


def test_a_shared_chat_that_is_not_there_is_answered_like_one_of_strangers(shared, conversation, uid):
    said = set()
    for chat_id in (uuid.uuid4().hex, conversation(members=["other"])):
        with pytest.raises(NotFound) as refused:
            shared.start(uid, request(chat_id=chat_id))
        said.add(str(refused.value))
    assert said == {"There is no such chat, or you are not a member of it."}


def test_who_was_a_member_can_not_attach_by_the_same_request(shared, started, conversation, documents, uid):
    chat_id = conversation(members=[uid])
    started(on=shared, chat_id=chat_id, message_id="m1")
    documents.commit(Patch(f"conversations/{chat_id}", {"members": []}))
    with pytest.raises(NotFound):
        shared.start(uid, request(chat_id=chat_id, message_id="m1"))


def test_two_members_can_not_have_one_message(shared, started, conversation, uid):
    chat_id = conversation(members=[uid, "other"])
    started(on=shared, chat_id=chat_id, message_id="m1")
    with pytest.raises(Conflict) as refused:
        shared.start("other", request(chat_id=chat_id, message_id="m1"))
    assert refused.value.code == "message_exists"


def test_a_message_of_no_chat_asks_for_no_members(service_over, started, faulty, uid):
    generation = started(on=service_over(faulty, **SHARED))
    assert generation.message_path == f"users/{uid}/messages/{generation.id}"
    assert faulty.asked["get"] == 0


def test_members_are_read_while_answers_are_counted_and_before_anything_is_written(
    service_over, started, faulty, conversation, uid
):
    chat_id = conversation(members=[uid])
    started(on=service_over(faulty, **SHARED), chat_id=chat_id)
    assert list(faulty.asked)[:3] == ["counting", "get", "commit"]
    assert faulty.asked["get"] == 1


def test_where_chats_are_their_users_own_a_start_reads_no_chat(service_over, started, faulty):
    started(on=service_over(faulty), chat_id="c")
    assert faulty.asked["get"] == 0


def test_the_last_message_s_time_is_written_to_the_shared_chat(
    shared, store, started, conversation, documents, uid, clock
):
    generation = started(on=shared, chat_id=(chat_id := conversation(members=[uid])))
    store.touch_chat(generation, clock())
    assert documents.get(f"conversations/{chat_id}")[0].fields == {"members": [uid], "lastMessageAt": clock()}
