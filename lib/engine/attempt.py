"""One attempt at a claimed generation: the upstream call and its outcome.

The reader's thread makes the call, and the committer commits what it reads. The attempt's own thread starts both, waits
for the outcome while it watches for stops and deadlines, and then finishes or releases the generation. Nothing here may
depend on clients.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from contextvars import copy_context
from dataclasses import dataclass, replace
from datetime import timedelta

import orjson

from lib.cloud.listen import Listener
from lib.cloud.store import Store
from lib.dialects.attempts import begin_call, folded_attempts
from lib.dialects.protocol import Answer, Asked, Dialect, Outgoing, Reading, Resumption
from lib.domain.end import End, Fields, State
from lib.engine.asking import Asking, cancel, pause
from lib.engine.buffer import Buffer, Signal
from lib.engine.claim import Claim
from lib.engine.committer import Committer
from lib.engine.deadlines import Watch
from lib.engine.interval import Interval
from lib.engine.others import Others
from lib.engine.reader import Reader
from lib.journal import ending
from lib.journal.codec import Entry, replay_attempts
from lib.journal.writer import Clock, Fenced, Prepared
from lib.runtime.catalog import Upstream
from lib.runtime.settings import Settings
from lib.runtime.telemetry import Span, Telemetry
from lib.upstream.call import Call, Session
from lib.upstream.credential import Credential
from lib.upstream.fault import UpstreamFault

RETRY_AFTER_SECONDS = 30.0  # the longest Retry-After that is honoured
UNHEARD_SECONDS = 0.25  # of a call before others are listened to: a short answer has ended by then
CHAT_SECONDS = 0.5  # how often to check whether the first event is saved, which updates the chat
READER_SECONDS = 1.0  # for the reading thread to notice that its call was cut

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RetryLater:
    """Another attempt should follow after this many seconds. Everything that was read is saved."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Ended:
    """The generation has ended. `state` is None if it was deleted or another worker holds it."""

    state: State | None


