"""The outcome of each kind of upstream answer, with a scripted call and the chat completions dialect."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.dialects import DIALECTS
from lib.dialects.protocol import Answer, Asked, Dialect
from lib.domain.event import Event
from lib.engine.buffer import Buffer, Signal
from lib.engine.reader import BULK_BYTES, ERROR_BODY_BYTES, LONGEST_SLEEP_SECONDS, Pace, Reader
from lib.journal.codec import Entry, events_of
from lib.upstream.call import Call
from lib.upstream.fault import UpstreamFault
from tests.unit.engine.memory import PATIENCE, eventually
from tests.unit.engine.scripted import (
    BROKEN,
    DONE,
    JSON,
    SSE,
    USAGE,
    Piece,
    ScriptedCall,
    completion,
    data,
    delta,
    head_of,
    hello,
)

CHAT = DIALECTS["chat_completions"]
MISTAKE = RuntimeError("a mistake")
PLAIN = Asked(model="m", streamed=False)
WHOLE_BODY = json.dumps(completion(system_fingerprint='C:\\new {[ "é漢'), ensure_ascii=False).encode()


class AtOnce:
    """A pace at which a commit can always be made."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.told = 0

    def events_came(self) -> None:
        self.told += 1

    def until_due(self) -> float:
        return self.seconds


class Reads:
    """A reader of a call, and what it has put into the buffer so far."""

    def __init__(
        self,
        call: ScriptedCall,
        *,
        buffer: Buffer | None = None,
        pace: Pace | None = None,
        asked: Asked | None = None,
        answer: Answer | None = None,
        max_event: int = 8 << 20,
        dialect: Dialect = CHAT,
    ):
        self.call = call
        self.buffer = buffer or Buffer(0)
        self.asked = asked or Asked(model="m", streamed=True)
        self.reader = Reader(
            cast(Call, call),
            self.buffer,
            pace or AtOnce(),
            dialect=dialect,
            reading=dialect.reading(),
            asked=self.asked,
            answer=answer or dialect.answer(self.asked.choices),
            max_event=max_event,
        )
        self.entries: list[Entry] = []
        self.thread = threading.Thread(target=self.reader.run, daemon=True)

    def to_the_end(self) -> Reads:
        self.reader.run()
        return self.after_the_end()

    def after_the_end(self) -> Reads:
        assert self.call.closed
        assert self.buffer.outcome is not None, "the end was not said"
        while taken := self.buffer.take():
            self.entries += taken
        return self

    @property
    def outcome(self) -> Any:
        return self.buffer.outcome

    @property
    def fault(self) -> UpstreamFault:
        assert isinstance(self.buffer.outcome, UpstreamFault)
        return self.buffer.outcome

    @property
    def texts(self) -> list[str]:
        return [entry.text for entry in self.entries]

    @property
    def events(self) -> list[Event]:
        return [event for entry in self.entries for event in events_of(entry.record)]

    @property
    def content(self) -> Any:
        return self.reader.look(lambda answer: answer.said().fields["content"])

    @property
    def finished(self) -> bool:
        return self.reader.look(lambda answer: answer.finished)


def read(head: Any, *pieces: Piece, **more: Any) -> Reads:
    return Reads(ScriptedCall(head, *pieces), **more).to_the_end()


# A stream


def test_an_answer_up_to_done_is_whole_and_each_of_its_events_is_kept_with_its_number() -> None:
    got = read(SSE, *hello(), data(delta("stop")), DONE)
    assert got.outcome is Signal.WHOLE
    assert [entry.seq for entry in got.entries] == [1, 2, 3, 4]
    assert got.texts == ["", "Hel", "lo", ""]
    sent = [each.removeprefix(b"data: ").strip() for each in [*hello(), data(delta("stop"))]]
    assert [event.data for event in got.events] == sent
    assert got.content == "Hello"


def test_done_is_the_end_and_what_comes_after_it_is_not_read() -> None:
    got = read(SSE, *hello(), DONE + data(delta(content="more")), BROKEN)
    assert got.outcome is Signal.WHOLE
    assert got.texts == ["", "Hel", "lo"]


def test_done_without_its_blank_line_is_the_end_too() -> None:
    assert read(SSE, *hello(), b"data: [DONE]").outcome is Signal.WHOLE


def test_done_in_a_text_is_not_the_end() -> None:
    got = read(SSE, data(delta(content="data: [DONE]")), data(delta("stop", content="!")))
    assert got.outcome is Signal.WHOLE
    assert got.content == "data: [DONE]!"


