"""One attempt against the real emulator, with a real call to an upstream on a socket."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from datetime import timedelta
from functools import partial

import pytest

from lib.cloud.credentials import GoogleTokens
from lib.cloud.documents import Create, Put
from lib.dialects import DIALECTS
from lib.dialects.protocol import folded
from lib.domain.end import State
from lib.domain.errors import Unreachable
from lib.domain.task import Task
from lib.engine import attempt
from lib.engine.attempt import CHAT_SECONDS, Attempt, Ended, RetryLater
from lib.engine.committer import Committer
from lib.engine.interval import EASES_AFTER
from lib.engine.others import Others
from lib.engine.worker import Worker
from lib.journal.codec import replay
from lib.journal.writer import Fenced
from lib.runtime.catalog import Deadlines, Prefill, Upstream
from lib.runtime.logs import Line
from lib.runtime.settings import Settings
from lib.runtime.shutdown import Shutdown
from lib.runtime.telemetry import OFF
from lib.upstream.call import Session, new_session
from lib.upstream.credential import Credential
from tests.unit.engine.memory import NEEDED
from tests.unit.engine.scripted import DONE, data, delta
from tests.unit.engine.speaking import Speaking

PATIENCE = 30.0  # seconds that a failing test waits; a passing one never does
CHAT = DIALECTS["chat_completions"]
REQUEST = {"model": "demo", "stream": True, "messages": [{"role": "user", "content": "canary"}]}
END = [data(delta("stop")), DONE]
NEVER = {"FLUSH_SECONDS": "3600", "UNWATCHED_FLUSH_SECONDS": "3600", "LEASE_SECONDS": "3600"}
AT_ONCE = {"FLUSH_SECONDS": "0", "UNWATCHED_FLUSH_SECONDS": "0"}
NOBODY = "http://127.0.0.1:9/v1"


def words(number):
    return [data(delta(content=f"{n} ")) for n in range(number)]


def settings_of(**more):
    return Settings.from_env(NEEDED | {"UPSTREAM_BASE_URL": NOBODY} | AT_ONCE | more)


class Run:
    """An attempt under way on a thread of its own."""

    def __init__(self, attempt, generation):
        self.attempt = attempt
        self.generation = generation
        self._outcome = Future()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            self._outcome.set_result(self.attempt.run())
        except Exception as error:
            self._outcome.set_exception(error)

    def ends(self):
        return self._outcome.result(PATIENCE)

    @property
    def over(self):
        return self._outcome.done()


@pytest.fixture
def speaking() -> Iterator[object]:
    """An upstream with these pieces to say, which goes with the test."""
    upstreams = []

    def speaking(*pieces, **more):
        upstreams.append(Speaking(*pieces, **more))
        return upstreams[-1]

    yield speaking
    for upstream in upstreams:
        upstream.__exit__()


@pytest.fixture
def attempt_at(begin, hold, store, listener, clock):
    """An attempt at a generation, which it claims; a new one unless it is given."""
    committers = {}

    def attempt_at(base_url, generation=None, over=store, settings=None, dialect=CHAT, **upstream):
        generation = generation or begin(request=json.dumps(REQUEST).encode())
        settings = settings_of(**(settings or {}))
        committer = committers.setdefault(over, Committer(over.batch, settings.lease_seconds / 3))
        called = Upstream(name="one", base_url=base_url, **upstream)
        attempt = Attempt(
            hold(generation, over),
            store=over,
            listener=listener,
            session=new_session(),
            dialect=dialect,
            upstream=called,
            credential=Credential(called, None, GoogleTokens()),
            settings=settings,
            telemetry=OFF,
            clock=clock,
            committer=committer,
        )
        return attempt, generation

    return attempt_at


@pytest.fixture
def start(attempt_at, speaking) -> Iterator[object]:
    """Starts an attempt; gives what it calls, and its run. The test must see its end."""
    runs = []

    def start(*pieces, upstream=None, **more):
        upstream = upstream or speaking(*pieces)
        runs.append(Run(*attempt_at(upstream.base_url, **more)))
        return upstream, runs[-1]

    yield start
    for run in runs:
        run.attempt.leave(at_once=True)
        run.thread.join(PATIENCE)
        assert not run.thread.is_alive()


@pytest.fixture
def saved(store):
    """The visible text that a generation's journal has."""

    def saved(run):
        head = store.read_head(run.generation)
        return folded(CHAT, replay(store, run.generation, head)).said().fields["content"]

    return saved


