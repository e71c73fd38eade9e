"""A question to the demo upstream, and the tokens that its answer must have."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson

from local.demo_text import token


@dataclass(frozen=True, kw_only=True)
class Question:
    """`seed` determines the answer and the user, since the number of live answers per user is limited."""

    seed: str
    tokens: int
    rate: float
    token_bytes: int = 0

    @property
    def fields(self) -> dict[str, Any]:
        """The request, as OpenAI's clients send it. The upstream records when it writes each token."""
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
        """The answer's tokens, all of them different."""
        return [token(self.seed, k, self.token_bytes) for k in range(self.tokens)]
