"""Tables of counts and costs, for the terminal and docs/cost.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

from cost.answers import Asked, Count, Counted
from cost.prices import Costs, Prices

_COUNTED = ("tokens", "viewers", "writes", "reads", "deletes", "task ops", "worker s", "api s")
_COUNTED_KIB = ("KiB that expire", "KiB that stay", "KiB sent")
_A_THOUSAND = 1000


def tables(count: Count, prices: Prices, days: float) -> str:
    """Both tables in Markdown, each with a caption."""
    costs = [(counted, prices.of(counted, days)) for counted in count.answers]
    return "\n\n".join(
        [
            f"Counted for one answer, at {count.rate:g} tokens a second:",
            _aligned([(*_COUNTED, *_COUNTED_KIB), *map(_counted, count.answers)]),
            f"US dollars for {_A_THOUSAND:,} such answers, by the prices of {prices.date} for {prices.region}, with "
            f"{prices.worker.together:g} requests at a time on an instance of the worker and {prices.api.together:g} "
            f"on one of the api:",
            _aligned([("tokens", "viewers", *(each.name for each in fields(Costs)), "total"), *map(_priced, costs)]),
            _one_more(costs),
            f"A second of an open request took {1000 * count.worker_cpu:.0f} ms of a CPU in the worker, and "
            f"{1000 * count.api_cpu:.0f} ms in the api.",
        ]
    )


def _one_more(costs: Sequence[tuple[Counted, Costs]]) -> str:
    """The cost of one more viewer, for the length that was also measured with viewers on one instance."""
    total = {counted.asked: cost.total for counted, cost in costs}
    shared = next(asked for asked in total if not asked.apart)
    one = total[Asked(tokens=shared.tokens, viewers=1)]
    each = [(total[asked] - one) / (asked.viewers - 1) for asked in (replace(shared, apart=True), shared)]
    apart, together = (f"{_A_THOUSAND * dollars:.3f}" for dollars in each)
    return (
        f"One more viewer of {shared.tokens:,} tokens costs {apart} where nobody else on its instance watches the same "
        f"answer, and {together} where somebody does."
    )


def _counted(counted: Counted) -> tuple[str, ...]:
    numbers = (counted.writes, counted.reads, counted.deletes, counted.task_operations)
    seconds = (counted.worker_seconds, counted.api_seconds)
    sizes = (counted.expiring_bytes, counted.lasting_bytes, counted.sent_bytes)
    return (
        *_asked(counted.asked),
        *(f"{number:,}" for number in numbers),
        *(f"{number:,.1f}" for number in seconds),
        *(f"{number / 1024:,.1f}" for number in sizes),
    )


def _priced(row: tuple[Counted, Costs]) -> tuple[str, ...]:
    counted, costs = row
    parts = [getattr(costs, each.name) for each in fields(Costs)]
    return *_asked(counted.asked), *(f"{_A_THOUSAND * dollars:.3f}" for dollars in (*parts, costs.total))


def _asked(asked: Asked) -> tuple[str, str]:
    return f"{asked.tokens:,}", f"{asked.viewers}" if asked.apart else f"{asked.viewers} on one instance"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rule = [f"{'-' * (width - 1)}:" for width in widths]
    return "\n".join(
        "| " + " | ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in (rows[0], rule, *rows[1:])
    )
