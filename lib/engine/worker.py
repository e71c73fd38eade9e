"""The worker's door: Cloud Tasks comes in, one delivery at a time, and a generation is worked to its end.

A 2xx tells the queue that nothing is left to do; a 503 that it is to come again. Only the queue's own service account
may enter. Nothing here serves a client. When the process is to end, the attempts under way are handed over.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from flask import Flask, Response, jsonify, request

from lib.cloud.documents import Unreachable
from lib.cloud.listen import Listener
from lib.cloud.store import Store
from lib.cloud.tokens import QueueTokens
from lib.domain.errors import HoldfastError
from lib.domain.task import Task
from lib.engine.attempt import Attempt, Ended, RetryLater
from lib.engine.flusher import Flusher
from lib.engine.lease import Claim, Held, claim
from lib.runtime.logs import labelled
from lib.runtime.settings import Settings
from lib.runtime.shutdown import Shutdown
from lib.runtime.telemetry import Telemetry
from lib.upstream.call import new_session

MAX_TASK_BYTES = 64 << 10
HELD_RETRY_SECONDS = 5
CLAIMS_AT_ONCE = 4  # of a process: where a hundred tasks begin together, the answers under way get their share too
CLAIM_WAIT_SECONDS = 2.0  # for its turn, after which a task goes on all the same
HAND_OVER_SECONDS = 6.0  # of the ten that a process has to end; what is read no further then is saved in the rest
_POLL_SECONDS = 0.1

log = logging.getLogger(__name__)


def create_worker(
    settings: Settings,
    store: Store,
    listener: Listener,
    tokens: QueueTokens,
    environ: Mapping[str, str],
    shutdown: Shutdown,
    telemetry: Telemetry,
) -> Flask:
    """The worker as a Flask application. `environ` is where the upstreams' keys are."""
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MAX_TASK_BYTES
    session = new_session()
    running = Running()
    claims = Turnstile(CLAIMS_AT_ONCE, CLAIM_WAIT_SECONDS)
    flusher = Flusher(store.batch, settings.flush_seconds) if settings.flush_seconds else None
    shutdown.call(running.hand_over)

    def attempt(claimed: Claim) -> Attempt:
        upstream = settings.catalog[claimed.generation.upstream]
        return Attempt(
            claimed,
            store=store,
            listener=listener,
            session=session,
            upstream=upstream,
            key=environ.get(upstream.key_env) if upstream.key_env else None,
            settings=settings,
            telemetry=telemetry,
            clock=now,
            flusher=flusher,
        )

    def run(claimed: Claim) -> Ended | RetryLater:
        its, number = claimed.generation.id, claimed.generation.attempt
        with (
            labelled(generation=its, attempt=number),
            telemetry.span("attempt", generation=its, attempt=number) as span,
        ):
            outcome = running.run(attempt(claimed))
            span.set(state=outcome.state if isinstance(outcome, Ended) else "to be tried again")
            return outcome

    @app.post("/")
    def work() -> Any:
        tokens.verify(request.headers.get("Authorization"))
        task = Task.decode(request.get_data())
        try:
            with claims.turn():
                if shutdown.begun:
                    return _again(0)
                claimed = claim(store, task, settings.lease, now)
            if claimed is None:
                log.info("nothing to do for a task", extra={"generation": task.generation_id})
                return jsonify(state=None)
            outcome = run(claimed)
        except Held:
            log.info("another worker has the generation", extra={"generation": task.generation_id})
            return _again(HELD_RETRY_SECONDS)
        except Unreachable:
            log.warning("Firestore can't be reached", extra={"generation": task.generation_id})
            return _again(HELD_RETRY_SECONDS)
        if isinstance(outcome, RetryLater):
            return _again(outcome.seconds)
        return jsonify(state=outcome.state)

    @app.errorhandler(HoldfastError)
    def refuse(error: HoldfastError) -> Any:
        return jsonify(error.body()), error.status

    return app


class Turnstile:
    """Lets in so many threads at a time; one that has waited for `seconds` goes in all the same."""

    def __init__(self, places: int, seconds: float):
        self._places = threading.BoundedSemaphore(places)
        self._seconds = seconds

    @contextmanager
    def turn(self) -> Iterator[None]:
        has_place = self._places.acquire(timeout=self._seconds)
        try:
            yield
        finally:
            if has_place:
                self._places.release()


class Running:
    """The attempts under way in this process."""

    def __init__(self) -> None:
        self._attempts: set[Attempt] = set()
        self._lock = threading.Lock()

    def run(self, attempt: Attempt) -> Ended | RetryLater:
        with self._lock:
            self._attempts.add(attempt)
            live = len(self._attempts)
        try:
            attempt.claimed(live)
            return attempt.run()
        finally:
            with self._lock:
                self._attempts.discard(attempt)

    def hand_over(self) -> None:
        """Lets go of what another process can go on with; the rest is read on for as long as there is time."""
        deadline = time.monotonic() + HAND_OVER_SECONDS
        while self._leave(at_once=False) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        self._leave(at_once=True)

    def _leave(self, *, at_once: bool) -> int:
        with self._lock:
            attempts = list(self._attempts)
        for attempt in attempts:
            attempt.leave(at_once=at_once)
        return len(attempts)


def now() -> datetime:
    return datetime.now(UTC)


def _again(seconds: float) -> Response:
    answer = jsonify(state=None)
    answer.status_code = 503
    if seconds:
        answer.headers["Retry-After"] = str(round(seconds))
    return answer
