"""The channels on which the end of an answer is told."""

from __future__ import annotations

from enum import StrEnum


class Channel(StrEnum):
    """The operator's webhook, or the user's devices."""

    WEBHOOK = "webhook"
    PUSH = "push"
