"""What each kind of upstream answer comes to, and the place where the reading and the committing thread meet.

The call is a scripted one: the media type it opens with, and the pieces of its body or the fault they end in.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.dialects.chat_completions import Answer, well_formed
from lib.dialects.sse import Event, event_of
from lib.domain.generation import Segment
from lib.engine.inbox import EARLY_SECONDS, HELD_BYTES, LONGEST_GATHER_SECONDS, Inbox, Stop
from lib.engine.reading import Reading
from lib.journal.journal import BATCH_BYTES, Entry, Prepared
from lib.upstream.call import UpstreamFault

WAIT_SECONDS = 20.0  # for what is sure to come; nothing is asserted of it
SSE = "text/event-stream"
JSON = "application/json"
FAR = 10**9.0


def at(moment: float) -> Callable[[], float]:
    return lambda: moment


BROKEN = UpstreamFault("upstream_disconnected", "It broke off.", passing=True)
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
DONE = b"data: [DONE]\n\n"


class ScriptedCall:
    """A call whose answer is known: what it opens with and, piece by piece, what it says, up to a fault or its end.

    One piece at a time has arrived, and where it is None, nothing has.
    """

    def __init__(self, media_type: str | Exception, *pieces: bytes | Exception | Callable[[], None] | None):
        self._media_type = media_type
        self._pieces = deque(pieces)
        self.waits = 0
        self.closed = False

    def open(self) -> str:
        if isinstance(self._media_type, Exception):
            raise self._media_type
        return self._media_type

    @property
    def ended(self) -> bool:
        return not self._pieces

    def arrived(self) -> Iterator[bytes]:
        while self._pieces:
            piece = self._pieces.popleft()
            if isinstance(piece, Exception):
                raise piece
            if callable(piece):
                piece()
                continue
            if piece is not None:
                yield piece
            return

    def pieces(self) -> Iterator[bytes]:
        while not self.ended:
            yield from self.arrived()

    def wait(self, seconds: float) -> bool:
        self.waits += 1
        return True

    def close(self) -> None:
        self.closed = True


def data(payload: Any) -> bytes:
    return b"data: " + (payload if isinstance(payload, bytes) else json.dumps(payload).encode()) + b"\n\n"


def delta(finish: str | None = None, index: int = 0, **fields: Any) -> dict[str, Any]:
    return {"id": "c1", "choices": [{"index": index, "delta": fields, "finish_reason": finish}]}


def hello() -> list[bytes]:
    return [data(delta(role="assistant")), data(delta(content="Hel")), data(delta(content="lo"))]


def completion(**more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "Hello"}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return {"id": "c1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, **more}


def read(
    call: ScriptedCall,
    *,
    inbox: Inbox | None = None,
    stream_asked: bool = True,
    usage_asked: bool = False,
    max_event: int = 4 << 20,
    choices: int = 1,
) -> Inbox:
    """Reads the call to its end, as the reading thread does."""
    inbox = inbox or Inbox(0, Answer(choices))
    reading = Reading(
        call,  # type: ignore[arg-type]
        inbox,
        stream_asked=stream_asked,
        usage_asked=usage_asked,
        max_event=max_event,
    )
    reading.run()
    assert call.closed
    assert inbox.wait(at(FAR)), "the end was not said"
    return inbox


def entries(inbox: Inbox) -> list[Entry]:
    taken, more = inbox.take()
    while more:
        further, more = inbox.take()
        taken += further
    return taken


def texts(inbox: Inbox) -> list[str]:
    return [entry.text for entry in entries(inbox)]


def reason(inbox: Inbox) -> str | None:
    return inbox.fault.reason if inbox.fault else None


# A stream


def test_an_answer_up_to_done_is_whole_and_each_of_its_events_is_kept_with_its_number() -> None:
    inbox = read(ScriptedCall(SSE, *hello(), data(delta("stop")), DONE))
    taken = entries(inbox)
    assert inbox.fault is None
    assert [entry.seq for entry in taken] == [1, 2, 3, 4]
    assert [entry.text for entry in taken] == ["", "Hel", "lo", ""]
    assert [event_of(entry.frame).data for entry in taken] == [
        each.removeprefix(b"data: ").strip() for each in [*hello(), data(delta("stop"))]
    ]
    assert inbox.answer.message()["content"] == "Hello"
    assert inbox.last == 4


def test_numbers_go_on_from_where_an_earlier_attempt_left_them() -> None:
    inbox = read(ScriptedCall(SSE, *hello(), DONE), inbox=Inbox(41, Answer()))
    assert [(entry.seq, entry.frame[:7]) for entry in entries(inbox)] == [
        (42, b"id: 42\n"),
        (43, b"id: 43\n"),
        (44, b"id: 44\n"),
    ]


def test_done_is_the_end_and_what_comes_after_it_is_not_read() -> None:
    inbox = read(ScriptedCall(SSE, *hello(), DONE + data(delta(content="more")), BROKEN))
    assert inbox.fault is None
    assert texts(inbox) == ["", "Hel", "lo"]


def test_done_alone_is_an_answer_without_words() -> None:
    inbox = read(ScriptedCall(SSE, DONE))
    assert (inbox.fault, entries(inbox)) == (None, [])


def test_done_without_its_blank_line_is_the_end_too() -> None:
    assert read(ScriptedCall(SSE, *hello(), b"data: [DONE]")).fault is None


def test_done_in_a_text_is_not_the_end() -> None:
    inbox = read(ScriptedCall(SSE, data(delta(content="data: [DONE]")), data(delta("stop", content="!"))))
    assert inbox.fault is None
    assert inbox.answer.message()["content"] == "data: [DONE]!"


def test_a_body_that_ends_after_the_finish_reason_is_whole() -> None:
    inbox = read(ScriptedCall(SSE, *hello(), data(delta("stop"))))
    assert inbox.fault is None
    assert inbox.answer.finished


def test_a_body_that_merely_ends_is_not_whole() -> None:
    inbox = read(ScriptedCall(SSE, *hello()))
    assert reason(inbox) == "upstream_ended_early"
    assert inbox.fault is not None
    assert inbox.fault.passing
    assert texts(inbox) == ["", "Hel", "lo"]


def test_a_body_in_which_only_one_of_two_choices_finished_is_not_whole() -> None:
    one = [data(delta("stop", content="a")), data(delta(index=1, content="b"))]
    assert reason(read(ScriptedCall(SSE, *one), choices=2)) == "upstream_ended_early"
    assert read(ScriptedCall(SSE, *one, data(delta("stop", index=1))), choices=2).fault is None


def test_a_body_of_nothing_is_not_whole() -> None:
    for pieces in ((), (b"",), (b": ping\n\n", b"\n\n")):
        inbox = read(ScriptedCall(SSE, *pieces))
        assert (reason(inbox), inbox.last) == ("upstream_ended_early", 0)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 400), max_size=12))
def test_the_outcome_does_not_depend_on_where_the_body_was_cut(at: list[int]) -> None:
    body = b"".join([*hello(), data(delta(content="día 😀")), data(delta("stop")), DONE]).replace(b"\n", b"\r\n")
    cuts = sorted(min(each, len(body)) for each in at)
    pieces = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    inbox = read(ScriptedCall(SSE, *pieces))
    assert inbox.fault is None
    assert texts(inbox) == ["", "Hel", "lo", "día 😀", ""]


def test_a_break_is_a_fault_after_all_that_came() -> None:
    inbox = read(ScriptedCall(SSE, *hello(), BROKEN))
    assert inbox.fault is BROKEN
    assert texts(inbox) == ["", "Hel", "lo"]


def test_a_break_after_the_finish_reason_is_known_to_have_been_finished() -> None:
    inbox = read(ScriptedCall(SSE, *hello(), data(delta("stop")), BROKEN))
    assert inbox.fault is BROKEN
    assert inbox.answer.finished


def test_an_event_that_lacked_only_its_blank_line_when_the_upstream_broke_off_is_kept() -> None:
    inbox = read(ScriptedCall(SSE, *hello(), data(delta("stop", content="!"))[:-1], BROKEN))
    assert texts(inbox) == ["", "Hel", "lo", "!"]
    assert inbox.answer.finished


@pytest.mark.parametrize("ending", [(), (BROKEN,)], ids=["ends", "breaks off"])
def test_a_body_that_ends_in_the_middle_of_an_event_ended_early_and_is_not_malformed(ending: tuple[Any, ...]) -> None:
    inbox = read(ScriptedCall(SSE, *hello(), data(delta(content="never"))[:-20], *ending))
    assert reason(inbox) in ("upstream_ended_early", "upstream_disconnected")
    assert inbox.fault is not None
    assert inbox.fault.passing
    assert texts(inbox) == ["", "Hel", "lo"]


def test_an_error_event_is_a_fault_with_the_upstream_s_words_after_all_that_came() -> None:
    inbox = read(ScriptedCall(SSE, *hello(), data({"error": {"message": "Overloaded.", "code": 529}}), DONE))
    assert reason(inbox) == "upstream_error"
    assert inbox.fault is not None
    assert inbox.fault.message == "Overloaded."
    assert texts(inbox) == ["", "Hel", "lo"]


def test_an_error_that_is_null_is_no_error() -> None:
    inbox = read(ScriptedCall(SSE, data({**delta(content="a"), "error": None}), data(delta("stop")), DONE))
    assert inbox.fault is None
    assert texts(inbox) == ["a", ""]


@pytest.mark.parametrize("payload", [b"{", b"[]", b"1", b"<html>", b"", b'{"a":"\xff"}'])
def test_an_event_that_is_no_json_object_is_a_fault_after_all_that_came(payload: bytes) -> None:
    inbox = read(ScriptedCall(SSE, *hello(), data(payload), DONE))
    assert reason(inbox) == "upstream_malformed"
    assert texts(inbox) == ["", "Hel", "lo"]


def test_an_event_that_is_too_large_is_a_fault_after_all_that_came() -> None:
    inbox = read(ScriptedCall(SSE, *hello(), data(delta(content="x" * 5000))), max_event=1000)
    assert reason(inbox) == "event_too_large"
    assert texts(inbox) == ["", "Hel", "lo"]


def test_an_event_of_one_megabyte_is_kept() -> None:
    text = "é" * (1 << 19)
    inbox = read(ScriptedCall(SSE, data(delta("stop", content=text)), DONE))
    assert inbox.fault is None
    assert texts(inbox) == [text]


def usage_stream() -> list[bytes]:
    return [*hello(), data(delta("stop")), data({"id": "c1", "choices": [], "usage": USAGE}), DONE]


def test_the_usage_chunk_that_no_client_asked_for_is_saved_and_neither_kept_nor_numbered() -> None:
    inbox = read(ScriptedCall(SSE, *usage_stream()))
    assert [entry.seq for entry in entries(inbox)] == [1, 2, 3, 4]
    assert inbox.answer.usage == USAGE
    assert inbox.last == 4


def test_the_usage_chunk_that_the_client_asked_for_is_kept_like_any_other() -> None:
    inbox = read(ScriptedCall(SSE, *usage_stream()), usage_asked=True)
    taken = entries(inbox)
    assert [entry.seq for entry in taken] == [1, 2, 3, 4, 5]
    assert json.loads(event_of(taken[-1].frame).data)["usage"] == USAGE
    assert inbox.answer.usage == USAGE


def test_a_usage_in_a_chunk_with_choices_is_kept_with_the_chunk() -> None:
    inbox = read(ScriptedCall(SSE, *hello(), data({**delta("stop"), "usage": USAGE}), DONE))
    assert inbox.last == 4
    assert inbox.answer.usage == USAGE


def test_a_stream_for_a_client_that_asked_for_none_is_read_all_the_same() -> None:
    inbox = read(ScriptedCall(SSE, *hello(), data(delta("stop")), DONE), stream_asked=False)
    assert inbox.fault is None
    assert inbox.answer.message()["content"] == "Hello"


def test_comments_and_names_are_no_events_of_the_answer() -> None:
    inbox = read(
        ScriptedCall(SSE, b": ping\n\n", b"event: chunk\n" + data(delta("stop", content="a")), b": p\n\n", DONE)
    )
    assert [event_of(entry.frame).name for entry in entries(inbox)] == [b"chunk"]


def test_a_character_that_is_cut_between_two_events_comes_whole_in_the_second() -> None:
    cut = [delta(content="a\ud83e"), delta(content="\udd8ab"), delta("stop")]
    inbox = read(ScriptedCall(SSE, *map(data, cut), DONE))
    taken = entries(inbox)
    sent = [json.loads(event_of(entry.frame).data)["choices"][0]["delta"].get("content") for entry in taken]
    assert sent == ["a", "🦊b", None]
    assert sent[:2] == [well_formed(entry.text) for entry in taken[:2]]
    assert inbox.answer.message()["content"] == "a🦊b"


def test_an_event_in_which_no_character_is_cut_is_kept_byte_for_byte() -> None:
    said = rb'{"choices": [ {"index": 0,"delta":{"content":"\uD83E\uDD8A"}, "finish_reason":"stop"}]}'
    (entry,) = entries(read(ScriptedCall(SSE, data(said), DONE)))
    assert event_of(entry.frame).data == said


# One JSON body


@pytest.mark.parametrize("media_type", [JSON, "application/vnd.api+json"])
def test_a_json_body_for_a_client_that_asked_for_a_stream_becomes_one_chunk(media_type: str) -> None:
    body = json.dumps(completion(usage=USAGE)).encode()
    inbox = read(ScriptedCall(media_type, body[:10], body[10:]))
    (entry,) = entries(inbox)
    chunk = json.loads(event_of(entry.frame).data)
    assert inbox.fault is None
    assert chunk["object"] == "chat.completion.chunk"
    assert chunk["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
    ]
    assert entry.text == inbox.answer.message()["content"] == "Hello"
    assert inbox.answer.usage == USAGE


def test_a_json_body_for_a_client_that_asked_for_none_is_kept_byte_for_byte() -> None:
    body = json.dumps(completion(), indent=2).encode() + b"\n\n"
    inbox = read(ScriptedCall(JSON, body), stream_asked=False)
    (entry,) = entries(inbox)
    assert event_of(entry.frame).data == body
    assert (inbox.fault, entry.text) == (None, "Hello")


@pytest.mark.parametrize("line_end", ["\r\n", "\r"])
def test_a_json_body_with_carriage_returns_stays_the_same_json_in_one_frame(line_end: str) -> None:
    body = json.dumps(completion(), indent=2).replace("\n", line_end).encode()
    (entry,) = entries(read(ScriptedCall(JSON, body), stream_asked=False))
    assert json.loads(event_of(entry.frame).data) == completion()
    assert b"\r" not in entry.frame
    assert entry.frame.count(b"\n\n") == 1


@pytest.mark.parametrize("stream_asked", [False, True])
def test_a_json_body_with_half_a_character_is_not_lost(stream_asked: bool) -> None:
    body = json.dumps(completion()).replace("Hello", "Hello\\ud83d").encode()
    inbox = read(ScriptedCall(JSON, body), stream_asked=stream_asked)
    assert inbox.fault is None
    assert inbox.answer.message()["content"] == "Hello\ufffd"
    assert len(entries(inbox)) == 1


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"[DONE]", b"{}", b'{"choices":[]}', b'{"choices":null}', b"\xff"])
def test_a_json_body_that_is_no_completion_is_malformed(body: bytes) -> None:
    inbox = read(ScriptedCall(JSON, body))
    assert (reason(inbox), entries(inbox)) == ("upstream_malformed", [])


def test_a_json_body_that_is_an_error_is_a_fault_with_the_upstream_s_words() -> None:
    inbox = read(ScriptedCall(JSON, b'{"error":{"message":"No."}}'))
    assert inbox.fault is not None
    assert (inbox.fault.reason, inbox.fault.message) == ("upstream_error", "No.")
    assert entries(inbox) == []


def test_a_json_body_that_breaks_off_is_a_fault() -> None:
    inbox = read(ScriptedCall(JSON, json.dumps(completion()).encode()[:-5], BROKEN))
    assert inbox.fault is BROKEN
    assert entries(inbox) == []


def test_a_json_body_that_is_too_large_is_a_fault() -> None:
    inbox = read(ScriptedCall(JSON, b" " * 600, b" " * 600), max_event=1000)
    assert reason(inbox) == "event_too_large"


@pytest.mark.parametrize("media_type", ["text/html", "text/plain", "", "application/octet-stream"])
def test_a_body_of_another_kind_is_a_fault_and_nothing_of_it_is_kept(media_type: str) -> None:
    inbox = read(ScriptedCall(media_type, b"<html>", DONE))
    assert inbox.fault is not None
    assert (inbox.fault.reason, inbox.fault.status) == ("upstream_content_type", 502)
    assert inbox.fault.passing is (media_type == ""), "a head without one may have been cut"
    assert entries(inbox) == []


# What else may happen while it reads


def test_a_call_that_can_not_be_made_is_its_fault_and_was_never_opened() -> None:
    fault = UpstreamFault("upstream_status", "No.", status=401)
    inbox = read(ScriptedCall(fault))
    assert inbox.fault is fault
    assert not inbox.opened


def test_an_answer_that_began_is_opened() -> None:
    assert read(ScriptedCall(SSE, DONE)).opened


@pytest.mark.parametrize("call", [ScriptedCall(RuntimeError("secret")), ScriptedCall(SSE, RuntimeError("secret"))])
def test_what_goes_wrong_in_here_is_a_fault_that_tells_nothing_of_it(
    call: ScriptedCall, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.CRITICAL):
        inbox = read(call)
    assert inbox.fault is not None
    assert inbox.fault.reason == "internal"
    assert "secret" not in inbox.fault.message


@pytest.mark.parametrize("why", Stop)
def test_after_a_stop_nothing_more_is_read_and_what_there_is_stays(why: Stop) -> None:
    inbox = Inbox(0, Answer())
    read(ScriptedCall(SSE, *hello(), lambda: inbox.stop(why), data(delta(content="!")), BROKEN), inbox=inbox)
    assert inbox.stopped is why
    assert texts(inbox) == ["", "Hel", "lo"]
    assert not inbox.whole


def test_how_the_upstream_ends_after_a_stop_is_of_no_account() -> None:
    inbox = Inbox(0, Answer())
    inbox.stop(Stop.SHUTDOWN)
    inbox.end(UpstreamFault("cancelled", "The attempt is over."))
    assert (inbox.fault, inbox.whole) == (None, False)
    inbox.end()
    assert not inbox.whole


def test_what_came_too_late_to_be_kept_is_not_in_the_answer_either() -> None:
    inbox = Inbox(0, Answer())
    stop = [lambda: inbox.stop(Stop.BY_USER)]
    read(ScriptedCall(SSE, *hello(), *stop, data(delta("stop", content=" and more")), DONE), inbox=inbox)
    assert inbox.answer.message()["content"] == "".join(texts(inbox))


def test_a_deadline_that_passed_first_is_why_it_ended() -> None:
    inbox = Inbox(0, Answer())
    deadline = UpstreamFault("deadline", "Too long.")
    read(ScriptedCall(SSE, *hello(), lambda: inbox.end(deadline), data(delta(content="!")), DONE), inbox=inbox)
    assert inbox.fault is deadline
    assert texts(inbox) == ["", "Hel", "lo"]


# The inbox


def put(inbox: Inbox, *events: bytes) -> None:
    for each in events:
        inbox.put({}, Event(each))


def frames(taken: Iterable[Entry]) -> list[bytes]:
    return [entry.frame for entry in taken]


def test_nothing_is_taken_where_nothing_was_put() -> None:
    assert Inbox(0, Answer()).take() == ([], False)


def test_what_is_taken_is_what_was_put_in_its_order_once() -> None:
    inbox = Inbox(0, Answer())
    put(inbox, b"a", b"b")
    taken, more = inbox.take()
    put(inbox, b"c")
    further, still = inbox.take()
    assert frames(taken + further) == [b"id: 1\ndata: a\n\n", b"id: 2\ndata: b\n\n", b"id: 3\ndata: c\n\n"]
    assert (more, still, inbox.take()) == (False, False, ([], False))


def test_one_take_is_never_more_than_one_commit_may_have() -> None:
    inbox = Inbox(0, Answer())
    put(inbox, *[b"x" * 300_000] * 10)
    taken: list[Entry] = []
    more = True
    while more:
        batch, more = inbox.take()
        assert 0 < sum(len(entry.frame) for entry in batch) <= BATCH_BYTES
        taken += batch
    assert [entry.seq for entry in taken] == list(range(1, 11))


def test_a_take_is_as_much_as_fits() -> None:
    inbox = Inbox(0, Answer())
    put(inbox, *[b"x" * 300_000] * 10)
    assert [len(inbox.take()[0]) for _ in range(4)] == [3, 3, 3, 1]


def test_an_event_larger_than_a_commit_is_taken_alone() -> None:
    inbox = Inbox(0, Answer())
    put(inbox, b"a", b"x" * (BATCH_BYTES + 1), b"b")
    batches = [inbox.take() for _ in range(3)]
    assert [([entry.seq for entry in batch], more) for batch, more in batches] == [
        ([1], True),
        ([2], True),
        ([3], False),
    ]


def test_what_comes_when_the_attempt_is_over_is_refused_with_a_fault() -> None:
    for over in (lambda inbox: inbox.stop(Stop.BY_USER), lambda inbox: inbox.stop(Stop.DELETED), Inbox.end):
        inbox = Inbox(0, Answer())
        put(inbox, b"a")
        over(inbox)
        with pytest.raises(UpstreamFault) as refused:
            put(inbox, b"late")
        assert refused.value.reason == "cancelled"
        assert [entry.seq for entry in entries(inbox)] == [1]
        assert inbox.last == 1


# Who reads, and when


class Gatherer(threading.Thread):
    """Waits, as the reading thread does after something came, until it is to read on by itself."""

    def __init__(self, inbox: Inbox):
        super().__init__(daemon=True)
        self._inbox = inbox
        self.start()

    def run(self) -> None:
        self._inbox.gather()

    def waits(self) -> bool:
        self.join(0.1)
        return self.is_alive()

    def ends(self) -> bool:
        self.join(WAIT_SECONDS)
        return not self.is_alive()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is due is left to a flusher for as long as a test may last."""
    monkeypatch.setattr("lib.engine.inbox.FLUSHER_SECONDS", FAR)


