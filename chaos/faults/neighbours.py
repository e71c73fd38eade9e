"""A fault that is one user's, and what others must not feel of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from statistics import quantiles
from typing import Any

import requests

from chaos.dialects import DIALECTS, text_of
from chaos.fault import Fault
from chaos.plan import Plan
from chaos.promise import Promise
from chaos.question import Question
from chaos.round import Asked, Round
from chaos.stage import WAIT_SECONDS, Stage
from chaos.wires import Native
from local.client import Client


class UserHogs(Fault):
    """One user starts what a user may, watches it many times, uploads without end, and posts bodies that cost.

    What is reported is the others' lag while that lasts: the 95th percentile of the time between a token's sending and
    its arrival at a viewer. It may be twice what it was before.
    """

    key = "user-hogs"
    title = "one user hogs"
    recovery = "the lag of others, 95 %"
    viewers = (1, 1)
    leaves = 0
    native = True

    def __init__(self) -> None:
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._began = self._ended = float("inf")
        self._usual = 0.0

    def tokens(self, plan: Plan) -> tuple[int, int]:
        """As long as the time before, the time in which the user hogs, and a moment after it."""
        enough = round(plan.rate * (2.5 * plan.hogged))
        return enough, round(1.2 * enough)

    def question(self, on: Round, usual: Question, place: int) -> Question:
        return replace(usual, record=True)

    def strike(self, on: Round) -> None:
        on.wait_until_streaming()
        settled = time.monotonic()
        time.sleep(on.plan.hogged)
        self._began = time.monotonic()
        self._usual = _p95([lag for asked in on.asked for lag in _lags(on, asked, settled, self._began)]) or 0.0
        self._hog(on.stage, f"hog-{on.number}", on.plan)
        time.sleep(on.plan.hogged)
        self._ended = time.monotonic()
        self._stop()

    def _hog(self, stage: Stage, user: str, plan: Plan) -> None:
        client = Client(stage.stack.url, user)
        for number in range(plan.hog_answers):
            dialect = DIALECTS[number % len(DIALECTS)]
            tokens = round(2 * plan.rate * plan.hogged)
            asked = Question(name=f"{user}-{number}", dialect=dialect, tokens=tokens, rate=plan.rate)
            with suppress(requests.RequestException):
                Native(client, asked).ask()
        running = [each["id"] for each in client.list(state="streaming")]
        works: list[tuple[Callable[..., None], tuple[Any, ...]]] = [
            *((self._watch, (stage.stack.url, user, running[:1])) for _ in range(plan.hog_viewers)),
            *((self._upload, (stage.stack.url, user)) for _ in range(plan.hog_uploads)),
            *((self._post, (stage.stack.url, user, plan.hog_bytes)) for _ in range(plan.hog_bodies)),
        ]
        self._threads = [threading.Thread(target=work, args=given, daemon=True) for work, given in works]
        for thread in self._threads:
            thread.start()
        client.session.close()

    def _watch(self, url: str, user: str, running: list[str]) -> None:
        client = Client(url, user)
        with suppress(requests.RequestException, OSError):
            for generation in running:
                with client.resume(generation, 0) as stream:
                    for _ in stream.response.iter_content(None):
                        if self._over.is_set():
                            break
        client.session.close()

    def _upload(self, url: str, user: str) -> None:
        """Sends one byte of a body and then nothing."""

        def drip() -> Iterator[bytes]:
            yield b"{"
            self._over.wait(WAIT_SECONDS)

        client = Client(url, user)
        with suppress(requests.RequestException, OSError):
            client.request("POST", "/v1/chat/completions", data=drip(), timeout=WAIT_SECONDS)
        client.session.close()

    def _post(self, url: str, user: str, size: int) -> None:
        """Posts requests that are small to send and large to parse, one after the other."""
        asked = b'{"model": "chat_completions", "messages": [{"role": "user", "content": "hog"}], "max_tokens": 1, '
        body = asked + b'"metadata": [' + b"[]," * (size // 3) + b"[]]}"
        client = Client(url, user)
        while not self._over.is_set():
            with suppress(requests.RequestException, OSError):
                client.request("POST", "/v1/chat/completions", data=body, timeout=WAIT_SECONDS)
        client.session.close()

    def _stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(WAIT_SECONDS)
        self._threads = []

    def restore(self, stage: Stage) -> None:
        self._stop()

    def recovered(self, on: Round, asked: Asked) -> float | None:
        return _p95(_lags(on, asked, self._began, self._ended))

    def promise(self, plan: Plan, question: Question) -> Promise:
        return Promise(calls=1, recover=max(plan.lag, 2 * self._usual))


def _lags(on: Round, asked: Asked, since: float, until: float) -> list[float]:
    """The seconds between the sending of each token in a span of time and its arrival at the first viewer."""
    sent = dict(zip(asked.question.answer, on.stage.recorded(asked.question), strict=False))
    seen = [(text_of(asked.question.dialect, sight.frame), sight.at) for sight in list(asked.viewers[0].seen)]
    return [at - sent[text] for text, at in seen if text in sent and since <= sent[text] < until]


def _p95(lags: list[float]) -> float | None:
    return quantiles(lags, n=20)[-1] if len(lags) > 1 else None