@pytest.mark.parametrize("before", [[], [data(delta(role="assistant"))], [data(delta(role="assistant", content=""))]])
def test_an_end_mark_with_nothing_before_it_is_no_answer_and_may_pass(before: list[bytes]) -> None:
    got = read(SSE, *before, DONE)
    assert (got.fault.reason, got.fault.passing) == ("upstream_empty", True)
    assert len(got.entries) == len(before)


def test_a_finish_reason_is_an_answer_also_without_words() -> None:
    assert read(SSE, data(delta(role="assistant")), data(delta("content_filter")), DONE).outcome is Signal.WHOLE


def test_an_end_mark_right_after_what_an_earlier_attempt_has_saved_is_the_end() -> None:
    answer = CHAT.answer()
    answer.add(CHAT.read(Event(json.dumps(delta(content="Hello")).encode())))
    assert read(SSE, DONE, answer=answer, buffer=Buffer(1)).outcome is Signal.WHOLE


def test_a_body_that_ends_after_the_finish_reason_is_whole() -> None:
    assert read(SSE, *hello(), data(delta("stop"))).outcome is Signal.WHOLE


def test_a_body_that_merely_ends_is_not_whole() -> None:
    got = read(SSE, *hello())
    assert (got.fault.reason, got.fault.passing) == ("upstream_ended_early", True)
    assert got.texts == ["", "Hel", "lo"]


def test_a_body_that_ends_after_a_finish_reason_that_text_withdrew_is_not_whole() -> None:
    got = read(SSE, data(delta("stop", content="a")), data(delta(content="b")))
    assert got.fault.reason == "upstream_ended_early"


@pytest.mark.parametrize("reason", ["null", ""])
def test_a_finish_reason_that_is_none_does_not_make_it_whole(reason: str) -> None:
    assert read(SSE, *hello(), data(delta(reason))).fault.reason == "upstream_ended_early"


def test_a_body_in_which_only_one_of_two_choices_finished_is_not_whole() -> None:
    one = [data(delta("stop", content="a")), data(delta(index=1, content="b"))]
    asked = Asked(model="m", streamed=True, choices=2)
    assert read(SSE, *one, asked=asked).fault.reason == "upstream_ended_early"
    assert read(SSE, *one, data(delta("stop", index=1)), asked=asked).outcome is Signal.WHOLE


@pytest.mark.parametrize("body", [[b": ping\n\n", b"\n\n"], [b"data:\n\n"], [b"event: ping\ndata:\n\n"]])
def test_a_stream_of_keep_alives_alone_ended_early(body: list[bytes]) -> None:
    got = read(SSE, *body)
    assert (got.fault.reason, got.fault.passing, got.entries) == ("upstream_ended_early", True, [])


def test_keep_alives_of_any_kind_are_passed_over() -> None:
    pings = [b"data:\n\n", b"event: ping\ndata:\n\n", b": ping\n\n", b"data: \n\n", b"\n"]
    got = read(SSE, *pings, *hello(), *pings, data(delta("stop")), *pings, DONE)
    assert got.outcome is Signal.WHOLE
    assert got.texts == ["", "Hel", "lo", ""]


def test_a_break_is_a_fault_after_all_that_came() -> None:
    got = read(SSE, *hello(), BROKEN)
    assert got.outcome is BROKEN
    assert got.texts == ["", "Hel", "lo"]
    assert not got.finished


def test_a_break_after_the_finish_reason_is_known_to_have_been_finished() -> None:
    got = read(SSE, *hello(), data(delta("stop")), BROKEN)
    assert got.outcome is BROKEN
    assert got.finished


def test_an_event_that_lacked_only_its_blank_line_when_the_upstream_broke_off_is_kept() -> None:
    got = read(SSE, *hello(), data(delta("stop", content="!"))[:-1], BROKEN)
    assert got.texts == ["", "Hel", "lo", "!"]
    assert got.finished


@pytest.mark.parametrize("ending", [(), (BROKEN,)], ids=["ends", "breaks off"])
def test_a_body_that_ends_in_the_middle_of_an_event_ended_early_and_is_not_malformed(ending: tuple[Any, ...]) -> None:
    got = read(SSE, *hello(), data(delta(content="never"))[:-20], *ending)
    assert got.fault.reason in ("upstream_ended_early", "upstream_disconnected")
    assert got.fault.passing
    assert got.texts == ["", "Hel", "lo"]


# What the upstream itself says is wrong