class Attempt:
    """Runs one claimed generation."""

    def __init__(
        self,
        claim: Claim,
        *,
        store: Store,
        listener: Listener,
        session: Session,
        dialect: Dialect,
        upstream: Upstream,
        credential: Credential,
        settings: Settings,
        telemetry: Telemetry,
        clock: Clock,
        committer: Committer,
    ):
        self._generation = claim.generation
        self._journal = claim.journal
        self._found = claim.found
        self._read_request = claim.request
        self._store = store
        self._listener = listener
        self._session = session
        self._dialect = dialect
        self._upstream = upstream
        self._credential = credential
        self._settings = settings
        self._telemetry = telemetry
        self._clock = clock
        self._committer = committer
        self.interval = Interval(
            settings, self._generation, self._found, self._journal, stretched=committer.stretched, clock=clock
        )
        self._asking = self._asking_of(b"")
        self._asked = Asked(model=self._generation.model, streamed=True)
        self._call: tuple[Buffer, Reader] | None = None
        self._to_leave = False
        self._chat_touched = False

    def claimed(self, live: int) -> None:
        """Logs the claim. `live` is the number of attempts running in this process."""
        generation = self._generation
        waited = generation.started_at - generation.created_at if generation.started_at else timedelta(0)
        log.info(
            "generation claimed",
            extra={
                "state": str(generation.state),
                "upstream": self._upstream.name,
                "waitMs": _ms(waited) if generation.attempt == 1 and not generation.ahead else None,
                "events": self._found.last,
                "live": live,
            },
        )

    def run(self) -> Ended | RetryLater:
        """Makes the call, and finishes or releases the generation.

        Errors: `Fenced` if it lost the lease, `Unreachable` if Firestore failed for too long. After any other exception
        the generation is still claimed, and the caller must end it.
        """
        request, stop_requested_at = self._read_request()
        self._asking = self._asking_of(request)
        self._asked = self._dialect.check(orjson.loads(request))
        events = replay_attempts(self._store, self._generation, self._found)
        answer = folded_attempts(self._dialect, events, self._asked.choices)
        if stop_requested_at is not None:
            return self._finish(answer, ending.stopped())
        if _whole(answer):
            return self._finish(answer, End(state=State.COMPLETED))
        if self._asking.rest(answer, self._generation.attempt) is None:
            return self._finish(answer, ending.lost(self._generation, silent=answer.silent))
        if self._to_leave:
            return self._release(0.0)
        try:
            return self._exchange(answer)
        except Fenced:
            if self._asking.cancelling(answer) is not None and self._is_deleted():
                self._cancel(answer)
            raise

    def _is_deleted(self) -> bool:
        """Whether the generation was deleted, of which the head goes first. Otherwise another worker holds it."""
        head = self._store.read_head(self._generation)
        return head is None or head.created_at != self._generation.created_at

    def _asking_of(self, request: bytes) -> Asking:
        return Asking(self._generation, self._dialect, self._upstream, self._settings.max_attempts, request)

    def leave(self, *, at_once: bool) -> None:
        """For shutdown: gives up the generation if another attempt can continue it, or with `at_once` in any case.

        May be called from any thread, and repeatedly.
        """
        self._to_leave = self._to_leave or at_once
        if self._call is None:
            return
        buffer, reader = self._call

        def close_if_resumable(answer: Answer) -> None:
            if self._asking.rest(answer, self._generation.attempt + 1) is not None:
                buffer.close(Signal.SHUTDOWN)

        if at_once:
            buffer.close(Signal.SHUTDOWN)
        else:
            reader.look(close_if_resumable)  # under the reader's lock: a further event could change the result

    def _new_call(self, outgoing: Outgoing, traceparent: str | None = None) -> Call:
        return Call(self._session, self._upstream, self._credential, outgoing, traceparent)

    def _call_for_rest(self, answer: Answer, traceparent: str | None) -> tuple[Call, Reading, bool]:
        """The call for what is missing of `answer`, how its events are read, and whether it only reads on.

        Nothing but the call keeps the outgoing body.
        """
        rest = self._asking.rest(answer, self._generation.attempt)
        if rest is None:
            raise TypeError("the answer can't be continued")
        outgoing, reading = self._asking.request(rest)
        return self._new_call(outgoing, traceparent), reading, isinstance(rest, Resumption)

    def _exchange(self, answer: Answer) -> Ended | RetryLater:
        buffer = Buffer(self._journal.last)
        with ExitStack() as at_the_end:
            span = self._telemetry.span("upstream", "CLIENT", upstream=self._upstream.name)
            traceparent = span.trace.traceparent if span.trace and self._settings.upstream_traced == "on" else None
            call, reading, resumed = self._call_for_rest(answer, traceparent)
            if self._found.last:
                begin_call(self._dialect, answer)
            commits = self._committer.join(buffer, self._journal, self.interval)
            at_the_end.callback(commits.leave)
            at_the_end.callback(call.cut)
            at_the_end.callback(buffer.close, Signal.SHUTDOWN)
            reader = Reader(
                call,
                buffer,
                commits,
                dialect=self._dialect,
                reading=reading,
                asked=self._asked,
                answer=answer,
                max_event=self._settings.max_event_bytes,
            )
            thread = threading.Thread(
                target=copy_context().run,
                args=(_read, reader, buffer, span),
                name=f"read-{self._generation.id}",
                daemon=True,
            )
            self._call = buffer, reader  # before the thread runs: it can be told to leave from its first byte on
            thread.start()
            if self._to_leave:
                self.leave(at_once=True)
            if not buffer.wait(UNHEARD_SECONDS):
                others = Others(self._store, self._listener, self._generation, buffer, commits, self.interval)
                at_the_end.callback(others.close)
                self._wait(buffer, reader, others)
            call.cut()
            thread.join(READER_SECONDS)
            return self._conclude(buffer, reader, commits.leave(), resumed=resumed)

    def _wait(self, buffer: Buffer, reader: Reader, others: Others) -> None:
        """Waits for the outcome. A deadline that passes becomes the outcome."""
        watch = Watch(self._upstream.deadlines, reader)
        while True:
            seconds = min(watch.next(), others.due) - time.monotonic()
            if buffer.wait(seconds if self._chat_touched else min(seconds, CHAT_SECONDS)):
                return
            if self._journal.last:
                self._touch_chat()
            if (fault := watch.passed()) is not None:
                buffer.close(fault)
            elif time.monotonic() >= others.due:
                others.reread()

    def _touch_chat(self) -> None:
        """Sets the chat's `lastMessageAt`, once, after the first event was saved."""
        if not self._chat_touched:
            self._chat_touched = True
            try:
                self._store.touch_chat(self._generation, self._clock())
            except Exception:
                log.warning("the chat could not be updated", exc_info=True)  # the application's document may be full

    def _conclude(
        self, buffer: Buffer, reader: Reader, pending: Prepared | None, *, resumed: bool
    ) -> Ended | RetryLater:
        outcome = buffer.outcome
        if outcome is Signal.DELETED:
            raise Fenced
        if pending is not None:
            self._journal.commit(pending)
        entries = buffer.take()
        while more := buffer.take():
            self._journal.append(entries)
            entries = more
        answer = reader.look(lambda answer: answer)
        if outcome is Signal.STOPPED:
            return self._finish(answer, ending.stopped(), entries)
        if outcome is Signal.WHOLE or _whole(answer):
            if isinstance(outcome, Exception) and not isinstance(outcome, UpstreamFault):
                log.error("what came after the end could not be read", exc_info=outcome)
            return self._finish(answer, End(state=State.COMPLETED), entries)
        if entries:
            self._journal.append(entries)
        if isinstance(outcome, Exception) and not isinstance(outcome, UpstreamFault):
            raise outcome
        if not isinstance(outcome, UpstreamFault):
            later = self._release(0.0)
            log.info("generation released at shutdown", extra={"events": self._journal.last})
            return later
        if resumed and outcome.reason == "upstream_status" and not outcome.passing:
            outcome = UpstreamFault("upstream_expired", "The upstream no longer has the rest of the answer.")
        if outcome.passing and (seconds := self._until_next(answer, outcome)) is not None:
            later = self._release(seconds)
            log.warning(
                "generation to be tried again",
                extra={
                    "reason": outcome.reason,
                    "status": outcome.status,
                    "retryMs": round(1000 * later.seconds),
                    "events": self._journal.last,
                },
            )
            return later
        if outcome.reason == "upstream_key":
            log.error("the upstream refused this service's key", extra={"upstream": self._upstream.name})
        state = State.FAILED if answer.silent else State.INCOMPLETE
        failure = End(state=state, reason=outcome.reason, error=failure_of(outcome))
        return self._finish(answer, failure, status=outcome.status)

    def _until_next(self, answer: Answer, fault: UpstreamFault) -> float | None:
        """The seconds until another attempt may go on after a fault that passes. None if there is to be none."""
        rest = self._asking.rest(answer, self._generation.attempt + 1)
        if isinstance(rest, Resumption):
            if fault.said is not None and fault.said.over:
                return None
            idle = self._journal.last == self._found.last
            return max(fault.retry_after, pause(self._generation.attempt - self._found.attempt) if idle else 0.0)
        # A client that repeats its request asks itself: retries of both would multiply.
        return None if rest is None or self._generation.retried else fault.retry_after

    def _release(self, seconds: float) -> RetryLater:
        """Releases the generation. Another task follows, whose attempt continues."""
        self._journal.release()
        return RetryLater(min(seconds, RETRY_AFTER_SECONDS))

    def _finish(self, answer: Answer, end: End, entries: Sequence[Entry] = (), status: int | None = None) -> Ended:
        said = replace(answer.said(), calls=answer.calls.spent)
        ended = self._journal.finish(entries, replace(end, usage=said.usage), said)
        self._touch_chat()
        if end.state is not State.COMPLETED:
            self._cancel(answer)
        asked, metrics = ended.created_at, self._journal.metrics
        well = end.state in (State.COMPLETED, State.STOPPED)
        at_once = self._found.last == 0 and not ended.ahead  # of a wait for other answers the time says nothing
        log.log(
            logging.INFO if well else logging.WARNING,
            "generation ended",
            extra={
                "upstream": self._upstream.name,
                "state": str(end.state),
                "reason": end.reason,
                "status": status,
                "events": ended.last_seq,
                "ttftMs": _ms(metrics.first_saved - asked) if at_once and metrics.first_saved else None,
                "durationMs": _ms(self._clock() - asked),
                "tokens": said.output_tokens,
                "inputTokens": said.input_tokens,
                "costMicros": ended.charge["cost"] if ended.charge else None,
                **metrics.fields(),
            },
        )
        return Ended(ended.state)

    def _cancel(self, answer: Answer) -> None:
        """Cancels what the upstream still generates of an answer that nobody reads on. Never before that is certain."""
        if (outgoing := self._asking.cancelling(answer)) is not None:
            cancel(lambda: self._new_call(outgoing))


def _whole(answer: Answer) -> bool:
    """Whether the upstream's answer is complete, whatever came after it."""
    return answer.finished and not answer.withdrawn


def _read(reader: Reader, buffer: Buffer, span: Span) -> None:
    with span:
        reader.run()
        if isinstance(buffer.outcome, UpstreamFault):
            span.set(http__response__status_code=buffer.outcome.status)
            span.fail(buffer.outcome.reason)


def _ms(time: timedelta) -> int:
    return max(0, round(1000 * time.total_seconds()))


def failure_of(fault: UpstreamFault) -> Fields:
    """The fault as a generation's `error`, with the upstream's own error for the client."""
    error: Fields = {"message": fault.message, "code": fault.reason, "status": fault.status}
    if fault.passing:
        error["retryable"] = True
    if fault.retry_after:
        error["retryAfter"] = fault.retry_after
    if fault.said is not None:
        said = fault.said
        theirs = {"type": said.type, "param": said.param, "body": said.body or None}
        error |= {"code": said.code} | {name: value for name, value in theirs.items() if value is not None}
        if said.body:
            error["contentType"] = fault.content_type
    return error
