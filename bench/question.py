"""What is asked: one answer of the demo upstream, and which tokens it must have."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson

from local.demo_text import token


@dataclass(frozen=True, kw_only=True)
class Question:
    """`seed` names the answer, and the user who asks for it: a user may have few answers at once."""

    seed: str
    tokens: int
    rate: float
    token_bytes: int = 0

    @property
    def fields(self) -> dict[str, Any]:
        """A request as OpenAI's clients send it. The upstream notes when it writes each token."""
        demo = {
            "seed": self.seed,
            "tokens": self.tokens,
            "rate": self.rate,
            "token_bytes": self.token_bytes,
            "record": True,
        }
        return {
            "model": "demo",
            "stream": True,
            "messages": [{"role": "user", "content": self.seed}],
            "demo": demo,
        }

    @property
    def body(self) -> bytes:
        return orjson.dumps(self.fields)

    @cached_property
    def answer(self) -> list[str]:
        """Its tokens. No two of them are equal."""
        return [token(self.seed, k, self.token_bytes) for k in range(self.tokens)]
