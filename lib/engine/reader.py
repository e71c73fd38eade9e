"""Reads one upstream answer into the buffer.

Each call has one reading thread. It splits bytes into events, lets the dialect interpret them, and decides the call's
outcome. It must never wait for a commit. Between two reads it may sleep until shortly before the next commit is due, so
that the events of a steady stream gather in the socket and cost one read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, TypeVar

from lib.dialects.body import Body, beginning, cut_short, kind
from lib.dialects.protocol import Answer, Asked, Dialect, Malformed, Read, Reading
from lib.dialects.sse import EventTooLarge, Splitter
from lib.dialects.steps import OUTPUT, EndMark, Fault
from lib.domain.event import Event
from lib.engine.buffer import Buffer, Closed, Signal
from lib.upstream.call import Call, Head
from lib.upstream.fault import UpstreamFault

ERROR_BODY_BYTES = 64 << 10
DECISIVE_BYTES = len(b"event:")  # enough of a body to tell its kind: the longest field name that starts a stream
LONGEST_SLEEP_SECONDS = 0.25  # short enough not to be mistaken for silence of the upstream
SHORTEST_SLEEP_SECONDS = 0.002
BULK_BYTES = 8 << 10  # in one read: no token is that long, so more is likely to follow
ROOM_SECONDS = 1.0

Seen = TypeVar("Seen")


class Pace(Protocol):
    """When events that are read can be committed."""

    def events_came(self) -> None:
        """There is something to commit."""
        ...

    def until_due(self) -> float:
        """The seconds until the next commit can take new events, or 0 if that is unknown."""
        ...


class Reader:
    """Reads `call` into `buffer`.

    `answer` is what earlier attempts saved; new events are added to it. `asked` is what the client asked for.
    `max_event` limits the size of one event, in bytes.
    """

    def __init__(
        self,
        call: Call,
        buffer: Buffer,
        pace: Pace,
        *,
        dialect: Dialect,
        reading: Reading,
        asked: Asked,
        answer: Answer,
        max_event: int,
    ):
        self._call = call
        self._buffer = buffer
        self._pace = pace
        self._dialect = dialect
        self._reading = reading
        self._asked = asked
        self._answer = answer
        self._max_event = max_event
        self._folding = threading.Lock()  # an event is in the buffer and in the answer, or in neither
        self.answered = False
        self.last_activity = time.monotonic()

    def run(self) -> None:
        """Reads to the end and sets the outcome. Runs in the reading thread."""
        outcome: Signal | Exception
        try:
            try:
                outcome = self._read()
            finally:
                self._call.close()
        except Closed:
            return
        except UpstreamFault as fault:
            outcome = fault
        except EventTooLarge:
            outcome = UpstreamFault("event_too_large", "The upstream sent an event larger than this service takes.")
        except Malformed:
            outcome = UpstreamFault("upstream_malformed", "The upstream sent something that is none of its API.")
        except Exception as error:
            outcome = error
        self._buffer.close(outcome)

    def look(self, at: Callable[[Answer], Seen]) -> Seen:
        """Calls `at` with the answer, while it holds exactly the events that were put into the buffer."""
        with self._folding:
            return at(self._answer)

    def _read(self) -> Signal | Exception:
        head = self._call.open()
        self._active()
        if not 200 <= head.status < 300:
            raise self._refusal(head)
        self.answered = True
        start = b""
        while len(start) < DECISIVE_BYTES and (piece := self._next()):
            start = beginning(start + piece)
        if not start:
            raise UpstreamFault("upstream_empty", "The upstream's answer is empty.", passing=True)
        body = kind(head.media_type, start)
        if body is Body.STREAM:
            return self._stream(start)
        if body is Body.JSON:
            return self._whole(start)
        raise UpstreamFault(
            "upstream_content_type",
            "The upstream answered with neither an event stream nor JSON.",
            passing=not head.media_type,  # its head may have been cut
        )

    def _next(self) -> bytes:
        """The next piece of the body, empty at its end."""
        piece = self._call.read()
        self._active()
        return piece

    def _stream(self, piece: bytes) -> Signal | Exception:
        splitter = Splitter(self._max_event)
        broken = None
        while piece:
            for event in splitter.feed(piece):
                over = self._take(event)
                if over is not None:
                    return over
            self._rest(bulk=len(piece) >= BULK_BYTES)
            try:
                piece = self._next()
            except UpstreamFault as fault:
                broken, piece = fault, b""
        for event in splitter.close():
            try:
                over = self._take(event)
            except Malformed:
                continue  # the stream broke in the middle of this event
            if over is not None:
                return over
        if broken is not None:
            return broken
        if self._answer.finished:
            return Signal.WHOLE
        return _ended_early()

    def _whole(self, start: bytes) -> Signal | Exception:
        body = bytearray(start)
        while len(body) <= self._max_event and (piece := self._next()):
            body += piece
        if len(body) > self._max_event:
            raise EventTooLarge
        whole = bytes(body)
        try:
            events = self._dialect.events(whole, streamed=self._asked.streamed)
        except Malformed:
            if cut_short(whole):
                raise _ended_early() from None
            raise
        for event in events:
            over = self._take(event)
            if over is not None:
                return over
        return self._unless_empty()

    def _take(self, event: Event) -> Signal | Exception | None:
        """Handles one event. Returns the outcome if it is the last one."""
        read = self._reading.read(event)
        fault: Fault | None = None
        ends = False
        for step in read.steps:
            if isinstance(step, Fault):
                fault = step
            elif isinstance(step, EndMark):
                ends = True
        if read.kept and (fault is None or self._has_said(read)):
            with self._folding:
                if self._asked.usage_shown or not read.usage_only:
                    self._buffer.put(read.event, read.text)
                self._answer.add(read)
            self._pace.events_came()
        if fault is not None:
            return _upstream_error(fault)
        return self._unless_empty() if ends else None

    def _has_said(self, read: Read) -> bool:
        """Whether there is an answer at all, up to this event. Without one an error is a refusal, and no part of it."""
        return not self._answer.silent or any(isinstance(step, OUTPUT) for step in read.steps)

    def _rest(self, *, bulk: bool) -> None:
        """Pauses between two reads: while the buffer is full, and until shortly before the next commit is due.

        Bulk data is read on without the second pause, since it would only fill the socket.
        """
        while self._buffer.full and not self._buffer.wait_for_room(ROOM_SECONDS):
            self._active()  # while reading is paused, the upstream is not silent
        end_is_near = self._answer.finished and not self._answer.withdrawn
        pause = 0.0 if bulk or end_is_near else min(self._pace.until_due(), LONGEST_SLEEP_SECONDS)
        if pause >= SHORTEST_SLEEP_SECONDS:
            self._buffer.wait(pause)
        if self._buffer.outcome is not None:
            raise Closed

    def _unless_empty(self) -> Signal | Exception:
        """The outcome once the upstream says that its answer is complete. An empty answer is a fault."""
        if self._answer.silent:
            return UpstreamFault("upstream_empty", "The upstream's answer is empty.", passing=True)
        return Signal.WHOLE

    def _refusal(self, head: Head) -> UpstreamFault:
        if head.status in (401, 403):
            return _key_refused()
        if not 400 <= head.status < 600:
            return UpstreamFault(
                "upstream_status", f"The upstream answered with status {head.status} instead of an answer."
            )
        body = b""
        try:
            while len(body) <= ERROR_BODY_BYTES and (piece := self._next()):
                body += piece
        except UpstreamFault:
            pass  # the status alone says enough
        body = body[:ERROR_BODY_BYTES]
        said = self._dialect.fault(head.status, body)
        if said.about_key:
            return _key_refused()
        if kind(head.media_type, beginning(body)) is Body.JSON:
            said = replace(said, body=body.decode("utf-8", "replace"))  # the client gets it as it came
        return UpstreamFault(
            "upstream_status",
            said.message,
            passing=said.passing,
            status=head.status,
            retry_after=head.retry_after,
            said=said,
            content_type=head.content_type,
        )

    def _active(self) -> None:
        self.last_activity = time.monotonic()


def _ended_early() -> UpstreamFault:
    return UpstreamFault("upstream_ended_early", "The upstream's answer ended without its end mark.", passing=True)


def _key_refused() -> UpstreamFault:
    """The upstream refused this service's key, which is for the operator to fix and must not reach the client."""
    return UpstreamFault("upstream_key", "The upstream refused this service's credentials.")


def _upstream_error(said: Fault) -> UpstreamFault:
    return UpstreamFault(
        "upstream_error",
        said.message,
        passing=said.passing,
        status=said.status or 502,
        said=said,
        content_type="application/json",
    )
