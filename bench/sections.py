"""The sections of a run's page on the world with distances, on starts, and on the model APIs."""

from __future__ import annotations

from statistics import median
from typing import Any

from bench.figures import FIRST, LAST, PATHS, Figures
from bench.markdown import NONE, cell, hundredths, ms, table


def far(raw: dict[str, Any]) -> str:
    """What the distance costs each system, for each number of streams."""
    found = raw.get("far")
    if not found:
        return ""
    figures = Figures(found)
    rows = []
    for streams in found["streams"]:
        for place, where in (("near", "beside it"), ("far", "far away")):
            case = f"{place}-{streams}"
            for path in figures.paths(case):
                first, last = (figures.lag_of_tenth(case, path, which) for which in (FIRST, LAST))
                whole, of = figures.whole(case, path)
                rows.append(
                    (
                        figures.title(case),
                        PATHS[path],
                        where,
                        f"{whole:,} of {of:,}",
                        cell(ms, figures.first_token(case, path)),
                        cell(ms, figures.lag(case, path, 0.5)),
                        cell(ms, figures.lag(case, path, 0.95)),
                        NONE if not first or last is None else hundredths(last / first),
                    )
                )
    words = (
        f"Firestore is {1000 * found['firestore']:.0f} ms away, there and back, and Redis {1000 * found['redis']:g}. "
        "Times are in ms, and the last column is the lag p95 of the last tenth over that of the first: above 1, "
        "something queues up."
    )
    heads = ("", "", "its store", "whole", "first token", "lag p50", "p95", "last / first")
    return f"## Stores far away\n\n{words}\n\n{table(heads, rows)}"


def starts(raw: dict[str, Any]) -> str:
    """Round trips before the first token, and the CPU of a start."""
    found = raw.get("starts")
    if not found:
        return ""
    figures, counted = Figures(raw), found["cpu"]
    rows = [(f"{1000 * each['seconds']:.0f}", ms(median(each["first"]) / 1000)) for each in found["trips"]]
    words = (
        f"One after the other, with no other load. The first token comes {cell(hundredths, figures.trips())} times "
        "Firestore's distance later than without any: so many round trips lie before it, one after the other. "
        f"A start with a short answer takes {1000 * counted['start'] / counted['starts']:.1f} ms of CPU in both "
        f"functions, which is {cell(hundredths, figures.start_over_list())} times a `GET /v1/models`."
    )
    return f"## Starts\n\n{words}\n\n{table(('Firestore is away (ms)', 'first token, median (ms)'), rows)}"


def dialects(raw: dict[str, Any]) -> str:
    """The CPU of each model API."""
    found = raw.get("dialects")
    if not found:
        return ""
    figures, known = Figures(raw), raw["dialect_case"]
    names = list(dict.fromkeys(each["dialect"] for each in found))
    cheapest = min(cpu for name in names if (cpu := figures.dialect_cpu(name)) is not None)
    rows = []
    for name in names:
        rounds = [each for each in found if each["dialect"] == name]
        cpu = figures.dialect_cpu(name)
        rows.append(
            (
                f"`{name}`",
                f"{sum(each['whole'] for each in rounds):,} of {len(rounds) * known['streams']:,}",
                cell(hundredths, cpu),
                NONE if cpu is None or not cheapest else hundredths(cpu / cheapest),
            )
        )
    words = f"CPU of both functions, {known['title']}, the same text in each model API."
    heads = ("", "whole", "CPU s per 1,000 tokens", "of the cheapest")
    return f"## Model APIs\n\n{words}\n\n{table(heads, rows)}"
