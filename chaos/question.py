"""What is asked in a round: a user's question, where its message is, and the one answer the upstream has for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from local.demo_text import token

CHAT = "chaos"
MODEL, PREFILL_MODEL = "demo", "demo-prefill"


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """`name` is the message's id and the seed of the answer. `prefill`: its upstream can go on with what broke off.

    `fault` is what goes wrong upstream, as `local.demo_faults` reads it; `mute` is for how many seconds the upstream
    sends no status line.
    """

    name: str
    tokens: int
    rate: float
    prefill: bool = False
    token_bytes: int = 0
    mute: float = 0.0
    fault: Mapping[str, Any] | None = None

    @property
    def user(self) -> str:
        """Nobody else is this user, since a user may have few generations at once."""
        return f"user-{self.name}"

    @property
    def path(self) -> str:
        """The message's."""
        return f"users/{self.user}/chats/{CHAT}/messages/{self.name}"

    @property
    def body(self) -> dict[str, Any]:
        demo = {"seed": self.name, "tokens": self.tokens, "rate": self.rate, "token_bytes": self.token_bytes}
        return {
            "model": PREFILL_MODEL if self.prefill else MODEL,
            "messages": [{"role": "user", "content": self.name}],
            "demo": {**demo, "first_byte_delay": self.mute, "fault": self.fault},
        }

    @property
    def answer(self) -> tuple[str, ...]:
        """The tokens of the whole answer. No two of them are equal."""
        return tuple(token(self.name, k, self.token_bytes) for k in range(self.tokens))
