"""The price table of an upstream: what a million tokens of each of its models cost. Pure values, of the catalog."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lib.domain.usage import MILLION, Price

Prices = tuple[tuple[str, Price], ...]

MOST = 1_000_000  # for a million tokens
_NEEDED = ("input", "output")
_NAMES = (*_NEEDED, "cached_input")
_FORM = "{ 'gpt-4o*' = { input = 2.5, output = 10 } }: what a million tokens cost; cached_input may be there too"


def price_of(prices: Prices, model: str) -> Price | None:
    """The price with the closest pattern, or None if none matches."""
    found = [(len(name), price) for name, price in prices if _covers(name, model)]
    return max(found, key=lambda each: each[0])[1] if found else None


def unpriced(prices: Prices, models: tuple[str, ...]) -> list[str]:
    """The names and patterns of models for which there may be no price."""
    return [model for model in models if not any(_covers(name, model) for name, _ in prices)]


def _covers(pattern: str, model: str) -> bool:
    """Whether a pattern matches a model, or all that another pattern matches."""
    return pattern == model or (pattern.endswith("*") and model.startswith(pattern[:-1]))


def read_prices(table: Any) -> Prices:
    """The prices of a table that has no `faults_of`."""
    return tuple(
        (
            model,
            Price(
                input=float(each["input"]),
                output=float(each["output"]),
                cached_input=float(each.get("cached_input", each["input"])),
            ),
        )
        for model, each in table.items()
    )


def faults_of(table: Any) -> Iterator[str]:
    """What is wrong with a table of prices."""
    if not isinstance(table, Mapping) or not table:
        yield f"prices must be a table by model, such as {_FORM}"
        return
    for model, each in table.items():
        if (
            not isinstance(each, Mapping)
            or not set(_NEEDED) <= set(each) <= set(_NAMES)
            or not all(_is_price(price) for price in each.values())
        ):
            yield f"prices of '{model}' must be numbers from 0 to {MOST}, such as {_FORM}"


def _is_price(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MOST


def parsed(pairs: Any) -> Any:
    """The table of a variable in the form `model=input/output`, or `model=input/output/cached_input`, joined by `&`."""
    if not isinstance(pairs, Mapping):
        return pairs
    return {model: dict(zip(_NAMES, map(_number, text.split("/")), strict=False)) for model, text in pairs.items()}


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def millionths(value: str) -> int:
    """An amount of money such as `2.50`. Errors: `ValueError`, with what it must be."""
    try:
        amount = float(value)
    except ValueError:
        amount = -1.0
    if not 0 <= amount <= MOST:
        raise ValueError("an amount of money such as 2.50, in the price table's currency, or 0")
    return round(amount * MILLION)
