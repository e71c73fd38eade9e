"""Folds what several attempts saved of one answer, and tells their upstream calls apart."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from lib.dialects.protocol import Answer, Dialect, Malformed
from lib.domain.event import Event

Attempts = Iterable[tuple[int, Iterable[Event]]]
"""Events in order, in pieces, each with the number of the attempt that read it."""

log = logging.getLogger(__name__)


def folded_attempts(dialect: Dialect, attempts: Attempts, choices: int = 1, *, tolerant: bool = False) -> Answer:
    """Folds events of the journal. Errors: `Malformed`, unless it is `tolerant` and leaves such events out."""
    answer = dialect.answer(choices)
    last = None
    for attempt, events in attempts:
        if last not in (None, attempt):
            begin_call(dialect, answer)
        last = attempt
        for event in events:
            try:
                answer.add(dialect.read(event))
            except Malformed:
                if not tolerant:
                    raise
                log.warning("an event of a journal can't be read")
    return answer


def begin_call(dialect: Dialect, answer: Answer) -> None:
    """What follows is of another attempt's call, unless that reads on what the upstream generates in the background."""
    if dialect.background is None or dialect.background.resumption(answer) is None:
        answer.calls.begin()
