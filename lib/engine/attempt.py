"""One attempt at a generation: the whole upstream call, and every commit of what came of it.

Reading never waits for a commit. A thread makes the call and hands numbered frames over; what a steady stream brings is
read, and committed, at the process's beat by its flusher. The attempt's own thread commits what can't wait for that or
is more than one write, renews the lease, watches for a stop and for deadlines, and says how it ended. Nothing here
knows of clients.
"""

from __future__ import annotations

import logging
import threading
import time
from contextvars import copy_context
from dataclasses import dataclass
from datetime import timedelta

import orjson

from lib.cloud.documents import Document, Put, Unreachable, Version
from lib.cloud.listen import Listener
from lib.cloud.store import Store
from lib.dialects import chat_completions as chat
from lib.dialects.continuation import Seam, continued
from lib.domain.generation import End, Fields, State
from lib.engine.flusher import Flusher
from lib.engine.inbox import Inbox, Stop
from lib.engine.lease import Claim
from lib.engine.reading import Reading
from lib.journal.journal import Clock, Entry, Fenced, replayed
from lib.runtime.catalog import Deadlines, Upstream
from lib.runtime.settings import Settings
from lib.runtime.telemetry import Span, Telemetry
from lib.upstream.call import Call, Session, UpstreamFault

RETRY_AFTER_SECONDS = 30.0  # the longest an upstream's Retry-After is honoured
SECOND_LOOK_SECONDS = 0.5

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RetryLater:
    """Another attempt may do better or go on, after this many seconds; nothing that was read is lost."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Ended:
    """The generation has ended, or is another's to end."""

    state: State | None


