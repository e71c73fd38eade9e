"""The text of the demo upstream's answers, which is a pure function of the seed.

The demo upstream sends this text, and tests, the fault matrix and the benchmark compare what arrived with it. Nothing
here may read a clock, use random numbers or do I/O. No two tokens of one answer may be equal, so that a lost, repeated
or swapped token shows in the joined text.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

Json = dict[str, Any]

# The number of words is prime, so that every stride visits all of them before one repeats. The unusual words are what
# breaks readers: decomposed and multi-byte characters, joined emoji, quotes, backslashes, line ends inside a token,
# and U+2028 and U+0085, which str.splitlines() takes for line ends and server-sent events do not.
_PLAIN_WORDS = (
    "amber anchor apple arrow autumn beacon birch blossom bridge bronze candle canyon cedar cherry cinder "
    "clover cobalt comet copper coral cotton crystal dawn delta dune eagle echo ember falcon fern field "
    "flint forest fountain garden ginger glacier granite harbour hazel heron hollow indigo island ivory "
    "jasmine juniper kestrel lantern lavender lemon linen maple marble meadow mirror mosaic nectar north "
    "oak ocean olive orchard otter pebble pepper pine plum prairie quartz raven reef river saffron"
)
_ODD_WORDS = (
    "café naïve Zürich œuvre e\u0301clair n\u0303andu\u0301 漢字 日本語 한국어 Ελλάδα жизнь שלום "
    '🦊 👩\u200d🚀 🇯🇵 👍🏽 "quoted" back\\slash C:\\new "\\"'
)
WORDS = (*_PLAIN_WORDS.split(" "), *_ODD_WORDS.split(" "), "two\nlines", "wide\u2028gap", "next\u0085line")

DONE_TEXT = "\n\ndata: [DONE]\n\n[DONE]"

_TOKENS_A_LINE = 19
_TOKENS_A_MARK = 10


class NotThisAnswer(ValueError):
    """The text to continue is not a prefix of this answer."""


@lru_cache(maxsize=4096)
def _gait(seed: str) -> tuple[int, int, str]:
    """A seed's first word, its stride through the words, and its mark."""
    digest = hashlib.sha256(seed.encode()).digest()
    start = int.from_bytes(digest[:4], "big") % len(WORDS)
    stride = 1 + int.from_bytes(digest[4:8], "big") % (len(WORDS) - 1)
    return start, stride, digest[8:10].hex()


def token(seed: str, k: int, token_bytes: int = 0) -> str:
    """Token `k` of the answer, counted from 0, padded with dots to at least `token_bytes` bytes of UTF-8.

    Words have the number of their lap through the list. Every tenth token has its position and the seed's mark.
    """
    start, stride, mark = _gait(seed)
    gap = "" if k == 0 else "\n" if (k + start) % _TOKENS_A_LINE == 0 else " "
    piece = f"{gap}{WORDS[(start + stride * k) % len(WORDS)]}{k // len(WORDS) or ''}"
    if k % _TOKENS_A_MARK == _TOKENS_A_MARK - 1:
        piece += f" ({k + 1}/{mark})"
    return piece + "." * (token_bytes - len(piece.encode())) if token_bytes else piece


def text(seed: str, tokens: int, token_bytes: int = 0) -> str:
    """The first `tokens` tokens, joined."""
    return "".join(token(seed, k, token_bytes) for k in range(tokens))


def place(seed: str, said: str, token_bytes: int = 0) -> tuple[int, int]:
    """The token in which `said` ends, and how many characters of that token are in `said`."""
    k = position = 0
    while position < len(said):
        piece = token(seed, k, token_bytes)
        if not said.startswith(piece, position):
            rest = said[position:]
            if piece.startswith(rest):
                return k, len(rest)
            raise NotThisAnswer(f"it differs at character {position}, in token {k}")
        position += len(piece)
        k += 1
    return k, 0


def seed_of(messages: Sequence[Json]) -> str:
    """The seed of a conversation. A last message of the assistant is ignored, since it is the start of the answer."""
    asked = messages[:-1] if messages and messages[-1].get("role") == "assistant" else messages
    canonical = json.dumps(list(asked), sort_keys=True, ensure_ascii=False)
    return _digest(canonical)[:16]


def choice_seed(seed: str, choice: int) -> str:
    """The seed of one of `n` choices. The first has the answer's own seed."""
    return f"{seed}/choice/{choice}" if choice else seed


def reasoning_seed(seed: str) -> str:
    """The seed of the reasoning of a choice with this seed."""
    return f"{seed}/reasoning"


def tool_seed(seed: str, call: int) -> str:
    """The seed of one tool call's arguments in a choice with this seed."""
    return f"{seed}/tool/{call}"