def test_without_a_beat_the_reading_thread_reads_on_at_once_where_a_commit_may_be_made() -> None:
    assert Gatherer(Inbox(0, Answer())).ends()


def test_without_a_beat_the_reading_thread_reads_on_shortly_before_a_commit_may_be_made() -> None:
    inbox = Inbox(0, Answer())
    due = time.monotonic() + 0.2
    inbox.settle(due)
    gatherer = Gatherer(inbox)
    assert gatherer.waits()
    assert gatherer.ends()
    assert time.monotonic() >= due - EARLY_SECONDS


def test_without_a_beat_the_reading_thread_leaves_nothing_in_the_socket_for_longer_than_it_may() -> None:
    inbox = Inbox(0, Answer())
    inbox.settle(FAR)
    assert Gatherer(inbox).ends()


def test_where_too_few_are_left_for_a_beat_the_reading_thread_reads_on_and_the_flusher_begins_nothing() -> None:
    crowded = True
    inbox = Inbox(0, Answer(), crowded=lambda: crowded)
    gatherer = Gatherer(inbox)
    assert gatherer.waits()
    inbox.settle(time.monotonic() + 0.05)
    put(inbox, b"a")
    waiter = Waiter(inbox)
    waiter.join(0.2)
    assert waiter.is_alive()
    crowded = False
    assert not inbox.begin_reading(FAR)
    assert gatherer.ends()
    assert inbox.begin(FAR, FAR) == []
    waiter.join(WAIT_SECONDS)
    assert waiter.ended is False, "who commits did not look to it"