def said(got: Reads) -> tuple[str, str, int, bool]:
    assert got.fault.said is not None
    return got.fault.message, got.fault.said.code, got.fault.status, got.fault.passing


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (data({"error": {"message": "Overloaded.", "code": 529}}), ("Overloaded.", "529", 529, True)),
        (data({"error": {"message": "Full.", "code": "quota"}}), ("Full.", "quota", 502, False)),
        (b'event: error\ndata: {"message":"model crashed","code":"E9"}\n\n', ("model crashed", "E9", 502, False)),
        (
            b'error: {"message":"exceeds the context size"}\n\n',
            ("exceeds the context size", "upstream_error", 502, False),
        ),
        (data({"object": "error", "message": "No.", "code": 400}), ("No.", "400", 400, False)),
    ],
    ids=["error", "code", "named", "field", "object"],
)
def test_an_error_event_is_a_fault_with_the_upstream_s_message_after_all_that_came(
    event: bytes, expected: tuple[str, str, int, bool]
) -> None:
    got = read(SSE, *hello(), event, DONE)
    assert got.fault.reason == "upstream_error"
    assert said(got) == expected
    assert got.texts == ["", "Hel", "lo"]


def test_an_error_inside_a_choice_is_kept_and_then_a_fault() -> None:
    error = {"code": 502, "message": "Provider disconnected"}
    choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error", "error": error}
    got = read(SSE, *hello(), data({"choices": [choice]}), DONE)
    assert said(got) == ("Provider disconnected", "502", 502, True)
    assert len(got.entries) == 4
    assert not got.finished


def test_an_error_inside_a_choice_that_said_nothing_is_a_refusal_and_no_part_of_an_answer() -> None:
    error = {"code": 502, "message": "Provider disconnected"}
    choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error", "error": error}
    got = read(SSE, data(delta(role="assistant")), data({"choices": [choice]}), DONE)
    assert said(got) == ("Provider disconnected", "502", 502, True)
    assert len(got.entries) == 1


def test_an_error_inside_a_choice_that_says_something_is_kept_with_it() -> None:
    choice = {"index": 0, "delta": {"content": "Hel"}, "finish_reason": "error"}
    got = read(SSE, data({"choices": [choice]}), DONE)
    assert (got.fault.reason, got.texts) == ("upstream_error", ["Hel"])


def test_a_finish_reason_error_is_a_fault_by_itself() -> None:
    got = read(SSE, *hello(), data(delta("error")), DONE)
    assert got.fault.reason == "upstream_error"
    assert not got.finished


def test_an_error_after_the_finish_reason_is_a_fault_of_an_answer_that_was_finished() -> None:
    got = read(SSE, *hello(), data(delta("stop")), data({"error": {"message": "Late."}}), DONE)
    assert got.fault.message == "Late."
    assert got.finished


def test_an_error_that_is_null_is_no_error() -> None:
    got = read(SSE, data({**delta(content="a"), "error": None}), data(delta("stop")), DONE)
    assert got.outcome is Signal.WHOLE
    assert got.texts == ["a", ""]


@pytest.mark.parametrize("payload", [b"{", b"[]", b"1", b"<html>", b'{"a":"\xff"}'])
def test_an_event_that_is_no_json_object_is_a_fault_after_all_that_came(payload: bytes) -> None:
    got = read(SSE, *hello(), data(payload), DONE)
    assert (got.fault.reason, got.fault.passing) == ("upstream_malformed", False)
    assert got.texts == ["", "Hel", "lo"]


def test_an_event_that_is_too_large_is_a_fault_after_all_that_came() -> None:
    got = read(SSE, *hello(), data(delta(content="x" * 5000)), max_event=1000)
    assert got.fault.reason == "event_too_large"
    assert got.texts == ["", "Hel", "lo"]


def test_an_event_of_two_megabytes_is_kept() -> None:
    text = "é" * (1 << 20)
    body = data(delta("stop", content=text))
    got = read(SSE, *[body[at : at + 65536] for at in range(0, len(body), 65536)], DONE)
    assert got.outcome is Signal.WHOLE
    assert got.texts == [text]


# Usage


def usage_stream() -> list[bytes]:
    return [*hello(), data(delta("stop")), data({"id": "c1", "choices": [], "usage": USAGE}), DONE]


def test_the_usage_chunk_that_no_client_asked_for_is_saved_and_neither_kept_nor_numbered() -> None:
    got = read(SSE, *usage_stream(), asked=Asked(model="m", streamed=True, usage_shown=False))
    assert [entry.seq for entry in got.entries] == [1, 2, 3, 4]
    assert got.reader.look(lambda answer: answer.usage) == USAGE


def test_the_usage_chunk_that_the_client_asked_for_is_kept_like_any_other() -> None:
    got = read(SSE, *usage_stream())
    assert [entry.seq for entry in got.entries] == [1, 2, 3, 4, 5]
    assert json.loads(got.events[-1].data)["usage"] == USAGE
    assert got.reader.look(lambda answer: answer.usage) == USAGE