@pytest.fixture
def said(documents):
    """A generation's message."""
    return lambda run: documents.get(run.generation.message_path)[0].fields


# Saved


def test_an_answer_is_saved_as_it_comes_and_ends_in_one_commit(start, store, saved, said, documents, eventually):
    upstream, run = start(*words(3), *END)
    for number in range(1, 4):
        upstream.say(1)
        eventually(lambda number=number: saved(run) == "".join(f"{n} " for n in range(number)))
    assert said(run)["state"] == "streaming"
    upstream.say(2)
    assert run.ends() == Ended(State.COMPLETED)
    kept, head = store.generation(run.generation.id), store.read_head(run.generation)
    assert (kept.state, kept.last_seq, head.last, head.end.state) == (State.COMPLETED, 4, 4, State.COMPLETED)
    assert (said(run)["content"], said(run)["state"]) == ("0 1 2 ", "completed")
    places = (run.generation.path, run.generation.message_path, run.generation.head_path)
    versions = [document.version for document in documents.get(*places)]
    assert versions[0] == versions[1] == versions[2]


def of_head(run):
    return lambda writes: any(write.path == run.generation.head_path for write in writes)


def test_what_was_read_is_saved_once_whatever_became_of_its_write(start, store_over, faulty, saved, eventually):
    upstream, run = start(*words(7), *END, over=store_over(faulty))
    for number, fault in enumerate(
        [
            {},
            {"lost": True},
            {},
            {"lost": False, "times": 3},
            {"error": RuntimeError("a mistake of the batch's")},
            {"lost": True, "error": RuntimeError("a mistake after it was done")},
            {"lost": True, "times": 2},
        ]
    ):
        if fault:
            faulty.fail(having=of_head(run), **fault)
        upstream.say(1)
        eventually(lambda number=number: saved(run) == "".join(f"{n} " for n in range(number + 1)))
    upstream.say()
    assert run.ends() == Ended(State.COMPLETED)
    assert saved(run) == "0 1 2 3 4 5 6 "
    assert faulty.failed == 1 + 3 + 1 + 1 + 2


def test_what_firestore_takes_late_is_saved_by_who_ends(start, store_over, faulty, saved):
    upstream, run = start(*words(20), *END, over=store_over(faulty))
    faulty.fail(having=of_head(run), times=6)
    upstream.say()
    assert run.ends() == Ended(State.COMPLETED)
    assert saved(run) == "".join(f"{n} " for n in range(20))


def test_an_answer_of_megabytes_that_comes_at_once_is_saved_whole(start, saved, said):
    texts = [f"{n}" * 100_000 for n in range(10)] * 2
    upstream, run = start(*[data(delta(content=text)) for text in texts], *END, settings=NEVER)
    upstream.say()
    assert run.ends() == Ended(State.COMPLETED)
    assert saved(run) == "".join(texts)
    assert saved(run).startswith(said(run)["content"])
    assert said(run)["parts"]


def test_the_last_events_and_the_end_are_one_commit(start, faulty, store_over, saved, eventually):
    upstream, run = start(*words(4), *END, over=store_over(faulty), settings=NEVER)
    upstream.say(1)
    eventually(lambda: saved(run) == "0 ")
    before = faulty.asked["commit"]
    upstream.say()
    assert run.ends() == Ended(State.COMPLETED)
    assert saved(run) == "0 1 2 3 "
    assert faulty.asked["commit"] == before + 2  # with the word to the chat, which comes after it


def test_an_end_that_comes_while_a_commit_is_in_flight_waits_for_it(start, faulty, store_over, saved, eventually):
    upstream, run = start(*words(3), *END, over=store_over(faulty))
    upstream.say(1)
    eventually(lambda: saved(run) == "0 ")
    reached, go_on = threading.Event(), threading.Event()

    def held_up(writes):
        if of_head(run)(writes) and not reached.is_set():
            reached.set()
            assert go_on.wait(PATIENCE)
        return False

    faulty.fail(having=held_up)
    upstream.say(1)
    assert reached.wait(PATIENCE)
    upstream.say()
    run.thread.join(0.3)
    assert not run.over
    assert saved(run) == "0 "
    go_on.set()
    assert run.ends() == Ended(State.COMPLETED)
    assert saved(run) == "0 1 2 "


