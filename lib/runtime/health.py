"""Health and readiness routes, for probes, load balancers and people.

The routes are public, so they must be cheap and must not reveal why a check failed. Concurrent requests share one round
of checks, and its result is cached for a second. A check that has not returned yet is not started again. Checks never
write.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait

from flask import Flask, Response, jsonify

from lib.domain.errors import Unavailable

TIMEOUT_SECONDS = 2.0
CACHE_SECONDS = 1.0
ROUTES = _HEALTHZ, _HEALTH, _READY = "/healthz", "/health", "/ready"

log = logging.getLogger(__name__)

Check = Callable[[], object]


class Readiness:
    """Runs all `checks` in parallel. The keys are the names of what they check.

    A check that raises, or does not return within `timeout_seconds`, has failed. A result is kept for `cache_seconds`.
    """

    def __init__(
        self,
        checks: Mapping[str, Check],
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        cache_seconds: float = CACHE_SECONDS,
    ):
        self._checks = checks
        self._timeout_seconds = timeout_seconds
        self._cache_seconds = cache_seconds
        self._lock = threading.Lock()
        self._results: dict[str, Future[object]] = {}
        self._failing: list[str] = []
        self._fresh_until = float("-inf")

    def failing(self) -> list[str]:
        """The names of the checks that failed, at most `cache_seconds` ago."""
        with self._lock:
            if time.monotonic() >= self._fresh_until:
                results = {name: self._start(name, check) for name, check in self._checks.items()}
                done, _ = wait(results.values(), self._timeout_seconds)
                failing = [name for name, result in results.items() if result not in done or result.exception()]
                if failing != self._failing:
                    log.warning("readiness changed", extra={"cause": ", ".join(failing) or "ready"})
                self._failing, self._fresh_until = failing, time.monotonic() + self._cache_seconds
            return self._failing

    def _start(self, name: str, check: Check) -> Future[object]:
        running = self._results.get(name)
        if running is not None and not running.done():
            return running
        result = self._results[name] = Future()

        def run() -> None:
            try:
                result.set_result(check())
            except Exception as error:
                result.set_exception(error)

        threading.Thread(target=run, name=f"ready-{name}", daemon=True).start()
        return result

    def serve(self, app: Flask) -> None:
        """Adds `/health`, and `/ready`, which answers 503 if any check fails.

        On Cloud Run `/healthz` never arrives: Google's front end answers it with a 404.
        """

        @app.get(_HEALTHZ)
        @app.get(_HEALTH)
        def health() -> Response:
            return jsonify(status="ok")

        @app.get(_READY)
        def ready() -> Response:
            if failing := self.failing():
                raise Unavailable(
                    f"Not ready: no answer from {' and '.join(failing)}.", code="not_ready", retry_after=1
                )
            return jsonify(status="ok")