def test_a_usage_in_a_chunk_with_choices_is_kept_with_the_chunk() -> None:
    asked = Asked(model="m", streamed=True, usage_shown=False)
    got = read(SSE, *hello(), data({**delta("stop"), "usage": USAGE}), DONE, asked=asked)
    assert len(got.entries) == 4
    assert got.reader.look(lambda answer: answer.usage) == USAGE


# Events as they are kept


def test_names_are_kept_and_comments_are_not() -> None:
    got = read(SSE, b": ping\n\n", b"event: chunk\n" + data(delta("stop", content="a")), b": p\n\n", DONE)
    assert [event.name for event in got.events] == [b"chunk"]


def test_a_character_that_is_cut_between_two_events_comes_whole_in_the_second() -> None:
    cut = [delta(content="a\ud83e"), delta(content="\udd8ab"), delta("stop")]
    got = read(SSE, *map(data, cut), DONE)
    sent = [json.loads(event.data)["choices"][0]["delta"].get("content") for event in got.events]
    assert sent == ["a", "🦊b", None]
    assert got.texts == ["a", "🦊b", ""]
    assert got.content == "a🦊b"


def test_an_event_in_which_no_character_is_cut_is_kept_byte_for_byte() -> None:
    said = rb'{"choices": [ {"index": 0,"delta":{"content":"\uD83E\uDD8A"}, "finish_reason":"stop"}]}'
    (event,) = read(SSE, data(said), DONE).events
    assert event.data == said


def test_a_stream_for_a_client_that_asked_for_none_is_read_all_the_same() -> None:
    got = read(SSE, *hello(), data(delta("stop")), DONE, asked=PLAIN)
    assert got.outcome is Signal.WHOLE
    assert got.content == "Hello"


# One JSON body


@pytest.mark.parametrize("media_type", [JSON, "application/vnd.api+json", "APPLICATION/JSON; charset=utf-8"])
def test_a_json_body_for_a_client_that_asked_for_a_stream_becomes_one_chunk(media_type: str) -> None:
    body = json.dumps(completion(usage=USAGE)).encode()
    got = read(media_type, body[:10], body[10:])
    assert got.outcome is Signal.WHOLE
    (event,) = got.events
    chunk = json.loads(event.data)
    assert chunk["object"] == "chat.completion.chunk"
    assert chunk["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
    ]
    assert got.texts == [got.content] == ["Hello"]
    assert got.reader.look(lambda answer: answer.usage) == USAGE


def test_a_json_body_for_a_client_that_asked_for_none_is_kept_byte_for_byte() -> None:
    body = json.dumps(completion(), indent=2).encode() + b"\n\n"
    got = read(JSON, body, asked=PLAIN)
    assert got.outcome is Signal.WHOLE
    assert [event.data for event in got.events] == [body]
    assert got.texts == ["Hello"]


@pytest.mark.parametrize("line_end", ["\r\n", "\r"])
def test_a_json_body_with_carriage_returns_stays_the_same_json(line_end: str) -> None:
    body = json.dumps(completion(), indent=2).replace("\n", line_end).encode()
    (event,) = read(JSON, body, asked=PLAIN).events
    assert json.loads(event.data) == completion()
    assert b"\r" not in event.data


@pytest.mark.parametrize("streamed", [False, True])
def test_a_json_body_with_half_a_character_is_not_lost(streamed: bool) -> None:
    body = json.dumps(completion()).replace("Hello", "Hello\\ud83d").encode()
    got = read(JSON, body, asked=Asked(model="m", streamed=streamed))
    assert got.outcome is Signal.WHOLE
    assert got.content.startswith("Hello")
    assert len(got.entries) == 1


@pytest.mark.parametrize("body", [b"[]", b"[DONE]", b"{}", b'{"choices":null}', b"\xff"])
def test_a_json_body_that_is_no_completion_is_malformed(body: bytes) -> None:
    got = read(JSON, body)
    assert (got.fault.reason, got.entries) == ("upstream_malformed", [])


def test_a_json_body_without_output_is_no_answer() -> None:
    got = read(JSON, b'{"choices":[]}')
    assert (got.fault.reason, got.fault.passing) == ("upstream_empty", True)


def test_a_json_body_that_is_an_error_is_a_fault_with_the_upstream_s_message() -> None:
    got = read(JSON, b'{"error":{"message":"No.","code":"E1"}}')
    assert (got.fault.reason, *said(got)) == ("upstream_error", "No.", "E1", 502, False)
    assert got.entries == []


