"""One attempt in this process: under a flusher, and where its upstream's library itself fails."""

from __future__ import annotations

import io
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from datetime import timedelta

import pytest

from lib.cloud.documents import Create, Stale, Unreachable
from lib.domain.generation import State
from lib.engine.attempt import Attempt, Ended, RetryLater
from lib.journal.journal import replayed
from lib.runtime.catalog import Upstream
from lib.runtime.logs import Line, labelled
from lib.runtime.settings import Settings
from lib.runtime.telemetry import OFF
from lib.upstream.call import new_session
from tests.unit.runtime.test_settings import NEEDED


class Broken:
    """A session whose call fails as no call should, with what was asked in its words."""

    def post(self, _url, *, data, **_more):
        raise RuntimeError(data)


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


@pytest.fixture
def attempt_at(hold, store, listener, clock):
    """An attempt at a generation, which it claims; its upstream is whatever the session says."""

    def attempt_at(generation, session, base_url="http://127.0.0.1:9/v1", **others):
        asked = {"key": None, "settings": Settings.from_env(NEEDED), **others}
        return Attempt(
            hold(generation),
            store=store,
            listener=listener,
            session=session,
            upstream=Upstream(name="one", base_url=base_url),
            telemetry=OFF,
            clock=clock,
            **asked,
        )

    return attempt_at


def test_what_fails_in_the_reading_thread_is_told_of_its_generation_and_attempt_without_a_word_of_it(
    begin, attempt_at, written
):
    generation = begin(request=b'{"model":"demo","messages":[{"role":"user","content":"canary"}]}')
    attempt = attempt_at(generation, Broken())
    with labelled(generation=generation.id, attempt=1):
        assert attempt.run() == RetryLater(0.0)
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [line["message"] for line in lines] == ["reading failed", "generation to be tried again"]
    for line in lines:
        assert line["logging.googleapis.com/labels"] == {"generation": generation.id, "attempt": "1"}
    assert lines[0]["stack_trace"].splitlines()[-1] == "RuntimeError"
    assert "canary" not in written.getvalue()


BEAT = 3600.0  # seconds, so that nothing is due unless the test says so


