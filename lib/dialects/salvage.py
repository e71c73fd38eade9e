"""What is saved of an answer, as far as it can be read, for ending or showing it without its worker."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from lib.dialects.protocol import Dialect, Malformed
from lib.domain.errors import Unreachable
from lib.domain.event import Event
from lib.domain.message import Said

log = logging.getLogger(__name__)


def salvaged(dialect: Dialect | None, events: Iterable[Event], text: Callable[[], str]) -> tuple[Said, bool]:
    """The answer that a journal's events add up to, and whether that is no output. Errors: `Unreachable`.

    Malformed events are left out. If this version does not know the dialect, or can't read the events, the answer is
    only the visible text, which `text` reads.
    """
    try:
        if dialect is not None:
            answer = dialect.answer()
            for event in events:
                try:
                    answer.add(dialect.read(event))
                except Malformed:
                    log.warning("an event of a journal can't be read")
            return answer.said(), answer.silent
    except Unreachable:
        raise
    except Exception as error:
        log.warning("the events of a journal can't be read", extra={"cause": type(error).__name__})
    visible = text()
    return Said(fields={"content": visible}), not visible