def test_a_json_body_with_an_error_in_its_choice_is_a_fault() -> None:
    body = completion()
    body["choices"][0] |= {"finish_reason": "error", "error": {"code": 502, "message": "Provider disconnected"}}
    got = read(JSON, json.dumps(body).encode())
    assert said(got) == ("Provider disconnected", "502", 502, True)


def test_a_json_body_that_breaks_off_is_a_fault() -> None:
    got = read(JSON, json.dumps(completion()).encode()[:-5], BROKEN)
    assert got.outcome is BROKEN
    assert got.entries == []


@pytest.mark.parametrize("pieces", [[b"{" + b" " * 600, b" " * 600], [b"{" + b" " * 1200]])
def test_a_json_body_that_is_too_large_is_a_fault(pieces: list[bytes]) -> None:
    assert read(JSON, *pieces, max_event=1000).fault.reason == "event_too_large"


def test_no_more_of_a_body_that_is_too_large_is_read_than_shows_that() -> None:
    got = read(JSON, b"{", *[b" " * 600] * 100, max_event=1000)
    assert got.call.left == 98


# The body decides


STREAM = b"".join([*hello(), data(delta("stop")), DONE])


@pytest.mark.parametrize("media_type", [JSON, "", "text/plain", "application/octet-stream", "text/html"])
@pytest.mark.parametrize("before", [b"", b": ping\n\n", b"event: chunk\n", b"id: 1\n", b"retry: 100\n"])
def test_a_stream_is_read_as_one_whatever_its_header_says(media_type: str, before: bytes) -> None:
    got = read(media_type, before + STREAM)
    assert got.outcome is Signal.WHOLE
    assert got.content == "Hello"


@pytest.mark.parametrize("media_type", [SSE, "", "text/plain", "application/octet-stream"])
def test_a_json_completion_is_read_as_one_whatever_its_header_says(media_type: str) -> None:
    got = read(media_type, json.dumps(completion()).encode())
    assert got.outcome is Signal.WHOLE
    assert got.content == "Hello"


def test_a_json_error_that_comes_as_a_stream_is_one_fault_and_passes_by_its_code() -> None:
    got = read(SSE, b'{"error":{"message":"Resource has been exhausted","code":429}}')
    assert said(got) == ("Resource has been exhausted", "429", 429, True)


def test_an_error_field_under_another_header_is_the_upstream_s_error() -> None:
    got = read("text/plain", b'error: {"message":"exceeds the context size"}\n\n', DONE)
    assert got.fault.message == "exceeds the context size"


@pytest.mark.parametrize("media_type", ["text/html", "text/plain", "", "application/octet-stream"])
def test_a_body_of_another_kind_is_a_fault_and_nothing_of_it_is_kept(media_type: str) -> None:
    got = read(media_type, b"<html>", DONE)
    assert (got.fault.reason, got.fault.status) == ("upstream_content_type", 502)
    assert got.fault.passing is (media_type == ""), "a head without one may have been cut"
    assert got.entries == []


def test_a_page_that_calls_itself_a_stream_is_no_answer() -> None:
    got = read(SSE, b"<html><body>Bad gateway</body></html>\n")
    assert (got.fault.reason, got.entries) == ("upstream_ended_early", [])


def test_a_page_that_calls_itself_json_is_malformed() -> None:
    assert read(JSON, b"<html>").fault.reason == "upstream_malformed"


@pytest.mark.parametrize("end", range(1, len(WHOLE_BODY)))
def test_a_body_that_ends_in_its_midst_may_come_whole_another_time(end: int) -> None:
    got = read(JSON, WHOLE_BODY[:end])
    assert (got.fault.reason, got.fault.passing, got.entries) == ("upstream_ended_early", True, [])


@pytest.mark.parametrize("body", [b'{"choices":{}]}', b'{"id":1}}', b'{"choices":[],}', b'{"id":"\\"}"}'])
def test_a_body_that_closes_what_it_opened_and_is_no_json_will_be_none_another_time(body: bytes) -> None:
    assert (read(JSON, body).fault.reason, read(JSON, body).fault.passing) == ("upstream_malformed", False)


@pytest.mark.parametrize("media_type", [SSE, JSON, "", "text/html"])
@pytest.mark.parametrize("body", [[], [b" \r\n", b"\n"], [b"\xef\xbb\xbf"]])
def test_a_body_of_nothing_is_no_answer_and_may_pass(media_type: str, body: list[bytes]) -> None:
    got = read(media_type, *body)
    assert (got.fault.reason, got.fault.passing, got.entries) == ("upstream_empty", True, [])


