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

    `streamed`: its asker wants a stream. `resumable`: its upstream is the one of two by which a broken-off answer goes
    on, where the API has a way to do that.
    `fault` is the upstream's fault, in the format of `local.demo_faults`. `mute` is how many seconds the upstream waits
    before it sends a status line. `record`: the upstream keeps the time at which it sent each token.
    """

    name: str
    dialect: Dialect
    tokens: int
    rate: float
    streamed: bool = True
    resumable: bool = False
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
        return model(self.dialect, self.resumable)

    @property
    def continues(self) -> bool:
        """Whether a broken-off answer goes on."""
        return self.background or (self.resumable and self.dialect.prefill is not None)

    @property
    def background(self) -> bool:
        """Whether the upstream generates the answer without a connection. It is read on, and never asked for again."""
        return self.resumable and self.dialect.background

    @property
    def whole(self) -> bool:
        """Whether the upstream is asked for a whole body, of which nothing is committed before its end."""
        return not self.streamed and self.dialect.whole

    @property
    def demo(self) -> dict[str, Any]:
        """What the demo upstream is told."""
        asked = {"seed": self.name, "tokens": self.tokens, "rate": self.rate, "token_bytes": self.token_bytes}
        return {**asked, "first_byte_delay": self.mute, "fault": self.fault, "record": self.record}

    @property
    def body(self) -> dict[str, Any]:
        """The request in the dialect."""
        return self.body_in(self.dialect)

    def body_in(self, dialect: Dialect) -> dict[str, Any]:
        """The request in any API that the service takes."""
        return {**dialect.body(self.model, self.name, self.streamed), "demo": self.demo}

    @property
    def answer(self) -> tuple[str, ...]:
        """The tokens of the whole answer, all of them different."""
        return tuple(token(self.name, k, self.token_bytes) for k in range(self.tokens))


def model(dialect: Dialect, resumable: bool) -> str:
    """The model of an upstream that speaks one dialect alone."""
    return f"{dialect.name}-resumable" if resumable else dialect.name
