"""Both functions, with bugs in the worker: random steps of an attempt raise an exception that no code expects.

A bug may cost only the attempt in which it occurs.
"""

import os
import random
import threading
from collections.abc import Callable
from typing import Any

import main
from lib.cloud.listen import Listener
from lib.cloud.store import Store
from lib.dialects import DIALECTS
from lib.engine.attempt import Attempt
from lib.engine.buffer import Buffer
from lib.engine.reader import Reader
from lib.journal.writer import Journal

SHARE = 0.4  # of the attempts
PLACES: tuple[tuple[type, str], ...] = (
    (Store, "request"),
    (Listener, "watch"),
    *((type(dialect), "outgoing") for dialect in DIALECTS.values()),
    *((type(dialect.background), "outgoing") for dialect in DIALECTS.values() if dialect.background),
    *((type(dialect.background), "resumption") for dialect in DIALECTS.values() if dialect.background),
    (Buffer, "take"),
    (Reader, "look"),
    (Journal, "prepare"),
    (Journal, "plain"),
    (Journal, "committed"),
    (Journal, "finish"),
)
NAMES = sorted({name for _, name in PLACES})

_chance = random.Random(int(os.environ.get("CHAOS_SEED", "0")))
_lock = threading.Lock()
_armed: list[str] = []


class Mistake(Exception):
    """A bug in the worker."""


def _arm(run: Callable[..., Any]) -> Callable[..., Any]:
    """Gives each attempt at most one bug, at one place, which raises the first time it is reached."""

    def armed(*given: Any, **more: Any) -> Any:
        with _lock:
            if _chance.random() < SHARE:
                _armed.append(_chance.choice(NAMES))
        return run(*given, **more)

    return armed


def _raising(name: str, does: Callable[..., Any]) -> Callable[..., Any]:
    def raising(*given: Any, **more: Any) -> Any:
        with _lock:
            strikes = name in _armed and _chance.random() < 0.3
            if strikes:
                _armed.remove(name)
        if strikes:
            raise Mistake
        return does(*given, **more)

    return raising


if os.environ.get("FUNCTION_TARGET") == "worker":
    for kind, name in PLACES:
        setattr(kind, name, _raising(name, getattr(kind, name)))
    Attempt.run = _arm(Attempt.run)  # type: ignore[method-assign]

api, worker = main.api, main.worker
