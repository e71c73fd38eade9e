"""A question that is asked in a round: its user, its message's path, and the upstream's only answer to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chaos.dialects import Dialect
from local.demo_text import token

CHAT = "chaos"


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """`name` is the message's id and the answer's seed. `dialect` is the API of the upstream that answers.

    `streamed`: the upstream is asked for a stream. `prefill`: it may be asked for the rest of a broken-off answer.
    `fault` is the upstream's fault, in the format of `local.demo_faults`. `mute` is how many seconds the upstream waits
    before it sends a status line. `record`: the upstream keeps the time at which it sent each token.
    """

    name: str
    dialect: Dialect
    tokens: int
    rate: float
    streamed: bool = True
    prefill: bool = False
    token_bytes: int = 0
    mute: float = 0.0
    record: bool = False
    fault: Mapping[str, Any] | None = None

    @property
    def user(self) -> str:
        """Each question has its own user, since the number of live generations per user is limited."""
        return f"user-{self.name}"

    @property
    def path(self) -> str:
        """The message's path."""
        return f"users/{self.user}/chats/{CHAT}/messages/{self.name}"

    @property
    def model(self) -> str:
        return model(self.dialect, self.prefill)

    @property
    def continues(self) -> bool:
        """Whether a broken-off answer goes on."""
        return self.prefill and self.dialect.prefill is not None

    @property
    def demo(self) -> dict[str, Any]:
        """What the demo upstream is told."""
        asked = {"seed": self.name, "tokens": self.tokens, "rate": self.rate, "token_bytes": self.token_bytes}
        return {**asked, "first_byte_delay": self.mute, "fault": self.fault, "record": self.record}

    @property
    def body(self) -> dict[str, Any]:
        """The request in the dialect."""
        return {**self.dialect.body(self.model, self.name, self.streamed), "demo": self.demo}

    @property
    def answer(self) -> tuple[str, ...]:
        """The tokens of the whole answer, all of them different."""
        return tuple(token(self.name, k, self.token_bytes) for k in range(self.tokens))


def model(dialect: Dialect, prefill: bool) -> str:
    """The model of an upstream that speaks one dialect alone."""
    return f"{dialect.name}-prefill" if prefill else dialect.name
