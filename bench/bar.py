"""The targets of a run, and whether it met them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.cost import REPLAYED, UNWATCHED, WATCHED
from bench.figures import FIRST, LAST, Figures, Memory
from bench.markdown import hundredths, seconds, size, whole_number, with_ms
from lib.runtime.settings import Settings

Shown = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Bar:
    """`measured` may be at most `limit`. `peer` is Genkit's value in the same run. None means not measured.

    A limit may depend on what else was measured in the run.
    """

    what: str
    limit: float | None
    measured: float | None
    peer: float | None
    shown: Shown

    @property
    def reached(self) -> bool | None:
        return None if self.measured is None or self.limit is None else self.measured <= self.limit


def bars(figures: Figures) -> Iterator[Bar]:
    """Yields all targets, in order."""
    direct, ours = figures.first_token("1", "direct"), figures.first_token("1", "holdfast")
    live = figures.first_token("1", "genkit, live")
    yield Bar("first token over direct, 1 stream", 30, _over(ours, direct), _over(live, direct), with_ms)
    yield _lag(figures, "1", "holdfast", 120)
    yield Bar("Firestore writes, 1 × 300 at 50/s, of Genkit's", 0.2, _share(figures, 300), 1.0, hundredths)
    yield _lag(figures, "1", "instant", 8)
    yield _lag(figures, "2000", "instant", 8)
    yield _lag(figures, "10", "holdfast", 120)
    yield _lag(figures, "30", "holdfast", 150)
    yield _lag(figures, "100", "holdfast", 350)
    yield Bar("tokens missing or out of order, all of Holdfast's cases", 0, _wrong(figures), None, whole_number)
    grown = _ratio(_over_first(figures, "64000", "holdfast"), _eased())
    what = f"lag p95 of the last tenth over the first's, each in its intervals, {figures.title('64000')}"
    yield Bar(what, 1.3, grown, None, hundredths)
    cpu = figures.cpu("30", "holdfast", "own")
    peer = figures.cpu("30", "genkit, subscriber", "own")
    yield Bar("CPU of our processes, 30 streams, per 1,000 tokens", 0.2, cpu, peer, seconds)
    for what, how, limit, field in (
        ("Firestore writes, 4,000 tokens at 50/s, nobody watching", UNWATCHED, 100, "writes"),
        ("Firestore reads to replay a finished 4,000-token answer", REPLAYED, 20, "reads"),
    ):
        row = figures.cost_of("holdfast", how, 4_000)
        theirs = figures.cost_of("genkit", WATCHED, 4_000)
        other = figures.cost_of("genkit", WATCHED if how == UNWATCHED else how, 4_000)
        if theirs and not theirs["whole"]:
            other = None  # the answer was cut off while it was being written
        yield Bar(what, limit, row[field] if row else None, other[field] if other else None, whole_number)
    for streams in ("30", "100"):
        ours, live = (figures.first_token(streams, path) for path in ("holdfast", "genkit, live"))
        yield Bar(
            f"first token of {streams} starts at once, over Genkit's live path",
            1.5,
            _ratio(ours, live),
            1.0,
            hundredths,
        )
    yield Bar("Firestore round trips before the first token", 3.1, figures.trips(), None, hundredths)
    yield Bar("CPU of a start, over that of a list of models", 12, figures.start_over_list(), None, hundredths)
    over = _ratio(*(figures.cpu("30", path, "own") for path in ("holdfast", "resumable, live")))
    yield Bar("CPU per 1,000 tokens, 30 streams, over resumable-stream's", 1.0, over, None, hundredths)
    yield from _far(figures.raw.get("far"))
    yield from _memory(figures.memory("deployed"))
    imports = figures.raw.get("cold", {}).get("import")
    yield Bar("cold import, everything", 0.45, median(imports) if imports else None, None, seconds)


def _memory(found: Memory | None) -> Iterator[Bar]:
    if found is None:
        return
    yield Bar("memory of a live generation", 218_000, found.generation, None, size)
    yield Bar("memory of its viewer", 152_000, found.viewer, None, size)
    crowd, each = max(found.crowds.items())
    yield Bar(f"memory of each of {crowd:,} idle viewers of one generation", 77_000, each, None, size)


def _far(found: dict[str, Any] | None) -> Iterator[Bar]:
    """What distance may cost: a token's lag two round trips, and a first token as many as a start may have.

    What the lag is over the interval without any distance, it may be over it with one.
    """
    if not found:
        return
    figures, away = Figures(found), 1000 * found["firestore"]
    for streams in found["streams"]:
        near, there = f"near-{streams}", f"far-{streams}"
        what = f"{figures.title(there)}, Firestore {away:.0f} ms away"
        for name, figure, trips in (
            ("lag p95", _p95, 2),
            ("first token", Figures.first_token, 3.1),
        ):
            beside = figure(figures, near, "holdfast")
            limit = None if beside is None else beside + trips * away
            peer = figure(figures, there, "genkit, subscriber")
            yield Bar(f"{name}, {what}", limit, figure(figures, there, "holdfast"), peer, with_ms)
        grown = _over_first(figures, there, "holdfast")
        yield Bar(f"lag p95 of the last tenth over the first's, {what}", 1.3, grown, None, hundredths)


def _p95(figures: Figures, case: str, path: str) -> float | None:
    return figures.lag(case, path, 0.95)


def _lag(figures: Figures, case: str, path: str, limit: float) -> Bar:
    interval = ", interval 0" if path == "instant" else ""
    what = f"lag p95, {figures.title(case)}{interval}"
    return Bar(what, limit, figures.lag(case, path, 0.95), figures.lag(case, "genkit, subscriber", 0.95), with_ms)


def _wrong(figures: Figures) -> float | None:
    played = [(case, path) for case in figures.cases for path in figures.paths(case) if path in ("holdfast", "instant")]
    return sum(figures.missing(*each) + figures.disordered(*each) for each in played) if played else None


def _over(ours: float | None, direct: float | None) -> float | None:
    return None if ours is None or direct is None else ours - direct


def _share(figures: Figures, tokens: int) -> float | None:
    ours, theirs = figures.cost_of("holdfast", WATCHED, tokens), figures.cost_of("genkit", WATCHED, tokens)
    return ours["writes"] / theirs["writes"] if ours and theirs and theirs["writes"] else None


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or not theirs else ours / theirs


def _eased() -> float:
    """The interval between two commits once it has eased off, as a multiple of the first one."""
    return float(Settings.default("eased_flush_seconds") / Settings.default("flush_seconds"))


def _over_first(figures: Figures, case: str, path: str) -> float | None:
    first, last = figures.lag_of_tenth(case, path, FIRST), figures.lag_of_tenth(case, path, LAST)
    return None if not first or last is None else last / first
