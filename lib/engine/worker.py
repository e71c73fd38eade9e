"""The worker's HTTP endpoint: each request is one delivery of a task by Cloud Tasks, and runs one generation.

A 2xx tells the queue that the task is done, also where it has to wait: `waiting` schedules another then. Only the
queue's own service account is accepted. Nothing here may serve a client. At shutdown, running attempts are handed over.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from flask import Flask, jsonify, request

from lib.cloud.credentials import GoogleTokens
from lib.cloud.listen import Listener
from lib.cloud.store import RequestLost, Store
from lib.cloud.task_queue import TaskQueue
from lib.cloud.tokens import QueueTokens
from lib.dialects.protocol import Dialect, Malformed, Outgoing, folded
from lib.dialects.salvage import salvaged
from lib.domain.end import End, State
from lib.domain.errors import HoldfastError, Unauthenticated, Unreachable
from lib.domain.generation import Generation
from lib.domain.message import Said
from lib.domain.segment import Head
from lib.domain.task import Task, is_check
from lib.engine.admission import Admission
from lib.engine.asking import Asking, cancel, most_attempts
from lib.engine.attempt import Attempt, Ended, RetryLater
from lib.engine.claim import TAKEOVER_SECONDS, AwaitsTurn, Claim, Exhausted, Held, RanOut, claim
from lib.engine.committer import Committer
from lib.engine.running import Running
from lib.engine.titles import Titles
from lib.engine.waiting import Waiting
from lib.journal import ending
from lib.journal.codec import replay, replay_attempts, saved_text
from lib.journal.outbox import Outbox
from lib.journal.turns import Turns
from lib.journal.writer import GIVE_UP_SECONDS, Fenced
from lib.runtime.catalog import Upstream
from lib.runtime.logs import labelled
from lib.runtime.settings import Settings
from lib.runtime.shutdown import Shutdown
from lib.runtime.telemetry import Telemetry
from lib.upstream.call import Call, Session, new_session
from lib.upstream.credential import Credential

MAX_TASK_BYTES = 64 << 10

log = logging.getLogger(__name__)


class Unworkable(Exception):
    """This worker can't run the generation, and a retry would not help. `reason` is a documented code."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason
        self.message = message


class Worker:
    """Runs tasks. `environ` has the upstreams' API keys, and `session` makes the upstream calls."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        listener: Listener,
        environ: Mapping[str, str],
        shutdown: Shutdown,
        telemetry: Telemetry,
        dialects: Mapping[str, Dialect],
        *,
        session: Session | None = None,
        admission: Admission | None = None,
        takeover_seconds: float = TAKEOVER_SECONDS,
    ):
        self._settings = settings
        self._store = store
        self._listener = listener
        self._environ = environ
        self._shutdown = shutdown
        self._telemetry = telemetry
        self._dialects = dialects
        self._session = session or new_session()
        self._tokens = GoogleTokens()
        self._running = Running()
        self._admission = admission or Admission()
        self._takeover_seconds = takeover_seconds
        self._committer = Committer(store.batch, settings.lease_seconds / 3)
        shutdown.add_callback(self._running.hand_over)

    def work(self, task: Task) -> Ended | RetryLater | AwaitsTurn:
        """Runs the task's generation. Errors: `Held` if another worker does, `Unreachable`."""
        claimed = self._claim(task)
        if claimed is None:
            self._cancel_left(task)
            log.info("task skipped", extra={"generation": task.generation_id})
            return Ended(None)
        if isinstance(claimed, Exhausted):
            return self._end_exhausted(claimed)
        return claimed if isinstance(claimed, RetryLater | AwaitsTurn) else self._attempt(claimed)

    def _claim(self, task: Task) -> Claim | Exhausted | AwaitsTurn | RetryLater | None:
        given_time = None
        while True:
            try:
                with self._admission.place() as claimed:
                    if self._shutdown.begun:
                        return RetryLater(0)
                    found = claim(self._store, task, self._settings.lease, now, self._most_claims, given_time)
                    if isinstance(found, Claim):
                        claimed()
                    return found
            except RanOut as ran_out:
                given_time = ran_out.version
            time.sleep(self._takeover_seconds)

    def _attempt(self, claimed: Claim) -> Ended | RetryLater:
        its, number = claimed.generation.id, claimed.generation.attempt
        with (
            labelled(generation=its, attempt=number),
            self._telemetry.span("attempt", generation=its, attempt=number) as span,
        ):
            try:
                outcome = self._running.run(self._new_attempt(claimed))
            except Fenced:
                log.warning("the generation was taken over or deleted")
                outcome = Ended(None)
            except Unreachable:
                raise
            except Exception as error:
                outcome = self._end_failed(claimed, error)
            span.set(state=outcome.state if isinstance(outcome, Ended) else "to be tried again")
            return outcome

    def _new_attempt(self, claimed: Claim) -> Attempt:
        upstream, dialect = self._upstream_of(claimed.generation)
        return Attempt(
            claimed,
            store=self._store,
            listener=self._listener,
            session=self._session,
            dialect=dialect,
            upstream=upstream,
            credential=self._credential(upstream),
            settings=self._settings,
            telemetry=self._telemetry,
            clock=now,
            committer=self._committer,
        )

    def _upstream_of(self, generation: Generation) -> tuple[Upstream, Dialect]:
        """The upstream of a generation, and its API. Errors: `Unworkable`."""
        catalog = self._settings.catalog
        if generation.upstream not in catalog:
            raise Unworkable(
                "upstream_unknown", "The service no longer has the upstream that this answer was asked of."
            )
        if generation.dialect not in self._dialects:
            raise Unworkable("dialect_unknown", "The service no longer speaks the API that this answer was asked in.")
        return catalog[generation.upstream], self._dialects[generation.dialect]

    def new_call(self, upstream: Upstream, outgoing: Outgoing) -> Call:
        return Call(self._session, upstream, self._credential(upstream), outgoing)

    def _credential(self, upstream: Upstream) -> Credential:
        key = self._environ.get(upstream.key_env) if upstream.key_env else None
        return Credential(upstream, key, self._tokens)

    def _most_claims(self, generation: Generation) -> int:
        catalog, most = self._settings.catalog, self._settings.max_attempts
        return most_attempts(catalog[generation.upstream], most) if generation.upstream in catalog else most

    def _cancel_left(self, task: Task) -> None:
        """Cancels what an upstream still generates for an answer that was ended without a worker, as by a stop."""
        if self._settings.catalog.has_background:
            generation, head = self._store.generation_and_head(task.generation_id, task.message_path)
            if generation is not None and head is not None and generation.state in (State.STOPPED, State.INCOMPLETE):
                self._cancel(generation, head)

    def _cancel(self, generation: Generation, head: Head) -> None:
        try:
            upstream, dialect = self._upstream_of(generation)
            if not upstream.background:
                return
            answer = folded(dialect, replay(self._store, generation, head))
        except (Unworkable, Malformed):
            return
        outgoing = Asking(generation, dialect, upstream, self._settings.max_attempts, b"").cancelling(answer)
        if outgoing is not None:
            with labelled(generation=generation.id):
                cancel(lambda: self.new_call(upstream, outgoing))

    def _end_exhausted(self, exhausted: Exhausted) -> Ended:
        """Ends a generation that has used up its attempts and whose last worker was lost."""
        generation, head = exhausted.generation, exhausted.found
        said, silent = self._saved(generation, head)
        ended = self._end(generation, head, ending.lost(generation, silent=silent), said)
        self._cancel(generation, head)
        return ended

    def _end_failed(self, claimed: Claim, error: Exception) -> Ended:
        """Ends a generation whose attempt raised `error`, with what is saved. Errors: `Unreachable`."""
        if isinstance(error, Unworkable):
            reason, message = error.reason, error.message
        elif isinstance(error, RequestLost):
            reason, message = "request_lost", "A part of the request is missing, so it can't be answered."
        else:
            reason, message = "internal_error", "Something went wrong here."
        log.error("attempt failed", exc_info=error, extra={"reason": reason})
        its = claimed.generation
        generation, head = self._store.generation_and_head(its.id, its.message_path)
        if generation is None or head is None or head.end is not None or head.claims != its.attempt:
            return Ended(None)
        said, silent = self._saved(generation, head)
        state = State.FAILED if silent else State.INCOMPLETE
        failure = {"message": message, "code": reason, "status": 500}
        return self._end(generation, head, End(state=state, reason=reason, error=failure), said)

    def _end(self, generation: Generation, head: Head, end: End, said: Said) -> Ended:
        ended = ending.end_unworked(self._store, generation, head, end, said, now, patience=GIVE_UP_SECONDS)
        return Ended(ended.state if ended else None)

    def _saved(self, generation: Generation, head: Head) -> tuple[Said, bool]:
        """What is saved of an answer, and whether that is no output."""
        return salvaged(
            self._dialects.get(generation.dialect),
            replay_attempts(self._store, generation, head),
            lambda: saved_text(self._store, generation, head),
        )