def test_the_upstream_is_read_at_the_beat_when_a_commit_is_due_until_there_is_nothing_to_read() -> None:
    inbox = due_inbox(due=FAR)
    now = time.monotonic()
    assert not inbox.begin_reading(now), "its thread listens still"
    gatherer = Gatherer(inbox)
    assert gatherer.waits()
    inbox.settle(now)
    assert inbox.begin_reading(now)
    put(inbox, b"a")
    inbox.end_reading(nothing=False)
    assert gatherer.waits()
    assert inbox.begin_reading(now)
    inbox.end_reading(nothing=True)
    assert gatherer.ends()
    assert not inbox.begin_reading(now)


def test_what_waits_in_the_socket_waits_no_longer_than_it_may_where_no_commit_is_due() -> None:
    inbox = due_inbox(due=FAR)
    gatherer = Gatherer(inbox)
    assert gatherer.waits()
    assert not inbox.begin_reading(time.monotonic() - LONGEST_GATHER_SECONDS)
    assert inbox.begin_reading(time.monotonic() + LONGEST_GATHER_SECONDS)


def test_what_is_read_at_the_beat_wakes_nobody_since_it_is_flushed_right_after() -> None:
    inbox = due_inbox()
    gatherer, waiter = Gatherer(inbox), Waiter(inbox)
    assert gatherer.waits()
    assert inbox.begin_reading(time.monotonic())
    put(inbox, b"a")
    inbox.end_reading(nothing=False)
    waiter.join(0.1)
    assert waiter.is_alive()
    assert len(inbox.begin(time.monotonic(), FAR)) == 1


