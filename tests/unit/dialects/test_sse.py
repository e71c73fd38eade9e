"""A stream's events do not depend on where the network cut it.

The expected events come from a second, slow parser, written line by line from the WHATWG text (HTML, 9.2.6), which
reads the whole stream at once and shares no code with the one under test.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lib.dialects.sse import EventTooLarge, Splitter
from lib.domain.event import Event

BOM = b"\xef\xbb\xbf"
ENDS = (b"\n", b"\r", b"\r\n")

unhurried = settings(max_examples=150)


def reference(stream: bytes) -> list[tuple[str, str]]:
    """Each event's name and data, by the specification.

    With our deviations: an unfinished event at the end of the stream counts, data with only white space does not, and a
    field `error` is an event of its own, which comes after the event that it interrupts.
    """
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff")
    lines = [""]
    at = 0
    while at < len(text):
        if text[at] == "\r":
            at += 2 if text[at + 1 : at + 2] == "\n" else 1
            lines.append("")
        elif text[at] == "\n":
            at += 1
            lines.append("")
        else:
            lines[-1] += text[at]
            at += 1
    events: list[tuple[str, str]] = []
    data, name = "", ""
    for line in [*lines, ""]:
        failed = line.startswith("error:") and line[6:].encode().strip() != b""
        if line == "" or failed:
            if data.encode().strip() or (data != "" and name == "error"):
                events.append((name, data[:-1] if data.endswith("\n") else data))
            data, name = "", ""
            if failed:
                events.append(("error", line[7:] if line[6] == " " else line[6:]))
        elif line.startswith(":"):
            pass
        else:
            field, value = line, ""
            if ":" in line:
                colon = line.index(":")
                field, value = line[:colon], line[colon + 1 :]
                if value.startswith(" "):
                    value = value[1:]
            if field == "data":
                data += value + "\n"
            elif field == "event":
                name = value
    return events


def read(pieces: Iterable[bytes], max_event: int = 4 << 20) -> list[Event]:
    splitter = Splitter(max_event)
    events = [event for piece in pieces for event in splitter.feed(piece)]
    return [*events, *splitter.close()]


def outcome(pieces: Iterable[bytes], max_event: int) -> tuple[list[Event], bool]:
    """The events, and whether one was too large."""
    splitter = Splitter(max_event)
    events: list[Event] = []
    try:
        for piece in pieces:
            for event in splitter.feed(piece):
                events.append(event)
        events += splitter.close()
    except EventTooLarge:
        return events, True
    return events, False


def decoded(events: Iterable[Event]) -> list[tuple[str, str]]:
    return [(event.name.decode("utf-8", "replace"), event.data.decode("utf-8", "replace")) for event in events]


@st.composite
def cut(draw: st.DrawFn, streams: st.SearchStrategy[bytes]) -> tuple[bytes, list[bytes]]:
    """A stream, and the same in pieces; some of them empty, some a byte long."""
    stream = draw(streams)
    at = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    return stream, [stream[start:end] for start, end in zip([0, *at], [*at, len(stream)], strict=True)]


values = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["[DONE]", '{"content":"día 😀 漢字"}', " two spaces", "a: b", ":", "\ufeff", "\x00", "\u2028", "\x85"]
)
fields = st.builds(
    "{}{}{}".format,
    st.sampled_from(["data", "event", "id", "retry", "", "unknown", "error"]),
    st.sampled_from([":", ": "]),
    values,
)
lines = fields | st.sampled_from(["", "data", "event", "data :x", " data: x", "DATA: x", "error", "event: error"])
streams = st.builds(
    lambda bom, body, rest: bom + b"".join(line.encode() + end for line, end in body) + rest.encode(),
    st.sampled_from([b"", BOM, BOM + BOM, BOM[:2]]),
    st.lists(st.tuples(lines, st.sampled_from(ENDS)), max_size=14),
    st.just("") | lines,
)
data_lines = st.lists(
    st.sampled_from(["", "", "data", "data:", "data: abc", "data:abcdefghij", "error: a", "error: abcdefghij"]),
    max_size=12,
)
data_streams = data_lines.map(lambda body: "\n".join(body).encode())
scraps = st.sampled_from([b"data", b":", b" ", b"\r", b"\n", b"\xef", b"\xbb\xbf", b"\xff", b"x"])
hostile = st.lists(scraps).map(b"".join)


@unhurried
@given(cut(streams | hostile))
@example((b"data: a\r\n\r\n", [b"data: a\r", b"\n\r", b"\n"]))
@example((b"data: a\r\rdata: b\r\r", [b"data: a\r", b"", b"\rdata: b\r", b"\r"]))
@example((BOM + b"data: a\n\n", [BOM[:1], BOM[1:2], BOM[2:], b"data: a\n\n"]))
@example(("data: 😀\n\n".encode(), [b"data: \xf0", b"\x9f\x98", b"\x80\n", b"\n"]))
def test_any_cut_of_any_stream_gives_the_same_events(whole_and_pieces: tuple[bytes, list[bytes]]) -> None:
    stream, pieces = whole_and_pieces
    assert read(pieces) == read([stream])


@unhurried
@given(cut(streams | hostile))
@example((b"event:  a \ndata:  b \n\n", [b"event:  a \ndata:  b \n\n"]))
@example((b"event: a\n\ndata: b\n\n", [b"event: a\n\ndata: b\n\n"]))
def test_the_events_are_those_of_the_specification(whole_and_pieces: tuple[bytes, list[bytes]]) -> None:
    stream, pieces = whole_and_pieces
    assert decoded(read(pieces)) == reference(stream)


@unhurried
@given(
    st.lists(st.tuples(st.sampled_from(["", "error", "día"]), st.lists(values, min_size=1, max_size=4)), max_size=6),
    st.sampled_from(ENDS),
    st.sampled_from([b"data:", b"data: "]),
    st.sampled_from([b"", BOM]),
    st.booleans(),
    st.data(),
)
def test_what_was_sent_as_events_is_read_as_those_events(
    sent: list[tuple[str, list[str]]], end: bytes, prefix: bytes, bom: bytes, ended: bool, data: st.DataObject
) -> None:
    stream = bom
    for name, body in sent:
        stream += b": a comment" + end + b"id: 7" + end + b"retry: 100" + end
        stream += b"event: " + name.encode() + end if name else b""
        for line in body:
            # Without the optional space, a value's own first space would be taken for it.
            stream += (b"data: " if line.startswith(" ") else prefix) + line.encode() + end
        stream += end
    if sent and not ended:
        stream = stream.removesuffix(end).removesuffix(end)
    _, pieces = data.draw(cut(st.just(stream)))
    whole = [Event("\n".join(body).encode(), name.encode()) for name, body in sent]
    assert read(pieces) == [event for event in whole if event.data.strip() or event.name == b"error"]


@pytest.mark.parametrize("end", ENDS)
def test_an_event_of_one_megabyte_that_comes_a_byte_at_a_time_is_whole(end: bytes) -> None:
    data = b'{"content":"' + "é".encode() * (1 << 19) + b'"}'
    stream = b"data: " + data + end + end
    assert read(stream[at : at + 1] for at in range(len(stream))) == [Event(data)]


def test_an_event_of_a_hundred_thousand_data_lines_is_whole() -> None:
    assert read([b"data: a\n"] * 100_000 + [b"\n"]) == [Event(b"\n".join([b"a"] * 100_000))]


def test_an_event_of_exactly_the_bound_is_no_event_too_large() -> None:
    assert read([b"data: 12345678\n\n"], max_event=8) == [Event(b"12345678")]
    with pytest.raises(EventTooLarge):
        read([b"data: 123456789\n\n"], max_event=8)


def test_an_events_name_counts_as_well() -> None:
    assert read([b"event: 1234\ndata: 5678\n\n"], max_event=8) == [Event(b"5678", b"1234")]
    for stream in (b"event: 1234\ndata: 56789\n\n", b"data: 56789\nevent: 1234\n\n", b"event: 123456789\n\n"):
        with pytest.raises(EventTooLarge):
            read([stream], max_event=8)


def test_many_small_events_never_add_up_to_one_too_large() -> None:
    assert len(read([b"data: 12345678\n\n" * 1000], max_event=8)) == 1000


def test_an_event_without_end_is_refused_before_it_ends() -> None:
    splitter = Splitter(max_event=1000)
    fed = (list(splitter.feed(b"data: " + b"x" * 100)) for _ in range(100))
    with pytest.raises(EventTooLarge):
        list(fed)


def test_events_before_one_too_large_are_not_lost() -> None:
    stream = b"data: a\n\ndata: b\n\ndata: " + b"x" * 100 + b"\n\n"
    assert outcome([stream], 8) == ([Event(b"a"), Event(b"b")], True)


@unhurried
@given(cut(data_streams))
def test_an_event_is_too_large_wherever_it_was_cut(whole_and_pieces: tuple[bytes, list[bytes]]) -> None:
    stream, pieces = whole_and_pieces
    assert outcome(pieces, 8) == outcome([stream], 8)


@unhurried
@given(cut(streams))
@example((b":" + b"x" * 60 + b"\ndata: a\n\n", [b":" + b"x" * 50, b"x" * 10 + b"\ndata: a\n\n"]))
def test_comments_and_other_fields_make_an_event_too_large_wherever_they_were_cut_or_nowhere(
    whole_and_pieces: tuple[bytes, list[bytes]],
) -> None:
    stream, pieces = whole_and_pieces
    assert outcome(pieces, 8) == outcome([stream], 8)


@unhurried
@given(cut(data_streams))
@example((b"data\n" * 12 + b"\n", [b"data\n" * 12 + b"\n"]))
def test_no_event_is_longer_than_the_bound(whole_and_pieces: tuple[bytes, list[bytes]]) -> None:
    _, pieces = whole_and_pieces
    events, _ = outcome(pieces, 8)
    assert [event for event in events if len(event.data) > 8] == []


@pytest.mark.parametrize(
    "stream", [b"data:\n\n", b"event: ping\ndata:\n\n", b"data: \t \n\n", b"data\ndata\n\n", b"event: x\n\n"]
)
def test_an_event_with_nothing_in_its_data_is_a_keep_alive(stream: bytes) -> None:
    assert read([stream + b"data: a\n\n" + stream]) == [Event(b"a")]


def test_an_event_named_error_is_one_though_it_says_nothing() -> None:
    assert read([b"event: error\ndata:\n\ndata: a\n\n"]) == [Event(b"", b"error"), Event(b"a")]


@pytest.mark.parametrize("after", [b"\n", b"\n\n", b"\r\n\r\n", b"", b"\ndata: a\n\n", b"\n\ndata: a\n\n"])
def test_a_field_error_is_at_once_an_event_of_its_own(after: bytes) -> None:
    error = Event(b'{"message":"exceeds the context size"}', b"error")
    follows = [Event(b"a")] if b"data" in after else []
    assert read([b"error: " + error.data + after]) == [error, *follows]
    assert read([b"error:" + error.data + after]) == [error, *follows]
    splitter = Splitter(1000)
    assert list(splitter.feed(b"error: " + error.data + b"\n")) == [error]


def test_what_an_error_interrupts_comes_before_it() -> None:
    assert read([b"event: x\ndata: a\nerror: b\n\ndata: c\n\n"]) == [
        Event(b"a", b"x"),
        Event(b"b", b"error"),
        Event(b"c"),
    ]
    assert read([b"data: a\nerror: b"]) == [Event(b"a"), Event(b"b", b"error")]


@pytest.mark.parametrize("line", [b"error", b"error:", b"error:  ", b"errors: x", b"Error: x", b" error: x"])
def test_what_only_looks_like_a_field_error_is_none(line: bytes) -> None:
    assert read([line + b"\ndata: a\n\n"]) == [Event(b"a")]
