"""A question that is asked in a round: its user, its message's path, and the upstream's only answer to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from local.demo_text import token

CHAT = "chaos"
MODEL, PREFILL_MODEL = "demo", "demo-prefill"


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """`name` is the message's id and the answer's seed. `prefill`: its upstream supports continuation.

    `fault` is the upstream's fault, in the format of `local.demo_faults`. `mute` is how many seconds the upstream waits
    before it sends a status line. `record`: the upstream keeps the time at which it sent each token.
    """

    name: str
    tokens: int
    rate: float
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
    def body(self) -> dict[str, Any]:
        demo = {"seed": self.name, "tokens": self.tokens, "rate": self.rate, "token_bytes": self.token_bytes}
        return {
            "model": PREFILL_MODEL if self.prefill else MODEL,
            "messages": [{"role": "user", "content": self.name}],
            "demo": {**demo, "first_byte_delay": self.mute, "fault": self.fault, "record": self.record},
        }

    @property
    def answer(self) -> tuple[str, ...]:
        """The tokens of the whole answer, all of them different."""
        return tuple(token(self.name, k, self.token_bytes) for k in range(self.tokens))