def test_where_no_beat_comes_the_reading_thread_reads_on_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.engine.inbox.LONGEST_BEAT_SECONDS", 0.2)
    inbox = due_inbox()
    gatherer = Gatherer(inbox)
    assert gatherer.ends()
    assert not inbox.begin_reading(FAR)


@pytest.mark.parametrize("flushed", [False, True], ids=["on its own", "with a beat"])
def test_where_too_much_is_held_nobody_reads_until_some_is_taken(flushed: bool) -> None:
    inbox = due_inbox() if flushed else Inbox(0, Answer())
    put(inbox, b"x" * HELD_BYTES)
    gatherer = Gatherer(inbox)
    assert gatherer.waits()
    assert not inbox.begin_reading(FAR)
    assert [entry.seq for entry in inbox.take()[0]] == [1]
    assert inbox.begin_reading(FAR) is flushed
    inbox.end_reading(nothing=True)
    assert gatherer.ends()


def test_who_did_not_listen_since_too_much_was_held_can_not_speak_of_silence() -> None:
    inbox = Inbox(0, Answer())
    put(inbox, b"x" * HELD_BYTES)
    inbox.heard = float("-inf")
    gatherer = Gatherer(inbox)
    assert gatherer.waits()
    inbox.take()
    assert gatherer.ends()
    assert inbox.heard > 0


