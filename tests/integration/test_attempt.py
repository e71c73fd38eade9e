"""One attempt in this process, where its upstream's library itself fails: what the log then says of it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from lib.attempt import Attempt, RetryLater
from lib.catalog import Upstream
from lib.logs import Line, labelled
from lib.settings import Settings
from lib.telemetry import OFF
from tests.unit.test_settings import NEEDED


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


def test_what_fails_in_the_reading_thread_is_told_of_its_generation_and_attempt_without_a_word_of_it(
    begin, hold, store, listener, clock, written
):
    generation = begin(request=b'{"model":"demo","messages":[{"role":"user","content":"canary"}]}')
    attempt = Attempt(
        hold(generation),
        store=store,
        listener=listener,
        session=Broken(),
        upstream=Upstream(name="one", base_url="http://127.0.0.1:9/v1"),
        key=None,
        settings=Settings.from_env(NEEDED),
        telemetry=OFF,
        clock=clock,
    )
    with labelled(generation=generation.id, attempt=1):
        assert attempt.run() == RetryLater(0.0)
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [line["message"] for line in lines] == ["reading failed", "generation to be tried again"]
    for line in lines:
        assert line["logging.googleapis.com/labels"] == {"generation": generation.id, "attempt": "1"}
    assert lines[0]["stack_trace"].splitlines()[-1] == "RuntimeError"
    assert "canary" not in written.getvalue()
