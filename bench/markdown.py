"""Tables and numbers in Markdown, for the page of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median

NONE = "–"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def spread(values: Sequence[float], shown: Callable[[float], str]) -> tuple[str, str, str]:
    if not values:
        return NONE, NONE, NONE
    return shown(median(values)), shown(min(values)), shown(max(values))


def cell(shown: Callable[[float], str], value: float | None) -> str:
    return NONE if value is None else shown(value)


def ms(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.1f}"


def with_ms(value: float) -> str:
    return f"{ms(value)} ms"


def seconds(value: float) -> str:
    return f"{value:.2f} s"


def hundredths(value: float) -> str:
    return f"{value:.2f}"


def whole_number(value: float) -> str:
    return f"{value:,.0f}"


def size(number: float) -> str:
    for unit, scale in (("MB", 1e6), ("kB", 1e3)):
        if abs(number) >= scale:
            return f"{number / scale:,.1f} {unit}"
    return f"{number:,.0f} B"
