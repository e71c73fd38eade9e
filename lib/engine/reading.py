"""Reading one upstream answer to its end, into the inbox.

The reading thread makes the call, and waits where there is something to wait for: the head, each event of a slow
stream. What a steady stream brings is taken at the process's beat, for all streams by one thread, which costs a
fraction of a thread's waking up for each. Whether the answer is a stream is told by its Content-Type alone. What is
read is handed over at once; how the answer ended is said once, whatever happens here.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Generator
from contextvars import copy_context

import orjson

from lib.dialects import chat_completions as chat
from lib.dialects import sse
from lib.dialects.characters import Joiner
from lib.dialects.continuation import Seam
from lib.engine.inbox import Inbox
from lib.upstream.call import Call, UpstreamFault

STEP_BYTES = 256 << 10  # after so much of one stream it is the others' turn
LISTEN_SECONDS = 1.0

log = logging.getLogger(__name__)


class Reading:
    """Reads `call` into `inbox`.

    `stream_asked`: the client is to get chunks even if the upstream sends one body. `usage_asked`: the client itself
    asked for the chunk with the usage, which is otherwise taken in and not passed on. `seam`: the call is for the rest
    of an answer, and its chunks are to be fitted to what there is.
    """

    def __init__(
        self,
        call: Call,
        inbox: Inbox,
        *,
        stream_asked: bool,
        usage_asked: bool,
        max_event: int,
        seam: Seam | None = None,
    ):
        self._call = call
        self._inbox = inbox
        self._seam = seam
        self._characters = Joiner()
        self._turn = threading.Lock()  # to read on
        self._context = copy_context()  # of whoever made this, for what is logged at the beat
        self._streaming = False
        self._steps = self._read()
        self._stream_asked = stream_asked
        self._usage_asked = usage_asked
        self._max_event = max_event

    def run(self) -> None:
        """Reads to the end. The body of the reading thread."""
        try:
            while self._go_on():
                self._call.wait(LISTEN_SECONDS)
        finally:
            with self._turn:
                self._streaming = False
                self._call.close()

    def _go_on(self) -> bool:
        heard = self._inbox.heard
        with self._turn:
            if self._inbox.over or not self._step():
                return False
        if self._inbox.heard != heard:
            self._inbox.gather()
        return not self._inbox.over

    def read_on(self, until: float) -> None:
        """Takes what has arrived of a stream at this beat, for a commit that is due by then. It never waits."""
        if not self._turn.acquire(blocking=False):
            return
        try:
            if self._streaming and self._inbox.begin_reading(until):
                heard = self._inbox.heard
                self._context.run(self._step)
                self._inbox.end_reading(nothing=self._inbox.heard == heard)
        finally:
            self._turn.release()

    def _step(self) -> bool:
        """Reads on until it would have to wait; says whether there is more to read."""
        try:
            next(self._steps)
            return True
        except StopIteration as end:
            self._inbox.end(end.value)
        except Exception:
            log.exception("reading failed")
            self._inbox.end(UpstreamFault("internal", "The answer could not be read.", passing=True))
        self._streaming = False
        return False

    def _read(self) -> Generator[None, None, UpstreamFault | None]:
        """Reads all there is; None where the upstream itself said that its answer is whole."""
        try:
            media_type = self._call.open()
            self._heard()
            self._inbox.open()
            if media_type == "text/event-stream":
                self._streaming = True
                return (yield from self._stream())
            if chat.is_json(media_type):
                return self._body()
        except UpstreamFault as fault:
            return fault
        except sse.EventTooLarge:
            return UpstreamFault("event_too_large", "The upstream sent an event larger than this service takes.")
        except chat.Malformed:
            return UpstreamFault("upstream_malformed", "The upstream sent something that is no JSON object.")
        except chat.UpstreamError as error:
            return UpstreamFault("upstream_error", error.message, passing=error.passing)
        return UpstreamFault(
            "upstream_content_type",
            "The upstream answered with neither an event stream nor JSON.",
            passing=not media_type,  # its head may have been cut
            status=502,
        )

    def _heard(self) -> None:
        self._inbox.heard = time.monotonic()

    def _stream(self) -> Generator[None, None, UpstreamFault | None]:
        """Stops where there is nothing to read yet, or for a moment where there is very much."""
        splitter = sse.Splitter(self._max_event)
        fault = None
        size = 0
        try:
            while not self._call.ended:
                for piece in self._call.arrived():
                    self._heard()
                    for event in splitter.feed(piece):
                        if self._event(event):
                            return None
                    size += len(piece)
                    if size > STEP_BYTES:
                        size = 0
                        yield
                if not self._call.ended:
                    size = 0
                    yield
        except UpstreamFault as broken:
            fault = broken
        last = splitter.close()
        try:
            if last is not None and self._event(last):
                return None
        except chat.Malformed:
            pass  # the event was cut with the rest
        if fault is None and not self._inbox.answer.finished:
            fault = UpstreamFault(
                "upstream_ended_early", "The upstream's answer ended without its end mark.", passing=True
            )
        return fault

    def _event(self, event: sse.Event) -> bool:
        """Takes one event in; says whether it is the end."""
        chunk = chat.read(event.data)
        if chunk is None:
            return True
        fitted = self._characters.joined(chunk, event.data)
        if self._seam is not None:
            fitted = self._seam.fit(fitted)
        if fitted is not chunk:
            chunk, event = fitted, sse.Event(_escaped(fitted), event.name)
        passed_on = self._usage_asked or not chat.is_usage_chunk(chunk)
        self._inbox.put(chunk, event if passed_on else None)
        return False

    def _body(self) -> UpstreamFault | None:
        body = bytearray()
        for piece in self._call.pieces():
            self._heard()
            body += piece
            if len(body) > self._max_event:
                raise sse.EventTooLarge
        completion = chat.read(bytes(body))
        if completion is None or not chat.is_completion(completion):
            raise chat.Malformed
        if self._seam is not None:
            completion = chat.chunk_from(self._seam.fit(completion))
            data = _escaped(completion)
        elif self._stream_asked:
            data = orjson.dumps(chat.chunk_from(completion))
        else:
            # A line's end inside of a frame is a line feed; JSON has no other use for a carriage return.
            data = bytes(body).replace(b"\r", b"")
        self._inbox.put(completion, sse.Event(data))
        return None


def _escaped(chunk: chat.Json) -> bytes:
    """As ASCII, which can hold half a surrogate pair that belongs to no other."""
    return json.dumps(chunk, separators=(",", ":")).encode()
