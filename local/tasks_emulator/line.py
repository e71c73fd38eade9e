"""A queue: its settings, its tasks, their schedule, and its rate limits."""

from __future__ import annotations

import heapq
import itertools
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from google.cloud import tasks_v2 as v2
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc.status_pb2 import Status

from local.tasks_emulator.entry import Entry, Outcome
from local.tasks_emulator.faults import Faults
from local.tasks_emulator.message import filled
from local.tasks_emulator.retry import RETRY_CONFIG, backoff, exhausted
from local.tasks_emulator.throttle import Throttle

SETTINGS = ("rate_limits", "retry_config")
# What `gcloud tasks queues describe` shows of a queue created without options.
RATE_LIMITS = v2.RateLimits(max_dispatches_per_second=500, max_concurrent_dispatches=1000)


class Line:
    """One queue: its settings, its tasks, their schedule, and its rate limits."""

    def __init__(self, name: str, faults: Callable[[], Faults]) -> None:
        self.queue = v2.Queue(name=name, state=v2.Queue.State.RUNNING)
        self.tasks: dict[str, Entry] = {}
        self.used: set[str] = set()
        self.in_flight = 0
        self._schedule: list[tuple[float, int, Entry]] = []
        self._tickets = itertools.count(1)
        self._tokens, self._filled = float("inf"), 0.0
        self._faults, self._throttle, self._chance = faults, Throttle(), random.Random()

    def configure(self, given: v2.Queue, mask: FieldMask) -> None:
        """Applies the settings that the mask names, or all without a mask. Unset ones get their defaults."""
        paths = [path for path in mask.paths or SETTINGS if path.startswith(SETTINGS)]
        FieldMask(paths=paths).MergeMessage(v2.Queue.pb(given), v2.Queue.pb(self.queue), True, True)
        limits = filled(self.queue.rate_limits, RATE_LIMITS)
        limits.max_burst_size = max(1, round(limits.max_dispatches_per_second))
        self.queue.rate_limits = limits
        self.queue.retry_config = filled(self.queue.retry_config, RETRY_CONFIG)

    def schedule(self, entry: Entry, when: datetime) -> None:
        entry.task.schedule_time, entry.ticket = when, next(self._tickets)
        # The clock is read before the timer, so that a pause between the two makes a task late and never early.
        wait = (when - datetime.now(UTC)).total_seconds()
        delay = self._faults().delay
        wait += delay.draw(self._chance) if delay else 0.0
        heapq.heappush(self._schedule, (time.monotonic() + wait, entry.ticket, entry))

    def launch_due(self, launch: Callable[[Line, Entry], None]) -> float | None:
        """Launches all tasks that are due and within the limits. Returns the seconds until the next, or None."""
        limits = self.queue.rate_limits
        while self.queue.state == v2.Queue.State.RUNNING and self.in_flight < limits.max_concurrent_dispatches:
            if not self._schedule:
                return None
            due, ticket, entry = self._schedule[0]
            if ticket == entry.ticket and self.tasks.get(entry.task.name) is entry:
                now = time.monotonic()
                if (wait := max(due - now, self._token_wait(now))) > 0:
                    return wait
                self._tokens -= 1
                self._throttle.dispatched(now)
                launch(self, entry)
            heapq.heappop(self._schedule)
        return None

    def settle(self, entry: Entry, outcome: Outcome) -> None:
        """Ends one delivery. A success ends the task. Of simultaneous failures, the last determines what follows."""
        self.in_flight -= 1
        entry.in_flight -= 1
        entry.last, task, now = outcome, entry.task, datetime.now(UTC)
        self._throttle.settled(outcome.status, self._limit, time.monotonic(), self._faults())
        entry.executions += 0 < outcome.status < 500
        if outcome.status:
            task.response_count += 1
            task.last_attempt.response_time = now
        task.last_attempt.response_status = Status(code=outcome.code.value[0], message=outcome.reason)
        if self.tasks.get(task.name) is not entry:
            return
        if 200 <= outcome.status < 300:
            del self.tasks[task.name]
        elif not entry.in_flight:
            self._retry(entry, now, outcome.retry_after)

    def _retry(self, entry: Entry, now: datetime, retry_after: float) -> None:
        task = entry.task
        retry = filled(task.retry_config, self.queue.retry_config)
        speed = self._faults().speed
        if exhausted(retry, task.dispatch_count, speed * (now - task.first_attempt.dispatch_time)):
            del self.tasks[task.name]
        else:
            wait = max(backoff(retry, task.dispatch_count), retry_after) / speed
            self.schedule(entry, now + timedelta(seconds=wait))

    @property
    def _limit(self) -> float:
        return float(self.queue.rate_limits.max_dispatches_per_second)

    def _token_wait(self, now: float) -> float:
        """Seconds until the token bucket that RateLimits.max_burst_size describes has a token."""
        rate = self._throttle.rate(self._limit, now, self._faults())
        burst = min(self.queue.rate_limits.max_burst_size, max(1, round(rate)))
        self._tokens, self._filled = min(burst, self._tokens + (now - self._filled) * rate), now
        return max(0.0, (1 - self._tokens) / rate)