@pytest.mark.parametrize(
    "over",
    [lambda inbox: inbox.stop(Stop.BY_USER), lambda inbox: inbox.stop(Stop.DELETED), lambda inbox: inbox.end(BROKEN)],
    ids=["stop", "deletion", "end"],
)
@pytest.mark.parametrize("held", [0, HELD_BYTES], ids=["gathering", "full"])
def test_who_waits_to_read_is_woken_when_the_attempt_is_over(held: int, over: Callable[[Inbox], None]) -> None:
    inbox = due_inbox(b"x" * held)
    gatherer = Gatherer(inbox)
    assert gatherer.waits()
    over(inbox)
    assert gatherer.ends()


def test_what_is_said_first_of_the_end_stands() -> None:
    inbox = Inbox(0, Answer())
    inbox.end(BROKEN)
    inbox.end()
    inbox.end(UpstreamFault("deadline", "Too long."))
    assert inbox.fault is BROKEN
    whole = Inbox(0, Answer())
    whole.end()
    whole.end(BROKEN)
    assert whole.fault is None


def test_what_is_said_first_of_a_stop_stands() -> None:
    inbox = Inbox(0, Answer())
    inbox.stop(Stop.DELETED)
    inbox.stop(Stop.BY_USER)
    assert inbox.stopped is Stop.DELETED