def test_an_attempt_whose_commit_lost_to_a_rival_ends_and_writes_no_more(start, clock, hold, saved, store, eventually):
    upstream, run = start(*words(4), *END)
    upstream.say(1)
    eventually(lambda: saved(run) == "0 ")
    clock.advance(timedelta(minutes=1))
    rival = hold(run.generation)
    upstream.say()
    with pytest.raises(Fenced):
        run.ends()
    head = store.read_head(run.generation)
    assert (head.claims, head.last, head.end, saved(run)) == (2, 1, None, "0 ")
    assert rival.generation.attempt == 2
    assert upstream.left.wait(PATIENCE)


# How often


def test_an_answer_s_commits_ease_off_once_it_has_come_for_a_while(start, store, clock, saved, eventually):
    upstream, run = start(*words(4), *END, settings=NEVER | {"FLUSH_SECONDS": "0.01", "EASED_FLUSH_SECONDS": "3600"})
    store.patch(run.generation, {"watchers": {"a viewer's process": clock() + timedelta(minutes=1)}})
    for number in range(2):
        upstream.say(1)
        eventually(lambda number=number: saved(run) == "".join(f"{n} " for n in range(number + 1)))
    clock.advance(EASES_AFTER)
    upstream.say(1)  # whose commit may be due by the interval that was there before
    run.thread.join(1.0)
    upstream.say(1)
    run.thread.join(1.0)
    assert saved(run) in ("0 1 ", "0 1 2 ")
    upstream.say()
    assert run.ends() == Ended(State.COMPLETED)
    assert saved(run) == "0 1 2 3 "


def test_a_viewer_that_comes_finds_a_shorter_interval(start, store, clock, saved, eventually):
    upstream, run = start(*words(3), *END, settings=NEVER | {"FLUSH_SECONDS": "0.01"})
    upstream.say(1)
    eventually(lambda: saved(run) == "0 ")
    upstream.say(1)
    run.thread.join(0.3)
    assert saved(run) == "0 "
    store.patch(run.generation, {"watchers": {"a viewer's process": clock() + timedelta(minutes=1)}})
    eventually(lambda: saved(run) == "0 1 ")
    upstream.say()
    assert run.ends() == Ended(State.COMPLETED)


# The chat


@pytest.fixture
def chat_told(uid, documents):
    """The `lastMessageAt` of the user's chat, which exists."""
    documents.commit(Create(f"users/{uid}/chats/chat", {"lastMessageAt": None}))
    return lambda: documents.get(f"users/{uid}/chats/chat")[0].fields["lastMessageAt"]


def test_a_chat_is_updated_once_something_is_saved_and_not_before(start, saved, chat_told, clock, eventually):
    upstream, run = start(*words(2), *END)
    run.thread.join(2 * CHAT_SECONDS)
    assert chat_told() is None
    upstream.say(1)
    eventually(lambda: chat_told() == clock())
    assert saved(run) == "0 "
    assert not run.over
    began = clock()
    clock.advance(timedelta(seconds=5))
    upstream.say()
    assert run.ends() == Ended(State.COMPLETED)
    assert chat_told() == began, "it was told twice"


def test_a_chat_is_updated_for_an_answer_that_failed_before_it_began(start, speaking, chat_told, clock):
    upstream = speaking(b"{}", status="400 Bad Request", content_type="application/json")
    upstream.say()
    _, run = start(upstream=upstream)
    assert run.ends() == Ended(State.FAILED)
    assert chat_told() == clock()


def test_a_chat_that_can_not_be_updated_keeps_no_answer_from_its_end(start, faulty, store_over, uid, chat_told, saved):
    chat = f"users/{uid}/chats/chat"
    faulty.fail(having=lambda writes: writes[0].path == chat, error=RuntimeError("it is full"))
    upstream, run = start(*words(2), *END, over=store_over(faulty))
    upstream.say()
    assert run.ends() == Ended(State.COMPLETED)
    assert saved(run) == "0 1 "
    assert faulty.failed == 1