def create_worker(
    settings: Settings,
    store: Store,
    listener: Listener,
    queue: TaskQueue,
    tokens: QueueTokens,
    environ: Mapping[str, str],
    shutdown: Shutdown,
    telemetry: Telemetry,
    dialects: Mapping[str, Dialect],
) -> Flask:
    """The worker as a Flask application. `environ` has the upstreams' API keys."""
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MAX_TASK_BYTES
    worker = Worker(settings, store, listener, environ, shutdown, telemetry, dialects)
    outbox = Outbox(store, queue, settings.channels)
    turns = Turns(store, queue)
    titles = Titles(settings, store, dialects, worker.new_call, now)

    @app.post("/")
    def work() -> Any:
        try:
            tokens.verify(request.headers)
        except Unauthenticated as error:
            log.warning("task refused", extra={"cause": error.code})
            raise
        body = request.get_data()
        if is_check(body):
            return jsonify(state=None)
        task = Task.decode(body)
        waiting = Waiting(queue, task.successor, request.headers.get("X-CloudTasks-TaskName"))
        try:
            outcome = worker.work(task)
            if isinstance(outcome, Ended):
                outbox.flush(task.generation_id)  # also of an end whose worker was lost before it could do this
                if task.takes_turns:
                    turns.advance(task.message_path)  # likewise, and before the title, which the next turn needs not
                titles.write(task.generation_id)
            elif isinstance(outcome, AwaitsTurn):
                turns.interrupt(outcome.generation, outcome.first, now())
                turns.begin(outcome.first)
        except Held as held:
            log.info("another worker has the generation", extra={"generation": task.generation_id})
            return waiting.lease((held.until - now()).total_seconds())
        except Unreachable as error:
            log.warning("Firestore can't be reached", extra={"generation": task.generation_id, "cause": error.cause})
            return waiting.outage()
        if isinstance(outcome, AwaitsTurn):
            return waiting.turn(outcome.first)
        if isinstance(outcome, RetryLater):
            return waiting.attempt(outcome.seconds)
        return jsonify(state=outcome.state)

    @app.errorhandler(HoldfastError)
    def refuse(error: HoldfastError) -> Any:
        return jsonify(error.body()), error.status

    return app


def now() -> datetime:
    return datetime.now(UTC)
