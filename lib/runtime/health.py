"""Whether this process lives, and whether it can reach what it needs: for probes, balancers and people.

Anybody may ask, so asking must cost next to nothing: all who ask at once share one question, its answer stands for a
second, nothing is ever written, and what doesn't answer is not asked again meanwhile. No word of why gets out.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait

from flask import Flask, Response, jsonify

from lib.domain.errors import Unavailable

BOUND_SECONDS = 2.0
KEPT_SECONDS = 1.0
ROUTES = _HEALTHZ, _HEALTH, _READY = "/healthz", "/health", "/ready"

log = logging.getLogger(__name__)

Check = Callable[[], object]


class Readiness:
    """Asks each of `checks`, by what it is of, all at once. One that raises, or does not answer in time, is away."""

    def __init__(
        self, checks: Mapping[str, Check], *, bound_seconds: float = BOUND_SECONDS, kept_seconds: float = KEPT_SECONDS
    ):
        self._checks = checks
        self._bound_seconds = bound_seconds
        self._kept_seconds = kept_seconds
        self._lock = threading.Lock()
        self._asked: dict[str, Future[object]] = {}
        self._away: list[str] = []
        self._until = float("-inf")

    def away(self) -> list[str]:
        """What is not there now, or was not a moment ago."""
        with self._lock:
            if time.monotonic() >= self._until:
                asked = {name: self._ask(name, check) for name, check in self._checks.items()}
                done, _ = wait(asked.values(), self._bound_seconds)
                away = [name for name, answer in asked.items() if answer not in done or answer.exception()]
                if away != self._away:
                    log.warning("readiness changed", extra={"cause": ", ".join(away) or "ready"})
                self._away, self._until = away, time.monotonic() + self._kept_seconds
            return self._away

    def _ask(self, name: str, check: Check) -> Future[object]:
        under_way = self._asked.get(name)
        if under_way is not None and not under_way.done():
            return under_way
        answer = self._asked[name] = Future()

        def ask() -> None:
            try:
                answer.set_result(check())
            except Exception as error:
                answer.set_exception(error)

        threading.Thread(target=ask, name=f"ready-{name}", daemon=True).start()
        return answer

    def serve(self, app: Flask) -> None:
        """`/health`, and `/ready`: 503 where anything is away.

        On Cloud Run `/healthz` never gets here: Google's front end answers it with a 404 of its own.
        """

        @app.get(_HEALTHZ)
        @app.get(_HEALTH)
        def health() -> Response:
            return jsonify(status="ok")

        @app.get(_READY)
        def ready() -> Response:
            if away := self.away():
                raise Unavailable(f"Not ready: no answer from {' and '.join(away)}.", code="not_ready", retry_after=1)
            return jsonify(status="ok")
