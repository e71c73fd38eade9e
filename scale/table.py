"""The tables of docs/scale.md."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scale.demand import FUNCTIONS, Demand, World, ramp_minutes, reached
from scale.scenarios import NOTICED_SECONDS, Outcome

SIZES = (10, 100, 1_000, 10_000, 100_000, 1_000_000)


def demands(world: World) -> str:
    """What live answers take, by their number."""
    found = [Demand.of(live, world) for live in SIZES]
    measured = world.measured
    rows = [
        ("starts a second", [_few(each.starts) for each in found]),
        ("worker instances", [_whole(each.workers) for each in found]),
        ("api instances", [_whole(each.apis) for each in found]),
        ("vCPU", [_whole(each.vcpus) for each in found]),
        ("queues", [_whole(each.queues) for each in found]),
        ("Firestore writes a second", [_few(each.writes) for each in found]),
        ("of them to each head", [_few(each.head_writes) for each in found]),
        ("Firestore reads a second", [_few(each.reads) for each in found]),
        ("deletes by TTL a second", [_few(each.deletes) for each in found]),
        ("listen streams to Firestore", [_whole(each.listens) for each in found]),
        ("MB a second to viewers", [_few(each.sent_bytes / 1e6) for each in found]),
        ("output tokens a minute of the upstreams", [_few(60 * each.tokens) for each in found]),
        ("minutes to grow to it from nothing", [_few(ramp_minutes(each.writes, world)) for each in found]),
        ("US dollars an hour", [_few(each.dollars) for each in found]),
    ]
    bounds = "; ".join(_bound(name, world) for name in FUNCTIONS)
    said = (
        f"For answers of {measured.tokens:,} tokens at {measured.rate:g} a second, so of {measured.seconds:.0f} s, "
        f"with one viewer each, at the prices of {world.prices.date} for {world.prices.region}. An instance serves, "
        f"when Cloud Run wants no other: {bounds}."
    )
    heads = ("live answers", *(f"{live:,}" for live in SIZES))
    return f"{said}\n\n{_table(heads, [(name, *cells) for name, cells in rows])}"


def breaking(world: World) -> str:
    """The limits, the first one first."""
    limits = sorted(world.limits.limits, key=lambda limit: reached(limit, world))
    rows = [
        (
            _live(reached(limit, world)),
            f"{limit.what} ([source]({limit.source}))",
            f"{world.most(limit):,.0f}",
            limit.then,
        )
        for limit in limits
    ]
    return _table(("live answers", "what is reached", "limit", "what to do then"), rows)


def bursts(outcomes: Sequence[Outcome]) -> str:
    """What became of each simulated burst."""
    rows = []
    for outcome in outcomes:
        scenario = outcome.scenario
        rows.append(
            (
                f"{scenario.load.before:,.0f} → {scenario.load.after:,.0f}",
                scenario.title,
                f"{outcome.workers:,} of {scenario.services['worker'].maximum:,}",
                f"{outcome.apis:,} of {scenario.services['api'].maximum:,}",
                f"{outcome.moments[-1].running:,.0f}",
                _seconds(outcome.longest_wait),
                _seconds(outcome.noticed),
                f"{outcome.refused:,.0f}",
            )
        )
    load = outcomes[0].scenario.load
    said = (
        f"The answers that are wanted at once grow within {load.grows} s, and stay there: {load.seconds / 60:.0f} "
        f"minutes are simulated. A wait is noticed from {NOTICED_SECONDS:g} s on."
    )
    heads = (
        "live answers",
        "with",
        "workers",
        "api instances",
        "run in the end",
        "longest wait",
        "time in which waits are noticed",
        "refused with 429",
    )
    return f"{said}\n\n{_table(heads, rows)}"


def _bound(function: str, world: World) -> str:
    places = world.places(function)
    what = min(places, key=lambda name: places[name])
    others = ", ".join(f"{number:,.0f} by {name}" for name, number in places.items() if name != what)
    served = "answers" if function == "worker" else "streams"
    return f"of the {function} {places[what]:,.0f} {served}, bounded by its {what} ({others})"


def _live(number: float) -> str:
    return "–" if math.isinf(number) else f"{math.floor(number):,}"


def _whole(number: float) -> str:
    return f"{math.ceil(number):,}"


def _few(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def _seconds(number: float) -> str:
    return f"{number:,.0f} s"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = (
        [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
        if len(heads) > 4
        else [heads, ["---"] * len(heads), *rows]
    )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
