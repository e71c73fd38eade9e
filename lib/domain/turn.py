"""The turns of a chat: what a prompt does while an answer of the same chat runs. Pure.

The generations of a chat that take turns are in one order, which is a document of its own: the first one runs, and each
of the others waits for the one before it to end, in whatever state.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum

from lib.domain.collections import TURNS


class TurnMode(StrEnum):
    """`PARALLEL`: it takes no turn, and runs beside whatever runs. `REJECT`: it is refused.

    `INTERRUPT`: what runs is stopped, and it is next. `QUEUE`: it is last.
    """

    PARALLEL = "parallel"
    REJECT = "reject"
    INTERRUPT = "interrupt"
    QUEUE = "queue"


def turns_path(message_path: str) -> str:
    """The path of the order of a chat's turns, given that of any message in the chat."""
    chat_path = message_path.rsplit("/", 2)[0]
    return f"{TURNS}/{hashlib.sha256(chat_path.encode()).hexdigest()[:32]}"