# Stopped, deleted, handed over


def test_a_stop_keeps_what_was_said_and_ends_the_call(start, store, clock, saved, said, eventually):
    upstream, run = start(*words(3), *END)
    upstream.say(2)
    eventually(lambda: saved(run) == "0 1 ")
    store.patch(run.generation, {"stopRequestedAt": clock()})
    assert run.ends() == Ended(State.STOPPED)
    assert upstream.left.wait(PATIENCE)
    kept = store.generation(run.generation.id)
    assert (kept.state, kept.reason, kept.error) == (State.STOPPED, "stopped", None)
    assert (said(run)["content"], said(run)["state"], said(run)["stoppedBy"]) == ("0 1 ", "stopped", "user")


def test_a_stop_ends_a_call_that_nothing_was_answered_to(start, store, clock, speaking):
    upstream = speaking(*END)
    upstream.head_too.clear()
    _, run = start(upstream=upstream)
    assert upstream.called.wait(PATIENCE)
    store.patch(run.generation, {"stopRequestedAt": clock()})
    assert run.ends() == Ended(State.STOPPED)
    assert upstream.left.wait(PATIENCE)
    assert store.read_head(run.generation).last == 0


def test_a_stop_that_its_listener_does_not_tell_is_heard(start, listener, store, clock, saved, eventually, monkeypatch):
    tells = listener.watch
    monkeypatch.setattr(listener, "watch", lambda path, _told: tells(path, lambda _document: None))
    monkeypatch.setattr(attempt, "Others", partial(Others, reread_seconds=0.1))
    upstream, run = start(*words(2), *END)
    upstream.say(1)
    eventually(lambda: saved(run) == "0 ")
    store.patch(run.generation, {"stopRequestedAt": clock()})
    assert run.ends() == Ended(State.STOPPED)
    assert upstream.left.wait(PATIENCE)


def test_a_stop_that_came_before_the_attempt_is_one_without_a_call(start, begin, clock):
    generation = begin(request=json.dumps(REQUEST).encode(), stop_requested_at=clock())
    upstream, run = start(*END, generation=generation)
    assert run.ends() == Ended(State.STOPPED)
    assert upstream.requests == []


def test_what_is_deleted_is_not_brought_back(start, store, saved, under, eventually):
    upstream, run = start(*words(3), *END)
    upstream.say(1)
    eventually(lambda: saved(run) == "0 ")
    store.delete(run.generation)
    with pytest.raises(Fenced):
        run.ends()
    assert upstream.left.wait(PATIENCE)
    assert under(run.generation.path) == under(run.generation.message_path) == []


def test_what_has_not_begun_is_handed_over_as_soon_as_its_process_is_to_end(start, store, clock):
    upstream, run = start(*words(3), *END)
    assert upstream.called.wait(PATIENCE)
    run.attempt.leave(at_once=False)
    assert run.ends() == RetryLater(0.0)
    assert upstream.left.wait(PATIENCE)
    head = store.read_head(run.generation)
    assert (head.released, head.last, head.leased(clock())) == (True, 0, False)
    upstream, again = start(*words(3), *END, generation=run.generation)
    upstream.say()
    assert again.ends() == Ended(State.COMPLETED)
    assert store.generation(run.generation.id).attempt == 2


def test_what_nobody_can_continue_is_read_on_until_the_time_is_over(start, store, saved, said, eventually):
    upstream, run = start(*words(4), *END)
    upstream.say(1)
    eventually(lambda: saved(run) == "0 ")
    run.attempt.leave(at_once=False)
    upstream.say(1)
    eventually(lambda: saved(run) == "0 1 ")
    assert not run.over
    run.attempt.leave(at_once=True)
    assert run.ends() == RetryLater(0.0)
    assert store.read_head(run.generation).released
    _, again = start(*words(4), generation=run.generation)
    assert again.ends() == Ended(State.INCOMPLETE)
    assert said(run)["content"] == "0 1 "