def test_a_wait_is_over_at_once_where_there_is_an_end_or_it_is_time() -> None:
    inbox = Inbox(0, Answer())
    past = time.monotonic() - 1
    assert not inbox.wait(at(past))
    inbox.settle(None)
    put(inbox, b"a")
    assert not inbox.wait(at(FAR))
    inbox.settle(None)
    inbox.end()
    assert inbox.wait(at(FAR))


class Waiter(threading.Thread):
    """Waits on a thread of its own, for an entry that is due at once, for the end, or `until` a moment."""

    def __init__(self, inbox: Inbox, until: float | None = None):
        super().__init__(daemon=True)
        self._inbox = inbox
        self._until = time.monotonic() + 10 * WAIT_SECONDS if until is None else until
        self.ended: bool | None = None
        self.start()

    def run(self) -> None:
        self.ended = self._inbox.wait(at(self._until))


@pytest.mark.parametrize(
    ("what", "ended"),
    [
        (lambda inbox: put(inbox, b"a"), False),
        (lambda inbox: inbox.end(), True),
        (lambda inbox: inbox.end(BROKEN), True),
        (lambda inbox: inbox.stop(Stop.BY_USER), True),
    ],
    ids=["entry", "end", "fault", "stop"],
)
def test_who_waits_is_woken_by_the_first_entry_the_end_and_a_stop(what: Callable[[Inbox], None], ended: bool) -> None:
    inbox = Inbox(0, Answer())
    waiter = Waiter(inbox)
    waiter.join(0.05)
    assert waiter.is_alive()
    what(inbox)
    waiter.join(WAIT_SECONDS)
    assert waiter.ended is ended


def test_an_event_that_comes_before_a_commit_is_due_is_there_when_it_is() -> None:
    inbox = Inbox(0, Answer())
    due = time.monotonic() + 0.2
    inbox.settle(due)
    writer = threading.Thread(target=lambda: inbox.put({}, Event(b"{}")), daemon=True)
    writer.start()
    assert not inbox.wait(at(FAR))
    assert time.monotonic() >= due
    writer.join()
    assert len(inbox.take()[0]) == 1