class Attempt:
    """One claimed generation, to its end. `key` is the upstream's key, if it needs one."""

    def __init__(
        self,
        claim: Claim,
        *,
        store: Store,
        listener: Listener,
        session: Session,
        upstream: Upstream,
        key: str | None,
        settings: Settings,
        telemetry: Telemetry,
        clock: Clock,
        flusher: Flusher | None = None,
    ):
        self._generation = claim.generation
        self._journal = claim.journal
        self._found = claim.found
        self._store = store
        self._listener = listener
        self._session = session
        self._upstream = upstream
        self._key = key
        self._settings = settings
        self._telemetry = telemetry
        self._clock = clock
        self._flusher = flusher
        self._watched_until = max(self._generation.watchers.values(), default=clock())
        self._request: chat.Json = {}
        self._inbox: Inbox | None = None
        self._reading: Reading | None = None
        self._committed = 0.0
        self._chat_told = False

    def claimed(self, live: int) -> None:
        """Says that it begins, and how many are under way here."""
        generation = self._generation
        waited = generation.started_at - generation.created_at if generation.started_at else timedelta(0)
        log.info(
            "generation claimed",
            extra={
                "state": str(generation.state),
                "upstream": self._upstream.name,
                "waitMs": _ms(waited) if generation.attempt == 1 else None,
                "events": self._found.last,
                "live": live,
            },
        )

    def run(self) -> Ended | RetryLater:
        """Makes the call and ends the generation. Errors: `Unreachable`, where Firestore stayed away for too long."""
        try:
            request = orjson.loads(self._store.request(self._generation))
            self._request = chat.with_usage(request)
            answer = replayed(self._store, self._generation, self._found, request.get("n") or 1)
            if self._generation.stop_requested_at is not None:
                return self._finish([], answer, End(state=State.STOPPED, reason="stopped", usage=answer.usage))
            if answer.finished:
                return self._finish([], answer, End(state=State.COMPLETED, usage=answer.usage))
            if self._generation.attempt > self._settings.max_attempts:
                return self._end_lost(answer)
            if self._found.last == 0:
                return self._call(self._request, answer)
            rest = self._rest(answer)
            return self._call(rest[0], answer, rest[1]) if rest else self._end_lost(answer)
        except Fenced:
            log.warning("the generation is another's")
            return Ended(None)

    def leave(self, *, at_once: bool) -> None:
        """Gives the generation up, as the process ends: where another attempt can go on with it, or else `at_once`.

        May be called from any thread, and again.
        """
        inbox = self._inbox
        if inbox is not None and (at_once or inbox.last == 0 or inbox.look(self._rest) is not None):
            inbox.stop(Stop.SHUTDOWN)

    def _rest(self, answer: chat.Answer) -> tuple[chat.Json, Seam] | None:
        """What to ask for so that the upstream goes on with `answer`, where it can."""
        if answer.silent:
            return self._request, Seam(answer.identity)
        return continued(self._request, answer, self._upstream.prefill) if self._upstream.prefill else None

    def _end_lost(self, answer: chat.Answer) -> Ended:
        """Earlier attempts were lost, and no other is to be made: what they saved is the answer."""
        if self._found.last == 0:
            state, what = State.FAILED, "The answer could not be started."
        else:
            state, what = State.INCOMPLETE, "The answer broke off: its worker was lost."
        error = {"message": what, "code": "worker_lost"}
        return self._finish([], answer, End(state=state, reason="worker_lost", error=error, usage=answer.usage))

    def _call(self, request: chat.Json, answer: chat.Answer, seam: Seam | None = None) -> Ended | RetryLater:
        if self._flusher is None:
            return self._exchange(request, seam, Inbox(self._journal.last, answer))
        flusher = self._flusher
        flusher.join(self)
        try:
            return self._exchange(request, seam, Inbox(self._journal.last, answer, crowded=lambda: flusher.crowded))
        finally:
            flusher.leave(self)

    def _exchange(self, request: chat.Json, seam: Seam | None, inbox: Inbox) -> Ended | RetryLater:
        self._inbox = inbox
        span = self._telemetry.span("upstream", "CLIENT", upstream=self._upstream.name)
        traceparent = span.trace.traceparent if span.trace and self._settings.upstream_traced == "on" else None
        call = Call(self._session, self._upstream, self._key, orjson.dumps(request), traceparent)
        reading = Reading(
            call,
            inbox,
            stream_asked=bool(request.get("stream")),
            usage_asked=self._generation.usage_wanted,
            max_event=self._settings.max_event_bytes,
            seam=seam,
        )
        self._reading = reading
        threading.Thread(
            target=copy_context().run,
            args=(_read, reading, inbox, span),
            name=f"read-{self._generation.id}",
            daemon=True,
        ).start()
        unwatch = self._listener.watch(self._generation.path, lambda document: self._on_change(document, inbox))
        try:
            self._commit_until_end(inbox)
            return self._conclude(inbox)
        finally:
            unwatch()
            inbox.end(UpstreamFault("cancelled", "The attempt is over."))
            call.cancel()

    def _on_change(self, document: Document | None, inbox: Inbox) -> None:
        """What others write to the generation: a stop, a deletion, a viewer's lease."""
        if document is None:
            inbox.stop(Stop.DELETED)
            return
        if document.fields["stopRequestedAt"] is not None:
            inbox.stop(Stop.BY_USER)
        self._watched_until = max(document.fields["watchers"].values(), default=self._generation.created_at)

    def _commit_until_end(self, inbox: Inbox) -> None:
        deadline = _Deadline(self._upstream.deadlines)
        renewal = self._settings.lease_seconds / 3
        self._committed = time.monotonic()
        while not inbox.wait(lambda: min(self._committed + renewal, deadline.next(inbox))):
            now = time.monotonic()
            due = None
            if (left := inbox.handed()) is not None:
                self._journal.commit(left)
                self._committed = time.monotonic()
                due = self._due_after(now)
            elif (fault := deadline.passed(inbox)) is not None:
                inbox.end(fault)
            else:
                entries, _ = inbox.take(self._due_after(now))
                if entries or now >= self._committed + renewal:
                    self._journal.append(entries)
                    self._committed = time.monotonic()
                due = self._due_after(now) if entries else None
            inbox.settle(due)
            if self._journal.last:
                self._tell_chat()

    def _tell_chat(self) -> None:
        """Says in the chat, once, that it has a new message: when something of it is saved, which need not wait."""
        if not self._chat_told:
            self._chat_told = True
            self._store.touch_chat(self._generation, self._clock())

    def begin(self, now: float, until: float) -> Put | None:
        """Reads on, and gives the head as it is to be written at this beat. For the flusher."""
        inbox, reading = self._inbox, self._reading
        if inbox is None or reading is None:
            return None
        reading.read_on(until)
        entries = inbox.begin(until, self._due_after(now))
        if not entries:
            return None
        prepared = self._journal.prepare(entries)
        write = self._journal.plain(prepared)
        if write is None:
            inbox.flushed(self._due_after(now), prepared)
        else:
            self._flush = prepared, now
        return write

    def settle(self, outcome: Version | Exception) -> None:
        """What became of the head's write. For the flusher."""
        inbox, (prepared, began) = self._inbox, self._flush
        now = time.monotonic()
        left = None
        if isinstance(outcome, Exception):
            left = prepared
            if isinstance(outcome, Unreachable):
                self._journal.missed(outcome)
        else:
            self._journal.settled(prepared, outcome, now - began)
            self._committed = now
        if inbox is not None:
            inbox.flushed(self._due_after(began), left)

    def _due_after(self, now: float) -> float:
        """When the commit after one at `now` is due: later where commits are slow, and where nobody is watching."""
        watched = self._watched_until > self._clock()
        beat, early = (self._flusher.seconds, self._flusher.early) if self._flusher is not None else (0.0, 0.0)
        interval = beat if watched else self._settings.unwatched_flush_seconds
        return now + max(interval, 2 * self._journal.commit_seconds + early) if interval else now

    def _conclude(self, inbox: Inbox) -> Ended | RetryLater:
        if inbox.stopped is Stop.DELETED:
            return Ended(None)
        entries, more = inbox.take()
        while more:
            self._journal.append(entries)
            entries, more = inbox.take()
        answer, fault = inbox.answer, inbox.fault
        if inbox.stopped is Stop.BY_USER:
            return self._finish(entries, answer, End(state=State.STOPPED, reason="stopped", usage=answer.usage))
        if inbox.whole:
            return self._finish(entries, answer, End(state=State.COMPLETED, usage=answer.usage))
        if fault is None:
            later = self._retry(entries, 0.0)
            log.info("generation handed over", extra={"events": self._journal.last})
            return later
        again = fault.passing and self._generation.attempt < self._settings.max_attempts
        if again and (inbox.last == 0 or self._rest(answer)):
            later = self._retry(entries, fault.retry_after)
            log.warning(
                "generation to be tried again",
                extra={
                    "reason": fault.reason,
                    "status": fault.status,
                    "retryMs": round(1000 * later.seconds),
                    "events": self._journal.last,
                },
            )
            return later
        if inbox.last == 0:
            failure = _failure(fault)
            return self._finish([], answer, End(state=State.FAILED, reason=fault.reason, error=failure), fault.status)
        error = {"message": fault.message, "code": fault.reason}
        end = End(state=State.INCOMPLETE, reason=fault.reason, error=error, usage=answer.usage)
        return self._finish(entries, answer, end, fault.status)

    def _retry(self, entries: list[Entry], seconds: float) -> RetryLater:
        """Saves what there is and lets go of the generation: the task comes again, and another attempt goes on."""
        self._journal.release(entries)
        return RetryLater(min(seconds, RETRY_AFTER_SECONDS))

    def _finish(self, entries: list[Entry], answer: chat.Answer, end: End, status: int | None = None) -> Ended:
        ended = self._journal.finish(entries, end, answer)
        self._tell_chat()
        asked, tally = ended.created_at, self._journal.tally
        well = end.state in (State.COMPLETED, State.STOPPED)
        log.log(
            logging.INFO if well else logging.WARNING,
            "generation ended",
            extra={
                "upstream": self._upstream.name,
                "state": str(end.state),
                "reason": end.reason,
                "status": status,
                "events": ended.last_seq,
                "ttftMs": _ms(tally.first - asked) if tally.first and self._found.last == 0 else None,
                "durationMs": _ms(self._clock() - asked),
                **_tokens(end.usage),
                **tally.fields(),
            },
        )
        return Ended(ended.state)