def test_what_another_can_continue_is_handed_over_and_continued(start, saved, said, eventually):
    upstream, run = start(*words(4), *END, prefill=Prefill.OPENROUTER)
    upstream.say(2)
    eventually(lambda: saved(run) == "0 1 ")
    run.attempt.leave(at_once=False)
    assert run.ends() == RetryLater(0.0)
    rest = [data(delta(content=text)) for text in ("2 ", "3 ")]
    upstream, again = start(*rest, *END, generation=run.generation, prefill=Prefill.OPENROUTER)
    upstream.say()
    assert again.ends() == Ended(State.COMPLETED)
    assert json.loads(upstream.requests[0])["messages"][-1] == {"role": "assistant", "content": "0 1"}
    assert said(run)["content"] == "0 1 2 3 "


def test_what_was_read_and_not_saved_yet_is_saved_before_it_is_handed_over(start, store, saved, eventually):
    upstream, run = start(*words(4), *END, settings=NEVER)
    upstream.say(1)
    eventually(lambda: saved(run) == "0 ")
    upstream.say(2)
    eventually(lambda: run.attempt._call[0].last == 3)
    assert saved(run) == "0 "
    run.attempt.leave(at_once=True)
    assert run.ends() == RetryLater(0.0)
    assert saved(run) == "0 1 2 "
    assert store.read_head(run.generation).released


def test_a_word_to_leave_that_comes_just_before_the_call_is_heard(attempt_at, speaking, store):
    class Acting:
        """The dialect; while it writes the request, the process is told to end."""

        def __getattr__(self, name):
            return getattr(CHAT, name)

        def outgoing(self, *given, **more):
            attempt.leave(at_once=True)
            return CHAT.outgoing(*given, **more)

    upstream = speaking(*END)
    attempt, generation = attempt_at(upstream.base_url, dialect=Acting())
    run = Run(attempt, generation)
    assert run.ends() == RetryLater(0.0)
    assert store.read_head(generation).released


def test_an_answer_that_is_whole_when_its_process_is_to_end_is_completed(start, saved, store, eventually):
    upstream, run = start(*words(2), *END)
    upstream.say(3)
    eventually(lambda: store.read_head(run.generation).last == 3)
    run.attempt.leave(at_once=True)
    assert run.ends() == Ended(State.COMPLETED)
    assert saved(run) == "0 1 "


# How the upstream ends


LONGER = "200 OK\r\nContent-Length: 100000"  # than what it has to say: it breaks off


@pytest.mark.parametrize(
    "after",
    [
        [data({"error": {"message": "Late.", "code": 500}}), DONE],
        [b"event: error\ndata: Late.\n\n"],
        [data(delta(content="cut"))[:-10]],
        [data(b"{")],
        [],
    ],
    ids=["error", "named error", "cut", "malformed", "end"],
)
@pytest.mark.parametrize("status", ["200 OK", LONGER], ids=["in order", "broken"])
def test_what_comes_after_a_whole_answer_does_not_undo_it(start, speaking, after, status, saved, store):
    upstream = speaking(*words(2), data(delta("stop")), *after, status=status)
    upstream.say()
    _, run = start(upstream=upstream)
    assert run.ends() == Ended(State.COMPLETED)
    assert saved(run) == "0 1 "
    kept = store.generation(run.generation.id)
    assert (kept.reason, kept.error) == (None, None)


@pytest.mark.parametrize("last", ["stop", None])
def test_text_after_a_finish_reason_withdraws_it(start, speaking, saved, store, last):
    """As of upstreams that say one in every chunk."""
    texts = [data(delta(finish, content=f"{n} ")) for n, finish in enumerate(["stop", "stop", last])]
    upstream = speaking(*texts, status=LONGER)
    upstream.say()
    _, run = start(upstream=upstream)
    assert run.ends() == Ended(State.INCOMPLETE)
    assert saved(run) == "0 1 2 "
    assert store.generation(run.generation.id).reason == "upstream_disconnected"


