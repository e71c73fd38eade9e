"""How long an upstream asks its clients to wait, in all formats."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from requests.structures import CaseInsensitiveDict

from lib.upstream.retry_after import LONGEST_SECONDS, retry_after

SOON = format_datetime(datetime.now(UTC) + timedelta(hours=2), usegmt=True)


@pytest.mark.parametrize(
    ("value", "at_least", "at_most"),
    [
        ("7", 7, 7),
        (" 7 ", 7, 7),
        ("2.5", 2.5, 2.5),
        (".5", 0.5, 0.5),
        ("0", 0, 0),
        ("9" * 400, LONGEST_SECONDS, LONGEST_SECONDS),
        pytest.param(SOON, 3600, 7200, id="in a while"),
        pytest.param(SOON.replace(" GMT", " -0000"), 3600, 7200, id="in a while, by another zone"),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_SECONDS, LONGEST_SECONDS),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
        ("Sun Nov  6 08:49:37 1994", 0, 0),
        ("-7", 0, 0),
        ("1e5", 0, 0),
        ("nan", 0, 0),
        ("²", 0, 0),
        ("soon", 0, 0),
        ("", 0, 0),
    ],
)
def test_a_retry_after_is_seconds_or_a_date(value: str, at_least: float, at_most: float) -> None:
    assert at_least <= retry_after(CaseInsensitiveDict({"Retry-After": value})) <= at_most


@pytest.mark.parametrize(
    ("milliseconds", "seconds"),
    [("2500", 2.5), ("0", 0.0), ("12.5", 0.0125), ("9" * 20, LONGEST_SECONDS), ("soon", 7.0), ("-1", 7.0), ("", 7.0)],
)
def test_milliseconds_win_where_they_are_a_number(milliseconds: str, seconds: float) -> None:
    assert retry_after(CaseInsensitiveDict({"retry-after-ms": milliseconds, "Retry-After": "7"})) == seconds


def test_without_a_header_there_is_nothing_to_wait_for() -> None:
    assert retry_after({}) == 0.0