@pytest.mark.parametrize("media_type", [SSE, JSON, ""])
@pytest.mark.parametrize("before", [b"\xef\xbb\xbf", b"\r\n\r\n", b"\xef\xbb\xbf  \n", b" " * 100_000])
def test_a_mark_and_white_space_before_a_body_are_passed_over(media_type: str, before: bytes) -> None:
    for body in (STREAM, json.dumps(completion()).encode()):
        got = read(media_type, before + body)
        assert got.outcome is Signal.WHOLE
        assert got.content == "Hello"


def test_white_space_that_keeps_a_connection_open_is_not_held() -> None:
    got = read(JSON, *[b" " * 60_000] * 20, json.dumps(completion()).encode(), max_event=1000)
    assert got.outcome is Signal.WHOLE


def pieces(body: bytes, at: list[int]) -> list[bytes]:
    cuts = sorted(each % (len(body) + 1) for each in at)
    return [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 600), max_size=12),
    st.sampled_from([SSE, JSON, ""]),
    st.sampled_from([b"", b"\xef\xbb\xbf", b"\n ", b"\xef\xbb\xbf\n"]),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
)
def test_what_a_stream_comes_to_does_not_depend_on_where_it_was_cut(
    at: list[int], media_type: str, before: bytes, line_end: bytes
) -> None:
    stream = b"".join([*hello(), data(delta(content="día 😀")), data(delta("stop")), DONE])
    got = read(media_type, *pieces(before + stream.replace(b"\n", line_end), at))
    assert got.outcome is Signal.WHOLE
    assert got.texts == ["", "Hel", "lo", "día 😀", ""]


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 600), max_size=6),
    st.sampled_from([SSE, JSON, ""]),
    st.sampled_from([b"", b"\xef\xbb\xbf", b"\n ", b"\xef\xbb\xbf\n"]),
)
def test_what_a_json_body_comes_to_does_not_depend_on_where_it_was_cut(
    at: list[int], media_type: str, before: bytes
) -> None:
    body = json.dumps(completion()).encode()
    got = read(media_type, *pieces(before + body, at), asked=PLAIN)
    assert got.outcome is Signal.WHOLE
    assert [event.data for event in got.events] == [body]


@settings(max_examples=60)
@given(st.lists(st.integers(0, 100), max_size=6))
def test_what_an_error_field_comes_to_does_not_depend_on_where_it_was_cut(at: list[int]) -> None:
    got = read("", *pieces(b'error: {"message":"exceeds the context size"}\n\n' + DONE, at))
    assert got.fault.message == "exceeds the context size"


# What is no answer


def refused(status: int, *body: Piece, content_type: str = JSON, retry_after: float = 0.0) -> Reads:
    got = read(head_of(status, content_type, retry_after), *body)
    assert got.fault.reason in ("upstream_status", "upstream_key")
    assert got.entries == []
    assert not got.reader.answered
    return got


def test_a_refusal_is_shown_with_the_upstream_s_message() -> None:
    error = {"message": "Too long by 12 tokens.", "type": "invalid_request_error", "code": "context_length_exceeded"}
    fault = refused(400, json.dumps({"error": error | {"param": "messages"}}).encode()).fault
    assert fault.said is not None
    assert (fault.status, fault.message, fault.passing) == (400, "Too long by 12 tokens.", False)
    assert (fault.said.code, fault.said.type, fault.said.param) == (error["code"], error["type"], "messages")
    assert json.loads(fault.said.body)["error"]["message"] == "Too long by 12 tokens."
    assert fault.content_type == JSON


@pytest.mark.parametrize("body", [b"", b"<html>Bad gateway</html>", b"[1]", b"{}"])
def test_a_refusal_without_a_message_is_told_by_its_status(body: bytes) -> None:
    fault = refused(404, body, content_type="text/html").fault
    assert (fault.status, fault.message) == (404, "The upstream answered with status 404.")


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 529])
def test_a_refusal_of_these_may_pass_after_the_time_that_was_asked_for(status: int) -> None:
    fault = refused(status, b"{}", retry_after=2.5).fault
    assert (fault.passing, fault.status, fault.retry_after) == (True, status, 2.5)


@pytest.mark.parametrize("status", [400, 402, 404, 409, 413, 422, 451])
def test_a_refusal_of_any_other_is_for_good(status: int) -> None:
    assert not refused(status, b"{}").fault.passing


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_the_operator_s_matter_and_none_of_the_client_s(status: int) -> None:
    fault = refused(status, b'{"error":{"message":"Incorrect API key provided: sk-secret"}}').fault
    assert (fault.reason, fault.status, fault.passing, fault.said) == ("upstream_key", 502, False, None)
    assert "secret" not in fault.message