class Speaking:
    """An upstream that says a token at a time, and its end; each waits until the test lets it go."""

    def __init__(self, tokens):
        self._tokens = self.left = tokens
        self.go_on = threading.Semaphore(0)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.base_url = f"http://127.0.0.1:{self._listening.getsockname()[1]}/v1"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        # Who has given the answer up reads no further.
        with suppress(ConnectionError), self._listening, self._listening.accept()[0] as connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
            for number in range(self._tokens):
                self.go_on.acquire()
                self.left -= 1
                connection.sendall(b'data: {"choices":[{"index":0,"delta":{"content":"%d "}}]}\n\n' % number)
            self.go_on.acquire()
            connection.sendall(b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n')
            # To close with some of the request unread is a reset, and throws away what was not sent yet.
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass


class Scripted:
    """A flusher that begins when the test says so, and does what it is told with what was begun."""

    seconds, early = BEAT, 0.0
    crowded = True

    def __init__(self):
        self.joined = []

    def join(self, attempt):
        self.joined.append(attempt)

    def leave(self, attempt):
        self.joined.remove(attempt)

    def begin(self):
        """The head's write, once there is something to write."""
        deadline = time.monotonic() + 30
        while not self.joined or (write := self.joined[0].begin(time.monotonic(), time.monotonic() + 2 * BEAT)) is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return write

    def settle(self, outcome):
        self.joined[0].settle(outcome)


@pytest.fixture
def speaking(begin, attempt_at):
    """An attempt of so many tokens that a scripted flusher flushes, under way on a thread of its own."""
    running = []

    def speaking(tokens):
        upstream, flusher, generation = Speaking(tokens), Scripted(), begin(usage_wanted=True)
        settings = Settings.from_env(NEEDED | {"FLUSH_SECONDS": str(BEAT)})
        attempt = attempt_at(generation, new_session(), upstream.base_url, settings=settings, flusher=flusher)
        outcome = Future()
        thread = threading.Thread(target=lambda: outcome.set_result(attempt.run()), daemon=True)
        thread.start()
        running.append((upstream, thread))
        return upstream, flusher, generation, outcome

    yield speaking
    for upstream, thread in running:
        upstream.go_on.release(100)
        thread.join(30)
        assert not thread.is_alive()


def saved(store, generation):
    return replayed(store, generation, store.read_head(generation)).message()["content"]


def test_what_the_flusher_began_is_saved_once_whatever_became_of_its_write(speaking, store, eventually):
    upstream, flusher, generation, outcome = speaking(6)
    upstream.go_on.release()
    eventually(lambda: saved(store, generation) == "0 ")  # the first word waits for nobody

    for done, told in (
        (True, None),
        (True, Unreachable("its answer was lost")),
        (False, Unreachable("it was not done")),
        (False, RuntimeError("a mistake of the flusher's")),
    ):
        upstream.go_on.release()
        write = flusher.begin()
        (version,) = store.batch([write]) if done else (None,)
        flusher.settle(told or version)
        words = "".join(f"{n} " for n in range(6 - upstream.left))
        eventually(lambda words=words: saved(store, generation) == words)

    for _ in range(2):
        upstream.go_on.release()
    assert outcome.result(30) == Ended(State.COMPLETED)
    assert saved(store, generation) == "0 1 2 3 4 5 "
    assert flusher.joined == []


@pytest.mark.parametrize(
    ("watched", "took", "wait"), [(True, 0.01, 0.1), (True, 0.3, 0.62), (False, 0.3, 1.2), (False, 0.8, 1.62)]
)
def test_the_next_commit_is_due_after_the_interval_or_after_twice_the_time_that_the_last_took(
    begin, attempt_at, clock, watched, took, wait
):
    flusher = Scripted()
    flusher.seconds, flusher.early = 0.1, 0.02
    attempt = attempt_at(begin(), Broken(), flusher=flusher)
    attempt._watched_until = clock() + timedelta(minutes=1 if watched else -1)
    attempt._journal.commit_seconds = took
    assert attempt._due_after(5.0) == pytest.approx(5.0 + wait)


def chat_told(documents, generation):
    """When the generation's chat was last told of a message."""
    return documents.get(f"users/{generation.owner}/chats/{generation.chat_id}")[0].fields["lastMessageAt"]


@pytest.fixture
def in_chat(uid, documents):
    documents.commit(Create(f"users/{uid}/chats/chat", {"lastMessageAt": None}))


@pytest.mark.usefixtures("in_chat")
def test_a_chat_is_told_once_something_is_saved_and_not_before(speaking, store, documents, clock, eventually):
    upstream, _, generation, outcome = speaking(2)
    eventually(lambda: store.generation(generation.id).state is State.STREAMING)
    assert chat_told(documents, generation) is None
    upstream.go_on.release()
    eventually(lambda: chat_told(documents, generation) == clock())
    assert saved(store, generation) == "0 "
    assert not outcome.done()


@pytest.mark.usefixtures("in_chat")
def test_a_chat_is_told_of_an_answer_that_failed_before_it_began(begin, attempt_at, documents, clock):
    generation = begin()
    attempt = attempt_at(generation, new_session(), key="not\nplain")
    assert attempt.run() == Ended(State.FAILED)
    assert chat_told(documents, generation) == clock()


def test_an_attempt_whose_flush_lost_to_a_rival_ends_and_writes_no_more(speaking, store, clock, hold, eventually):
    upstream, flusher, generation, outcome = speaking(6)
    upstream.go_on.release()
    eventually(lambda: saved(store, generation) == "0 ")
    upstream.go_on.release()
    write = flusher.begin()
    clock.advance(timedelta(minutes=1))
    rival = hold(generation)
    (told,) = store.batch([write])
    assert isinstance(told, Stale)
    flusher.settle(told)
    assert outcome.result(30) == Ended(None)
    assert saved(store, generation) == "0 "
    assert rival.generation.attempt == 2


def test_an_end_that_comes_while_the_flusher_writes_waits_for_it(speaking, store, eventually):
    upstream, flusher, generation, outcome = speaking(2)
    upstream.go_on.release()
    eventually(lambda: saved(store, generation) == "0 ")
    upstream.go_on.release()
    write = flusher.begin()
    for _ in range(2):
        upstream.go_on.release()
    with pytest.raises(TimeoutError):
        outcome.result(0.3)
    (version,) = store.batch([write])
    flusher.settle(version)
    assert outcome.result(30) == Ended(State.COMPLETED)
    assert saved(store, generation) == "0 1 "
