"""The numbers of tokens in a usage object, whichever API it is of."""

from __future__ import annotations

from typing import Any, NamedTuple

from lib.dialects.steps import Json

_MAX_TOKENS = 1 << 53


def tokens(count: Any) -> int | None:
    """A number of tokens, or None if it is none."""
    return count if type(count) is int and 0 <= count <= _MAX_TOKENS else None


class Counts(NamedTuple):
    """Numbers of tokens. `cached` are those of the input that were read from a cache, and `written` to one.

    `reasoning` are those of the output that were thought.
    """

    input: int
    output: int
    cached: int
    written: int
    reasoning: int


def counted(usage: Json) -> Counts:
    """The counts in a usage object of any API. One that was not sent is 0.

    Anthropic leaves cached tokens out of its `input_tokens`; all others count them in.
    """
    prompt, completion = _details(usage, "prompt", "input"), _details(usage, "completion", "output")
    read = tokens(usage.get("cache_read_input_tokens"))
    return Counts(
        input=_sum(
            usage,
            ("prompt_tokens", "input_tokens", "promptTokenCount"),
            "cache_creation_input_tokens",
            "cache_read_input_tokens",
            "toolUsePromptTokenCount",
        ),
        output=_sum(usage, ("completion_tokens", "output_tokens", "candidatesTokenCount"), "thoughtsTokenCount"),
        cached=read if read is not None else _sum({**usage, **prompt}, ("cached_tokens", "cachedContentTokenCount")),
        written=_sum({**usage, **prompt}, ("cache_creation_input_tokens", "cache_write_tokens")),
        reasoning=_sum({**usage, **completion}, ("reasoning_tokens", "thoughtsTokenCount")),
    )


def _details(usage: Json, *kinds: str) -> Json:
    return next((held for kind in kinds if isinstance(held := usage.get(f"{kind}_tokens_details"), dict)), {})


def _sum(usage: Json, either: tuple[str, ...], *further: str) -> int:
    """The first count that there is of `either`, and all `further` ones."""
    first = next((count for name in either if (count := tokens(usage.get(name))) is not None), 0)
    return first + sum(tokens(usage.get(name)) or 0 for name in further)
