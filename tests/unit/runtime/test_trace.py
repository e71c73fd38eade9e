"""Parsing a request's trace context from either header."""

from __future__ import annotations

import pytest

from lib.runtime.trace import Trace

ID, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADER = f"00-{ID}-{SPAN}-01"


@pytest.mark.parametrize(
    ("header", "sampled"),
    [(HEADER, True), (f"00-{ID}-{SPAN}-00", False), (f" 00-{ID}-{SPAN}-03 ", True), (f"cc-{ID}-{SPAN}-01-more", True)],
)
def test_a_traceparent_is_read(header: str, sampled: bool) -> None:
    assert Trace.from_headers(header, None) == Trace(ID, SPAN, sampled)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        f"ff-{ID}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{ID}-{'0' * 16}-01",
        f"00-{ID.upper()}-{SPAN}-01",
        f"00-{ID}-{SPAN}-01-more",
        f"00-{ID}-{SPAN}",
        f"00-{ID}-{SPAN}-01\n{HEADER}",
    ],
)
def test_what_the_standard_calls_invalid_is_no_trace_and_leaves_it_to_the_other_header(header: str) -> None:
    assert Trace.from_headers(header, None) is None
    assert Trace.from_headers(header, f"{ID}/1;o=1") == Trace(ID, "0000000000000001", True)


def test_traceparent_comes_before_google_s_older_header() -> None:
    assert Trace.from_headers(HEADER, f"{'a' * 32}/1;o=0") == Trace(ID, SPAN, True)


@pytest.mark.parametrize(
    ("header", "trace"),
    [
        (f"{ID}/67667974448284343;o=1", Trace(ID, SPAN, True)),
        (f"{ID.upper()}/67667974448284343;o=0", Trace(ID, SPAN, False)),
        (f"{ID}/18446744073709551615", Trace(ID, "f" * 16, False)),
    ],
)
def test_google_s_older_header_has_the_span_in_decimal(header: str, trace: Trace) -> None:
    assert Trace.from_headers(None, header) == trace


@pytest.mark.parametrize("header", [ID, f"{ID}/0;o=1", f"{ID}/18446744073709551616;o=1"])
def test_without_a_span_that_can_be_the_trace_is_kept_under_one_of_our_own(header: str) -> None:
    found = Trace.from_headers(None, header)
    assert found is not None
    assert found.trace_id == ID
    assert Trace.from_headers(found.traceparent, None) == found


@pytest.mark.parametrize("header", ["", "x", f"{'0' * 32}/1;o=1", f"{ID[:-1]}/1", f"{ID}/-1;o=1", f"{ID}/1;p=1"])
def test_what_is_not_of_its_form_is_no_trace(header: str) -> None:
    assert Trace.from_headers(None, header) is None


@pytest.mark.parametrize("sampled", [True, False])
def test_what_is_passed_on_is_read_as_the_same(sampled: bool) -> None:
    trace = Trace(ID, SPAN, sampled)
    assert Trace.from_headers(trace.traceparent, None) == trace