def arguments(seed: str, call: int, tokens: int, token_bytes: int = 0) -> str:
    """The JSON arguments of one tool call: `{"text": …}` with that many tokens of the call's own seed."""
    return _compact({"text": text(tool_seed(seed, call), tokens, token_bytes)})


def blob(seed: str, size: int, incompressible: bool = False) -> str:
    """`size` ASCII characters. If `incompressible`, random-looking base64."""
    if not incompressible:
        return "x" * size
    noise = hashlib.shake_256(seed.encode()).digest(size * 3 // 4 + 3)
    return base64.b64encode(noise).decode()[:size]


def _digest(value: str) -> str:
    # JSON may contain an escaped lone surrogate, which UTF-8 can't encode.
    return hashlib.sha256(value.encode(errors="surrogatepass")).hexdigest()


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One call's answer, as deltas or as whole messages.

    `tokens` is the length of the whole answer. A continuation starts at token `start`, without its first `skip`
    characters. `insertion` is put before this call's token `insertion_at`.
    """

    seed: str
    tokens: int
    token_bytes: int = 0
    choices: int = 1
    reasoning: int = 0
    refusal: bool = False
    tools: tuple[str, ...] = ()
    cut: bool = False
    start: int = 0
    skip: int = 0
    insertion: str = ""
    insertion_at: int = 0

    @property
    def finish_reason(self) -> str:
        """`length` if the request's token limit determined the answer's length."""
        return "tool_calls" if self.tools else "length" if self.cut else "stop"

    @property
    def steps(self) -> int:
        """The number of deltas of each choice. A tool call adds its name, and the start and end of its JSON."""
        if self.tools:
            return self._reasoned + len(self.tools) * (self.tokens + 3)
        return self._reasoned + max(0, self.tokens - self.start)

    @property
    def usage(self) -> Json:
        """The completion tokens of this call, for all choices. Prompt tokens are not included."""
        spoken = len(self.tools) * self.tokens if self.tools else self.steps - self._reasoned
        return {
            "completion_tokens": self.choices * (spoken + self._reasoned),
            "completion_tokens_details": {"reasoning_tokens": self.choices * self._reasoned},
        }

    def role(self) -> Json:
        """The first delta of a choice."""
        return {"role": "assistant", "content": None if self.tools or self.refusal else "", "refusal": None}

    def deltas(self, choice: int) -> Iterator[Json]:
        """A choice's deltas after its role, one token each: reasoning, then text, a refusal, or tool calls in turn."""
        seed = choice_seed(self.seed, choice)
        for k in range(self._reasoned):
            yield {"reasoning_content": token(reasoning_seed(seed), k)}
        if self.tools:
            for call in range(len(self.tools)):
                yield from self._tool_deltas(seed, call)
            return
        field = "refusal" if self.refusal else "content"
        for piece in self._pieces(seed):
            yield {field: piece}

    def message(self, choice: int) -> Json:
        """The whole message of a choice."""
        seed = choice_seed(self.seed, choice)
        message: Json = {"role": "assistant", "content": None, "refusal": None}
        if self._reasoned:
            message["reasoning_content"] = text(reasoning_seed(seed), self._reasoned)
        if self.tools:
            message["tool_calls"] = [self._tool_call(seed, call) for call in range(len(self.tools))]
        else:
            message["refusal" if self.refusal else "content"] = "".join(self._pieces(seed))
        return message

    @property
    def _reasoned(self) -> int:
        return 0 if self.start or self.skip else self.reasoning

    def _pieces(self, seed: str) -> Iterator[str]:
        for sent, k in enumerate(range(self.start, self.tokens)):
            piece = token(seed, k, self.token_bytes)[0 if sent else self.skip :]
            yield self.insertion + piece if self.insertion and sent == self.insertion_at else piece

    def _tool_call(self, seed: str, call: int) -> Json:
        name = {"name": self.tools[call], "arguments": arguments(seed, call, self.tokens, self.token_bytes)}
        return {"id": f"call_{_digest(tool_seed(seed, call))[:24]}", "type": "function", "function": name}

    def _tool_deltas(self, seed: str, call: int) -> Iterator[Json]:
        head = self._tool_call(seed, call)
        head["function"]["arguments"] = ""
        yield {"tool_calls": [{"index": call, **head}]}
        for piece in self._argument_pieces(tool_seed(seed, call)):
            yield {"tool_calls": [{"index": call, "function": {"arguments": piece}}]}

    def _argument_pieces(self, seed: str) -> Iterator[str]:
        yield '{"text":"'
        for k in range(self.tokens):
            yield _compact(token(seed, k, self.token_bytes))[1:-1]
        yield '"}'