def _read(reading: Reading, inbox: Inbox, span: Span) -> None:
    with span:
        reading.run()
        if inbox.fault is not None:
            span.set(http__response__status_code=inbox.fault.status)
            span.fail(inbox.fault.reason)


def _ms(time: timedelta) -> int:
    return max(0, round(1000 * time.total_seconds()))


def _tokens(usage: Fields | None) -> dict[str, int]:
    """What the upstream counted, where it sent numbers."""
    counted = {"tokens": "completion_tokens", "inputTokens": "prompt_tokens"}
    values = {name: (usage or {}).get(theirs) for name, theirs in counted.items()}
    return {name: value for name, value in values.items() if type(value) is int and 0 <= value < 1 << 53}


class _Deadline:
    """The upstream's deadlines, as moments of the monotonic clock.

    Silence counts at the second look: after a standstill of the whole process, what came meanwhile is still unread.
    """

    def __init__(self, deadlines: Deadlines):
        self._deadlines = deadlines
        self._started = time.monotonic()
        self._suspected: float | None = None  # the last sign of life that was found to be too old
        self._second_look = 0.0

    def next(self, inbox: Inbox) -> float:
        silence = self._second_look if inbox.heard == self._suspected else self._silence(inbox)
        return min(self._total, silence)

    def passed(self, inbox: Inbox) -> UpstreamFault | None:
        """The fault that a deadline's passing is, if one has passed."""
        now = time.monotonic()
        if now >= self._total:
            return UpstreamFault("deadline", "The answer took longer than it may.", status=504)
        if now < self._silence(inbox):
            return None
        if self._suspected != inbox.heard:
            self._suspected, self._second_look = inbox.heard, now + SECOND_LOOK_SECONDS
        if now < self._second_look:
            return None
        if inbox.opened:
            return UpstreamFault("upstream_idle", "The upstream fell silent in the middle of its answer.", passing=True)
        return UpstreamFault(
            "upstream_timeout", "The upstream did not begin to answer in time.", passing=True, status=504
        )

    @property
    def _total(self) -> float:
        return self._started + self._deadlines.total

    def _silence(self, inbox: Inbox) -> float:
        return inbox.heard + (self._deadlines.idle if inbox.opened else self._deadlines.first_byte)


def _failure(fault: UpstreamFault) -> Fields:
    """The fault as a generation keeps it, with the upstream's own words for the client."""
    return {
        "message": fault.message,
        "code": fault.reason,
        "status": fault.status or 502,
        "body": fault.body.decode("utf-8", "replace"),
        "contentType": fault.content_type,
        "retryAfter": fault.retry_after,
    }
