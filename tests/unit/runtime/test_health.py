"""Readiness: failing checks are named within a time limit, and concurrent requests share their cost."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask, jsonify

from lib.domain.errors import HoldfastError
from lib.runtime.health import Readiness

PATIENCE = 30.0


class Asked:
    """A check that returns, raises or blocks as the test says."""

    def __init__(self) -> None:
        self.count = 0
        self.answering = threading.Event()
        self.answering.set()
        self.error: Exception | None = None

    def __call__(self) -> None:
        self.count += 1
        assert self.answering.wait(PATIENCE)
        if self.error is not None:
            raise self.error


@pytest.fixture
def part() -> Asked:
    return Asked()


def ready_with(part: Callable[[], object], **seconds: float) -> Readiness:
    return Readiness({"a part": part, "another": lambda: None}, **seconds)


def test_all_that_answers_is_there(part: Asked) -> None:
    assert ready_with(part).failing() == []


def test_what_raises_is_away_whatever_it_raises(part: Asked) -> None:
    for error in (ValueError("canary"), PermissionError(), RuntimeError()):
        part.error = error
        assert ready_with(part).failing() == ["a part"]


def test_what_does_not_answer_in_time_is_away_and_is_not_asked_again_meanwhile(part: Asked) -> None:
    part.answering.clear()
    readiness = ready_with(part, timeout_seconds=0.05, cache_seconds=0.0)
    assert [readiness.failing() for _ in range(5)] == [["a part"]] * 5
    assert part.count == 1
    part.answering.set()


def test_it_is_there_again_once_it_answers(part: Asked) -> None:
    part.error = ValueError()
    readiness = ready_with(part, cache_seconds=0.0)
    assert readiness.failing() == ["a part"]
    part.error = None
    assert readiness.failing() == []


def test_all_who_ask_at_once_share_one_question(part: Asked) -> None:
    part.answering.clear()
    readiness = ready_with(part, cache_seconds=PATIENCE)
    with ThreadPoolExecutor(20) as many:
        answers = [many.submit(readiness.failing) for _ in range(20)]
        part.answering.set()
        assert [answer.result(PATIENCE) for answer in answers] == [[]] * 20
    assert part.count == 1


def test_an_answer_stands_for_a_while(part: Asked) -> None:
    readiness = ready_with(part, cache_seconds=PATIENCE)
    assert readiness.failing() == readiness.failing() == []
    assert part.count == 1


def test_what_is_away_is_logged_once_and_so_is_its_return(part: Asked, caplog: pytest.LogCaptureFixture) -> None:
    part.error = ValueError("canary")
    readiness = ready_with(part, cache_seconds=0.0)
    with caplog.at_level("INFO", "lib.runtime.health"):
        for _ in range(3):
            readiness.failing()
        part.error = None
        readiness.failing()
    assert Counter(vars(record)["cause"] for record in caplog.records) == {"a part": 1, "ready": 1}


@pytest.mark.parametrize(("path", "status"), [("/health", 200), ("/healthz", 200), ("/ready", 503)])
def test_a_process_lives_whatever_is_away_and_is_not_ready(part: Asked, path: str, status: int) -> None:
    part.error = ValueError("canary")
    app = Flask("app")
    app.errorhandler(HoldfastError)(lambda error: (jsonify(error.body()), error.status))
    ready_with(part).serve(app)
    answer = app.test_client().get(path)
    assert answer.status_code == status
    if status == 503:
        error = answer.get_json()["error"]
        assert (error["code"], error["message"]) == ("not_ready", "Not ready: no answer from a part.")
