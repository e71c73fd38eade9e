"""When a failed task is tried again, and when it is given up."""

from __future__ import annotations

from datetime import timedelta

from google.cloud import tasks_v2 as v2

# What `gcloud tasks queues describe` shows of a queue created without options.
RETRY_CONFIG = v2.RetryConfig(max_attempts=100, min_backoff="0.1s", max_backoff="3600s", max_doublings=16)


def backoff(retry: v2.RetryConfig, failures: int) -> float:
    """Seconds to wait after the `failures`-th failure in a row.

    Doubles `max_doublings` times, then grows by the last step, up to `max_backoff`. RetryConfig's own example: from
    10 s to 300 s with 3 doublings is 10, 20, 40, 80, 160, 240, 300, 300.
    """
    factor = 2 ** min(failures - 1, retry.max_doublings) * max(failures - retry.max_doublings, 1)
    return float(min(retry.min_backoff.total_seconds() * factor, retry.max_backoff.total_seconds()))


def exhausted(retry: v2.RetryConfig, attempts: int, age: timedelta) -> bool:
    """Whether to give up a task: once every limit that is set is reached (-1 attempts and 0 s mean not set)."""
    reached = [attempts >= retry.max_attempts] if retry.max_attempts != -1 else []
    reached += [age >= retry.max_retry_duration] if retry.max_retry_duration else []
    return bool(reached) and all(reached)
