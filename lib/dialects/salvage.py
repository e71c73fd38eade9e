"""What is saved of an answer, as far as it can be read, for ending or showing it without its worker."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from lib.dialects.attempts import Attempts, folded_attempts
from lib.dialects.calls import seen
from lib.dialects.protocol import Dialect
from lib.domain.errors import Unreachable
from lib.domain.message import Said

log = logging.getLogger(__name__)


def salvaged(dialect: Dialect | None, attempts: Attempts, text: Callable[[], str]) -> tuple[Said, bool]:
    """The answer that a journal's events add up to, and whether that is no output. Errors: `Unreachable`.

    Malformed events are left out. If this version does not know the dialect, or can't read the events, the answer is
    only the visible text, which `text` reads.
    """
    try:
        if dialect is not None:
            answer = folded_attempts(dialect, attempts, tolerant=True)
            return replace(answer.said(), calls=answer.calls.spent), answer.silent
    except Unreachable:
        raise
    except Exception as error:
        log.warning("the events of a journal can't be read", extra={"cause": type(error).__name__})
    visible = text()
    return Said(fields={"content": visible}, calls=(seen(visible),)), not visible
