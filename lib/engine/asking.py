"""What an attempt asks of the upstream: for the answer, for what is missing of it, and to cancel it.

An answer that the upstream generates in the background is read on at the upstream's cursor. That is no new call for the
upstream, so it does not count as one. But it has a bound too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import orjson

from lib.dialects.protocol import Answer, Background, Dialect, Outgoing, Reading, Rest, Resumption
from lib.domain.generation import Generation
from lib.runtime.catalog import Upstream, Usage
from lib.upstream.call import Call
from lib.upstream.fault import UpstreamFault

RESUMPTIONS = 30  # of one answer, beyond `MAX_ATTEMPTS`
LONGEST_PAUSE_SECONDS = 30.0  # between two resumptions that bring nothing
CANCEL_SECONDS = 10.0
CANCEL_TRIES = 3
_PAUSE_SECONDS = 0.5

log = logging.getLogger(__name__)


class Asking:
    """The requests of one generation. `body` is the client's request, parsed where it is needed: that is larger."""

    def __init__(self, generation: Generation, dialect: Dialect, upstream: Upstream, max_attempts: int, body: bytes):
        self._generation = generation
        self._dialect = dialect
        self._upstream = upstream
        self._max_attempts = max_attempts
        self._body = body

    @property
    def _background(self) -> Background | None:
        return self._dialect.background if self._upstream.background else None

    def rest(self, answer: Answer, attempt: int) -> Rest | Resumption | None:
        """How attempt number `attempt` gets what is missing of `answer`. None if it can't, or is one too many."""
        if self._background is not None and attempt <= most_attempts(self._upstream, self._max_attempts):
            resumption = self._background.resumption(answer)
            if resumption is not None:
                return resumption
        if attempt > self._max_attempts:
            return None
        return self._dialect.rest(orjson.loads(self._body), answer, self._upstream.prefill)

    def request(self, rest: Rest | Resumption) -> tuple[Outgoing, Reading]:
        """The request to send, and how the events of its answer are read."""
        if isinstance(rest, Resumption):
            return rest.outgoing, rest.reading
        outgoing = (self._background or self._dialect).outgoing(
            rest.request, ask_usage=self._upstream.usage is Usage.ASK, headers=self._generation.headers
        )
        return outgoing, rest.reading

    def cancelling(self, answer: Answer) -> Outgoing | None:
        """The request that ends what the upstream generates in the background, or None if it generates nothing."""
        return self._background.cancelling(answer) if self._background is not None else None


def most_attempts(upstream: Upstream, max_attempts: int) -> int:
    """How often a generation may be claimed that has events."""
    return max_attempts + RESUMPTIONS if upstream.background else max_attempts


def pause(fruitless: int) -> float:
    """The seconds before the next resumption, after so many attempts in a row that brought nothing."""
    return min(2.0 ** (fruitless - 1), LONGEST_PAUSE_SECONDS) if fruitless > 0 else 0.0


def cancel(new_call: Callable[[], Call]) -> None:
    """Makes a call that cancels an answer, within `CANCEL_SECONDS`. If it fails, the answer is generated for nobody."""
    deadline = time.monotonic() + CANCEL_SECONDS
    for number in range(CANCEL_TRIES):
        call = new_call()
        timer = threading.Timer(max(0.0, deadline - time.monotonic()), call.cut)
        timer.daemon = True
        timer.start()
        try:
            status = call.open().status
        except UpstreamFault as fault:
            if number + 1 == CANCEL_TRIES or not fault.passing:
                log.warning("the upstream was not told to cancel", extra={"reason": fault.reason})
                return
        else:
            if status < 500 and status != 429:
                log.info("the upstream was told to cancel", extra={"status": status})
                return
        finally:
            timer.cancel()
            call.close()
        time.sleep(_PAUSE_SECONDS)
    log.warning("the upstream was not told to cancel", extra={"reason": "upstream_status"})