def test_a_refused_key_is_the_operator_s_matter_too_where_the_api_says_that_with_another_status() -> None:
    error = {"code": 400, "message": "API key sk-secret not valid.", "details": [{"reason": "API_KEY_INVALID"}]}
    fault = read(head_of(400, JSON), json.dumps({"error": error}).encode(), dialect=DIALECTS["gemini"]).fault
    assert (fault.reason, fault.status, fault.passing, fault.said) == ("upstream_key", 502, False, None)
    assert "secret" not in fault.message


@pytest.mark.parametrize("status", [301, 302, 307, 308, 304])
def test_a_redirect_is_no_answer_and_none_of_the_client_s_statuses(status: int) -> None:
    fault = refused(status).fault
    assert (fault.status, fault.passing, fault.said) == (502, False, None)
    assert str(status) in fault.message


def test_a_refusal_whose_body_breaks_off_is_told_by_what_came() -> None:
    assert refused(429, b'{"error":', BROKEN).fault.status == 429


def test_no_more_of_a_refusal_is_read_than_it_may_have() -> None:
    got = refused(500, *[b"x" * 1000] * 1000)
    assert got.call.left == 1000 - ERROR_BODY_BYTES // 1000 - 1


# What else may happen while it reads


def test_a_call_that_can_not_be_made_is_its_fault_and_was_not_answered() -> None:
    fault = UpstreamFault("upstream_unreachable", "No.", passing=True)
    got = read(fault)
    assert got.outcome is fault
    assert not got.reader.answered


def test_an_answer_that_began_is_answered() -> None:
    assert read(SSE, DONE).reader.answered


@pytest.mark.parametrize("call", [(MISTAKE,), (SSE, *hello(), MISTAKE)], ids=["open", "read"])
def test_what_goes_wrong_in_here_is_the_outcome(call: Any) -> None:
    assert read(*call).outcome is MISTAKE


def test_a_dialect_that_fails_is_the_outcome_after_all_that_came() -> None:
    class Bad:
        reads = 0

        def read(self, event: Event) -> Any:
            self.reads += 1
            if self.reads > 2:
                raise MISTAKE
            return CHAT.read(event)

    reads = Reads(ScriptedCall(SSE, *hello(), DONE))
    reads.reader._reading = Bad()
    assert reads.to_the_end().outcome is MISTAKE
    assert reads.texts == ["", "Hel"]


def test_a_call_that_can_not_be_closed_keeps_nobody_waiting() -> None:
    class Stuck(ScriptedCall):
        def close(self) -> None:
            super().close()
            raise MISTAKE

    assert Reads(Stuck(SSE, *hello(), BROKEN)).to_the_end().outcome is MISTAKE


def test_who_commits_is_told_of_each_event_and_of_nothing_else() -> None:
    pace = AtOnce()
    asked = Asked(model="m", streamed=True, usage_shown=False)
    got = read(SSE, b": ping\n\n", *usage_stream(), pace=pace, asked=asked)
    assert pace.told >= len(got.entries)


@pytest.mark.parametrize(
    "outcome", [Signal.STOPPED, Signal.DELETED, Signal.SHUTDOWN, UpstreamFault("deadline", "Late.")]
)
def test_after_another_s_outcome_nothing_more_is_read_and_what_there_is_stays(outcome: Any) -> None:
    buffer = Buffer(0)
    late = [data(delta("stop", content=" and more")), DONE, BROKEN]
    got = read(SSE, *hello(), lambda: buffer.close(outcome), *late, buffer=buffer)
    assert got.outcome is outcome
    assert got.texts == ["", "Hel", "lo"]
    assert got.call.left == 2
    assert got.content == "Hello", "what came too late to be kept is in the answer"


def test_how_the_upstream_ends_after_another_s_outcome_is_of_no_account() -> None:
    buffer = Buffer(0)
    got = read(SSE, *hello(), lambda: buffer.close(Signal.STOPPED), BROKEN, buffer=buffer)
    assert got.outcome is Signal.STOPPED


class Patient(Buffer):
    """Records how long the reader would wait, and does not wait."""

    def __init__(self) -> None:
        super().__init__(0)
        self.waits: list[float] = []

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        return super().wait(0.0)


def test_where_no_commit_is_due_what_comes_waits_in_the_socket_but_not_for_long() -> None:
    buffer = Patient()
    read(SSE, *hello(), BROKEN, buffer=buffer, pace=AtOnce(0.1))
    assert buffer.waits == [0.1] * 3
    buffer = Patient()
    read(SSE, *hello(), BROKEN, buffer=buffer, pace=AtOnce(3600.0))
    assert buffer.waits == [LONGEST_SLEEP_SECONDS] * 3