def test_an_error_after_some_text_is_incomplete_with_the_upstream_s_message(start, saved, said, store):
    error = {"message": "model crashed", "code": "E9", "type": "crash", "param": "p"}
    upstream, run = start(*words(2), data({"error": error}), DONE)
    upstream.say()
    assert run.ends() == Ended(State.INCOMPLETE)
    kept = store.generation(run.generation.id)
    assert (saved(run), kept.reason) == ("0 1 ", "upstream_error")
    told = {name: kept.error[name] for name in error}
    assert (told, kept.error["status"]) == (error, 502)
    assert json.loads(kept.error["body"]) == {"error": error}
    assert said(run)["error"] == kept.error


def test_a_refusal_fails_with_the_upstream_s_message(start, speaking, store, said):
    error = {"message": "Too long by 12 tokens.", "type": "invalid_request_error", "code": "context_length_exceeded"}
    upstream = speaking(
        json.dumps({"error": error}).encode(), status="400 Bad Request", content_type="application/json"
    )
    upstream.say()
    _, run = start(upstream=upstream)
    assert run.ends() == Ended(State.FAILED)
    kept = store.generation(run.generation.id)
    assert (kept.reason, kept.error["message"], kept.error["code"], kept.error["status"]) == (
        "upstream_status",
        "Too long by 12 tokens.",
        "context_length_exceeded",
        400,
    )
    assert kept.error["contentType"] == "application/json"
    assert said(run)["error"] == kept.error


def test_a_refused_key_fails_without_the_upstream_s_message_and_is_logged(start, speaking, store, written):
    upstream = speaking(b'{"error":{"message":"sk-secret is no key"}}', status="401 Unauthorized")
    upstream.say()
    _, run = start(upstream=upstream)
    assert run.ends() == Ended(State.FAILED)
    kept = store.generation(run.generation.id)
    assert (kept.reason, kept.error["status"]) == ("upstream_key", 502)
    assert "secret" not in json.dumps(kept.error)
    assert [line["severity"] for line in lines(written) if line.get("upstream") == "one"][:1] == ["ERROR"]


@pytest.mark.parametrize(
    ("pieces", "status", "reason"),
    [
        ([b"{}"], "429 Too Many\r\nRetry-After: 2.5", "upstream_status"),
        ([DONE], "200 OK", "upstream_empty"),
        ([data(delta(role="assistant")), DONE], "200 OK", "upstream_empty"),
        ([b": ping\n\n"], "200 OK", "upstream_ended_early"),
    ],
    ids=["refusal", "empty", "role alone", "early"],
)
def test_what_may_pass_before_a_word_is_tried_again_and_in_the_end_fails(
    start, speaking, begin, clock, store, pieces, status, reason
):
    generation = begin(request=json.dumps(REQUEST).encode())
    upstream = speaking(*pieces, status=status)
    upstream.say()
    for _ in range(2):
        _, run = start(upstream=upstream, generation=generation)
        assert run.ends() == RetryLater(2.5 if "429" in status else 0.0)
        assert store.read_head(generation).released
    _, run = start(upstream=upstream, generation=generation)
    assert run.ends() == Ended(State.FAILED)
    kept = store.generation(generation.id)
    assert (kept.reason, kept.attempt, len(upstream.requests)) == (reason, 3, 3)


def test_an_upstream_where_nothing_listens_is_tried_again(attempt_at, store):
    attempt, generation = attempt_at(NOBODY)
    assert attempt.run() == RetryLater(0.0)
    assert store.read_head(generation).released


@pytest.mark.parametrize(
    ("pieces", "deadlines", "reason", "state"),
    [
        (0, Deadlines(first_byte=0.2), "upstream_timeout", None),
        (1, Deadlines(idle=0.2), "upstream_idle", State.INCOMPLETE),
        (1, Deadlines(total=1.0), "deadline", State.INCOMPLETE),
    ],
    ids=["no head", "silence", "too long"],
)
def test_a_deadline_that_passes_ends_the_call(start, speaking, store, saved, written, pieces, deadlines, reason, state):
    upstream = speaking(*words(2), *END)
    if not pieces:
        upstream.head_too.clear()
    upstream.say(pieces)
    _, run = start(upstream=upstream, deadlines=deadlines)
    assert run.ends() == (Ended(state) if state else RetryLater(0.0))
    assert upstream.left.wait(PATIENCE)
    assert [line["reason"] for line in lines(written) if "reason" in line] == [reason]
    assert saved(run) == "0 " * pieces


