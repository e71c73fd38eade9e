"""System throttling: the rate at which a queue dispatches may be below the one that its settings allow.

"To prevent the worker from overloading, Cloud Tasks may temporarily reduce the queue's effective rate. User-specified
settings will not be changed." It does so where "the worker returns 429, 503, or the rate of errors is high", and
"dispatches ramp up slowly when the queue is newly created or idle". (HttpRequest in the v2 reference, and
https://cloud.google.com/tasks/docs/common-pitfalls#backoff_errors_and_enforced_rates.) Google names no numbers, so
those below are the emulator's own.
"""

from __future__ import annotations

from collections import deque

from local.tasks_emulator.faults import Faults

LOWEST_RATE = 1.0  # dispatches a second, which a throttled queue still has
LOWERED_SECONDS = 0.1  # in which the rate is lowered once: forty answers of one dead worker are one sign of overload
IDLE_SECONDS = 10.0  # without a dispatch, after which a queue ramps up again
RAMP_SECONDS = 1.0  # in which a ramp doubles
OVERLOADED = (429, 503)
_SEEN = 20  # outcomes that the rate of errors is taken from
_MANY_ERRORS = 10  # of these


class Throttle:
    """The effective rate of one queue. Times are those of a monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._share, self._lowered = 1.0, float("-inf")  # the share of the rate that was left, and when
        self._outcomes: deque[bool] = deque(maxlen=_SEEN)
        self._busy_since = self._dispatched = float("-inf")

    def rate(self, limit: float, now: float, faults: Faults) -> float:
        """Dispatches a second that the queue may make now, of the `limit` in its settings."""
        rate = limit
        if faults.throttle:
            rate = max(min(LOWEST_RATE, limit), limit * self._share_at(now, faults))
        if faults.ramp:
            since = now if self._idle(now) else self._busy_since
            rate = min(rate, faults.ramp * 2.0 ** min((now - since) / RAMP_SECONDS, 64.0))
        return rate

    def dispatched(self, now: float) -> None:
        if self._idle(now):
            self._busy_since = now
        self._dispatched = now

    def settled(self, status: int, limit: float, now: float, faults: Faults) -> None:
        """Takes the status of a response, or 0 if there was none."""
        failed = not 200 <= status < 300
        self._outcomes.append(failed)
        overloaded = status in OVERLOADED or (failed and sum(self._outcomes) >= _MANY_ERRORS)
        if faults.throttle and overloaded and now - self._lowered >= LOWERED_SECONDS:
            self._share = max(min(LOWEST_RATE / limit, 1.0), self._share_at(now, faults) / 2)
            self._lowered = now

    def _idle(self, now: float) -> bool:
        return now - self._dispatched > IDLE_SECONDS

    def _share_at(self, now: float, faults: Faults) -> float:
        return min(1.0, self._share * float(2.0 ** min((now - self._lowered) / faults.throttle, 64.0)))