@pytest.mark.parametrize("seconds", [0.0, -5.0, 0.001])
def test_where_a_commit_is_due_it_reads_on_at_once(seconds: float) -> None:
    buffer = Patient()
    read(SSE, *hello(), BROKEN, buffer=buffer, pace=AtOnce(seconds))
    assert buffer.waits == []


def test_after_the_finish_reason_it_reads_on_at_once_to_the_end_mark() -> None:
    buffer = Patient()
    usage = data({"id": "c1", "choices": [], "usage": USAGE})
    read(SSE, *hello(), data(delta("stop")), usage, DONE, buffer=buffer, pace=AtOnce(0.1))
    assert len(buffer.waits) == 3


def test_what_comes_in_bulk_does_not_wait_in_the_socket() -> None:
    """As an image does, while nothing is due for a second."""
    buffer = Patient()
    image = data(delta("stop", content="x" * 500_000))
    parts = [image[at : at + BULK_BYTES] for at in range(0, len(image), BULK_BYTES)]
    read(SSE, *hello(), *parts, DONE, buffer=buffer, pace=AtOnce(0.1))
    assert len(buffer.waits) == 3


def test_a_finish_reason_in_every_chunk_does_not_make_it_restless() -> None:
    buffer = Patient()
    read(SSE, *[data(delta("stop", content="a"))] * 10, DONE, buffer=buffer, pace=AtOnce(0.1))
    assert len(buffer.waits) == 9


@pytest.mark.parametrize("finish", [None, "stop"])
def test_where_too_much_is_held_the_upstream_waits(finish: str | None) -> None:
    buffer = Buffer(0, held_bytes=10)
    reads = Reads(ScriptedCall(SSE, *[data(delta(finish, content="x"))] * 5, DONE), buffer=buffer)
    reads.thread.start()
    for left in (5, 4, 3, 2, 1):
        eventually(lambda left=left: reads.call.left == left)
        reads.thread.join(0.02)
        assert (reads.call.left, len(buffer.take())) == (left, 1)
    reads.thread.join(PATIENCE)
    assert reads.after_the_end().outcome is Signal.WHOLE


def test_an_upstream_that_is_not_read_is_not_silent() -> None:
    class Full(Buffer):
        """Is no longer full at the third call; meanwhile, time passes."""

        looks = 0

        def wait_for_room(self, seconds: float) -> bool:
            seen.append(reads.reader.last_activity)
            reads.reader.last_activity = float("-inf")
            self.looks += 1
            return self.looks == 3

        @property
        def full(self) -> bool:
            return self.looks < 3

    seen: list[float] = []
    reads = Reads(ScriptedCall(SSE, *hello(), DONE), buffer=Full(0))
    reads.to_the_end()
    assert len(seen) == 3
    assert min(seen) > 0
    assert reads.outcome is Signal.WHOLE


def test_who_waits_for_room_is_woken_when_the_attempt_is_over() -> None:
    reads = Reads(ScriptedCall(SSE, *hello(), DONE), buffer=Buffer(0, held_bytes=1))
    reads.thread.start()
    eventually(lambda: reads.buffer.full)
    reads.buffer.close(Signal.STOPPED)
    reads.thread.join(PATIENCE)
    assert not reads.thread.is_alive()
    assert reads.after_the_end().texts == [""]
    assert reads.call.left == 3, "it was read on"


def test_each_sign_of_life_is_noted_of_a_head_a_piece_and_a_keep_alive() -> None:
    noted: list[float] = []

    def note() -> None:
        noted.append(reads.reader.last_activity)
        reads.reader.last_activity = float("-inf")

    steps: list[Callable[[], None] | bytes] = [note, b": ping\n\n", note, data(delta(content="a")), note, b"\n", note]
    reads = Reads(ScriptedCall(SSE, *steps, BROKEN))
    reads.reader.last_activity = float("-inf")
    reads.to_the_end()
    assert len(noted) == 4
    assert min(noted) > 0


def test_whoever_looks_at_the_answer_sees_what_the_buffer_was_given_and_not_an_event_more() -> None:
    reads = Reads(ScriptedCall(SSE, *[data(delta(content=str(number % 10))) for number in range(3000)], DONE))
    reads.thread.start()
    looks = set()
    while reads.thread.is_alive():
        events, last, text = reads.reader.look(
            lambda answer: (answer.events, reads.buffer.last, answer.said().fields["content"])
        )
        assert events == last == len(text)
        looks.add(events)
    assert reads.after_the_end().outcome is Signal.WHOLE
    assert len(looks) > 1
    assert reads.content == "".join(reads.texts) == "0123456789" * 300