# What the worker makes of it


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What the package logs while the test runs."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Line())
    logger = logging.getLogger("lib")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield stream
    logger.removeHandler(handler)
    logger.setLevel(level)


def lines(written):
    return [json.loads(line) for line in written.getvalue().splitlines()]


class Broken(Session):
    """A session whose call raises an unexpected exception that quotes the request."""

    def request(self, _method, _url, *, data, **_more):
        raise RuntimeError(data)


@pytest.fixture
def worker(store, listener):
    def worker(base_url=NOBODY, **more):
        settings = settings_of(UPSTREAM_BASE_URL=base_url)
        return Worker(settings, store, listener, {}, Shutdown(), OFF, DIALECTS, **more)

    return worker


def task_of(generation):
    return Task(generation.id, generation.message_path)


def test_what_fails_in_the_reading_thread_is_told_of_its_generation_and_attempt_without_a_word_of_it(
    begin, worker, store, written
):
    generation = begin(request=json.dumps(REQUEST).encode())
    assert worker(session=Broken()).work(task_of(generation)) == Ended(State.FAILED)
    assert store.generation(generation.id).reason == "internal_error"
    failed = [line for line in lines(written) if line["message"] == "attempt failed"]
    assert len(failed) == 1
    assert failed[0]["logging.googleapis.com/labels"] == {"generation": generation.id, "attempt": "1"}
    assert failed[0]["stack_trace"].splitlines()[-1] == "RuntimeError"
    assert "canary" not in written.getvalue()


@pytest.mark.parametrize("events", [0, 2])
def test_an_upstream_that_the_service_no_longer_has_ends_the_generation(
    begin, hold, worker, store, documents, entries, written, events
):
    generation = begin(request=json.dumps(REQUEST).encode(), upstream="gone")
    journal = hold(generation).journal
    if events:
        journal.append(entries(1, events))
    journal.release()
    state = State.INCOMPLETE if events else State.FAILED
    assert worker().work(task_of(generation)) == Ended(state)
    kept = store.generation(generation.id)
    assert (kept.state, kept.reason, kept.error["code"]) == (state, "upstream_unknown", "upstream_unknown")
    assert documents.get(generation.message_path)[0].fields["state"] == str(state)
    assert [line["reason"] for line in lines(written) if line["severity"] == "ERROR"] == ["upstream_unknown"]


def test_a_request_of_which_a_part_is_missing_ends_the_generation(begin, worker, store, documents, database, speaking):
    generation = begin(request=b" " * (1 << 20) + json.dumps(REQUEST).encode())
    parts = list(database.document(generation.path).collection("holdfastRequest").list_documents())
    assert len(parts) == 2
    parts[1].delete()
    upstream = speaking(*END)
    assert worker(upstream.base_url).work(task_of(generation)) == Ended(State.FAILED)
    assert store.generation(generation.id).reason == "request_lost"
    assert upstream.requests == []


def test_a_generation_that_a_rival_ended_meanwhile_stays_as_that_left_it(begin, worker, store, speaking, clock):
    generation = begin(request=json.dumps(REQUEST).encode())
    upstream = speaking(*words(2), *END)
    rival = threading.Thread(target=lambda: worker(upstream.base_url).work(task_of(generation)), daemon=True)
    rival.start()
    assert upstream.called.wait(PATIENCE)
    head = store.read_head(generation)
    store.commit(Put(generation.head_path, {**head.fields(), "holder": "a rival", "claims": 2}, head.version))
    upstream.say()
    rival.join(PATIENCE)
    assert not rival.is_alive()
    head = store.read_head(generation)
    assert (head.holder, head.last, head.end) == ("a rival", 0, None)


def test_a_call_that_ends_while_firestore_is_away_is_saved_once_it_is_back(start, store_over, faulty, saved):
    upstream, run = start(*words(3), *END, over=store_over(faulty))
    assert upstream.called.wait(PATIENCE)
    faulty.fail(times=6, error=Unreachable("all of it"))
    upstream.say()
    assert run.ends() == Ended(State.COMPLETED)
    assert saved(run) == "0 1 2 "