@pytest.mark.parametrize("beats", [False, True], ids=["on its own", "with a beat"])
def test_what_is_due_lingers_for_the_stream_s_next_event_where_there_is_no_beat(
    beats: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.engine.inbox.LINGER_SECONDS", FAR)
    inbox = Inbox(0, Answer(), crowded=lambda: beats)
    inbox.settle(time.monotonic() + 0.05)
    put(inbox, b"a")
    waiter = Waiter(inbox)
    waiter.join(0.2)
    assert waiter.is_alive()
    put(inbox, b"b")
    waiter.join(0.1 if beats else WAIT_SECONDS)
    assert waiter.ended is (None if beats else False)
    assert len(inbox.take()[0]) == 2


def test_what_is_due_is_committed_without_a_next_event_after_a_moment() -> None:
    inbox = Inbox(0, Answer())
    inbox.settle(time.monotonic() + 0.05)
    put(inbox, b"a")
    waiter = Waiter(inbox)
    waiter.join(WAIT_SECONDS)
    assert waiter.ended is False


def test_who_waits_learns_that_another_deadline_holds_once_the_upstream_has_begun() -> None:
    inbox = Inbox(0, Answer())
    waited = threading.Thread(target=lambda: inbox.wait(lambda: 0.0 if inbox.opened else FAR), daemon=True)
    waited.start()
    waited.join(0.05)
    assert waited.is_alive()
    inbox.open()
    waited.join(WAIT_SECONDS)
    assert not waited.is_alive()


def test_two_threads_lose_nothing_between_them() -> None:
    inbox = Inbox(0, Answer())
    call = ScriptedCall(SSE, *[data(delta(content=str(number % 10))) for number in range(5000)], data(delta("stop")))
    reader = threading.Thread(target=lambda: read(call, inbox=inbox), daemon=True)
    reader.start()
    taken: list[Entry] = []
    while not inbox.wait(at(time.monotonic() + WAIT_SECONDS)):
        taken += inbox.take()[0]
        inbox.settle(0.0)
    taken += entries(inbox)
    reader.join(WAIT_SECONDS)
    assert inbox.fault is None
    assert [entry.seq for entry in taken] == list(range(1, 5002))
    assert "".join(entry.text for entry in taken) == inbox.answer.message()["content"] == "0123456789" * 500


# The flusher's side


def due_inbox(*words: bytes, due: float = 0.0) -> Inbox:
    """What an attempt holds that leaves what is due to a flusher."""
    inbox = Inbox(0, Answer(), crowded=lambda: True)
    inbox.settle(due)
    for word in words:
        put(inbox, word)
    return inbox


def test_the_flusher_begins_with_what_is_due_and_with_nothing_else() -> None:
    inbox = due_inbox(b"a", b"b", due=10.0)
    assert inbox.begin(9.9, 20.0) == []
    assert [entry.seq for entry in inbox.begin(10.0, 20.0)] == [1, 2]
    inbox.flushed(20.0)
    put(inbox, b"c")
    assert inbox.begin(19.9, 30.0) == []
    assert [entry.seq for entry in inbox.begin(20.0, 30.0)] == [3]
    assert due_inbox().begin(FAR, FAR) == []


def test_nobody_begins_while_another_commits() -> None:
    inbox = due_inbox(b"a")
    assert len(inbox.begin(1.0, 1.0)) == 1
    put(inbox, b"b")
    assert inbox.begin(2.0, 2.0) == []
    inbox.flushed(2.0)
    assert not inbox.wait(at(FAR))
    assert inbox.begin(FAR, FAR) == [], "who was told that it is time had not the turn"
    assert len(inbox.take(3.0)[0]) == 1
    put(inbox, b"c")
    assert inbox.begin(3.0, 4.0) == []
    inbox.settle(3.0)
    assert len(inbox.begin(3.0, 4.0)) == 1


@pytest.mark.parametrize("over", [Inbox.end, lambda inbox: inbox.stop(Stop.BY_USER)], ids=["ended", "stopped"])
def test_the_flusher_begins_nothing_that_has_ended_and_the_end_waits_for_what_it_has_begun(
    over: Callable[[Inbox], None],
) -> None:
    inbox = due_inbox(b"a")
    inbox.begin(1.0, 1.0)
    waiter = Waiter(inbox)
    put(inbox, b"b")
    over(inbox)
    waiter.join(0.05)
    assert waiter.is_alive()
    assert inbox.begin(2.0, 2.0) == []
    inbox.flushed(2.0)
    waiter.join(WAIT_SECONDS)
    assert waiter.ended is True
    assert inbox.begin(3.0, 3.0) == []
    assert [entry.seq for entry in inbox.take()[0]] == [2]


def test_what_the_flusher_leaves_is_the_committing_thread_s_before_anything_else() -> None:
    inbox = due_inbox(b"a")
    inbox.begin(1.0, 1.0)
    left = Prepared(Segment(first=1, last=1, frames=b"", text="", attempt=1), ())
    waiter = Waiter(inbox)
    inbox.end()
    inbox.flushed(2.0, left)
    waiter.join(WAIT_SECONDS)
    assert waiter.ended is False
    put_in_vain = inbox.begin(FAR, FAR)
    assert (put_in_vain, inbox.handed()) == ([], left)
    inbox.settle(3.0)
    assert (inbox.handed(), inbox.wait(at(FAR))) == (None, True)


def test_who_has_to_wait_for_a_flush_goes_on_as_soon_as_it_has_ended() -> None:
    inbox = due_inbox(b"a")
    inbox.begin(1.0, FAR)
    waiter = Waiter(inbox, until=0.0)
    waiter.join(0.05)
    assert waiter.is_alive()
    inbox.flushed(FAR)
    waiter.join(WAIT_SECONDS)
    assert waiter.ended is False


def test_what_is_due_is_left_to_the_flusher_and_what_comes_late_is_not() -> None:
    inbox = due_inbox(b"a", due=time.monotonic() + 0.05)
    waiter = Waiter(inbox)
    waiter.join(0.2)
    assert waiter.is_alive(), "the flusher was not waited for"
    inbox.begin(time.monotonic(), 0.0)
    inbox.flushed(0.0)
    put(inbox, b"b")  # it could be committed at once
    waiter.join(WAIT_SECONDS)
    assert waiter.ended is False


def test_what_no_flusher_begins_is_the_committing_thread_s_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.engine.inbox.FLUSHER_SECONDS", 0.1)
    inbox = due_inbox(b"a", due=time.monotonic() + 0.05)
    waiter = Waiter(inbox)
    waiter.join(WAIT_SECONDS)
    assert waiter.ended is False


# Reading at the beat


class Beaten:
    """A reading on its thread, where this test is the beat."""

    def __init__(self, *pieces: bytes | Exception | Callable[[], None] | None, media_type: str = SSE):
        self.call = ScriptedCall(media_type, *pieces)
        self.inbox = Inbox(0, Answer(), crowded=lambda: True)
        self.reading = Reading(
            self.call,  # type: ignore[arg-type]
            self.inbox,
            stream_asked=True,
            usage_asked=False,
            max_event=4 << 20,
        )
        self.thread = threading.Thread(target=self.reading.run, daemon=True)

    def start(self) -> None:
        """Until the thread has read the first piece and left the rest to the beat."""
        self.thread.start()
        deadline = time.monotonic() + WAIT_SECONDS
        while not self.inbox._beats and self.thread.is_alive():
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def beat(self) -> list[str]:
        """One beat, and what it flushes."""
        now = time.monotonic()
        self.inbox.settle(now)
        self.reading.read_on(now)
        taken = [entry.text for entry in self.inbox.begin(now, now)]
        if taken:
            self.inbox.flushed(now)
        return taken

    def ends(self) -> str | None:
        self.thread.join(WAIT_SECONDS)
        assert not self.thread.is_alive()
        assert self.call.closed
        assert self.inbox.wait(at(FAR))
        return reason(self.inbox)


def test_a_stream_is_read_on_at_the_beat_up_to_its_end_and_its_thread_closes_the_call() -> None:
    beaten = Beaten(*hello(), data(delta("stop")), DONE)
    beaten.start()
    assert len(beaten.call._pieces) == 4
    assert [beaten.beat() for _ in range(3)] == [["", "Hel"], ["lo"], [""]]
    assert beaten.thread.is_alive()
    assert not beaten.call.closed
    assert beaten.beat() == []
    assert beaten.ends() is None
    assert beaten.inbox.whole
    assert beaten.call.waits == 0, "the thread listened although there was always something to read"


def test_a_beat_that_finds_nothing_leaves_the_listening_to_the_thread() -> None:
    listening, came = threading.Event(), threading.Event()

    def wait(seconds: float) -> bool:
        listening.set()
        return came.wait(WAIT_SECONDS)

    beaten = Beaten(*hello()[:2], None, data(delta(content="lo")), data(delta("stop")), DONE)
    beaten.call.wait = wait  # type: ignore[method-assign]
    beaten.start()
    assert beaten.beat() == ["", "Hel"]
    assert not listening.is_set()
    assert beaten.beat() == []
    assert not beaten.inbox._beats
    assert listening.wait(WAIT_SECONDS)
    assert beaten.beat() == [], "it was read at the beat although its thread listens"
    came.set()
    deadline = time.monotonic() + WAIT_SECONDS
    words: list[str] = []
    while beaten.thread.is_alive():
        assert time.monotonic() < deadline
        words += beaten.beat()
    assert words + texts(beaten.inbox) == ["lo", ""]
    assert beaten.ends() is None


@pytest.mark.parametrize(
    ("piece", "expected"),
    [(BROKEN, "upstream_disconnected"), (data(b"{"), "upstream_malformed"), (data({"error": "no"}), "upstream_error")],
    ids=["break", "malformed", "error"],
)
def test_a_fault_that_is_found_at_the_beat_ends_the_reading(piece: Any, expected: str) -> None:
    beaten = Beaten(*hello(), piece)
    beaten.start()
    for _ in range(3):
        beaten.beat()
    assert beaten.ends() == expected


def test_what_goes_wrong_in_here_at_a_beat_is_logged_with_the_attempt_s_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    label: ContextVar[str] = ContextVar("label")
    label.set("of the attempt")
    found: list[str] = []
    beaten = Beaten(*hello(), ValueError("secret"))
    beaten.start()
    monkeypatch.setattr("lib.engine.reading.log.exception", lambda *_: found.append(label.get("none")))
    beating = threading.Thread(target=lambda: [beaten.beat() for _ in range(3)], daemon=True)
    beating.start()
    beating.join(WAIT_SECONDS)
    assert beaten.ends() == "internal"
    assert found == ["of the attempt"]


def test_the_beat_never_waits_for_a_head_or_a_body_that_its_thread_reads() -> None:
    reading, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        reading.set()
        assert go_on.wait(WAIT_SECONDS)

    beaten = Beaten(slow, json.dumps(completion()).encode(), media_type=JSON)
    beaten.reading.read_on(FAR)  # before it has begun
    beaten.thread.start()
    assert reading.wait(WAIT_SECONDS)
    beating = threading.Thread(target=lambda: beaten.reading.read_on(FAR), daemon=True)
    beating.start()
    beating.join(WAIT_SECONDS)
    assert not beating.is_alive()
    go_on.set()
    assert beaten.ends() is None
    beaten.reading.read_on(FAR)  # after it has ended
    assert texts(beaten.inbox) == ["Hello"]


def test_one_stream_that_brings_very_much_is_read_in_steps() -> None:
    much = [data(delta(content="x" * 60_000)) for _ in range(40)]
    beaten = Beaten(data(delta(role="assistant")), data(delta("stop")), DONE)
    pieces = iter(much)
    beaten.call.arrived = lambda: pieces  # type: ignore[method-assign]
    beaten.start()
    beaten.beat()  # and what the thread has read itself
    assert [len(beaten.beat()) for _ in range(3)] == [5, 5, 5]
    beaten.inbox.stop(Stop.BY_USER)
    assert beaten.ends() is None
